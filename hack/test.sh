#!/usr/bin/env bash
# Checks everything: format, lints, unit tests, the privileged tests in e2e/, some of them once more on a
# node with systemd and cgroup v2, a short chaos, a death at each crash point, and critest.
#
#   hack/test.sh              all of it, on a machine that has Rust and Go
#   hack/test.sh --prepare    only what `cargo test -p crisp-e2e` needs: packages, peers, binaries
#
# The privileged tests run the release binaries, which is what users run. Their compilation is the
# one that is not shared: lints, unit tests and the harness use the dev profile. Tests are always
# selected by name, never by package or target, so that dependencies have one set of features and are
# compiled once.
set -euo pipefail
# shellcheck source=hack/tools.sh
. "$(dirname "$0")/tools.sh"
cd "$root"

packages() {
    need_node
    # strace counts system calls.
    # skopeo reads what crisp exports.
    need_packages strace skopeo
}

formatting() {
    cargo fmt --all --check
    cargo fmt --manifest-path e2e/older-client/Cargo.toml --check
}

unit_tests() {
    cargo test --workspace --locked --quiet --no-run
    cargo test --workspace --locked --quiet -- --skip privileged_
    # What is left out of every other build.
    cargo test -p crisp-crash --features armed --locked --quiet
}

privileged_tests() {
    cargo test --workspace --locked --tests --no-fail-fast -- privileged_
}

failed=()
summary=()

# step NAME COMMAND...: runs it and remembers how it went.
step() {
    local name=$1 start=$SECONDS verdict=ok status
    shift
    echo "== $name"
    # Not '"$@" || ...': bash ignores 'set -e' inside a command that is tested.
    set +e
    (set -e; "$@")
    status=$?
    set -e
    [ $status -eq 0 ] || { verdict=FAILED; failed+=("$name"); }
    summary+=("$(printf '%-6s %5d s  %s' "$verdict" $((SECONDS - start)) "$name")")
}

step packages packages
step "cni plugins" cni_plugins
step "OCI runtimes" oci_runtimes
step criu criu
step checkpointctl checkpointctl
step crictl crictl
step "older client" older_client
if [ "${1:-}" != --prepare ]; then
    step fmt formatting
    step clippy cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
    step "unit tests" unit_tests
fi
step build hack/build.sh
if [ "${1:-}" != --prepare ]; then
    step "privileged tests" privileged_tests
    step "chaos" e2e/chaos.sh --no-build 40 1
    step "privileged tests on a node with systemd" e2e/node-vm.sh --no-build
    step "a death at each crash point" e2e/crash.sh --once
    step "critest" e2e/critest.sh --no-build
    step "critest, in parallel and over WebSocket" e2e/critest.sh --no-build --parallel 4 --websocket
fi

echo "== summary"
printf '%s\n' "${summary[@]}"
[ ${#failed[@]} -eq 0 ]
