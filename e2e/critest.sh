#!/usr/bin/env bash
# Runs the whole of critest, the CRI's conformance suite, and tells of each spec how it went.
#
#   e2e/critest.sh [OPTION]...      against crisp, built from this tree, in directories of its own
#
#   --endpoint unix:///PATH         against the runtime that listens there instead, to compare
#   --mirrors DIR                   with --endpoint: where that runtime looks for <registry>/hosts.toml
#                                   for each pull; those of public registries must not be there yet,
#                                   and are as long as this runs
#   --parallel N                    with N specs at a time
#   --times N                       N times, each in another order
#   --focus REGEX, --skip REGEX     only specs whose names match, or do not
#   --seed N                        in the order of an earlier run
#   --handler NAME                  by a runtime handler; crisp has runc and crun, which are Debian's
#   --websocket                     exec, attach and port-forward over WebSocket, not SPDY
#   --no-build                      with the binaries that are in target/dist already
#
# Nothing is taken from public registries: the images are made of Debian packages, and a registry on
# loopback serves them under their public names. Each run ends with a line of how many specs passed,
# failed and were skipped by the suite itself; all it printed stays in target/critest/results/.
set -euo pipefail
# shellcheck source=hack/tools.sh
. "$(dirname "$0")/../hack/tools.sh"
cd "$root"

build=(hack/build.sh)
take_options "$@"
for argument in "${arguments[@]}"; do
    case $argument in
        --endpoint) build=() ;;
        --handler) oci_runtimes ;;
    esac
done
need_node
critest
busybox
euid
"${build[@]}"
exec cargo run --quiet --locked -p crisp-e2e --bin run-critest -- "${arguments[@]}"
