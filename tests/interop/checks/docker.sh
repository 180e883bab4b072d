#!/usr/bin/env bash
# Docker: images built by a real engine, the compose file with profile sim, the chain walked down, a clean end
# interop: fast 1500
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_grpcurl

# Compose sends the sources once for each image. From a copy, all are built of the same state and out of one
# compilation, also when somebody edits a file meanwhile.
mkdir "$WORK/suite"
tar -C "$ROOT" --exclude=./target --exclude=./.git -c . | tar -C "$WORK/suite" -x
cd "$WORK/suite"

# --- the engine ---------------------------------------------------------------------------------------------------
# One that runs is used. Otherwise a private one: own socket, own data, ended with the check.
SHORT=$(mktemp -d /tmp/aip-docker.XXXXXX)
need_engine() {
    need_apt docker docker.io "to build and run the images" || return 1
    docker info >/dev/null 2>&1 && return 0
    [ "$(id -u)" -eq 0 ] || { say "no Docker engine answers, and starting one needs root"; return 1; }
    need_apt dockerd docker.io "to run the images" && need_apt iptables iptables "for the engine's networks" || return 1
    say "starting dockerd, with its data in target/tools/docker"
    export DOCKER_HOST=unix://$SHORT/docker.sock
    start dockerd dockerd --host "$DOCKER_HOST" --data-root "$TOOLS/docker" --exec-root "$SHORT/exec" \
        --pidfile "$SHORT/pid"
    local until=$((SECONDS + 60))
    until docker info >/dev/null 2>&1; do
        alive dockerd || { tail -n 3 "$WORK/dockerd.log" >&2; say "dockerd does not run here"; return 1; }
        [ "$SECONDS" -lt "$until" ] || { say "dockerd does not answer within 60 s"; return 1; }
        sleep 0.2
    done
}
need_engine || not_here "no Docker engine: $LAST_SAID"

if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
else
    need_apt docker-compose docker-compose "to run docker-compose.yaml" ||
        not_here "neither docker compose nor the apt package docker-compose is to be had"
    compose=(docker-compose)
fi
say "   engine $(docker version --format '{{.Server.Version}}'), compose $("${compose[@]}" version --short)"
PROJECT=aip-interop
compose+=(--project-name "$PROJECT" --profile sim)

teardown() {
    "${compose[@]}" logs --no-color >"$WORK/containers.log" 2>/dev/null
    "${compose[@]}" down --volumes --remove-orphans --timeout 10 >/dev/null 2>&1
}

# dockerd leaves its data directory mounted on itself, and nobody could remove it.
aftermath() {
    if [ -n "${PIDS[dockerd]-}" ]; then umount "$TOOLS/docker" 2>/dev/null; fi
}

# --- base images --------------------------------------------------------------------------------------------------
# No image is pulled: the bases are a Debian made by debootstrap, one with Redis, one with this machine's Rust.
make_bases() {
    local tag root sysroot
    tag=bookworm-make-$(rustc --version | cut -d ' ' -f 2)
    export BUILDER_IMAGE=aip-interop/builder:$tag REDIS_IMAGE=aip-interop/redis:$tag
    docker image inspect "$BUILDER_IMAGE" "$REDIS_IMAGE" >/dev/null 2>&1 && return 0
    [ "$(id -u)" -eq 0 ] || { say "debootstrap needs root"; return 1; }
    need_apt debootstrap debootstrap "to make base images without pulling any" || return 1
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || apt_install debian-archive-keyring || return 1
    sysroot=$(rustc --print sysroot)
    [ -x "$sysroot/bin/cargo" ] || { say "the Rust toolchain in $sysroot has no cargo beside rustc"; return 1; }
    say "making base images with debootstrap"
    root=$SHORT/root
    debootstrap --variant=minbase --include=ca-certificates,gcc,libc6-dev,make,redis-server bookworm "$root" \
        http://deb.debian.org/debian >"$WORK/debootstrap.log" 2>&1 || { tail -n 3 "$WORK/debootstrap.log" >&2; return 1; }
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    # Whom this machine trusts, the build must trust as well: it may sit behind an inspecting proxy.
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    tar -C "$root" -c . | docker import - "$REDIS_IMAGE" >/dev/null || return 1
    mkdir -p "$root/opt/rust"
    cp -r "$sysroot/bin" "$sysroot/lib" "$root/opt/rust/" && rm -rf "$root/opt/rust/lib/rustlib/src"
    tar -C "$root" -c . | docker import --change 'ENV PATH=/opt/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin' - \
        "$BUILDER_IMAGE" >/dev/null || return 1
    rm -rf "$root"
}
if [ "${INTEROP_DOCKER_PULL-}" != 1 ]; then
    make_bases || not_here "no base images (INTEROP_DOCKER_PULL=1 uses the published ones): $LAST_SAID"
