#!/usr/bin/env bash
# Boots a node in a virtual machine and runs tests in it: a Debian kernel, systemd as PID 1, cgroup v2,
# AppArmor, and crisp installed from its unit. By KVM where that works, else emulated.
#
#   e2e/node-vm.sh [OPTION]... [TEST]...    tests whose names, <file or directory in e2e/tests/>::<test>,
#                                           contain one of TEST; without, those that show most of what
#                                           differs from a host with cgroup v1 and without systemd
#   e2e/node-vm.sh --critest [ARGUMENT]...  the CRI's conformance suite, with arguments of e2e/critest.sh
#   e2e/node-vm.sh --kubelet [CHECK]...     a real kubelet, which has systemd make the slices of pods, with
#                                           arguments of e2e/kubelet.sh
#
#   --all              all privileged tests
#   --suite RELEASE    of another Debian release than this system's, such as trixie
#   --backports        with the kernel of the release's backports
#   --selinux MODE     with SELinux in place of AppArmor: permissive or enforcing
#   --minutes N        the machine ends after N minutes whatever it does; 30 without, 60 with --kubelet
#   --no-build         with the binaries that are in target/dist already
#
# The exit status is that of the tests, or 124 after a timeout. What the node's kernel and systemd say
# is in console.log beside the image, which is made once for each release and kept in target/node-vm/,
# and the ends of what a kubelet and its crisp say when a check failed.
set -euo pipefail
# shellcheck source=e2e/node-vm/image.sh
. "$(dirname "$0")/node-vm/image.sh"
cd "$root"

memory_mib=2560
processors=2
quick=(privileged_cgroup:: privileged_clock:: ::systemd:: apparmor ::limits:: ::enforcement:: ::resize:: ::figures:: ::quota:: _shm_)

kind=tests suite='' kernel=stable selinux='' enforcing=0 minutes='' build=(hack/build.sh) arguments=()
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) tell_usage ;;
        --critest | --kubelet) kind=${1#--} ;;
        --all) arguments+=(::) ;;
        --suite) suite=$2; shift ;;
        --backports) kernel=backports ;;
        --selinux)
            selinux=selinux
            case $2 in
                permissive) enforcing=0 ;;
                enforcing) enforcing=1 ;;
                *) die "--selinux is permissive or enforcing, not '$2'" ;;
            esac
            shift
            ;;
        --minutes) minutes=$2; shift ;;
        --no-build) build=() ;;
        *) arguments+=("$1") ;;
    esac
    shift
done
[ "$kind" != tests ] || [ ${#arguments[@]} -gt 0 ] || arguments=("${quick[@]}")
[ "$kind" != kubelet ] || : "${minutes:=60}"
: "${minutes:=30}"

# The test that needs the image of a node, and whether it is one of those that are run.
nested_test=privileged::nested::privileged_node_in_a_pod_runs_pods_of_its_own
nested=''
for argument in "${arguments[@]}"; do
    [[ $kind != tests || $nested_test != *"$argument"* ]] || nested=yes
done

# test_programs: the paths of the executables of the tests in e2e/.
test_programs() {
    cargo test --workspace --test '*' --locked --quiet --no-run --message-format=json |
        sed -n '/"reason":"compiler-artifact".*e2e\/tests\//s/.*"executable":"\([^"]*\)".*/\1/p'
}

# pack_payload: the second disk, a file system with what runs in the node, as it is laid out in target/.
pack_payload() {
    local payload=$work/payload programs
    mkdir -p "$payload/target"/{dist,debug/deps}
    cp -l "$dist"/crisp "$dist"/crisp-shim "$payload/target/dist/"
    cp -rl "$tools" "$payload/target/"
    # No more of a Kubernetes than is run.
    rm -rf "$payload/target/tools/kubernetes"
    case $kind in
        critest) cp -l "$target/debug/run-critest" "$payload/target/debug/" ;;
        kubelet)
            cp -l "$target/debug/run-kubelet" "$payload/target/debug/"
            install -D -t "$payload/target/tools/kubernetes" "$tools"/kubernetes/{kubelet,kubelet-client}
            ;;
        tests)
            programs=$(test_programs)
            xargs cp -l --target-directory "$payload/target/debug/deps/" <<<"$programs"
            # Of the same build, and run by some of them.
            cp -l "$target/debug/runtime-driver" "$payload/target/debug/"
            ;;
    esac
    if [ -n "$nested" ]; then
        mkdir "$payload/target/node-image"
        cp -l "$target/node-image/node.tar" "$payload/target/node-image/"
    fi
    cp manifests/crisp.service "$payload/"
    install e2e/node-vm/run.sh "$payload/run"
    printf '%s\n' "$target" "$kind" "${arguments[@]}" >"$payload/order"
    make_disk "$work/disk" 2G "$payload" -L payload
}

