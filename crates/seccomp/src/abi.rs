//! The sets of syscalls that a machine knows, and their numbers.
//!
//! One machine runs programs of several: x86_64 also those of x86 and x32, aarch64 those of arm. The
//! kernel tells a filter which one by an AUDIT_ARCH value, but x32 shares that of x86_64 and has a bit
//! in the number instead.

use oci_spec::runtime::Arch;

/// A machine that filters can be made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Machine {
    X86_64,
    Aarch64,
}

/// A set of numbered syscalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Abi {
    X86_64,
    X32,
    X86,
    Aarch64,
    Arm,
}

/// AUDIT_ARCH values: the ELF machine, with a bit for 64-bit words and one for little endian
/// (include/uapi/linux/audit.h).
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;
const AUDIT_ARCH_AARCH64: u32 = 0xc000_00b7;
const AUDIT_ARCH_ARM: u32 = 0x4000_0028;

/// Set in the numbers of x32 (__X32_SYSCALL_BIT).
pub(crate) const X32_BIT: u32 = 0x4000_0000;

/// First of the numbers that only arm's own syscalls have (__ARM_NR_BASE).
const ARM_PRIVATE: u32 = 0x000f_0000;

impl Machine {
    /// The one that this program runs on.
    pub(crate) const RUNNING: Option<Self> = if cfg!(target_arch = "x86_64") {
        Some(Self::X86_64)
    } else if cfg!(target_arch = "aarch64") {
        Some(Self::Aarch64)
    } else {
        None
    };

    pub(crate) fn native(self) -> Abi {
        match self {
            Self::X86_64 => Abi::X86_64,
            Self::Aarch64 => Abi::Aarch64,
        }
    }

    /// The architectures of the default profile: all that the machine can run.
    pub(crate) fn architectures(self) -> Vec<Arch> {
        match self {
            Self::X86_64 => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
            Self::Aarch64 => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        }
    }

    /// None: this machine runs no programs of that architecture.
    pub(crate) fn abi(self, architecture: Arch) -> Option<Abi> {
        match (self, architecture) {
            (_, Arch::ScmpArchNative) => Some(self.native()),
            (Self::X86_64, Arch::ScmpArchX86_64) => Some(Abi::X86_64),
            (Self::X86_64, Arch::ScmpArchX86) => Some(Abi::X86),
            (Self::X86_64, Arch::ScmpArchX32) => Some(Abi::X32),
            (Self::Aarch64, Arch::ScmpArchAarch64) => Some(Abi::Aarch64),
            (Self::Aarch64, Arch::ScmpArchArm) => Some(Abi::Arm),
            _ => None,
        }
    }

    /// As docker's profiles spell it in `includes` and `excludes`.
    pub(crate) fn docker_name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }
}

impl Abi {
    /// What `seccomp_data.arch` holds.
    pub(crate) fn audit_arch(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => AUDIT_ARCH_X86_64,
            Self::X86 => AUDIT_ARCH_I386,
            Self::Aarch64 => AUDIT_ARCH_AARCH64,
            Self::Arm => AUDIT_ARCH_ARM,
        }
    }

    /// Whether arguments are compared in their 64 bits; else in the low 32, as they are declared.
    pub(crate) fn has_wide_arguments(self) -> bool {
        matches!(self, Self::X86_64 | Self::Aarch64)
    }

    /// None: it does not have this syscall, or nobody has.
    pub(crate) fn number(self, name: &str) -> Option<u32> {
        match self {
            Self::X86_64 => parsed(name, syscalls::x86_64::Sysno::id),
            Self::X86 => parsed(name, syscalls::x86::Sysno::id),
            Self::Aarch64 => parsed(name, syscalls::aarch64::Sysno::id),
            Self::X32 => x32_number(name),
            Self::Arm => arm_number(name),
        }
    }

    /// Whether syscalls that the kernel gains have numbers above this one.
    pub(crate) fn is_numbered_by_age(self, number: u32) -> bool {
        match self {
            Self::X32 => number < X32_BIT + X32_OWN_FIRST,
            Self::Arm => number < ARM_PRIVATE,
            Self::X86_64 | Self::X86 | Self::Aarch64 => true,
        }
    }
}

