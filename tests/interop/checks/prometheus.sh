#!/usr/bin/env bash
# Prometheus: scrapes the three admin ports into a real server, and promtool lints every metric
# interop: fast 300
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

# The package also starts Prometheus as a service where systemd runs; ours is a process of its own on a free port.
need_apt promtool prometheus "which brings promtool and a Prometheus server" ||
    not_here "the apt package prometheus could not be installed"
need_grpcurl
start_all_in_one
expect_tier max "a request to be counted"
expect_stream max "a stream to be counted"

declare -A admin=([gateway]=$GATEWAY_ADMIN [agent-router]=$ROUTER_ADMIN [api-server]=$API_ADMIN)

# promtool reads the older text format only. This rewrites OpenMetrics to it: full names for counters, no exemplars,
# no units, no end mark.
to_text_format() {
    awk '
        /^# (UNIT|EOF)/ { next }
        /^# HELP / { help = $0; next }
        /^# TYPE / {
            name = $3; type = $4
            if (type == "counter" && name !~ /_total$/) full = name "_total"
            else if (type == "info") { full = name "_info"; type = "gauge" }
            else { full = name; if (type == "unknown") type = "untyped" }
            if (help != "") { sub(" " name " ", " " full " ", help); print help; help = "" }
            print "# TYPE", full, type
            next
        }
        { sub(/ # \{.*$/, ""); print }'
}

step "promtool check metrics"
for service in "${!admin[@]}"; do
    url=http://127.0.0.1:${admin[$service]}/metrics
    curl --silent --show-error --fail --max-time 5 --dump-header "$WORK/$service.headers" --output "$WORK/$service.prom" \
        "$url" || fail "$url does not answer"
    say "   $service: $(grep -i '^content-type' "$WORK/$service.headers" | tr -d '\r'), $(wc -l <"$WORK/$service.prom") lines"
    to_text_format <"$WORK/$service.prom" >"$WORK/$service.txt"
    promtool check metrics <"$WORK/$service.txt" || fail "promtool objects to the metrics of $service"
done

step "a Prometheus server scrapes all three"
free_ports PROMETHEUS
{
    printf 'global: { scrape_interval: 1s, scrape_timeout: 1s }\nscrape_configs:\n'
    for service in "${!admin[@]}"; do
        printf '  - { job_name: %s, static_configs: [{ targets: ["127.0.0.1:%s"] }] }\n' "$service" "${admin[$service]}"
    done
} >"$WORK/prometheus.yml"
promtool check config "$WORK/prometheus.yml" >/dev/null || fail "the configuration of this check is wrong"
start prometheus prometheus --config.file="$WORK/prometheus.yml" --storage.tsdb.path="$WORK/data" \
    --web.listen-address="127.0.0.1:$PROMETHEUS" --enable-feature=exemplar-storage

# query EXPRESSION: the value of the first result.
query() {
    curl --silent --fail --max-time 5 --get --data-urlencode "query=$1" "http://127.0.0.1:$PROMETHEUS/api/v1/query" |
        jq -r '.data.result[0].value[1] // "nothing"'
}
holds_now() { [ "$(query "$1")" = "$2" ]; }

until_ok 30 "three targets are up" holds_now 'sum(up)' 3
until_ok 10 "build information of three services" holds_now 'count(aip_build_info)' 3
until_ok 10 "two requests served by tier max" holds_now 'sum(aip_requests_served_total{tier="max", job="agent-router"})' 2
until_ok 10 "a closed breaker" holds_now 'max(aip_circuit_breaker_state{state="closed", job="agent-router"})' 1