# kvm_works: whether a machine gets as far as the panic for want of a root. A host may have /dev/kvm and
# yet emulate instructions that a kernel needs wrongly.
kvm_works() {
    [ -w /dev/kvm ] && timeout 5 qemu-system-x86_64 -accel kvm -cpu max -smp "$processors" -m "$memory_mib" \
        -nodefaults -no-user-config -display none -nic none -no-reboot \
        -kernel "$image/vmlinuz" -append 'panic=-1 quiet' </dev/null &>/dev/null
}

# clean_up: ends the machine too, should this script be ended before it.
# shellcheck disable=SC2317 # the trap calls it
clean_up() {
    local job
    for job in $(jobs -p); do
        kill "$job" || true
    done
    wait
    rm -rf "$work"
}

# boot: until the machine is off. Its disks are written to temporary files only.
boot() {
    # An emulated timer that comes late on a busy host is none that does not work.
    local parameters=(
        root=/dev/nvme0n1 rootwait rw console=ttyS0 panic=-1 quiet no_timer_check
        systemd.unified_cgroup_hierarchy=1 systemd.getty_auto=no systemd.journald.forward_to_console=1
    )
    [ -z "$selinux" ] || parameters+=(security=selinux selinux=1 enforcing="$enforcing")
    local accelerator=tcg
    if kvm_works; then accelerator=kvm; fi
    # shellcheck disable=SC2054 # commas belong to the arguments
    local machine=(
        qemu-system-x86_64 -accel "$accelerator" -cpu max -smp "$processors" -m "$memory_mib"
        -nodefaults -no-user-config -display none -nic none -no-reboot
        -kernel "$image/vmlinuz" -append "${parameters[*]}"
        -drive "file=$image/disk,format=raw,if=none,id=system,snapshot=on"
        -drive "file=$work/disk,format=raw,if=none,id=payload,snapshot=on"
        -device nvme,id=nvme,serial=node -device nvme-ns,drive=system,nsid=1 -device nvme-ns,drive=payload,nsid=2
        -serial "file:$image/console.log" -serial stdio -serial "file:$work/status"
    )
    exec env TMPDIR="$work" timeout --kill-after=10 "$((minutes * 60))" nice -n 10 "${machine[@]}" </dev/null
}

need_root
need_packages qemu-system-x86 e2fsprogs
debian_tools
case $kind in
    tests)
        cni_plugins
        oci_runtimes
        criu
        checkpointctl
        crictl
        older_client
        busybox
        ;;
    critest)
        need_packages gcc libc6-dev
        oci_runtimes
        critest
        busybox
        euid
        ;;
    kubelet)
        kubernetes kubelet
        kubelet_client
        ;;
esac
[ "$kind" = tests ] || cargo build --quiet --locked -p crisp-e2e --bin "run-$kind"
"${build[@]}"
[ -z "$nested" ] || hack/node-image.sh --no-build --suite "${suite:-$(host_suite)}"
mkdir -p "$node_vm"
work=$(mktemp -d "$node_vm/work.XXXXXX")
trap clean_up EXIT
build_image "${suite:-$(host_suite)}" "$kernel" "$selinux"
pack_payload
# In the background: signals are heard while it runs.
boot &
wait $!
status=$(cat "$work/status")
[ -n "$status" ] || die "the node ended before the tests did; see $image/console.log"
exit "$status"