fn parsed<S: std::str::FromStr>(name: &str, id: impl FnOnce(&S) -> i32) -> Option<u32> {
    name.parse()
        .ok()
        .map(|syscall| id(&syscall).cast_unsigned())
}

/// Syscalls of x86_64 that x32 has under numbers of its own, from 512 on in this order, because
/// their arguments hold pointers or longs in memory (arch/x86/entry/syscalls/syscall_64.tbl).
const X32_OWN: [&str; 36] = [
    "rt_sigaction",
    "rt_sigreturn",
    "ioctl",
    "readv",
    "writev",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "execve",
    "ptrace",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigqueueinfo",
    "sigaltstack",
    "timer_create",
    "mq_notify",
    "kexec_load",
    "waitid",
    "set_robust_list",
    "get_robust_list",
    "vmsplice",
    "move_pages",
    "preadv",
    "pwritev",
    "rt_tgsigqueueinfo",
    "recvmmsg",
    "sendmmsg",
    "process_vm_readv",
    "process_vm_writev",
    "setsockopt",
    "getsockopt",
    "io_setup",
    "io_submit",
    "execveat",
    "preadv2",
    "pwritev2",
];
const X32_OWN_FIRST: u32 = 512;

/// Syscalls of x86_64 that x32 lacks (the same table).
const X32_LACKS: [&str; 11] = [
    "uselib",
    "_sysctl",
    "create_module",
    "get_kernel_syms",
    "query_module",
    "nfsservctl",
    "set_thread_area",
    "get_thread_area",
    "epoll_ctl_old",
    "epoll_wait_old",
    "vserver",
];

fn x32_number(name: &str) -> Option<u32> {
    if X32_LACKS.contains(&name) {
        return None;
    }
    let number = match (X32_OWN_FIRST..).zip(X32_OWN).find(|(_, own)| *own == name) {
        Some((number, _)) => number,
        None => Abi::X86_64.number(name)?,
    };
    Some(X32_BIT + number)
}

/// Syscalls that only arm has, or has under two names (arch/arm/include/uapi/asm/unistd.h).
fn arm_number(name: &str) -> Option<u32> {
    let private = match name {
        "breakpoint" => 1,
        "cacheflush" => 2,
        "usr26" => 3,
        "usr32" => 4,
        "set_tls" => 5,
        "get_tls" => 6,
        "sync_file_range2" => return Abi::Arm.number("arm_sync_file_range"),
        _ => return parsed(name, syscalls::arm::Sysno::id),
    };
    Some(ARM_PRIVATE + private)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernel() {
        for (abi, name, number) in [
            (Abi::X86_64, "read", Some(0)),
            (Abi::X86_64, "file_setattr", Some(469)),
            (Abi::X86_64, "uretprobe", Some(335)),
            (Abi::X86_64, "socketcall", None),
            (Abi::X86, "socketcall", Some(102)),
            (Abi::X86, "_llseek", Some(140)),
            (Abi::X86, "clone3", Some(435)),
            (Abi::X32, "read", Some(X32_BIT)),
            (Abi::X32, "execve", Some(X32_BIT + 520)),
            (Abi::X32, "pwritev2", Some(X32_BIT + 547)),
            (Abi::X32, "uselib", None),
            (Abi::Aarch64, "openat", Some(56)),
            (Abi::Aarch64, "open", None),
            (Abi::Arm, "open", Some(5)),
            (Abi::Arm, "set_tls", Some(0xf0005)),
            (Abi::Arm, "sync_file_range2", Some(341)),
            (Abi::X86_64, "no_such_syscall", None),
        ] {
            assert_eq!(abi.number(name), number, "{name} of {abi:?}");
        }
    }

    #[test]
    fn foreign_architectures_are_not_of_this_machine() {
        assert_eq!(Machine::X86_64.abi(Arch::ScmpArchAarch64), None);
        assert_eq!(Machine::Aarch64.abi(Arch::ScmpArchX32), None);
        assert_eq!(
            Machine::Aarch64.abi(Arch::ScmpArchNative),
            Some(Abi::Aarch64)
        );
    }
}
