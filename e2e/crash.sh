#!/usr/bin/env bash
# Kills the daemon and the shim by SIGKILL at every step of every request that changes something, and sees
# whether anything is lost, leaked or stuck by it.
#
#   e2e/crash.sh [OPTION]... [POINT]...    at the points whose names begin so; without, at all
#
#   --once         at the first time of all that a point is passed, not at the first time in each request
#   --each-time    at each time that a request passes a point
#   --parallel N   with N nodes at a time
#   --no-build     with the binaries that are in target/crash already
#
# For each death a node of its own goes through one of the stories in e2e/crash/stories/: somebody dies in
# one of its steps, the daemon is started again, the request is repeated as a kubelet does, and what
# clients were told before has to hold. Then the node's processes, mounts, namespaces, links, addresses,
# host ports, cgroups, descriptors and files are held against its records, everything is removed, and the
# kernel and the disk have to be as they were. The names of the points are in crates/crash/src/points.rs.
set -euo pipefail
# shellcheck source=hack/tools.sh
. "$(dirname "$0")/../hack/tools.sh"
cd "$root"

build=(hack/build.sh --crash-points)
take_options "$@"
need_node
cni_plugins
oci_runtimes
criu
crictl
"${build[@]}"
exec cargo run --quiet --locked -p crisp-e2e --bin run-crash -- "${arguments[@]}"
