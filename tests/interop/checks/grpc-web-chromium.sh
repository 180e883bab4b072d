#!/usr/bin/env bash
# grpc-web-chromium: gRPC-Web and OpenAI's protocol from pages in headless Chromium, allowed and not
# interop: fast 400
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_apt chromium chromium "to call the gateway from a page (a download of about 100 MB)" ||
    not_here "Chromium could not be installed"
need_npm grpc-web-chromium "puppeteer-core@$PUPPETEER_VERSION" "grpc-web@$GRPC_WEB_VERSION" \
    "protobufjs@$PROTOBUFJS_VERSION" "protobufjs-cli@$PROTOBUFJS_CLI_VERSION" "esbuild@$ESBUILD_VERSION" ||
    not_here "the packages could not be installed from npm"
modules=$TOOLS/grpc-web-chromium

step "the page: protos and client in one script"
mapfile -t protos < <(cd "$ROOT/proto" && find aiplatform/inference -name '*service.proto' | sort)
# Where a module is looked up is decided by where its importer lies.
cp "$ROOT/tests/interop/grpc-web-chromium"/*.*js "$modules"
(cd "$ROOT/proto" && "$modules/node_modules/.bin/pbjs" --target json --path . "${protos[@]}") >"$modules/protos.json" ||
    fail "protobufjs refuses the protos"
"$modules/node_modules/.bin/esbuild" "$modules/page.js" --bundle --log-level=error --outfile="$WORK/page.js" ||
    fail "the page cannot be bundled"

free_ports PAGE
export AIP__GATEWAY__CORS__ALLOWED_ORIGINS=http://127.0.0.1:$PAGE
start_all_in_one
node "$modules/client.mjs" "$(command -v chromium)" "http://127.0.0.1:$GATEWAY_HTTP" \
    "http://127.0.0.1:$SIM_CONTROL" "$PAGE" "$WORK/page.js" || fail "the page found a difference"
