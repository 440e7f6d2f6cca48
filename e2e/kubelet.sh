#!/usr/bin/env bash
# Runs a real kubelet on crisp, without an API server: static pods, looked at through the kubelet's own
# API, over both transports of exec, attach and port-forward.
#
#   e2e/kubelet.sh [--no-build] [CHECK...]    the checks whose names contain one of CHECK, or all
#
# --no-build takes the binaries that are in target/dist already. The kubelet is built once, from the
# module in e2e/kubernetes/, which takes minutes. There is a line for each check and for each thing that
# cannot be seen without an API server, and one with their numbers in the end; what the kubelet and crisp
# say stays in target/kubelet/. The kubelet makes cgroups as crisp tells it to: by systemd where that is
# PID 1 and cgroups are of version 2, which e2e/node-vm.sh --kubelet boots a machine for.
set -euo pipefail
# shellcheck source=hack/tools.sh
. "$(dirname "$0")/../hack/tools.sh"
cd "$root"

build=(hack/build.sh)
take_options "$@"
need_node
kubernetes kubelet
kubelet_client
"${build[@]}"
exec cargo run --quiet --locked -p crisp-e2e --bin run-kubelet -- "${arguments[@]}"
