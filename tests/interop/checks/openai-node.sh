#!/usr/bin/env bash
# openai-node: OpenAI's own Node client by its base URL: answers, streams, tools, exceptions, timeouts, abort
# interop: fast 300
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_npm openai-node "openai@$OPENAI_NODE_VERSION" || not_here "openai could not be installed from npm"
start_all_in_one
# Where a module is looked up is decided by where its importer lies.
cp "$ROOT/tests/interop/openai-node/client.mjs" "$TOOLS/openai-node/client.mjs"
node "$TOOLS/openai-node/client.mjs" "http://127.0.0.1:$GATEWAY_HTTP/v1" "http://127.0.0.1:$SIM_CONTROL" ||
    fail "the client found a difference"
