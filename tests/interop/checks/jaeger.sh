#!/usr/bin/env bash
# Jaeger v2: the trace of a chat that fell back, read from Jaeger's API, shows gateway, router and every attempt
# interop: fast 900
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

# Jaeger's go.mod replaces a module, which `go install module@version` refuses; so it is built in its own source tree,
# as the Go module proxy delivers it, with every dependency checked against Jaeger's own go.sum.
need_jaeger() {
    JAEGER=$TOOLS/bin/jaeger-$JAEGER_VERSION
    [ -x "$JAEGER" ] && return 0
    need_go || return 1
    say "building Jaeger $JAEGER_VERSION from the Go module proxy into target/tools (several minutes, once)"
    local source=$TOOLS/build/jaeger downloaded
    downloaded=$(cd "$TOOLS" && GOFLAGS=-modcacherw go mod download -json \
        "github.com/jaegertracing/jaeger@$JAEGER_VERSION") || return 1
    rm -rf "$source"
    mkdir -p "$(dirname "$source")"
    cp -r "$(jq -r .Dir <<<"$downloaded")" "$source"
    chmod -R u+w "$source"
    (cd "$source" && GOFLAGS='-modcacherw -mod=readonly' go build -trimpath -o "$JAEGER" ./cmd/jaeger) || return 1
    rm -rf "$source"
}

need_jaeger || not_here "Jaeger $JAEGER_VERSION could not be built from the Go module proxy"
need_grpcurl
need_binary upstream-sim

suite_environment
free_ports OTLP QUERY QUERY_GRPC JAEGER_STATUS
cat >"$WORK/jaeger.yaml" <<END
service:
  extensions: [jaeger_storage, jaeger_query, healthcheckv2]
  pipelines:
    traces: { receivers: [otlp], processors: [], exporters: [jaeger_storage_exporter] }
  telemetry: { metrics: { level: none } }
extensions:
  healthcheckv2: { use_v2: true, http: { endpoint: "127.0.0.1:$JAEGER_STATUS" } }
  jaeger_storage: { backends: { memory: { memory: { max_traces: 1000 } } } }
  jaeger_query:
    storage: { traces: memory }
    http: { endpoint: "127.0.0.1:$QUERY" }
    grpc: { endpoint: "127.0.0.1:$QUERY_GRPC" }
receivers:
  otlp: { protocols: { grpc: { endpoint: "127.0.0.1:$OTLP" } } }
exporters:
  jaeger_storage_exporter: { trace_storage: memory }
END
# Its own traces would go to a collector that is not here, and hold up its end.
start jaeger env OTEL_TRACES_SAMPLER=always_off "$JAEGER" --config "$WORK/jaeger.yaml"
until_ok 30 "Jaeger is ready" http_ok "http://127.0.0.1:$JAEGER_STATUS/status"

export OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:$OTLP OTEL_BSP_SCHEDULE_DELAY=200
export MAX_SERVE_ENDPOINT=http://127.0.0.1:$SIM_MAX OLLAMA_CPU_ENDPOINT=http://127.0.0.1:$SIM_OLLAMA
export AIP__TIERS__MAX__MODEL=sim-max AIP__TIERS__OLLAMA__MODEL=sim-ollama
start upstream-sim "$BIN/upstream-sim"
until_ok 30 "the simulator is ready" http_ok "http://127.0.0.1:$SIM_MAX/health"
start_router_and_gateway

step "a chat that falls back from max to ollama, under our own trace id"
set_fault max '{"kind": "status", "status": 503, "message": "overloaded"}'
trace=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
answer=$(chat "trace me" '{}' -H "traceparent: 00-$trace-b7ad6b7169203331-01") || fail "the chat was not answered"
holds '.servedBy.tier == "ollama"' "$answer" "served by"

# spans: one object a span; an attribute's value whatever its type.
spans() {
    curl --silent --fail --max-time 5 "http://127.0.0.1:$QUERY/api/v3/traces/$trace" | jq -c '
        def plain: to_entries | map({key: .value.key, value: (.value.value | to_entries[0].value)}) | from_entries;
        [.result.resourceSpans[] | (.resource.attributes | plain) as $resource | .scopeSpans[].spans[]
         | {service: $resource["service.name"], name, kind, parent: .parentSpanId, id: .spanId,
            failed: (.status.code == 2), attributes: (.attributes // [] | plain)}]'
}
# Exported in batches by two processes: complete when all attempts are there, max's retry among them, beside both servers'
# spans.
complete() {
    spans | jq -e '([.[] | select(.name | startswith("chat "))] | length == 3)
        and ([.[].service] | any(. == "gateway")) and ([.[].service] | any(. == "agent-router"))'
}
until_ok 20 "the whole trace in Jaeger" complete

found=$(spans)
jq -r '.[] | "   \(.service)  \(.name)  kind \(.kind)\(if .failed then "  failed" else "" end)"' <<<"$found" >&2
holds '[.[] | select(.name | startswith("chat ")) | .attributes["gen_ai.provider.name"]] | sort == ["modular.max", "modular.max", "ollama"]' \
    "$found" "one span for each attempt"
holds '[.[] | select(.attributes["gen_ai.provider.name"] == "modular.max") | .failed] | all' "$found" "both attempts at max failed"
holds '.[] | select(.attributes["gen_ai.provider.name"] == "ollama") | .failed | not' "$found" "the last did not"
holds "[.[] | select(.name == \"$INFERENCE/Chat\") | .service] | contains([\"gateway\", \"agent-router\"])" "$found" \
    "the call at both services"
# Every span hangs below another span of the trace, or below the caller's.
# shellcheck disable=SC2016 # jq's variables, not ours
holds '([.[].id] + ["b7ad6b7169203331"]) as $ids | [.[] | .parent as $p | $ids | index($p) != null] | all' "$found" \
    "an unbroken tree"
# Only what the conventions name: spans from inside an HTTP library would bury them, and cost every request.
holds "[.[].name | . == \"$INFERENCE/Chat\" or startswith(\"chat \")] | all" "$found" "no other spans"

step "SIGTERM ends both with status 0, while Jaeger still listens"
for service in gateway agent-router; do
    status=0
    stop "$service" 30 || status=$?
    [ "$status" -eq 0 ] || fail "$service ended with status $status"
done
