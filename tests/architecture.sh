#!/usr/bin/env bash
# Checks what ARCHITECTURE.md promises not to be there: the dependencies that a crate must never gain, and files too
# long to be read in one go.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

services=(gateway agent-router api-server upstream-sim)
broken=0

complain() {
    printf 'architecture: %s\n' "$*" >&2
    broken=1
}

# tree CRATE EDGES: names of all the crates that CRATE depends on.
tree() { cargo tree --locked --quiet --package "$1" --edges "$2" --prefix none --format '{p}' | cut -d ' ' -f 1 | sort -u; }

# forbid CRATE EDGES REASON NAME...
forbid() {
    local crate=$1 edges=$2 reason=$3 dependencies name
    shift 3
    dependencies=$(tree "$crate" "$edges")
    for name in "$@"; do
        if [ "$name" != "$crate" ] && grep -qx -- "$name" <<<"$dependencies"; then
            complain "$crate depends on $name: $reason"
        fi
    done
}

forbid resilience all "the state machines know no network, no protocol and no store" \
    tonic hyper reqwest redis prost axum aiplatform-proto service-kit
forbid aiplatform-proto normal,build "arrows point from services to service-kit to proto" \
    service-kit "${services[@]}" all-in-one
forbid service-kit normal,build "the kit serves every binary and knows none" "${services[@]}" all-in-one
# Tests of a service may start the simulator; what ships may not hold another service.
for service in "${services[@]}"; do
    forbid "$service" normal,build "only all-in-one composes services" "${services[@]}" all-in-one
done

for service in api-server upstream-sim; do
    forbid "$service" normal,build "only the agent-router and the gateway keep anything in Redis" redis
done

while read -r lines file; do
    if [ "$lines" -gt 500 ]; then
        printf 'architecture: warning: %s has %s lines; does it have one reason to change?\n' "$file" "$lines" >&2
    fi
done < <(find shared services tests -name '*.rs' -exec wc -l {} + | awk '$2 != "total"')

exit "$broken"
