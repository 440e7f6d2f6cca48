//! The profile RuntimeDefault: what ordinary programs need, and with each capability what it is for.
//!
//! Everything not listed fails with EPERM, or with ENOSYS when it is newer than all that is listed
//! (Linux 6.18). Left out on purpose are above all keyrings, io_uring, userfaultfd, swap, kexec and
//! loading modules; namespaces, mounts and BPF need CAP_SYS_ADMIN. The selection gives programs
//! the same as docker's and containerd's.

use crate::compile::own_architectures;
use oci_spec::runtime::{
    Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};

/// Makes RuntimeDefault for a container that may come to have these capabilities.
#[must_use]
pub fn default_profile(granted: &Capabilities) -> LinuxSeccomp {
    let mut syscalls = vec![allow(&ALWAYS.concat())];
    syscalls.extend(
        PRIVILEGED
            .iter()
            .filter(|(capability, _)| granted.contains(capability))
            .map(|(_, names)| allow(names)),
    );
    syscalls.extend(socket());
    syscalls.extend(personality());
    if !granted.contains(&Capability::SysAdmin) {
        syscalls.extend(new_processes());
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(libc::EPERM.unsigned_abs()))
        .set_architectures(own_architectures())
        .set_syscalls(Some(syscalls));
    profile
}

/// Allowed to everybody, by subject. Names that an architecture lacks are skipped there.
const ALWAYS: [&[&str]; 11] = [
    FILES,
    DIRECTORIES,
    DESCRIPTORS,
    EVENTS,
    MEMORY,
    PROCESSES,
    CREDENTIALS,
    SIGNALS,
    TIME,
    COMMUNICATION,
    SELF_CONFINEMENT,
];

/// Contents and metadata of files. file_setattr does what ioctl FS_IOC_FSSETXATTR does, under the
/// same checks.
#[rustfmt::skip]
const FILES: &[&str] = &[
    "access", "cachestat", "chmod", "chown", "chown32", "copy_file_range", "creat", "faccessat",
    "faccessat2", "fadvise64", "fadvise64_64", "arm_fadvise64_64", "fallocate", "fchmod", "fchmodat",
    "fchmodat2", "fchown", "fchown32", "fchownat", "fdatasync", "fgetxattr", "file_getattr",
    "file_setattr", "flistxattr", "fremovexattr", "fsetxattr", "fstat", "fstat64", "fstatat64",
    "fstatfs", "fstatfs64", "fsync", "ftruncate", "ftruncate64", "futimesat", "getxattr",
    "getxattrat", "lchown", "lchown32", "lgetxattr", "listxattr", "listxattrat", "llistxattr",
    "_llseek", "lremovexattr", "lseek", "lsetxattr", "lstat", "lstat64", "name_to_handle_at",
    "newfstatat", "open", "openat", "openat2", "pread64", "preadv", "preadv2", "pwrite64", "pwritev",
    "pwritev2", "read", "readahead", "readv", "removexattr", "removexattrat", "setxattr",
    "setxattrat", "stat", "stat64", "statfs", "statfs64", "statx", "sync", "sync_file_range",
    "arm_sync_file_range", "sync_file_range2", "syncfs", "truncate", "truncate64", "utime",
    "utimensat", "utimensat_time64", "utimes", "write", "writev",
];

/// Names of files. Making device nodes is for the device cgroup to allow.
#[rustfmt::skip]
const DIRECTORIES: &[&str] = &[
    "chdir", "fchdir", "getcwd", "getdents", "getdents64", "link", "linkat", "listmount", "mkdir",
    "mkdirat", "mknod", "mknodat", "readlink", "readlinkat", "rename", "renameat", "renameat2",
    "rmdir", "statmount", "symlink", "symlinkat", "umask", "unlink", "unlinkat",
];

/// What any open file is handled with. The AIO of old is here, io_uring is not.
#[rustfmt::skip]
const DESCRIPTORS: &[&str] = &[
    "close", "close_range", "dup", "dup2", "dup3", "fcntl", "fcntl64", "flock", "io_cancel",
    "io_destroy", "io_getevents", "io_pgetevents", "io_pgetevents_time64", "io_setup", "io_submit",
    "ioctl", "pipe", "pipe2", "sendfile", "sendfile64", "splice", "tee", "vmsplice",
];

/// Waiting for events. fanotify_init, without which fanotify_mark is idle, needs CAP_SYS_ADMIN.
#[rustfmt::skip]
const EVENTS: &[&str] = &[
    "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2",
    "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2", "fanotify_mark", "inotify_add_watch",
    "inotify_init", "inotify_init1", "inotify_rm_watch", "_newselect", "pause", "poll", "ppoll",
    "ppoll_time64", "pselect6", "pselect6_time64", "select",
];

