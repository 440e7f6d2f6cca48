#!/usr/bin/env bash
# Lets pods live and go, and runs commands in a container, and tells at every quarter what daemon and shim
# take: memory, descriptors, threads. They have to stay as they are from the first quarter on.
#
#   e2e/soak.sh [--no-build] [PODS [EXECS]]    10000 pods and 100000 commands without
#
# With --no-build the binaries are those in target/dist.
set -euo pipefail
# shellcheck source=hack/tools.sh
. "$(dirname "$0")/../hack/tools.sh"
cd "$root"

build=(hack/build.sh)
case ${1:-} in
    --help | -h) tell_usage ;;
    --no-build)
        build=()
        shift
        ;;
esac
need_node
"${build[@]}"
cargo build --locked --quiet -p crisp-e2e --bin soak
exec "$target/debug/soak" "${1:-10000}" "${2:-100000}"
