# The programs that tests run beside crisp's own, made once and kept in target/tools/: sourced, never
# run.
# shellcheck shell=bash
# shellcheck source=hack/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tools=$target/tools
# The module of both crictl and critest.
cri_tools=sigs.k8s.io/cri-tools
cri_tools_version=v1.36.0

# Programs that images are made of, and the registry that serves them: unpacked, not installed.
debian_tools() {
    local to=$tools/debian
    [ -d "$to" ] && return
    local work
    work=$(mktemp -d)
    (
        cd "$work" || exit
        apt_get download busybox-static docker-registry nginx
        # shellcheck disable=SC2046 # one argument for each library that nginx is linked to
        apt_get download $(dpkg-deb -f nginx_*.deb Depends | tr ',' '\n' | sed 's/^ *//; s/ .*//' | grep -E '^(lib|zlib)')
        mkdir root
        for package in *.deb; do
            dpkg-deb -x "$package" root
        done
    )
    mkdir -p "$tools"
    mv "$work/root" "$to"
    rm -r "$work"
}

# The CNI plugins of Debian, which wire pods in some tests: unpacked, not installed.
cni_plugins() {
    local to=$tools/cni
    [ -d "$to" ] && return
    local work
    work=$(mktemp -d)
    (
        cd "$work" || exit
        apt_get download containernetworking-plugins
        dpkg-deb -x containernetworking-plugins_*.deb root
    )
    mkdir -p "$tools"
    mv "$work/root/usr/lib/cni" "$to"
    rm -r "$work"
}

# Debian's containerd, a peer that crisp is measured beside: unpacked, not installed.
containerd() {
    local to=$tools/containerd
    [ -d "$to" ] && return
    local work
    work=$(mktemp -d)
    (
        cd "$work" || exit
        apt_get download containerd
        dpkg-deb -x containerd_*.deb root
    )
    mkdir -p "$to"
    mv "$work"/root/usr/bin/{containerd,containerd-shim-runc-v2} "$to"
    rm -r "$work"
}

# OCI runtimes that are driven by their command line: unpacked, not installed. A library that crun
# needs, and nothing else of a usual system, lies beside it.
oci_runtimes() {
    local to=$tools/oci
    [ -d "$to" ] && return
    local work
    work=$(mktemp -d)
    (
        cd "$work" || exit
        apt_get download runc crun libyajl2
        mkdir -p root bin
        for package in *.deb; do
            dpkg-deb -x "$package" root
        done
        ln -s ../root/usr/sbin/runc bin/runc
        cat >bin/crun <<'END'
#!/bin/sh
root=$(dirname "$(readlink -f "$0")")/../root
export LD_LIBRARY_PATH="$(echo "$root"/usr/lib/*-linux-gnu)"
unified=/sys/fs/cgroup/unified
# It refuses to run where version 2 of cgroups has controllers beside version 1: it is not shown that.
if grep -q . $unified/cgroup.controllers 2>/dev/null; then
    exec unshare --mount --propagation unchanged sh -c "
        mount --make-private $unified && mount --bind /dev/null $unified/cgroup.controllers && exec \"\$@\"" sh "$root/usr/bin/crun" "$@"
fi
exec "$root/usr/bin/crun" "$@"
END
        chmod 755 bin/crun
    )
    mkdir -p "$tools"
    rm "$work"/*.deb
    mv "$work" "$to"
    chmod 755 "$to"
}

crictl() {
    [ -x "$tools/bin/crictl" ] && return
    need_go
    GOBIN=$tools/bin go install "$cri_tools/cmd/crictl@$cri_tools_version"
}

# A client of an older release of the CRI: of a workspace of its own, because the definition that it
# comes with is compiled by protoc.
older_client() {
    local source=$root/e2e/older-client
    [ "$tools/bin/older-client" -nt "$source/src/main.rs" ] && return
    need_packages gcc libc6-dev protobuf-compiler
    cargo install --quiet --debug --locked --no-track --force --path "$source" --root "$tools" --target-dir "$target/older-client"
    rm -r "$target/older-client"
}

# critest and ginkgo, which critest runs itself with when it is to run in parallel. Neither can be
# installed by name: critest is a test, and ginkgo has to be of the version that critest is built with.
critest() {
    [ -x "$tools/bin/critest" ] && [ -x "$tools/bin/ginkgo" ] && return
    need_go
    local module
    module=$(cd / && go mod download -json "$cri_tools@$cri_tools_version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    mkdir -p "$tools/bin"
    (
        cd "$module" || exit
        export CGO_ENABLED=0
        go build -trimpath -o "$tools/bin/ginkgo" github.com/onsi/ginkgo/v2/ginkgo
        go test -c -trimpath -ldflags "-X $cri_tools/pkg/version.Version=${cri_tools_version#v}" \
            -o "$tools/bin/critest" ./cmd/critest
    )
}

# A program of the images that critest is given.
euid() {
    mkdir -p "$target/critest"
    cc -Os -static -s -o "$target/critest/euid" "$root/e2e/critest/euid.c"
}

# A static busybox as upstream configures it, which is the one in public images. Debian's own has a
# shell that runs applets whatever PATH says, and no ipcs.
busybox() {
    [ -x "$tools/bin/busybox" ] && return
    need_packages bzip2 gcc libc6-dev make
    local work
    work=$(mktemp -d)
    (
        cd "$work" || exit
        apt_source busybox
        tar --extract --strip-components=1 --file busybox_*.orig.tar.*
        make --silent defconfig
        sed -i 's/^# CONFIG_STATIC is not set$/CONFIG_STATIC=y/' .config
        # Asks for what depends on that: the defaults will do.
        make --silent oldconfig < <(yes '')
        make --silent --jobs="$(nproc)" EXTRA_CFLAGS=-w busybox
    ) >/dev/null
    install -D -m 755 -t "$tools/bin" "$work/busybox"
    rm -r "$work"
}

# apt_source PACKAGE: downloads its source from where this system has its packages from. The system's
# own lists, which seldom have sources, stay as they are.
apt_source() {
    mkdir -p apt/lists/partial apt/cache/archives/partial
    # shellcheck disable=SC2016 # apt expands them
    apt-get indextargets --format 'deb-src $(REPO_URI) $(CODENAME) $(COMPONENT)' \
        'Created-By: Packages' 'Origin: Debian' | sort --unique >apt/sources.list
    local option=(
        -o APT::Sandbox::User=root
        -o Dir::Etc::SourceList="$PWD/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::State::Lists="$PWD/apt/lists" -o Dir::Cache="$PWD/apt/cache"
    )
    apt-get -qq "${option[@]}" update
    apt-get -qq "${option[@]}" source --download-only "$1"
}

need_go() {
    need_command go "the tools of the CRI are built with it; install Go from https://go.dev/dl or golang-go"
}

cargo_fuzz() {
    [ -x "$tools/bin/cargo-fuzz" ] && return
    cargo install cargo-fuzz --locked --debug --quiet --root "$tools"
}
