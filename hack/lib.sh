# Shared by the project's scripts: sourced, never run.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
# Both binaries, side by side, as they are installed.
# shellcheck disable=SC2034 # used by those who source this
dist=$target/dist

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# tell_usage: prints what the script's own head says, and ends.
tell_usage() {
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit
}

# take_options ARGUMENT...: takes those that all drivers of tests have. --help tells the usage and ends;
# --no-build empties $build, what builds the binaries. The other arguments are left in $arguments.
take_options() {
    local argument
    arguments=()
    for argument in "$@"; do
        case $argument in
            --help | -h) tell_usage ;;
            --no-build) build=() ;;
            *) arguments+=("$argument") ;;
        esac
    done
}

need_root() {
    [ "$(id -u)" = 0 ] || die "needs root: run it as 'sudo $0'"
}

# need_command COMMAND REMEDY: ends the script with the remedy when the command is missing.
need_command() {
    command -v "$1" >/dev/null || die "'$1' is missing: $2"
}

# need_packages PACKAGE...: installs those Debian packages that are missing.
need_packages() {
    local package missing=()
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
            missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    need_command apt-get "install by hand what this system calls: ${missing[*]}"
    need_root
    DEBIAN_FRONTEND=noninteractive apt_get install -y --no-install-recommends "${missing[@]}" >/dev/null
    echo "installed: ${missing[*]}"
}

# need_apparmor: where the kernel runs AppArmor, crisp loads its profile by a program.
need_apparmor() {
    ! grep -qs Y /sys/module/apparmor/parameters/enabled || need_packages apparmor
}

# apt_get COMMAND...: once more with fresh lists when the ones at hand do not do.
apt_get() {
    local command=(apt-get -qq -o APT::Sandbox::User=root -o Dpkg::Use-Pty=0)
    "${command[@]}" "$@" 2>/dev/null || { "${command[@]}" update && "${command[@]}" "$@"; }
}
