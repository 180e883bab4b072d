#!/usr/bin/env bash
# Valkey: the tests of the answer cache and of the shared limits, against a real valkey-server
# interop: fast 900
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_valkey || not_here "no valkey-server: $LAST_SAID"
export PATH
say "   $(valkey-server --version)"

step "one server, Sentinels and a cluster, with TLS and ACL users; killed, frozen, full, spoiled"
cd "$ROOT"
cargo test --locked --workspace --test cache --test cache_stores --test limits_shared -- --show-output valkey:: 2>&1 |
    tee "$WORK/tests.out" || fail "a test failed"
! grep -q 'not run' "$WORK/tests.out" || fail "a test was not run"
grep -q 'test valkey::.* ok' "$WORK/tests.out" || fail "there was no test"
