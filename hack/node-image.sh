#!/usr/bin/env bash
# Makes the image of a Kubernetes node that runs in a container, as those of kind do: Debian with systemd as its
# init, crisp installed as on any host, crictl, and the CNI plugins.
#
#   hack/node-image.sh [--suite RELEASE] [--no-build]
#
#   --suite RELEASE    of another Debian release than this system's, such as trixie
#   --no-build         with the binaries that are in target/dist already
#
# It leaves target/node-image/node.tar, which `crisp image import`, `docker load` and `podman load` take in as
# localhost/crisp-node. A container of it has to be privileged. What crisp stores is in a volume that the image
# declares, because overlayfs does not stack on itself. For kind there is manifests/kind/.
set -euo pipefail
# shellcheck source=hack/debian.sh
. "$(dirname "$0")/debian.sh"
cd "$root"

name=localhost/crisp-node:latest
packages=(systemd systemd-sysv dbus iproute2 nftables iptables kmod mount procps conntrack ethtool socat ca-certificates)
# Of no use in a container, which has neither a console nor devices of its own.
masked=(
    console-getty.service dev-hugepages.mount dev-mqueue.mount e2scrub_reap.service getty.target
    sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount
    systemd-binfmt.service systemd-logind.service systemd-modules-load.service systemd-remount-fs.service
    systemd-sysctl.service systemd-update-utmp.service
)

suite='' build=(hack/build.sh)
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) tell_usage ;;
        --suite) suite=$2; shift ;;
        --no-build) build=() ;;
        *) die "unknown argument '$1': see $0 --help" ;;
    esac
    shift
done

# install_node ROOT: what makes it a node.
install_node() {
    install -t "$1/usr/local/bin" "$dist/crisp" "$dist/crisp-shim" "$tools/bin/crictl"
    ln -s crisp "$1/usr/local/bin/ctr"
    mkdir -p "$1/opt/cni/bin" "$1/etc/crisp"
    cp "$tools"/cni/* "$1/opt/cni/bin/"
    install -m 644 manifests/crisp.service "$1/etc/systemd/system/"
    install -m 644 manifests/crictl.yaml "$1/etc/"
    chroot "$1" systemctl --quiet enable crisp.service
}

# configure_system ROOT: as an init in a container starts.
configure_system() {
    local unit
    for unit in "${masked[@]}"; do
        ln -sf /dev/null "$1/etc/systemd/system/$unit"
    done
    chroot "$1" systemctl --quiet set-default multi-user.target
    rm -f "$1"/etc/systemd/system/*.wants/*.timer "$1/etc/machine-id" "$1/etc/hostname" "$1/etc/resolv.conf"
    # It is made up at each start: containers of one image are not one machine.
    touch "$1/etc/machine-id"
    echo ReadKMsg=no >>"$1/etc/systemd/journald.conf"
}

# write_archive ROOT DIRECTORY: the files of an image as docker saves one, in the directory.
write_archive() {
    local digest machine
    tar --create --file "$2/layer.tar" --directory "$1" --numeric-owner --xattrs --sort=name .
    digest=$(sha256sum "$2/layer.tar" | cut -d' ' -f1)
    machine=$(dpkg --print-architecture)
    cat >"$2/config.json" <<END
{"architecture":"$machine","os":"linux",
 "config":{"Env":["container=oci","PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
           "Entrypoint":["/sbin/init"],"StopSignal":"SIGRTMIN+3","Volumes":{"/var/lib/crisp":{}}},
 "rootfs":{"type":"layers","diff_ids":["sha256:$digest"]}}
END
    cat >"$2/manifest.json" <<END
[{"Config":"config.json","RepoTags":["$name"],"Layers":["layer.tar"]}]
END
}

need_root
need_packages mmdebstrap debian-archive-keyring
cni_plugins
crictl
"${build[@]}"
suite=${suite:-$(host_suite)}
images=$target/node-image
mkdir -p "$images"
work=$(mktemp -d "$images/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
sources "$suite" | bootstrap "$suite" "$work/root" "$(comma_separated "${packages[@]}")"
install_node "$work/root"
configure_system "$work/root"
mkdir "$work/image"
write_archive "$work/root" "$work/image"
tar --create --file "$work/archive" --directory "$work/image" manifest.json config.json layer.tar
mv "$work/archive" "$images/node.tar"
echo "$images/node.tar $(du -m "$images/node.tar" | cut -f1) MB"
