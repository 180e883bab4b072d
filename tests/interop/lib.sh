# shellcheck shell=bash
# What the checks share: starting the suite on free ports, waiting with a deadline, asking it, and ending it all.
# A check sources this file, and ends with 0 = passed, 1 = failed, 77 = not to be had here (the reason is its last line).

set -euo pipefail
# Debian keeps dockerd, iptables and debootstrap where an ordinary user's PATH does not look.
export PATH=$PATH:/usr/sbin:/sbin
# shellcheck source=tests/tools.sh
source "$(dirname "${BASH_SOURCE[0]}")/../tools.sh"

NAME=$(basename "$0" .sh)
WORK=$ROOT/target/interop/work/$NAME
BIN=$ROOT/target/${INTEROP_PROFILE:-debug}
rm -rf "$WORK"
mkdir -p "$WORK"

declare -A PIDS=()
# A directory that a check may make where paths are short, for Unix sockets; it goes when the check ends.
SHORT=

fail() { say "FAILED: $*"; exit 1; }
not_here() { say "$*"; exit 77; }
step() { say "-- $*"; }

# Every process is the leader of its own group, so that what it started ends with it. A check may define `teardown`,
# to be run before they end, and `aftermath`, to be run after.
cleanup() {
    local status=$? name pid log _
    trap - EXIT
    set +e
    if declare -F teardown >/dev/null; then teardown; fi
    for pid in "${PIDS[@]}"; do kill -TERM -- "-$pid" 2>/dev/null; done
    for name in "${!PIDS[@]}"; do
        for _ in {1..50}; do
            kill -0 -- "-${PIDS[$name]}" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL -- "-${PIDS[$name]}" 2>/dev/null
    done
    if declare -F aftermath >/dev/null; then aftermath; fi
    if [ -n "$SHORT" ]; then rm -rf --one-file-system "$SHORT"; fi
    if [ "$status" -ne 0 ] && [ "$status" -ne 77 ]; then
        for log in "$WORK"/*.log; do
            [ -s "$log" ] && { say "last lines of ${log##*/}:"; tail -n 15 "$log" >&2; }
        done
    fi
    exit "$status"
}
trap cleanup EXIT
trap 'exit 143' TERM INT

# free_ports NAME...: sets each variable to another free port, below the range that outgoing connections take theirs from.
free_ports() {
    local -a ports
    mapfile -t ports < <(python3 - "$#" <<'END'
import random, socket, sys
held = []
while len(held) < int(sys.argv[1]):
    s = socket.socket()
    try:
        s.bind(("127.0.0.1", random.randrange(20000, 32000)))
        held.append(s)
    except OSError:
        s.close()
print("\n".join(str(s.getsockname()[1]) for s in held))
END
    )
    local index=0 name
    for name in "$@"; do
        printf -v "$name" '%s' "${ports[index]}"
        index=$((index + 1))
    done
}

# start NAME COMMAND...: in the background, with its output in the work directory.
start() {
    local name=$1
    shift
    setsid "$@" >"$WORK/$name.log" 2>&1 </dev/null &
    PIDS[$name]=$!
}

alive() { kill -0 "${PIDS[$1]}" 2>/dev/null; }

# stop NAME SECONDS: SIGTERM, then its exit status; 124 if it has not ended in time.
stop() {
    local name=$1 limit=$2 pid=${PIDS[$1]} until=$((SECONDS + $2)) status=0
    kill -TERM "$pid"
    while alive "$name"; do
        [ "$SECONDS" -lt "$until" ] || { say "$name has not ended within $limit s of SIGTERM"; return 124; }
        sleep 0.1
    done
    wait "$pid" || status=$?
    unset "PIDS[$name]"
    return "$status"
}

# until_ok SECONDS WHAT COMMAND...: polls; fails at once when a process that this check started has died.
until_ok() {
    local limit=$1 what=$2 until=$((SECONDS + $1)) name
    shift 2
    until "$@" >"$WORK/until_ok.out" 2>&1; do
        for name in "${!PIDS[@]}"; do
            alive "$name" || fail "$name ended while waiting for: $what"
        done
        [ "$SECONDS" -lt "$until" ] || fail "not within $limit s: $what; at last: $(tail -n 3 "$WORK/until_ok.out")"
        sleep 0.2
    done
}

