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
take_options "$@"
need_node
"${build[@]}"
cargo build --locked --quiet -p crisp-e2e --bin soak
exec "$target/debug/soak" "${arguments[0]:-10000}" "${arguments[1]:-100000}"
