#!/bin/bash
# What the node does: installs crisp from its unit, runs what it was booted for, and says how that
# ended. /dev/ttyS1 is what the user sees, /dev/ttyS2 takes the exit status.
set -uo pipefail

# The order's lines: where cargo's target directory was, "tests", "critest" or "kubelet", then one argument a line.
mapfile -t order </payload/order
target=${order[0]} kind=${order[1]} arguments=("${order[@]:2}")
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin

# Programs look for others at the paths that they were built with.
place() {
    mkdir -p "$target" "${target%/*}/e2e"
    mount --bind /payload/target "$target"
}

install_crisp() {
    install "$target"/dist/crisp "$target"/dist/crisp-shim /usr/local/bin/
    install -m 644 /payload/crisp.service /etc/systemd/system/
    systemctl start crisp || { journalctl --no-pager --unit crisp; return 1; }
}

describe() {
    echo "Linux $(uname -r), $(systemctl --version | head -n 1), cgroups: $(stat -fc %T /sys/fs/cgroup)," \
        "security modules: $(cat /sys/kernel/security/lsm)"
    echo "up for $(cut -d' ' -f1 /proc/uptime) s"
}

# Tests are named <program>::<test> here, such as privileged::limits::privileged_fork_bomb_….
tests() {
    local path program wanted ran='' status=0
    for path in "$target"/debug/deps/*; do
        program=${path##*/} program=${program%-*}
        mapfile -t wanted < <(
            "$path" --list --include-ignored | sed -n "s/^\(.*\): test$/$program::\1/p" |
                grep -F -f <(printf '%s\n' "${arguments[@]}") | sed "s/^$program:://"
        )
        [ ${#wanted[@]} -gt 0 ] || continue
        ran=yes
        echo "== $program"
        "$path" --include-ignored --exact "${wanted[@]}" || {
            echo "$program ended with status $?"
            status=1
        }
    done
    [ -n "$ran" ] || { echo "no test is named so: ${arguments[*]}"; status=1; }
    return $status
}

# What a kubelet looks for of its node's network: an address by which there is a way out.
network() {
    ip link set lo up
    ip link add eth0 type bridge
    ip address add 10.10.0.1/24 dev eth0
    ip link set eth0 up
    ip route add default via 10.10.0.254 dev eth0
}

# So that it is seen that pods have none of it.
swap() {
    fallocate --length 1G /swap && chmod 600 /swap && mkswap /swap >/dev/null && swapon /swap
}

# log_tails: the ends of what the kubelet and crisp said. To the console, as all that systemd says.
log_tails() {
    tail -n 2000 "$target"/kubelet/*.log >/dev/console
}

# sum_up FILE: the tests' own summaries, added.
sum_up() {
    awk '/^test result:/ { passed += $4; failed += $6; skipped += $8 }
         END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped }' "$1"
}

# denials: what SELinux refuses or, while it is permissive, would. To the console, as all that systemd says.
denials() {
    journalctl --no-pager --output=cat | grep -F 'avc:  denied' >/dev/console
}

stty -F /dev/ttyS1 -onlcr
place && install_crisp && describe || exit
case $kind in
    tests)
        tests 2>&1 | tee /tmp/output
        status=${PIPESTATUS[0]}
        sum_up /tmp/output
        ;;
    critest)
        "$target"/debug/run-critest "${arguments[@]}"
        status=$?
        ;;
    kubelet)
        network && swap && "$target"/debug/run-kubelet "${arguments[@]}"
        status=$?
        [ "$status" = 0 ] || log_tails
        ;;
esac
! [ -e /sys/fs/selinux/enforce ] || denials
printf %s "$status" >/dev/ttyS2
