#!/usr/bin/env bash
# Runs a Kubernetes of its own on crisp: etcd, the API server, controllers, scheduler and CoreDNS, and two
# nodes with a kubelet, kube-proxy and crisp each, all in network namespaces of their own. Looks at it by
# kubectl.
#
#   e2e/cluster.sh [--no-build] [CHECK...]    the checks whose names contain one of CHECK, or all
#
# --no-build takes the binaries that are in target/dist already. Kubernetes is built once, from the module
# in e2e/kubernetes/, which takes some 20 minutes on two cores. There is a line for each check and for each
# thing that cannot be seen here, and one with their numbers in the end; what the programs say stays in
# target/cluster/.
set -euo pipefail
# shellcheck source=hack/tools.sh
. "$(dirname "$0")/../hack/tools.sh"
cd "$root"

build=(hack/build.sh)
take_options "$@"
need_node
oci_runtimes
kubernetes etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl agnhost coredns
metrics_server
"${build[@]}"
exec cargo run --quiet --locked -p crisp-e2e --bin run-cluster -- "${arguments[@]}"
