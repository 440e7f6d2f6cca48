# The default AppArmor profile of crisp's containers (apparmor.d(5)).
#
# It comes on top of capabilities, seccomp and read-only mounts, for the case that one of these lets
# something through: mounts, the host's processes, and what in /proc and /sys is the whole machine's.
profile crisp-default flags=(attach_disconnected, mediate_deleted) {
  network,
  capability,
  file,
  umount,

  # The shim and whoever else runs unconfined on the host may end a container's processes; these reach
  # each other, and nobody else.
  signal (receive) peer=unconfined,
  signal (send, receive) peer=crisp-default,
  ptrace (read, readby, trace, tracedby) peer=crisp-default,

  deny mount,

  # In /proc, only the processes' own files are written to...
  deny /proc/* w,
  deny /proc/[^1-9s]*/** w,
  deny /proc/s[^ey]*/** w,
  deny /proc/sysvipc/** w,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,
  # ...and the parameters that belong to an IPC namespace: kernel/msg*, kernel/sem and kernel/shm*.
  deny /proc/sys/[^k]** w,
  deny /proc/sys/k[^e]** w,
  deny /proc/sys/kernel/[^ms]** w,
  deny /proc/sys/kernel/m[^s]** w,
  deny /proc/sys/kernel/s[^eh]** w,
  deny /proc/sys/kernel/seccomp/** w,

  # In /sys, only control groups are changed.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
