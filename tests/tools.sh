# shellcheck shell=bash
# The third-party tools that the checks use: one table of versions, and how each one gets here. Sourced, not run.
# What comes from a registry goes to target/tools, so that `make clean` takes it away; what comes from apt is
# announced before it is installed.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TOOLS=$ROOT/target/tools
mkdir -p "$TOOLS/bin"

# Go modules, npm, crates.io, PyPI: pinned. apt packages come from the distribution's own release.
GRPCURL_VERSION=v1.9.4
GRPC_HEALTH_PROBE_VERSION=v0.4.61
JAEGER_VERSION=v1.76.0 # the module's tag of the release that is also called Jaeger 2.13.0
BUF_VERSION=1.75.0
CARGO_DENY_VERSION=0.20.2
CARGO_FUZZ_VERSION=0.13.2
CARGO_MUTANTS_VERSION=27.1.0
GRPCIO_VERSION=1.85.1
MODULAR_VERSION=26.6.0
OPENAI_PYTHON_VERSION=3.54.0
OPENAI_NODE_VERSION=6.49.0 # 7 wants Node 22, which Debian has not
PUPPETEER_VERSION=24.43.1 # likewise 25
GRPC_WEB_VERSION=2.1.1
PROTOBUFJS_VERSION=8.8.1
PROTOBUFJS_CLI_VERSION=2.7.1
ESBUILD_VERSION=0.28.2
export GRPCURL_VERSION GRPC_HEALTH_PROBE_VERSION JAEGER_VERSION BUF_VERSION CARGO_DENY_VERSION \
    CARGO_FUZZ_VERSION CARGO_MUTANTS_VERSION GRPCIO_VERSION MODULAR_VERSION OPENAI_PYTHON_VERSION \
    OPENAI_NODE_VERSION PUPPETEER_VERSION GRPC_WEB_VERSION PROTOBUFJS_VERSION PROTOBUFJS_CLI_VERSION ESBUILD_VERSION

# say TEXT: to stderr; LAST_SAID keeps it, for whoever must give a reason later.
say() { LAST_SAID=$*; printf '%s\n' "$LAST_SAID" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

# as_root COMMAND...: directly or through sudo; 1 when neither is possible.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        return 1
    fi
}

# need_apt COMMAND PACKAGE WHY: makes sure that COMMAND exists, from PACKAGE if it has to be installed.
need_apt() {
    local command=$1 package=$2 why=$3
    have "$command" && return 0
    if ! have apt-get; then
        say "$command is needed $why. This is not a Debian or Ubuntu machine: install it by hand."
        return 1
    fi
    if [ "$(id -u)" -ne 0 ] && ! have sudo; then
        say "$command is needed $why. Become root or install sudo, or install it by hand: apt-get install $package"
        return 1
    fi
    say "installing the apt package $package, $why"
    apt_install "$package" || { say "apt could not install $package"; return 1; }
    have "$command" || { say "the apt package $package is installed, but $command is not on the PATH"; return 1; }
}

# apt_install PACKAGE: quiet unless it fails; the package lists are fetched only when the first try fails.
apt_install() {
    local log=$TOOLS/apt.log
    local -a install=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y
        --no-install-recommends "$1")
    as_root "${install[@]}" >"$log" 2>&1 && return 0
    as_root apt-get update >>"$log" 2>&1 || true
    as_root "${install[@]}" >>"$log" 2>&1 || { tail -n 5 "$log" >&2; return 1; }
}

