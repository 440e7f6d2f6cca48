#!/usr/bin/env bash
# Shows crisp at work on this machine, and that nothing of it stays:
#
#   hack/quickstart.sh            builds crisp first
#   hack/quickstart.sh --debug    the same, with the quicker build
#
# The daemon that is started has directories, a bridge, addresses and cgroups of its own, so that
# another crisp on this machine is not disturbed.
set -euo pipefail
# shellcheck source=hack/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"
need_root

instance=quickstart
bridge=crispquick0
table=crisp-$instance
cgroup=crisp-$instance
work=$(mktemp -d /tmp/crisp-quickstart.XXXXXX)
config=$work/config.toml
image=localhost/busybox:latest
daemon=

say() {
    printf '\n== %s\n' "$*"
}

# show COMMAND...: says what is run, and runs it.
show() {
    printf '$ %s\n' "$*"
    "$@"
}

crisp() {
    "$dist/crisp" --config "$config" "$@"
}

# Whatever the script ends of.
clean_up() {
    local status=$?
    trap - EXIT
    if [ -n "$daemon" ]; then
        [ $status -eq 0 ] || { echo "-- the daemon's log:"; tail -n 30 "$work/crisp.log"; }
        crisp pod rm --grace 0 hello >/dev/null 2>&1 || true
        stop_daemon
    fi
    remove_own
    rm -rf "$work"
    exit $status
}
trap clean_up EXIT

# What belongs to the daemon rather than to a pod, and what it keeps for its next start.
remove_own() {
    ip link delete "$bridge" 2>/dev/null || true
    nft list tables 2>/dev/null | awk -v name="$table" '$3 == name { print $2 }' | while read -r family; do
        nft delete table "$family" "$table"
    done
    find /sys/fs/cgroup -maxdepth 2 -type d -name "$cgroup" -exec rmdir {} + 2>/dev/null || true
}

stop_daemon() {
    kill "$daemon" 2>/dev/null || true
    wait "$daemon" 2>/dev/null || true
    daemon=
}

# The machine's busybox if it is a static one, for an image has no libraries.
find_busybox() {
    local found
    found=$(command -v busybox || true)
    if [ -z "$found" ] || ldd "$found" 2>/dev/null | grep -q '=>'; then
        need_packages busybox-static >&2
        found=$(command -v busybox)
    fi
    echo "$found"
}

write_config() {
    local cidrs='"10.187.42.0/24"'
    [ ! -e /proc/net/if_inet6 ] || cidrs+=', "fd00:c215:70::/64"'
    cat >"$config" <<EOF
root_dir = "$work/root"
run_dir = "$work/run"
netns_dir = "$work/netns"
instance = "$instance"

[cgroup]
default_parent = "/$cgroup"

[network]
mode = "bridge"
bridge = "$bridge"
pod_cidrs = [$cidrs]
EOF
}

start_daemon() {
    "$dist/crisp" serve --config "$config" 2>"$work/crisp.log" &
    daemon=$!
    for _ in $(seq 100); do
        crisp pod ls >/dev/null 2>&1 && return
        kill -0 "$daemon" 2>/dev/null || die "the daemon ended"
        sleep 0.1
    done
    die "the daemon does not answer"
}

# An archive as `docker save` writes it, with one layer: busybox and a link for each of its commands.
make_image() {
    local dir=$work/image rootfs=$work/image/rootfs busybox=$1 digest
    mkdir -p "$rootfs"/{bin,etc,tmp,www}
    chmod 1777 "$rootfs/tmp"
    cp "$busybox" "$rootfs/bin/busybox"
    "$busybox" --list | while read -r command; do
        [ "$command" = busybox ] || ln -s busybox "$rootfs/bin/$command"
    done
    printf 'root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\n' >"$rootfs/etc/passwd"
    printf 'root:x:0:\nuser:x:1000:\n' >"$rootfs/etc/group"
    tar -C "$rootfs" --owner=0 --group=0 --numeric-owner -cf "$dir/layer.tar" .
    digest=$(sha256sum "$dir/layer.tar" | cut -d' ' -f1)
    printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
        "$(architecture)" "$digest" >"$dir/config.json"
    printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$image" >"$dir/manifest.json"
    tar -C "$dir" -cf "$work/busybox.tar" manifest.json config.json layer.tar
    rm -r "$dir"
}