http_ok() { curl --silent --fail --max-time 2 --output /dev/null "$1"; }

need_binary() {
    local name
    for name in "$@"; do
        [ -x "$BIN/$name" ] || fail "$BIN/$name is missing; build it with cargo build --workspace --bins"
    done
}

# Short times where waiting shows nothing: recovery of a breaker, and the pause before a shutdown.
suite_environment() {
    export CIRCUIT_BREAKER_RECOVERY_TIMEOUT_SECONDS=2 PRESTOP_DELAY_SECONDS=0 AIP__TELEMETRY__LOG_FORMAT=json
    free_ports GATEWAY GATEWAY_HTTP ROUTER API API_HTTP GATEWAY_ADMIN ROUTER_ADMIN API_ADMIN SIM_MAX SIM_OLLAMA SIM_CONTROL
    export AIP__GATEWAY__GRPC_LISTEN=127.0.0.1:$GATEWAY AIP__GATEWAY__ADMIN_LISTEN=127.0.0.1:$GATEWAY_ADMIN
    export AIP__GATEWAY__HTTP_LISTEN=127.0.0.1:$GATEWAY_HTTP
    export AIP__GATEWAY__ROUTERS=http://127.0.0.1:$ROUTER
    export AIP__AGENT_ROUTER__GRPC_LISTEN=127.0.0.1:$ROUTER AIP__AGENT_ROUTER__ADMIN_LISTEN=127.0.0.1:$ROUTER_ADMIN
    export AIP__API_SERVER__GRPC_LISTEN=127.0.0.1:$API AIP__API_SERVER__ADMIN_LISTEN=127.0.0.1:$API_ADMIN
    export AIP__API_SERVER__HTTP_LISTEN=127.0.0.1:$API_HTTP AIP__API_SERVER__ROUTERS=http://127.0.0.1:$ROUTER
    export AIP__UPSTREAM_SIM__MAX_LISTEN=127.0.0.1:$SIM_MAX AIP__UPSTREAM_SIM__OLLAMA_LISTEN=127.0.0.1:$SIM_OLLAMA
    export AIP__UPSTREAM_SIM__CONTROL_LISTEN=127.0.0.1:$SIM_CONTROL
    unset MAX_SERVE_ENDPOINT OLLAMA_CPU_ENDPOINT REDIS_URL OTEL_EXPORTER_OTLP_ENDPOINT
}

# start_all_in_one: the whole suite in one process.
start_all_in_one() {
    need_binary ai-platform
    suite_environment
    start ai-platform "$BIN/ai-platform"
    local port
    for port in "$GATEWAY_ADMIN" "$ROUTER_ADMIN" "$API_ADMIN"; do
        until_ok 30 "ready on admin port $port" http_ok "http://127.0.0.1:$port/readyz"
    done
}

# start_router_and_gateway: two processes, against the upstreams in the environment (after suite_environment).
start_router_and_gateway() {
    need_binary agent-router gateway
    start agent-router "$BIN/agent-router"
    start gateway "$BIN/gateway"
    until_ok 30 "agent-router ready" http_ok "http://127.0.0.1:$ROUTER_ADMIN/readyz"
    until_ok 30 "gateway ready" http_ok "http://127.0.0.1:$GATEWAY_ADMIN/readyz"
}

need_grpcurl() {
    need_go_tool grpcurl github.com/fullstorydev/grpcurl/cmd/grpcurl "$GRPCURL_VERSION" ||
        not_here "grpcurl could not be built from the Go module proxy"
    GRPCURL=$TOOLS/bin/grpcurl
}

INFERENCE=aiplatform.inference.v1.InferenceService
SERVICES=("$INFERENCE" aiplatform.resilience.v1.CircuitBreakerService aiplatform.resilience.v1.FallbackChainService)
export INFERENCE SERVICES

# chat_request TEXT [MORE-JSON]: a ChatRequest, with the fields of MORE-JSON added.
chat_request() {
    jq -cn --arg text "$1" --argjson more "${2:-{\}}" \
        '{messages: [{role: "ROLE_USER", content: [{text: $text}]}]} + $more'
}