# need_valkey: valkey-server and valkey-cli on the PATH: this machine's, or of the distribution's packages (Debian 12 has them
# among its backports), unpacked into target/tools. No service is set up by that.
need_valkey() {
    local prefix=$TOOLS/valkey archive
    PATH=$PATH:$prefix/usr/bin
    have valkey-server && have valkey-cli && return 0
    # What it is linked with is what Redis is linked with.
    need_apt redis-server redis-server "whose libraries Valkey needs too" || return 1
    say "fetching the packages of Valkey into target/tools"
    rm -rf "$prefix"
    mkdir -p "$prefix"/{lists,archives}/partial
    local -a options=()
    if ! apt-cache show valkey-server >/dev/null 2>&1; then
        # With lists of our own: the machine's sources stay as they are.
        local codename
        codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME-}")
        printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian %s main\n' \
            "$codename-backports" >"$prefix/sources.list"
        options=(-o "Dir::Etc::sourcelist=$prefix/sources.list" -o Dir::Etc::sourceparts=-
            -o "Dir::State::lists=$prefix/lists" -o "Dir::Cache::archives=$prefix/archives"
            -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o Acquire::Languages=none)
    fi
    if ! {
        { [ ${#options[@]} -eq 0 ] || apt-get "${options[@]}" update; } &&
            (cd "$prefix/archives" && apt-get "${options[@]}" download valkey-server valkey-tools)
    } >"$prefix/apt.log" 2>&1; then
        tail -n 3 "$prefix/apt.log" >&2
        say "no package of Valkey is to be had for this distribution"
        return 1
    fi
    for archive in "$prefix"/archives/*.deb; do
        dpkg-deb -x "$archive" "$prefix" || return 1
    done
    rm -rf "$prefix/lists"
    valkey-server --version >/dev/null || { say "valkey-server does not run here"; return 1; }
}

# need_nginx: a reverse proxy to compare with. The service that Debian's package sets up is stopped again.
need_nginx() {
    # Debian puts it where only root looks.
    local PATH=$PATH:/usr/sbin:/sbin
    have nginx && return 0
    need_apt nginx nginx "to be compared with the suite" || return 1
    as_root service nginx stop >/dev/null 2>&1 || true
    if have systemctl; then
        as_root systemctl disable nginx >/dev/null 2>&1 || true
    fi
}

# need_buf: the protobuf linter; the npm package carries its binary.
need_buf() {
    local prefix=$TOOLS/buf
    BUF=$prefix/node_modules/.bin/buf
    [ "$("$BUF" --version 2>/dev/null)" = "$BUF_VERSION" ] && return 0
    need_apt npm npm "to install buf, which checks the .proto files" || return 1
    say "installing @bufbuild/buf $BUF_VERSION from npm into target/tools"
    mkdir -p "$prefix"
    npm install --no-save --no-audit --no-fund --loglevel=error --prefix "$prefix" "@bufbuild/buf@$BUF_VERSION" >&2
}

# need_cargo_deny: checks licences, sources and banned crates.
need_cargo_deny() {
    CARGO_DENY=$TOOLS/bin/cargo-deny
    [ "$("$CARGO_DENY" --version 2>/dev/null)" = "cargo-deny $CARGO_DENY_VERSION" ] && return 0
    say "installing cargo-deny $CARGO_DENY_VERSION from crates.io into target/tools (some minutes, once)"
    # Its own release profile asks for more optimisation than a few seconds of checking repay.
    CARGO_PROFILE_RELEASE_LTO=false CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        CARGO_TARGET_DIR=$TOOLS/build/cargo-deny cargo install cargo-deny --version "$CARGO_DENY_VERSION" --locked \
        --quiet --root "$TOOLS" --no-default-features && rm -rf "$TOOLS/build/cargo-deny"
}

# need_cargo_fuzz: runs the targets of tests/fuzz.
need_cargo_fuzz() {
    CARGO_FUZZ=$TOOLS/bin/cargo-fuzz
    [ "$("$CARGO_FUZZ" --version 2>/dev/null)" = "cargo-fuzz $CARGO_FUZZ_VERSION" ] && return 0
    say "installing cargo-fuzz $CARGO_FUZZ_VERSION from crates.io into target/tools (a minute, once)"
    CARGO_TARGET_DIR=$TOOLS/build/cargo-fuzz cargo install cargo-fuzz --version "$CARGO_FUZZ_VERSION" --locked \
        --quiet --debug --root "$TOOLS" && rm -rf "$TOOLS/build/cargo-fuzz"
}

# need_cargo_mutants: breaks the code in small ways, to see whether a test notices.
need_cargo_mutants() {
    [ "$("$TOOLS/bin/cargo-mutants" --version 2>/dev/null)" = "cargo-mutants $CARGO_MUTANTS_VERSION" ] && return 0
    say "installing cargo-mutants $CARGO_MUTANTS_VERSION from crates.io into target/tools (a minute or two, once)"
    CARGO_TARGET_DIR=$TOOLS/build/cargo-mutants cargo install cargo-mutants --version "$CARGO_MUTANTS_VERSION" \
        --locked --quiet --debug --root "$TOOLS" && rm -rf "$TOOLS/build/cargo-mutants"
}

# need_miri: the interpreter that comes with nightly toolchains only; 3 where there is none to be had.
need_miri() {
    cargo +nightly miri --version >/dev/null 2>&1 && return 0
    if have rustup; then
        say "installing the nightly toolchain with Miri by rustup"
        rustup toolchain install nightly --profile minimal --component miri,rust-src >&2 && return 0
    fi
    say "skipped: no nightly toolchain with Miri is to be had here"
    return 3
}

# need_go_tool NAME MODULE VERSION: builds NAME from the Go module proxy into target/tools/bin.
need_go_tool() {
    local name=$1 module=$2 version=$3
    local stamp=$TOOLS/bin/.$name-$version
    [ -x "$TOOLS/bin/$name" ] && [ -e "$stamp" ] && return 0
    need_go || return 1
    say "building $name $version from the Go module proxy into target/tools"
    GOBIN=$TOOLS/bin GOFLAGS=-modcacherw go install "$module@$version" >&2 || return 1
    touch "$stamp"
}

# need_go: a Go toolchain new enough to fetch a newer one by itself (1.21).
need_go() {
    need_apt go golang-go "to build tools written in Go" || return 1
    local version
    version=$(go env GOVERSION)
    if [ "$(printf 'go1.21\n%s\n' "$version" | sort -V | head -n 1)" != go1.21 ]; then
        say "$(command -v go) is $version; Go 1.21 or newer is needed to build the pinned tools"
        return 1
    fi
}

# need_venv NAME REQUIREMENT...: a Python virtual environment in target/tools/NAME with exactly these packages.
need_venv() {
    local directory=$TOOLS/$1 wanted
    shift
    wanted="$*"
    [ "$(cat "$directory/.requirements" 2>/dev/null)" = "$wanted" ] && return 0
    need_apt python3 python3 "to make a Python environment" || return 1
    if ! python3 -c 'import ensurepip' 2>/dev/null; then
        say "installing the apt package python3-venv, to make a Python environment"
        apt_install python3-venv || return 1
    fi
    say "installing from PyPI into target/tools/${directory##*/}: $wanted"
    python3 -m venv --clear "$directory" >&2 || return 1
    "$directory/bin/pip" install --quiet --disable-pip-version-check "$@" >&2 || return 1
    printf '%s' "$wanted" >"$directory/.requirements"
}

# need_npm NAME PACKAGE...: a directory target/tools/NAME with exactly these packages from npm.
need_npm() {
    local directory=$TOOLS/$1 wanted
    shift
    wanted="$*"
    [ "$(cat "$directory/.requirements" 2>/dev/null)" = "$wanted" ] && return 0
    need_apt npm npm "to install packages for Node" || return 1
    say "installing from npm into target/tools/${directory##*/}: $wanted"
    rm -rf "$directory"
    mkdir -p "$directory"
    npm install --no-save --no-audit --no-fund --loglevel=error --prefix "$directory" "$@" >&2 || return 1
    printf '%s' "$wanted" >"$directory/.requirements"
}
