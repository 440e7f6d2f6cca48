# The disk that a node boots from, made of Debian packages and kept in target/node-vm/: sourced, never
# run.
#
# The kernel's package is unpacked, not installed: this kernel has NVMe and ext4 built in and needs no
# initramfs, which its package would make one for.
# shellcheck shell=bash
# shellcheck source=hack/debian.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../hack/debian.sh"

own=$root/e2e/node-vm
node_vm=$target/node-vm
# As much as all tests write, and their images; the file is sparse.
disk_size=6G
packages=(
    systemd systemd-sysv udev dbus kmod
    apparmor e2fsprogs sudo iproute2 iptables nftables procps skopeo strace util-linux ca-certificates
)
# Of no use to a node that lives for minutes and has no users.
masked=(
    e2scrub_reap systemd-journal-flush systemd-logind systemd-random-seed systemd-update-utmp
    systemd-update-utmp-runlevel systemd-user-sessions
)
selinux_packages=(selinux-policy-default policycoreutils)

# build_image SUITE KERNEL SELINUX: leaves the directory of the image in $image, and is made in $work.
# KERNEL is "stable" or "backports", SELINUX "selinux" or empty.
build_image() {
    local suite=$1 kernel=$2 selinux=$3 recipe
    recipe=$(cat "${BASH_SOURCE[0]}" "$root/hack/debian.sh" "$own"/node-vm.service "$own"/container.cil | sha256sum | cut -c1-12)
    image=$node_vm/$suite-$kernel${selinux:+-$selinux}
    [ "$(cat "$image/recipe" 2>/dev/null)" = "$recipe" ] && return
    need_packages mmdebstrap e2fsprogs debian-archive-keyring
    echo "making the image of a $suite node"
    rm -rf "$image"
    mkdir -p "$image"
    unpack_system "$suite" "$kernel" "$selinux"
    configure_system "$selinux"
    mv "$work"/root/boot/vmlinuz-* "$image/vmlinuz"
    make_disk "$image/disk" "$disk_size" "$work/root"
    rm -r "$work/root"
    echo "$recipe" >"$image/recipe"
}

# make_disk FILE SIZE DIRECTORY [OPTION...]: an ext4 with what is in the directory.
make_disk() {
    mke2fs -q -q -t ext4 -O ^has_journal -m 0 -d "$3" "${@:4}" "$1" "$2" >/dev/null
}

# unpack_system SUITE KERNEL SELINUX: the packages and the kernel into $work/root.
unpack_system() {
    local suite=$1 kernel=$2 selinux=$3 include=("${packages[@]}") from=''
    [ -z "$selinux" ] || include+=("${selinux_packages[@]}")
    [ "$kernel" = stable ] || from=/$suite-backports
    # shellcheck disable=SC2016 # mmdebstrap and the shell in it expand them
    sources "$suite" "$kernel" | bootstrap "$suite" "$work/root" "$(comma_separated "${include[@]}")" \
        --customize-hook='cd "$1/tmp" && export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" &&
            apt-get -qq download "$(apt-cache show --no-all-versions linux-image-cloud-amd64'"$from"' |
                sed -n "s/^Depends: \([^ ,]*\).*/\1/p")"'"$from" \
        --customize-hook='dpkg-deb --fsys-tarfile "$1"/tmp/linux-image-*.deb |
            tar --extract --keep-directory-symlink --directory "$1" && rm "$1"/tmp/*.deb' \
        --customize-hook='chroot "$1" depmod "$(ls "$1/lib/modules")"'
}

# configure_system SELINUX: what makes it a node that boots fast and runs the tests.
configure_system() {
    local root=$work/root unit
    echo node >"$root/etc/hostname"
    printf '127.0.0.1 localhost node\n::1 localhost\n' >"$root/etc/hosts"
    # An empty one is made up anew at each boot, with units enabled anew.
    echo 5f0d1f6c1d2e4c0f9d0f5a7be0a1c3d2 >"$root/etc/machine-id"
    echo 'LABEL=payload /payload ext4 defaults 0 0' >"$root/etc/fstab"
    mkdir "$root/payload"
    rm -f "$root"/etc/systemd/system/*.wants/*.timer "$root"/usr/lib/systemd/system/timers.target.wants/*
    for unit in "${masked[@]}"; do
        ln -s /dev/null "$root/etc/systemd/system/$unit.service"
    done
    cp "$own/node-vm.service" "$root/etc/systemd/system/"
    ln -s ../node-vm.service "$root/etc/systemd/system/multi-user.target.wants/"
    [ -z "$1" ] || label_system
}

# label_system: the types of containers, and what a first boot with SELinux would do for minutes.
# setfiles goes by /proc.
label_system() {
    echo 'SELINUXTYPE=default' >"$work/root/etc/selinux/config"
    cp "$own/container.cil" "$work/root/tmp/"
    # shellcheck disable=SC2016 # the inner shell expands it
    unshare --mount sh -ec '
        mount --bind /proc "$1/proc"
        chroot "$1" semodule --noreload --store default --install /tmp/container.cil
        chroot "$1" setfiles /etc/selinux/default/contexts/files/file_contexts /' - "$work/root"
    rm "$work/root/tmp/container.cil"
}
