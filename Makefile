# Each target sets up what it needs. `make help` lists them.

SHELL := /bin/bash
.DEFAULT_GOAL := help
# Parallel builds are cargo's business.
.NOTPARALLEL:

ARGS ?=

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 18

.PHONY: run
run: ## Start the whole suite in one process, with simulated models (ARGS="--config FILE")
	cargo run --locked --package all-in-one --bin ai-platform -- $(ARGS)

.PHONY: test
test: ## Run all tests, unit and end to end; installs redis-server if need be
	tests/setup --for test
	cargo build --locked --workspace --bins
	$(MANY_FILES) cargo test --locked --workspace $(ARGS)
	LOOM_MAX_PREEMPTIONS=2 $(LOOM)

# Some tests hold thousands of connections, and so do simulated upstreams; many a machine allows 1,024 files unless it is asked
# for more. The services ask by themselves.
MANY_FILES = ulimit -Sn 8192 || echo 'make: cannot open 8192 files: tests of many connections may fail' >&2;

# loom stands in for the locks and atomics, so that everything is built anew, in a directory of its own.
LOOM = RUSTFLAGS="--cfg loom" cargo test --locked --release --package resilience --test breaker_loom --target-dir target/loom

.PHONY: test-deep
test-deep: ## Long runs of the circuit breaker's properties and of loom (CASES=20000, PREEMPTIONS=5)
	PROPTEST_CASES=$(or $(CASES),20000) cargo test --locked --release --package resilience --test breaker_model
	LOOM_MAX_PREEMPTIONS=$(or $(PREEMPTIONS),5) $(LOOM)

.PHONY: mutants
mutants: ## Break the core of the resilience crate in every small way, and see that a test notices (ARGS="--file GLOB")
	@. tests/tools.sh && need_cargo_mutants && PATH="$$TOOLS/bin:$$PATH" PROPTEST_CASES=32 \
		cargo mutants --package resilience --output target/mutants $(ARGS)

.PHONY: miri
miri: ## Run the breaker's rules and specification in Miri, which knows undefined behaviour when it sees it
	@. tests/tools.sh && need_miri && $(MIRI) || [ $$? -eq 3 ]

# No isolation: the tests read the clock and the environment. Permissive: parking_lot keeps pointers in integers.
MIRI = MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-permissive-provenance" PROPTEST_CASES=2 \
	cargo +nightly miri test --locked --package resilience --lib --test breaker_spec --target-dir target/miri

.PHONY: fuzz
fuzz: ## Fuzz the decoders, the cache value and the configuration, one after the other (SECONDS=600 each, ONLY=target)
	tests/fuzz/run $(or $(SECONDS),600) $(ONLY)

.PHONY: lint
lint: ## Check format, lints, protos, dependencies, scripts and the rules of the architecture
	tests/setup --for lint
	tests/lint

.PHONY: interop
interop: ## Run the suite against real third-party tools (ARGS="--only grpcurl,docker", "--list", "--fast")
	tests/setup --for interop
	cargo build --locked --workspace --bins
	tests/interop/run $(ARGS)

.PHONY: bench
bench: ## Measure the circuit breaker beside other crates: times and instructions, into its README (some minutes)
	tests/setup --for callgrind
	cargo bench --locked --package resilience
	cargo bench --locked --quiet --package resilience --bench breakers -- count
	cargo bench --locked --quiet --package resilience --bench breakers -- table $(CURDIR)/shared/resilience/README.md

.PHONY: bench-load
bench-load: ## Measure the suite under load, beside nginx (ARGS="--quick", "--only all-in-one", "--help")
	tests/setup --for bench
	cargo build --locked --release --package gateway --package agent-router --package upstream-sim \
		--package all-in-one --package load
	ulimit -Sn 8192 && "$${CARGO_TARGET_DIR:-target}/release/load" $(ARGS)

.PHONY: images
images: ## Build the container images
	docker build -f deploy/docker/Dockerfile --target gateway -t ai-platform/gateway .
	docker build -f deploy/docker/Dockerfile --target agent-router -t ai-platform/agent-router .
	docker build -f deploy/docker/Dockerfile --target api-server -t ai-platform/api-server .
	docker build -f deploy/docker/Dockerfile --target upstream-sim -t ai-platform/upstream-sim .

.PHONY: breaking
breaking: ## Check the protos for changes that break clients of a release (AGAINST=v0.1.0)
	@test -n "$(AGAINST)" || { echo "make breaking AGAINST=<git tag or branch>" >&2; exit 2; }
	@. tests/tools.sh && need_buf && "$$BUF" breaking proto --against ".git#ref=$(AGAINST),subdir=proto"

.PHONY: clean
clean: ## Remove everything that was built, the tools in target/tools included
	cargo clean