/// Memory, and the locks in it.
#[rustfmt::skip]
const MEMORY: &[&str] = &[
    "brk", "cacheflush", "futex", "futex_requeue", "futex_time64", "futex_wait", "futex_waitv",
    "futex_wake", "get_robust_list", "madvise", "map_shadow_stack", "membarrier", "memfd_create",
    "memfd_secret", "mincore", "mlock", "mlock2", "mlockall", "mmap", "mmap2", "mprotect", "mremap",
    "mseal", "msync", "munlock", "munlockall", "munmap", "pkey_alloc", "pkey_free", "pkey_mprotect",
    "process_mrelease", "remap_file_pages", "set_robust_list",
];

/// Processes and their threads. ptrace and its like ask the kernel for permission on each target;
/// since Linux 4.8 a tracer cannot lead its tracee past the filter. uprobe and uretprobe are only
/// ever called by code that the kernel put there.
#[rustfmt::skip]
const PROCESSES: &[&str] = &[
    "arch_prctl", "execve", "execveat", "exit", "exit_group", "fork", "get_thread_area", "getcpu",
    "getpgid", "getpgrp", "getpid", "getppid", "getpriority", "getrandom", "getrlimit", "getrusage",
    "getsid", "gettid", "ioprio_get", "ioprio_set", "modify_ldt", "pidfd_open", "prctl", "prlimit64",
    "process_vm_readv", "process_vm_writev", "ptrace", "restart_syscall", "rseq",
    "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity", "sched_getattr",
    "sched_getparam", "sched_getscheduler", "sched_rr_get_interval", "sched_rr_get_interval_time64",
    "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler", "sched_yield",
    "set_thread_area", "set_tid_address", "set_tls", "setpgid", "setpriority", "setrlimit", "setsid",
    "sysinfo", "ugetrlimit", "uname", "uprobe", "uretprobe", "vfork", "wait4", "waitid", "waitpid",
];

/// Users, groups and capabilities.
#[rustfmt::skip]
const CREDENTIALS: &[&str] = &[
    "capget", "capset", "getegid", "getegid32", "geteuid", "geteuid32", "getgid", "getgid32",
    "getgroups", "getgroups32", "getresgid", "getresgid32", "getresuid", "getresuid32", "getuid",
    "getuid32", "setfsgid", "setfsgid32", "setfsuid", "setfsuid32", "setgid", "setgid32", "setgroups",
    "setgroups32", "setregid", "setregid32", "setresgid", "setresgid32", "setresuid", "setresuid32",
    "setreuid", "setreuid32", "setuid", "setuid32",
];

/// Signals.
#[rustfmt::skip]
const SIGNALS: &[&str] = &[
    "alarm", "breakpoint", "kill", "pidfd_send_signal", "rt_sigaction", "rt_sigpending",
    "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait",
    "rt_sigtimedwait_time64", "rt_tgsigqueueinfo", "sigaltstack", "signalfd", "signalfd4",
    "sigprocmask", "sigreturn", "tgkill", "tkill",
];

/// Clocks and timers. adjtimex only reads without CAP_SYS_TIME.
#[rustfmt::skip]
const TIME: &[&str] = &[
    "adjtimex", "clock_adjtime", "clock_adjtime64", "clock_getres", "clock_getres_time64",
    "clock_gettime", "clock_gettime64", "clock_nanosleep", "clock_nanosleep_time64", "getitimer",
    "gettimeofday", "nanosleep", "setitimer", "time", "timer_create", "timer_delete",
    "timer_getoverrun", "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64",
    "timerfd_create", "timerfd_gettime", "timerfd_gettime64", "timerfd_settime", "timerfd_settime64",
    "times",
];

/// Sockets, except making one, and System V and POSIX messages, semaphores and shared memory.
/// 32-bit programs make sockets through socketcall(2), whose arguments a filter cannot see; denying
/// it would take the network from them.
#[rustfmt::skip]
const COMMUNICATION: &[&str] = &[
    "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "ipc",
    "listen", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedreceive_time64",
    "mq_timedsend", "mq_timedsend_time64", "mq_unlink", "msgctl", "msgget", "msgrcv", "msgsnd",
    "recv", "recvfrom", "recvmmsg", "recvmmsg_time64", "recvmsg", "semctl", "semget", "semop",
    "semtimedop", "semtimedop_time64", "send", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shmat",
    "shmctl", "shmdt", "shmget", "shutdown", "socketcall", "socketpair",
];

/// What a program confines itself with.
#[rustfmt::skip]
const SELF_CONFINEMENT: &[&str] = &[
    "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "seccomp",
];

