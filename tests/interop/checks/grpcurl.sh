#!/usr/bin/env bash
# grpcurl: reflection on all three ports, every health name, and the whole chain walked down and back up
# interop: fast 400
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_grpcurl
start_all_in_one

step "reflection: every service listed and described on every port"
for port in "$GATEWAY" "$ROUTER" "$API"; do
    listed=$("$GRPCURL" -plaintext -max-time 10 "127.0.0.1:$port" list) || fail "port $port does not list its services"
    wanted=(grpc.health.v1.Health)
    case $port in
        "$GATEWAY") wanted+=("${SERVICES[@]:0:2}") ;;
        "$ROUTER") wanted+=("${SERVICES[@]}") ;;
        "$API") wanted+=("${SERVICES[@]:1}") ;;
    esac
    for service in "${wanted[@]}"; do
        grep -qx "$service" <<<"$listed" || fail "port $port does not list $service, only: ${listed//$'\n'/ }"
    done
    while read -r service; do
        # What is listed must be there: a caller would otherwise meet UNIMPLEMENTED.
        [[ $service != aiplatform.* || " ${wanted[*]} " == *" $service "* ]] ||
            fail "port $port lists $service, which it does not serve"
        described=$("$GRPCURL" -plaintext -max-time 10 "127.0.0.1:$port" describe "$service") ||
            fail "port $port cannot describe $service"
        grep -q 'rpc ' <<<"$described" || fail "port $port describes no method of $service"
    done <<<"$listed"
    say "   $port: ${listed//$'\n'/ }"
done
"$GRPCURL" -plaintext -max-time 10 "127.0.0.1:$GATEWAY" describe .aiplatform.inference.v1.ChatRequest |
    grep -q allow_degraded || fail "the gateway does not describe ChatRequest"

step "health: every name answered on every port"
for port in "$GATEWAY" "$ROUTER" "$API"; do
    for name in "" liveness readiness dependency-max dependency-ollama dependency-cache dependency-router \
        $("$GRPCURL" -plaintext -max-time 10 "127.0.0.1:$port" list | grep '^aiplatform\.'); do
        answer=$("$GRPCURL" -plaintext -max-time 10 -d "{\"service\": \"$name\"}" "127.0.0.1:$port" \
            grpc.health.v1.Health/Check) || fail "port $port does not know the health name \"$name\""
        # What an upstream does is information; everything else must be serving by now.
        [[ $name == dependency-* ]] || holds '.status == "SERVING"' "$answer" "health of \"$name\" on port $port"
    done
done

step "the chain: max, ollama, cache, degraded"
expect_tier max "what is a circuit breaker?"
expect_stream max "tell me about fallback chains"
set_fault max '{"kind": "down"}'
expect_tier ollama "asked while max is down"
expect_stream ollama "streamed while max is down"
set_fault ollama '{"kind": "down"}'
expect_tier cache "what is a circuit breaker?"
expect_stream cache "tell me about fallback chains"
expect_tier degraded "asked while everything is down"
expect_stream degraded "streamed while everything is down"

step "a degraded answer refused is UNAVAILABLE, with its reason"
expect_refusal 14 ALL_TIERS_UNAVAILABLE "nobody is there" '{"allow_degraded": false}'

step "recovery"
clear_fault max
clear_fault ollama
until_ok 15 "max serves again" served_by max "after recovery"
expect_tier max "one more after recovery"

step "SIGTERM ends the suite with status 0"
status=0
stop ai-platform 30 || status=$?
[ "$status" -eq 0 ] || fail "ai-platform ended with status $status"