# As images name it.
architecture() {
    case $(uname -m) in
        x86_64) echo amd64 ;;
        aarch64) echo arm64 ;;
        *) uname -m ;;
    esac
}

# fetch ADDRESS: asks the pod's web server, which may need a moment to listen. By the shell itself: a
# static busybox cannot look up names on every machine, and nothing else need be installed.
fetch() {
    local answer
    for _ in $(seq 50); do
        if answer=$( (exec 3<>"/dev/tcp/$1/8080" && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && timeout 5 cat <&3) 2>/dev/null) &&
            [ -n "$answer" ]; then
            echo "$answer"
            return
        fi
        sleep 0.1
    done
    die "http://$1:8080/ does not answer"
}

# One line for each thing that is left of the daemon's pods.
leftovers() {
    local pid path
    for path in /proc/[0-9]*; do
        pid=${path#/proc/}
        case $pid in "$$" | "$BASHPID") continue ;; esac
        if grep -q "/$cgroup/" "$path/cgroup" 2>/dev/null || grep -qa "$work" "$path/cmdline" 2>/dev/null; then
            echo "process $pid: $(tr '\0' ' ' <"$path/cmdline" 2>/dev/null)"
        fi
    done
    grep -F " $work/" /proc/self/mountinfo | sed 's/^/mount: /'
    find "$work/netns" -type f 2>/dev/null | sed 's/^/netns: /'
    ip -o link show master "$bridge" 2>/dev/null | sed 's/^/veth: /'
    find /sys/fs/cgroup -mindepth 2 -type d -path "*/$cgroup/*" 2>/dev/null | sed 's/^/cgroup: /'
    nft list ruleset 2>/dev/null | awk -v name="$table" '
        $1 == "table" { own = ($3 == name) }
        own && /elements = / { sub(/^[ \t]+/, ""); print "nft: " $0 }'
    find "$work/logs" "$work/run/pods" "$work/run/volumes" "$work/root/pods" "$work/root/containers" \
        "$work/root/layers" "$work/root/images/blobs" -type f 2>/dev/null | sed 's/^/file: /'
    # Most of these commands fail when there is nothing to find.
    return 0
}

# While the pod runs, everything that the check looks for is there to be found.
check_the_check() {
    local kind found
    found=$(leftovers)
    for kind in process mount netns veth cgroup file; do
        grep -q "^$kind" <<<"$found" || die "the check for what is left is blind to a $kind"
    done
}

# What the kernel takes away behind an answer gets a moment to go.
check_leftovers() {
    local left
    for _ in $(seq 50); do
        left=$(leftovers)
        [ -n "$left" ] || return 0
        sleep 0.1
    done
    echo "$left"
    die "this is left"
}

say "What is needed"
need_packages iproute2 nftables
need_apparmor
busybox=$(find_busybox)
echo "busybox: $busybox"
hack/build.sh "$@"

say "A daemon on temporary directories"
write_config
cat "$config"
start_daemon
echo "serves $work/run/crisp.sock as pid $daemon"

say "What this host offers"
crisp check || die "pods do not run on this host: see above"

say "An image of this machine's busybox"
make_image "$busybox"
show crisp image import "$work/busybox.tar"
show crisp image ls

say "A pod, from a Kubernetes manifest"
echo '$ crisp pod run manifests/hello-pod.yaml'
started=$(crisp pod run --log-dir "$work/logs" manifests/hello-pod.yaml)
echo "$started"
address=${started##* }
show crisp pod ls

say "Its address answers over the veth"
echo "$ GET http://$address:8080/"
fetch "$address"

say "Its log"
show crisp pod logs hello

say "A command in it"
# shellcheck disable=SC2016 # expanded in the pod
show crisp pod exec hello -- sh -c 'echo "uid $(id -u) on $(hostname)"; ps'

say "All that is known of it: processes, network, mounts, limits in force"
show crisp inspect hello

say "All of it is removed"
check_the_check
show crisp pod rm hello
show crisp image rm "$image"
stop_daemon
check_leftovers
remove_own
echo "no process, mount, network namespace, veth, cgroup, nft element or file is left"
