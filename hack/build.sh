#!/usr/bin/env bash
# Builds the daemon and its shim into target/dist/.
#
#   hack/build.sh                   optimised
#   hack/build.sh --debug           quicker to build, with assertions
#   hack/build.sh --crash-points    as --debug, into target/crash/, and for e2e/crash.sh alone: they die
#                                   where their environment says
#
# The shim is a static binary: every pod runs two processes of it, and a static one costs a tenth of
# the memory. It is built for musl when the toolchain has that target, else against a static glibc.
set -euo pipefail
# shellcheck source=hack/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

profile=release
features=()
case ${1:-} in
    "") ;;
    --debug) profile=dev ;;
    --crash-points)
        profile=dev
        features=(--features crash-points)
        dist=$target/crash
        ;;
    *) die "unknown argument '$1'; usage: hack/build.sh [--debug | --crash-points]" ;;
esac
directory=${profile/dev/debug}
options=(--locked --profile "$profile" "${features[@]}")
[ -t 2 ] || options+=(--quiet)

need_command cargo "install Rust from https://rustup.rs"
command -v cc >/dev/null || need_packages gcc
[ -e /usr/include/stdio.h ] || need_packages libc6-dev

host=$(rustc -vV | sed -n 's/^host: //p')
static=${host%%-*}-unknown-linux-musl
static_cargo=(cargo)
if ! [ -d "$(rustc --print target-libdir --target "$static" 2>/dev/null)" ]; then
    static=$host
    # Flags of one target leave build scripts and macros dynamic, as they must be.
    triple=$(tr 'a-z-' 'A-Z_' <<<"$host")
    static_cargo=(env "CARGO_TARGET_${triple}_RUSTFLAGS=-C target-feature=+crt-static" cargo)
fi

"${static_cargo[@]}" build "${options[@]}" -p crisp-shim --bin crisp-shim --target "$static"
cargo build "${options[@]}" -p crisp --bin crisp

install -D -m 755 -t "$dist" "$target/$directory/crisp" "$target/$static/$directory/crisp-shim"
for binary in crisp crisp-shim; do
    echo "$dist/$binary $(du -k "$dist/$binary" | cut -f1) KB"
done
