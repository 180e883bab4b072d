#!/usr/bin/env bash
# openai-python: OpenAI's own Python client by its base URL: answers, streams, tools, exceptions, timeouts, abort
# interop: fast 300
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_venv openai-python "openai==$OPENAI_PYTHON_VERSION" || not_here "openai could not be installed from PyPI"
start_all_in_one
"$TOOLS/openai-python/bin/python" "$ROOT/tests/interop/openai-python/client.py" \
    "http://127.0.0.1:$GATEWAY_HTTP/v1" "http://127.0.0.1:$SIM_CONTROL" || fail "the client found a difference"
