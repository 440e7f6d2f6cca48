#!/usr/bin/env bash
# Has kubeadm make a control plane of static pods on crisp, with a kubelet that it configures, and reset the
# node; all in namespaces of their own.
#
#   e2e/kubeadm.sh [--no-build]
#
# --no-build takes the binaries that are in target/dist already. Kubernetes is built once, from the module
# in e2e/kubernetes/, which takes some 20 minutes on two cores. There is a line for each check, and one with
# their numbers in the end; what the kubelet and crisp say stays in target/kubeadm/.
set -euo pipefail
# shellcheck source=hack/tools.sh
. "$(dirname "$0")/../hack/tools.sh"
cd "$root"

build=(hack/build.sh)
take_options "$@"
need_node
kubernetes kubeadm kubectl kubelet etcd kube-apiserver kube-controller-manager kube-scheduler
"${build[@]}"
exec cargo run --quiet --locked -p crisp-e2e --bin run-kubeadm -- "${arguments[@]}"
