#!/usr/bin/env bash
# Has several kubelets do this and that to a node at random while things break at random, and checks all
# the while what must hold: what runs runs on, exit codes are those of the workloads, logs hold every
# line once, names and addresses are free again, nothing is stuck once faults have ceased, and nothing
# is left in the end.
#
#   e2e/chaos.sh [OPTION] SECONDS SEED [TRACE]    so long, with what the seed decides
#
#   --no-build    with the binaries that are in target/dist already
#
# Calls are given up early and repeated. The daemon is killed, and told to end; shims, pause processes and
# first processes of containers are killed, and shims stand still; containers take more memory than they
# may; the disks of images and records, of what belongs to running pods, and of logs are filled; CNI
# plugins come, go, hang and fail. The seed decides what each of those who take part does next, in time it
# differs. Interrupted, it removes all it has made.
# The last line counts what was done; the exit status is 0 when nothing was violated. TRACE is a file for
# what was asked and answered, a line each; the daemon's log is put beside it after a violation.
set -euo pipefail
# shellcheck source=hack/tools.sh
. "$(dirname "$0")/../hack/tools.sh"
cd "$root"

build=(hack/build.sh)
take_options "$@"
[ ${#arguments[@]} -ge 2 ] || die "needs SECONDS and a SEED; --help tells more"
need_node
cni_plugins
oci_runtimes
crictl
"${build[@]}"
cargo build --locked --quiet -p crisp-e2e --bin chaos
exec "$target/debug/chaos" "${arguments[@]}"
