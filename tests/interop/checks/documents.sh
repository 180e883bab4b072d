#!/usr/bin/env bash
# documents: every command of the README and the docs is run, and prints what they promise
# interop: fast 200
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_grpcurl
need_binary ai-platform
# The documents name the default ports, so those must be free.
for port in 8080 50051 50052 50053 8081 9464 9465 9466 18000 18434 18090; do
    ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || not_here "port $port, which the documents name, is in use here"
done
start ai-platform "$BIN/ai-platform"
until_ok 30 "ready" http_ok "http://127.0.0.1:9464/readyz"
# What the commands write lands here and not in the sources.
mkdir "$WORK/reader"
ln -s "$ROOT/target" "$WORK/reader/target"
cd "$WORK/reader"
PATH=$BIN:$TOOLS/bin:$PATH python3 "$ROOT/tests/interop/documents.py" "$ROOT/README.md" "$ROOT"/docs/*.md ||
    fail "a document promises what does not hold"
stop ai-platform 10 || fail "ai-platform does not end cleanly"