/// Allowed to those who have the capability.
#[rustfmt::skip]
const PRIVILEGED: [(Capability, &[&str]); 14] = [
    (Capability::DacReadSearch, &["open_by_handle_at"]),
    (Capability::SysAdmin, &[
        "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick",
        "lookup_dcookie", "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "mount",
        "mount_setattr", "move_mount", "open_tree", "open_tree_attr", "perf_event_open", "quotactl",
        "quotactl_fd", "setdomainname", "sethostname", "setns", "syslog", "umount", "umount2",
        "unshare",
    ]),
    (Capability::SysBoot, &["reboot"]),
    (Capability::SysChroot, &["chroot"]),
    (Capability::SysModule, &["delete_module", "finit_module", "init_module"]),
    (Capability::SysPacct, &["acct"]),
    (Capability::SysPtrace, &["kcmp", "pidfd_getfd", "process_madvise"]),
    (Capability::SysRawio, &["ioperm", "iopl"]),
    (Capability::SysTime, &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    (Capability::SysTtyConfig, &["vhangup"]),
    (Capability::SysNice, &[
        "get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node",
    ]),
    (Capability::Syslog, &["syslog"]),
    (Capability::Bpf, &["bpf"]),
    (Capability::Perfmon, &["perf_event_open"]),
];

/// Sockets of every family but two: AF_ALG, the kernel's cryptography, whose bug CVE-2026-31431
/// wrote to files of the host, and AF_VSOCK, which reaches the hypervisor whatever the network
/// namespace. Above the first of the two, families are named one by one: the kernel looks at 32 bits
/// of the argument and the filter at 64, so "any larger number" would let both pass.
fn socket() -> impl Iterator<Item = LinuxSyscall> {
    const AF_ALG: u64 = 38;
    const AF_NFC: u64 = 39;
    const AF_KCM: u64 = 41;
    const AF_QIPCRTR: u64 = 42;
    const AF_SMC: u64 = 43;
    const AF_XDP: u64 = 44;
    const AF_MCTP: u64 = 45;
    let older = compare(0, LinuxSeccompOperator::ScmpCmpLt, AF_ALG);
    let newer =
        [AF_NFC, AF_KCM, AF_QIPCRTR, AF_SMC, AF_XDP, AF_MCTP].map(|family| equals(0, family));
    std::iter::once(older)
        .chain(newer)
        .map(|condition| allow_if("socket", condition))
}

/// Linux, 32-bit Linux and the old kernel version numbers, which change nothing but what uname(2)
/// tells; and the question which one is set. Others disable address randomisation.
fn personality() -> impl Iterator<Item = LinuxSyscall> {
    const PER_LINUX: u64 = 0;
    const PER_LINUX32: u64 = 0x8;
    const UNAME26: u64 = 0x2_0000;
    const QUERY: u64 = 0xffff_ffff;
    [
        PER_LINUX,
        PER_LINUX32,
        UNAME26,
        UNAME26 | PER_LINUX32,
        QUERY,
    ]
    .into_iter()
    .map(|value| allow_if("personality", equals(0, value)))
}

/// Processes and threads, but no new namespaces. clone3 has its flags in memory, where no filter can
/// see them; C libraries fall back to clone when it does not exist.
fn new_processes() -> [LinuxSyscall; 2] {
    const NEW_NAMESPACES: i32 = libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET;
    let none_of = LinuxSeccompArgBuilder::default()
        .index(0_usize)
        .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
        .value(u64::from(NEW_NAMESPACES.unsigned_abs()))
        .value_two(0_u64)
        .build()
        .expect("every field has a default");
    let mut clone3 = rule(&["clone3"], LinuxSeccompAction::ScmpActErrno);
    clone3.set_errno_ret(Some(libc::ENOSYS.unsigned_abs()));
    [allow_if("clone", none_of), clone3]
}

fn allow(names: &[&str]) -> LinuxSyscall {
    rule(names, LinuxSeccompAction::ScmpActAllow)
}

fn allow_if(name: &str, condition: LinuxSeccompArg) -> LinuxSyscall {
    let mut rule = allow(&[name]);
    rule.set_args(Some(vec![condition]));
    rule
}

fn rule(names: &[&str], action: LinuxSeccompAction) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|&name| name.to_owned()).collect())
        .set_action(action);
    rule
}

fn equals(index: usize, value: u64) -> LinuxSeccompArg {
    compare(index, LinuxSeccompOperator::ScmpCmpEq, value)
}

fn compare(index: usize, op: LinuxSeccompOperator, value: u64) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default()
        .index(index)
        .op(op)
        .value(value)
        .build()
        .expect("every field has a default")
}
