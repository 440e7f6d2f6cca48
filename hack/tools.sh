# The programs that tests run beside crisp's own, made once and kept in target/tools/: sourced, never
# run.
# shellcheck shell=bash
# shellcheck source=hack/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tools=$target/tools
# The module of both crictl and critest.
cri_tools=sigs.k8s.io/cri-tools
cri_tools_version=v1.36.0

# need_node: what a node of the tests runs on, and what its images are made of.
need_node() {
    need_root
    # CNI's portmap and bridge run iptables.
    need_packages gcc libc6-dev iproute2 iptables nftables util-linux
    need_apparmor
    debian_tools
}

# in_scratch COMMAND...: in a directory that goes whatever comes of it.
in_scratch() (
    mkdir -p "$tools"
    scratch=$(mktemp -d "$tools/scratch.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    cd "$scratch" || exit
    "$@"
)

# make_tool NAME COMMAND...: unless target/tools/NAME is there, has the command make it as the directory
# "tool". It is there whole or not at all.
make_tool() {
    [ -d "$tools/$1" ] || in_scratch publish "$@"
}

publish() {
    local name=$1
    shift
    "$@"
    chmod 755 tool
    mv --no-target-directory tool "$tools/$name"
}

# unpack TO PACKAGE...: what is in packages of this system's release, which are not installed.
unpack() {
    apt_get download "${@:2}"
    extract "$1" ./*.deb
}

# extract TO FILE...
extract() {
    local package
    mkdir -p "$1"
    for package in "${@:2}"; do
        dpkg-deb -x "$package" "$1"
    done
}

# Programs that images are made of, and the registry that serves them.
debian_tools() {
    make_tool debian unpack_debian_tools
}

unpack_debian_tools() {
    unpack tool busybox-static docker-registry nginx
    # shellcheck disable=SC2046 # one argument for each library that nginx is linked to
    unpack tool $(dpkg-deb -f nginx_*.deb Depends | tr ',' '\n' | sed 's/^ *//; s/ .*//' | grep -E '^(lib|zlib)')
}

# The CNI plugins of Debian, which wire pods in some tests.
cni_plugins() {
    make_tool cni unpack_cni_plugins
}

unpack_cni_plugins() {
    unpack root containernetworking-plugins
    mv root/usr/lib/cni tool
}

# containerd and its runc, peers that crisp is measured beside: newer ones than those of this system's release.
containerd_version=2.3.4
runc_version=1.5.1
containerd() {
    need_packages gcc libc6-dev libseccomp-dev pkg-config
    need_go
    make_tool containerd-and-runc build_containerd
}

build_containerd() {
    local module=github.com/containerd/containerd/v2
    mkdir tool
    export GOBIN=$PWD/tool
    CGO_ENABLED=0 go install -trimpath -ldflags "-s -w -X $module/version.Version=$containerd_version" \
        "$module/cmd/containerd@v$containerd_version" "$module/cmd/containerd-shim-runc-v2@v$containerd_version"
    CGO_ENABLED=1 go install -trimpath -tags seccomp -ldflags '-s -w' "github.com/opencontainers/runc@v$runc_version"
}

# OCI runtimes that are driven by their command line. A library that crun needs, and nothing else of a
# usual system, lies beside it.
oci_runtimes() {
    make_tool oci unpack_oci_runtimes
}

unpack_oci_runtimes() {
    unpack tool/root runc crun libyajl2
    mkdir tool/bin
    ln -s ../root/usr/sbin/runc tool/bin/runc
    cat >tool/bin/crun <<'END'
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
    chmod 755 tool/bin/crun
}

# criu of a release that knows the kernels that tests run on, with all that it needs down to the C
# library.
criu_suite=forky
criu() {
    need_packages debian-archive-keyring
    make_tool criu unpack_criu
}

unpack_criu() {
    own_apt <<<"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(debian_mirror) $criu_suite main"
    apt-get -qq "${own_apt[@]}" -o Dir::State::status=/dev/null \
        install --download-only --no-install-recommends -y criu >/dev/null
    extract tool/root apt/cache/archives/*.deb
    rm -r tool/root/usr/share
    mkdir tool/bin
    cat >tool/bin/criu <<'END'
#!/bin/sh
root=$(dirname "$(readlink -f "$0")")/../root
libraries=$(echo "$root"/usr/lib/*-linux-gnu)
exec "$libraries"/ld-linux-*.so.? --library-path "$libraries" "$root/usr/sbin/criu" "$@"
END
    chmod 755 tool/bin/criu
}

# The reader of archives of checkpoints, whichever runtime has made them.
checkpointctl() {
    [ -x "$tools/bin/checkpointctl" ] && return
    need_go
    GOBIN=$tools/bin go install github.com/checkpoint-restore/checkpointctl@v1.4.0
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

# kubernetes PROGRAM...: programs of the module in e2e/kubernetes/, which pins the release of all of them.
kubernetes() {
    local to=$tools/kubernetes version program missing=()
    for program in "$@"; do
        # The module's own source is built anew when it changed, which Go sees by itself.
        [ "$program" != coredns ] && [ "$to/$program" -nt "$root/e2e/kubernetes/go.mod" ] || missing+=("$program")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    need_go
    (
        cd "$root/e2e/kubernetes" || exit
        export CGO_ENABLED=0
        version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
        for program in "${missing[@]}"; do
            go build -trimpath -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$version" \
                -o "$to/$program" "$(package_of "$program")"
        done
    )
}

# package_of PROGRAM: where the main package is of one that a cluster is made of, or that its pods run.
package_of() {
    case $1 in
        etcd) echo go.etcd.io/etcd/server/v3 ;;
        agnhost) echo k8s.io/kubernetes/test/images/agnhost ;;
        ginkgo) echo github.com/onsi/ginkgo/v2/ginkgo ;;
        coredns) echo ./coredns ;;
        *) echo "k8s.io/kubernetes/cmd/$1" ;;
    esac
}

# The server of figures that kubectl top asks. It is a module of its own: in one with Kubernetes, it would
# have that be made of newer modules than its release is.
metrics_server() {
    [ -x "$tools/bin/metrics-server" ] && return
    need_go
    CGO_ENABLED=0 GOBIN=$tools/bin go install -trimpath -ldflags '-s -w' sigs.k8s.io/metrics-server/cmd/metrics-server@v0.9.0
}

# Kubernetes' own tests of a node, of the release that the module pins.
node_suite() {
    local suite=$tools/kubernetes/e2e_node.test
    [ "$suite" -nt "$root/e2e/kubernetes/go.mod" ] && return
    need_go
    (cd "$root/e2e/kubernetes" && CGO_ENABLED=0 go test -c -vet=off -trimpath -ldflags '-s -w' -o "$suite" k8s.io/kubernetes/test/e2e_node)
}

# What asks a kubelet for what the API server would ask it for.
kubelet_client() {
    need_go
    (cd "$root/e2e/kubernetes" && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$tools/kubernetes/" ./kubelet-client)
}

# A program of images that suites are given.
euid() {
    mkdir -p "$tools/bin"
    cc -Os -static -s -o "$tools/bin/euid" "$root/e2e/src/euid.c"
}

# A static busybox as upstream configures it, which is the one in public images. Debian's own has a
# shell that runs applets whatever PATH says, and no ipcs.
busybox() {
    [ -x "$tools/bin/busybox" ] && return
    need_packages bzip2 gcc libc6-dev make
    in_scratch build_busybox >/dev/null
}

build_busybox() {
    apt_source busybox
    tar --extract --strip-components=1 --file busybox_*.orig.tar.*
    make --silent defconfig
    sed -i 's/^# CONFIG_STATIC is not set$/CONFIG_STATIC=y/' .config
    # Asks for what depends on that: the defaults will do.
    make --silent oldconfig < <(yes '')
    make --silent --jobs="$(nproc)" EXTRA_CFLAGS=-w busybox
    install -D -m 755 -t "$tools/bin" busybox
}

# apt_source PACKAGE: downloads its source from where this system has its packages from. The system's
# own lists, which seldom have sources, stay as they are.
apt_source() {
    # shellcheck disable=SC2016 # apt expands them
    apt-get indextargets --format 'deb-src $(REPO_URI) $(CODENAME) $(COMPONENT)' \
        'Created-By: Packages' 'Origin: Debian' | sort --unique >sources
    own_apt <sources
    apt-get -qq "${own_apt[@]}" source --download-only "$1"
}

# own_apt: makes lists from the sources on standard input, below the working directory, and leaves the
# options that have apt use them in $own_apt.
own_apt() {
    mkdir -p apt/lists/partial apt/cache/archives/partial
    cat >apt/sources.list
    own_apt=(
        -o APT::Sandbox::User=root
        -o Dir::Etc::SourceList="$PWD/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::State::Lists="$PWD/apt/lists" -o Dir::Cache="$PWD/apt/cache"
    )
    apt-get -qq "${own_apt[@]}" update
}

# debian_mirror: where this system has its Debian packages from, when it is a Debian.
debian_mirror() {
    local mirror
    # shellcheck disable=SC2016 # apt expands it
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | head -n 1)
    echo "${mirror:-http://deb.debian.org/debian/}"
}

need_go() {
    local advice="the tools of the CRI are built with it; install Go 1.21 or newer from https://go.dev/dl: it fetches the release that each needs"
    need_command go "$advice"
    local version
    version=$(go env GOVERSION)
    [ "$(printf '%s\n' go1.21 "$version" | sort -V | head -n 1)" = go1.21 ] || die "$version is too old: $advice"
}

cargo_fuzz() {
    [ -x "$tools/bin/cargo-fuzz" ] && return
    cargo install cargo-fuzz --locked --debug --quiet --root "$tools"
}
