#!/usr/bin/env bash
# Measures crisp by what a kubelet asks of it, and other runtimes beside it.
#
#   hack/bench.sh                             crisp, built from this tree, in directories of its own
#   hack/bench.sh --containerd                containerd with runc and CNI plugins beside it
#   hack/bench.sh --conmon                    and conmon with runc, of whose doing the logs are measured
#   hack/bench.sh --endpoint unix:///PATH     whatever listens there beside it; may be repeated
#   hack/bench.sh --crisp DIR                 another build of crisp beside it: DIR has crisp and crisp-shim
#   hack/bench.sh --json FILE                 and keeps all figures…
#   hack/bench.sh draw FILE.json FILE.svg     …to draw them
#   hack/bench.sh table FILE.json PAGE.md     …or to put them into a page as a table
#   hack/bench.sh publish                     with --containerd and --conmon, into docs/bench.json, docs/bench.svg and README.md
#   hack/bench.sh --help                      tells all options
#
#   --no-build                                as the first option: with the binaries that there are
#
# Nothing is taken from public registries: images are made here, and a registry on loopback serves them
# under public names. A runtime of --endpoint has to look for <registry>/hosts.toml in the directory that
# --mirrors names. What the runtimes write is on a file system of its own, ext4 with a journal, which is
# gone in the end; what belongs to running pods is in memory, as /run is. All of it takes some 25 minutes
# with one peer; --quick, --only and --pods take less.
set -euo pipefail
# shellcheck source=hack/tools.sh
. "$(dirname "$0")/tools.sh"

disk_bytes=12G
work=

build() {
    "$root/hack/build.sh"
    cargo build --quiet --release --locked --manifest-path "$root/Cargo.toml" -p crisp-bench
}

bench() {
    "$target/release/crisp-bench" "$@"
}

# An empty file system, for what the runtimes write.
make_disk() {
    work=$(mktemp -d)
    trap remove_disk EXIT
    truncate -s $disk_bytes "$work/image"
    mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "$work/image"
    mkdir "$work/disk"
    mount -o loop,discard "$work/image" "$work/disk"
}

remove_disk() {
    # The kernel may still be ending who used it.
    ! mountpoint --quiet "$work/disk" || umount --lazy "$work/disk"
    rm -r --one-file-system "$work"
}

if [ "${1:-}" = --no-build ]; then
    shift
else
    build
fi
published=
case ${1:-} in
    publish)
        shift
        published=$root/docs/bench
        mkdir -p "$root/docs"
        set -- --containerd --conmon --json "$published.json" "$@"
        ;;
    draw | table | --help | -h)
        bench "$@"
        exit
        ;;
esac
need_node
need_packages e2fsprogs
cni_plugins
[[ " $* " != *" --containerd "* ]] || containerd
if [[ " $* " == *" --conmon "* ]]; then
    need_packages conmon
    containerd
fi
make_disk
TMPDIR=$work/disk bench "$@"
if [ -n "$published" ]; then
    bench draw "$published.json" "$published.svg"
    bench table "$published.json" "$root/README.md"
fi
