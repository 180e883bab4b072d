#!/usr/bin/env bash
# grpcio: Python's gRPC with generated stubs, with messages built from reflection, its health stub and error details
# interop: fast 400
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_venv python-grpcio "grpcio==$GRPCIO_VERSION" "grpcio-tools==$GRPCIO_VERSION" "grpcio-reflection==$GRPCIO_VERSION" \
    "grpcio-health-checking==$GRPCIO_VERSION" "grpcio-status==$GRPCIO_VERSION" ||
    not_here "grpcio could not be installed from PyPI"
python=$TOOLS/python-grpcio/bin/python

step "stubs from proto/"
mapfile -t protos < <(find "$ROOT/proto/aiplatform" -name '*.proto' | sort)
"$python" -m grpc_tools.protoc --proto_path="$ROOT/proto" --python_out="$WORK" --grpc_python_out="$WORK" \
    "${protos[@]}" || fail "protoc refuses the protos"

start_all_in_one
PYTHONPATH=$WORK "$python" "$ROOT/tests/interop/python-grpcio/client.py" \
    "127.0.0.1:$GATEWAY" "127.0.0.1:$ROUTER" "127.0.0.1:$API" || fail "the client found a difference"