# chat TEXT [MORE-JSON] [GRPCURL-ARGUMENT...]: asks the gateway; prints the answer as one line of JSON.
chat() {
    local request
    request=$(chat_request "$1" "${2:-{\}}")
    shift $(($# > 1 ? 2 : 1))
    "$GRPCURL" -plaintext -max-time 30 "$@" -d "$request" "127.0.0.1:$GATEWAY" "$INFERENCE/Chat" | jq -c .
}

# stream_chat TEXT [MORE-JSON]: prints one event a line.
stream_chat() {
    "$GRPCURL" -plaintext -max-time 60 -d "{\"chat\": $(chat_request "$1" "${2:-{\}}")}" \
        "127.0.0.1:$GATEWAY" "$INFERENCE/StreamChat" | jq -c .
}

# holds FILTER JSON WHAT: fails unless the jq filter is true.
holds() {
    jq -e "$1" <<<"$2" >/dev/null || fail "$3: expected $1 of $2"
}

# expect_tier TIER TEXT [MORE-JSON]: a chat must be answered by this tier, naming its attempts.
expect_tier() {
    local answer
    answer=$(chat "$2" "${3:-{\}}") || fail "the chat \"$2\" was not answered"
    say "   \"$2\" -> $(jq -c '[.servedBy.tier, .message.content[0].text, [.attempts[] | .tier + " " + .outcome]]' <<<"$answer")"
    holds ".servedBy.tier == \"$1\"" "$answer" "served by"
    holds '(.attempts | length) > 0 and (.message.content[0].text | length) > 0' "$answer" "attempts and text"
    case $1 in
        cache) holds '.servedBy.cached == true' "$answer" "marked as cached" ;;
        degraded) holds '.servedBy.degraded == true' "$answer" "marked as degraded" ;;
    esac
}

# expect_refusal CODE REASON TEXT [MORE-JSON]: a chat must fail with this gRPC status and this reason in its ErrorInfo.
expect_refusal() {
    local refused
    refused=$(chat "$3" "${4:-{\}}" -format-error 2>&1) && fail "\"${3:0:40}\" was answered all the same: $refused"
    # grpcurl prefixes its JSON with a word, and shows the details' fields only because reflection describes them.
    refused=$(sed -n '/{/,$p' <<<"$refused")
    holds ".code == $1" "$refused" "gRPC status"
    holds "any(.details[]?; (.\"@type\" | endswith(\"/google.rpc.ErrorInfo\")) and .reason == \"$2\")" "$refused" \
        "reason in the details"
}

served_by() { [ "$(chat "$2" | jq -r .servedBy.tier)" = "$1" ]; }

# expect_stream TIER TEXT [MORE-JSON]: start by that tier, deltas with text, one end.
expect_stream() {
    local events
    events=$(stream_chat "$2" "${3:-{\}}" | jq -cs .) || fail "the stream \"$2\" broke"
    say "   \"$2\" streamed -> $(jq -c '[.[0].start.servedBy.tier, ([.[].delta.text // ""] | join("")), .[-1].end.finishReason]' <<<"$events")"
    holds ".[0].start.servedBy.tier == \"$1\"" "$events" "opens with its tier"
    holds '([.[1:-1][] | has("delta")] | all) and ([.[].delta.text // ""] | join("") | length) > 0' "$events" "deltas"
    holds '(.[-1] | has("end")) and (.[-1].end.finishReason | startswith("FINISH_REASON_"))' "$events" "ends"
}

# set_fault UPSTREAM FAULT-JSON; clear_fault UPSTREAM: at the simulator's control port.
set_fault() {
    curl --silent --show-error --fail --max-time 5 -X PUT -H 'content-type: application/json' --output /dev/null \
        --data "{\"fault\": $2, \"when\": {\"mode\": \"always\"}}" "http://127.0.0.1:$SIM_CONTROL/upstreams/$1/fault"
}
clear_fault() {
    curl --silent --show-error --fail --max-time 5 -X DELETE --output /dev/null \
        "http://127.0.0.1:$SIM_CONTROL/upstreams/$1/fault"
}
