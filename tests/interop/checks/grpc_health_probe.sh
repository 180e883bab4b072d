#!/usr/bin/env bash
# grpc_health_probe: what Kubernetes users run in a pod, against every health name on all three ports
# interop: fast 300
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_go_tool grpc-health-probe github.com/grpc-ecosystem/grpc-health-probe "$GRPC_HEALTH_PROBE_VERSION" ||
    not_here "grpc_health_probe could not be built from the Go module proxy"
start_all_in_one

# probe PORT SERVICE: its exit status, which documents 4 as "not serving" and 3 as "the call failed".
probe() {
    "$TOOLS/bin/grpc-health-probe" -addr "127.0.0.1:$1" -service "$2" -connect-timeout 2s -rpc-timeout 2s >&2
}

for port in "$GATEWAY" "$ROUTER" "$API"; do
    step "port $port"
    for name in "" liveness readiness; do
        probe "$port" "$name" || fail "\"$name\" on port $port: status $?"
    done
    case $port in
        "$GATEWAY") services=("${SERVICES[@]:0:2}") ;;
        "$ROUTER") services=("${SERVICES[@]}") ;;
        *) services=("${SERVICES[@]:1}") ;;
    esac
    for name in "${services[@]}"; do
        probe "$port" "$name" || fail "\"$name\" on port $port: status $?"
    done
    status=0
    probe "$port" no.such.Service || status=$?
    [ "$status" -eq 3 ] || fail "an unknown name on port $port: status $status instead of 3"
done

step "readiness stays when every model is gone: the chain's last tier needs none"
set_fault max '{"kind": "down"}'
set_fault ollama '{"kind": "down"}'
need_grpcurl
expect_tier degraded "is anybody there?"
for port in "$GATEWAY" "$ROUTER" "$API"; do
    probe "$port" readiness || fail "port $port is no longer ready: status $?"
done
