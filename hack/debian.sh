# Root file systems made of Debian packages: sourced, never run.
# shellcheck shell=bash
# shellcheck source=hack/tools.sh
. "$(dirname "${BASH_SOURCE[0]}")/tools.sh"

# host_suite: the Debian release that root file systems have unless another is asked for. Programs built here
# must find a C library there that is not older.
host_suite() {
    # shellcheck source=/dev/null
    . /etc/os-release
    case $ID in
        debian) echo "$VERSION_CODENAME" ;;
        *) echo trixie ;;
    esac
}

# sources SUITE [KERNEL]: where packages come from, the way this system has them when it is a Debian;
# with "backports" for the kernel also those.
sources() {
    local mirror
    mirror=$(debian_mirror)
    local signed='[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]'
    echo "deb $signed $mirror $1 main"
    echo "deb $signed ${mirror%debian/}debian-security/ $1-security main"
    [ "${2:-}" != backports ] || echo "deb $signed $mirror $1-backports main"
}

# bootstrap SUITE DIRECTORY PACKAGES [OPTION...]: a root file system with these packages, named with commas
# between them, and without what nobody reads in it. The sources are its standard input.
bootstrap() {
    mmdebstrap --quiet --variant=minbase --include="$3" \
        --dpkgopt=path-exclude='/usr/share/doc/*' --dpkgopt=path-exclude='/usr/share/man/*' \
        --dpkgopt=path-exclude='/usr/share/locale/*' \
        "${@:4}" "$1" "$2"
}

# comma_separated WORD...
comma_separated() {
    local IFS=,
    echo "$*"
}
