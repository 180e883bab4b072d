#!/usr/bin/env bash
# MAX Serve: the real server on the CPU, with a tiny model made here, as tier max behind router and gateway
# interop: slow 1800
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

venv=${MAX_VENV:-$TOOLS/max}
if [ -z "${MAX_VENV-}" ]; then
    if [ ! -d "$venv" ]; then
        [ "$(df --output=avail --block-size=1G "$TOOLS" | tail -n 1)" -ge 6 ] ||
            not_here "MAX needs 6 GB of disk to be installed, and there is less"
    fi
    need_venv max "modular==$MODULAR_VERSION" ||
        not_here "modular $MODULAR_VERSION could not be installed from PyPI (MAX_VENV may name an environment that has it)"
fi
[ -x "$venv/bin/max" ] || fail "$venv has no bin/max"
[ "$(awk '/MemAvailable/ { print int($2 / 1024 / 1024) }' /proc/meminfo)" -ge 3 ] ||
    not_here "MAX needs 3 GB of free memory, and there is less"
need_grpcurl

suite_environment
free_ports MAX MAX_METRICS NOBODY
step "a tiny model, and the server; its first start compiles for minutes"
"$venv/bin/python" "$ROOT/tests/interop/max-serve/make_tiny_model.py" "$WORK/tiny" 2>/dev/null ||
    fail "the model could not be made"
start max-serve env HF_HUB_OFFLINE=1 MAX_SERVE_DISABLE_TELEMETRY=1 MAX_SERVE_HOST=127.0.0.1 \
    MAX_SERVE_METRICS_ENDPOINT_PORT="$MAX_METRICS" \
    "$venv/bin/max" serve --model-path "$WORK/tiny" --served-model-name tiny --devices cpu --port "$MAX" \
    --quantization-encoding float32 --max-length 512 --max-batch-size 8
until_ok 600 "MAX Serve is ready" http_ok "http://127.0.0.1:$MAX/health"
say "   $(curl --silent --max-time 5 "http://127.0.0.1:$MAX/version")"

# Nobody listens at Ollama's endpoint: what the chain answers beyond max is degraded.
export MAX_SERVE_ENDPOINT=http://127.0.0.1:$MAX OLLAMA_CPU_ENDPOINT=http://127.0.0.1:$NOBODY AIP__TIERS__MAX__MODEL=tiny
start_router_and_gateway

short='{"sampling": {"max_tokens": 16}}'
step "unary"
answer=$(chat "hello world" "$short") || fail "the chat was not answered"
jq . <<<"$answer" | tee "$WORK/transcript.txt" >&2
holds '.servedBy.tier == "max" and (.servedBy.degraded // false | not)' "$answer" "served by"
holds '(.usage.outputTokens | tonumber) > 0 and (.usage.inputTokens | tonumber) > 0' "$answer" "usage"
holds '.finishReason == "FINISH_REASON_LENGTH" or .finishReason == "FINISH_REASON_STOP"' "$answer" "finish reason"

step "streamed"
events=$(stream_chat "how are you doing today" "$short" | jq -cs .) || fail "the stream broke"
jq -c '.[]' <<<"$events" | tee -a "$WORK/transcript.txt" >&2
holds '.[0].start.servedBy.tier == "max"' "$events" "opens with its tier"
holds '[.[].delta.text // ""] | join("") | length > 0' "$events" "text"
holds '.[-1].end.usage.outputTokens | tonumber > 0' "$events" "the end tells the usage"

step "a whole conversation, with a system message and every sampling parameter that MAX takes"
everything='{"sampling": {"max_tokens": 8, "temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["zzz"],
    "presence_penalty": 0.1, "frequency_penalty": 0.1}, "messages": [
    {"role": "ROLE_SYSTEM", "content": [{"text": "be brief"}]}, {"role": "ROLE_USER", "content": [{"text": "a"}]},
    {"role": "ROLE_ASSISTANT", "content": [{"text": "b"}]}, {"role": "ROLE_USER", "content": [{"text": "c"}, {"text": "d"}]}]}'
answer=$(chat "replaced by the conversation" "$everything") || fail "the conversation was not answered"
holds '.servedBy.tier == "max"' "$answer" "served by"

step "a prompt over the context is the caller's mistake, and no failure of the backend"
long=$(printf 'quick brown fox %.0s' {1..400})
for _ in 1 2 3 4; do
    expect_refusal 3 CONTEXT_LENGTH_EXCEEDED "$long" '{"tier": "max"}'
done
expect_tier max "and the breaker stays closed" "$short"

step "MAX ends; the next chat says so"
stop max-serve 60 || true
answer=$(chat "is the model still there?") || fail "the chat was not answered"
holds '.servedBy.degraded == true' "$answer" "served by"
holds '.attempts[0] | .tier == "max" and .outcome != "ATTEMPT_OUTCOME_SUCCESS"' "$answer" "the attempt at max"