fi

# --- build and start ----------------------------------------------------------------------------------------------
free_ports GATEWAY_PORT GATEWAY_ADMIN_PORT AGENT_ROUTER_PORT AGENT_ROUTER_ADMIN_PORT API_SERVER_PORT \
    API_SERVER_HTTP_PORT API_SERVER_ADMIN_PORT SIM_CONTROL_PORT
export GATEWAY_PORT GATEWAY_ADMIN_PORT AGENT_ROUTER_PORT AGENT_ROUTER_ADMIN_PORT API_SERVER_PORT \
    API_SERVER_HTTP_PORT API_SERVER_ADMIN_PORT SIM_CONTROL_PORT CIRCUIT_BREAKER_RECOVERY_TIMEOUT_SECONDS=2
unset MAX_SERVE_ENDPOINT OLLAMA_CPU_ENDPOINT OTEL_EXPORTER_OTLP_ENDPOINT
GATEWAY=$GATEWAY_PORT
SIM_CONTROL=$SIM_CONTROL_PORT

step "the images build"
"${compose[@]}" build >"$WORK/build.log" 2>&1 || fail "the images do not build"
docker images --format '{{.Repository}} {{.Size}}' 'ai-platform/*' | sed 's/^/   /' >&2

step "the suite becomes healthy"
"${compose[@]}" up --detach >"$WORK/up.log" 2>&1 || fail "the suite does not start"
container() { docker ps --all --quiet --filter "label=com.docker.compose.project=$PROJECT" \
    --filter "label=com.docker.compose.service=$1"; }
is_healthy() { [ "$(docker inspect --format '{{.State.Health.Status}}' "$(container "$1")")" = healthy ]; }
for service in gateway agent-router api-server redis upstream-sim; do
    until_ok 60 "$service healthy" is_healthy "$service"
done

step "what each container may do"
for service in gateway agent-router api-server upstream-sim; do
    got=$(docker inspect --format '{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}}' \
        "$(container "$service")")
    [ "$got" = "65532:65532 true [ALL]" ] || fail "$service runs as: $got"
done

# --- the chain ----------------------------------------------------------------------------------------------------
stop_service() {
    "${compose[@]}" stop "$1" >/dev/null 2>&1 || fail "$1 does not stop"
    local status
    status=$(docker inspect --format '{{.State.ExitCode}}' "$(container "$1")")
    [ "$status" = 0 ] || fail "$1 ended with status $status"
}

step "max, ollama, cache, degraded"
expect_tier max "what is a container?"
expect_stream max "and what is an image?"
set_fault max '{"kind": "down"}'
expect_tier ollama "asked while max is down"
stop_service upstream-sim
expect_tier cache "what is a container?"
expect_tier degraded "asked while no model is there"
stop_service redis
expect_tier degraded "what is a container?"
http_ok "http://127.0.0.1:$API_SERVER_HTTP_PORT/circuit-breakers" || fail "the api-server does not answer by HTTP"

step "the simulator and redis come back, and so does tier max"
"${compose[@]}" start redis upstream-sim >/dev/null 2>&1 || fail "redis and the simulator do not start again"
until_ok 40 "max serves again" served_by max "after recovery"

step "down: every process ends by itself, with status 0, within its grace"
since=$(date +%s)
started=$SECONDS
"${compose[@]}" down >"$WORK/down.log" 2>&1 || fail "down fails"
[ $((SECONDS - started)) -lt 40 ] || fail "down took $((SECONDS - started)) s"
ended=$(docker events --since "$since" --until "$(($(date +%s) + 1))" --filter event=die \
    --filter "label=com.docker.compose.project=$PROJECT" \
    --format '{{index .Actor.Attributes "com.docker.compose.service"}} {{.Actor.Attributes.exitCode}}' | sort)
say "   ${ended//$'\n'/, } after $((SECONDS - started)) s"
[ "$ended" = "$(printf '%s 0\n' agent-router api-server gateway redis upstream-sim)" ] ||
    fail "not all five ended with status 0: ${ended//$'\n'/, }"
