#!/usr/bin/env bash
# Runs Kubernetes' own tests of a node that are labelled [NodeConformance], on a kubelet and crisp in
# namespaces of their own: their etcd, their API server, their kubelet.
#
#   e2e/conformance.sh [--no-build] [WORD...]    the specs whose names contain one of WORD, or all
#
# --no-build takes the binaries that are in target/dist already. The tests and the kubelet are built once,
# from the module in e2e/kubernetes/, which takes some 10 minutes on two cores; the images that they ask
# for are made of Debian packages and of programs of that module. All specs take half an hour: one waits for
# the longest of back-offs. Those that fail run once more, one at a time. There is a line for each spec, with
# the reason when it cannot be run here or passed only alone, and one with their numbers in the end; all that
# the tests, the kubelet and crisp say stays in target/conformance/.
set -euo pipefail
# shellcheck source=hack/tools.sh
. "$(dirname "$0")/../hack/tools.sh"
cd "$root"

build=(hack/build.sh)
take_options "$@"
need_node
busybox
euid
kubernetes kubelet agnhost ginkgo
node_suite
"${build[@]}"
exec cargo run --quiet --locked -p crisp-e2e --bin run-conformance -- "${arguments[@]}"
