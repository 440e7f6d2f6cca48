//! The default profile, by what programs may and may not do under it.

use super::evaluator::Evaluator;
use super::interpreter::{Filter, SeccompData};
use crate::abi::{Abi, Machine, X32_BIT};
use crate::compile::compile_for;
use crate::default_profile;
use oci_spec::runtime::{Capabilities, Capability, LinuxSeccomp};

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;

/// Capabilities of an ordinary container.
const ORDINARY: [Capability; 3] = [
    Capability::Chown,
    Capability::NetBindService,
    Capability::SysChroot,
];

fn with(granted: &[Capability], machine: Machine) -> (LinuxSeccomp, Filter) {
    let granted: Capabilities = granted.iter().copied().collect();
    let mut profile = default_profile(&granted);
    profile.set_architectures(Some(machine.architectures()));
    let program = compile_for(machine, &profile).unwrap();
    (profile, Filter::new(&program.filter))
}

fn verdict(filter: &Filter, abi: Abi, name: &str, args: &[u64]) -> u32 {
    let mut data = SeccompData {
        number: abi
            .number(name)
            .unwrap_or_else(|| panic!("{abi:?} has no {name}")),
        arch: abi.audit_arch(),
        ..SeccompData::default()
    };
    data.args[..args.len()].copy_from_slice(args);
    filter.run(&data).value
}

#[test]
fn ordinary_programs_run() {
    let (_, filter) = with(&ORDINARY, Machine::X86_64);
    for name in [
        "read", "write", "openat", "execve", "mmap", "futex", "clone", "chroot", "ptrace",
    ] {
        for abi in [Abi::X86_64, Abi::X86, Abi::X32] {
            assert_eq!(verdict(&filter, abi, name, &[]), ALLOW, "{name} of {abi:?}");
        }
    }
    for name in [
        "file_setattr",
        "mseal",
        "statmount",
        "uretprobe",
        "setxattrat",
    ] {
        assert_eq!(verdict(&filter, Abi::X86_64, name, &[]), ALLOW, "{name}");
    }
    let (_, filter) = with(&ORDINARY, Machine::Aarch64);
    assert_eq!(verdict(&filter, Abi::Aarch64, "openat", &[]), ALLOW);
    assert_eq!(verdict(&filter, Abi::Arm, "set_tls", &[]), ALLOW);
}

#[test]
fn what_reaches_the_host_is_denied() {
    for machine in [Machine::X86_64, Machine::Aarch64] {
        let (_, filter) = with(&ORDINARY, machine);
        for name in [
            "mount",
            "umount2",
            "setns",
            "unshare",
            "bpf",
            "keyctl",
            "add_key",
            "io_uring_setup",
            "userfaultfd",
            "kexec_load",
            "init_module",
            "open_by_handle_at",
            "perf_event_open",
            "open_tree_attr",
            "swapon",
            "reboot",
            "settimeofday",
            "pivot_root",
        ] {
            assert_eq!(
                verdict(&filter, machine.native(), name, &[]),
                EPERM,
                "{name}"
            );
        }
    }
}

#[test]
fn kernel_cryptography_and_hypervisor_sockets_are_denied() {
    for granted in [&ORDINARY[..], &[Capability::SysAdmin, Capability::NetAdmin]] {
        let (_, filter) = with(granted, Machine::X86_64);
        for family in 1..=45 {
            let expected = if matches!(family, 38 | 40) {
                EPERM
            } else {
                ALLOW
            };
            for abi in [Abi::X86_64, Abi::X86, Abi::X32] {
                assert_eq!(
                    verdict(&filter, abi, "socket", &[family]),
                    expected,
                    "{family} {abi:?}"
                );
            }
            // The kernel does not look at the upper half, so the filter must not be fooled by it.
            for disguise in [1 << 32, 0xffff_ffff << 32] {
                let args = [disguise | family];
                assert_eq!(verdict(&filter, Abi::X86_64, "socket", &args), EPERM);
            }
        }
        assert_eq!(verdict(&filter, Abi::X86_64, "socket", &[46]), EPERM);
    }
}

#[test]
fn new_namespaces_need_sys_admin() {
    const NAMESPACES: [u64; 7] = [
        0x0002_0000,
        0x0200_0000,
        0x0400_0000,
        0x0800_0000,
        0x1000_0000,
        0x2000_0000,
        0x4000_0000,
    ];
    const THREAD: u64 = 0x003d_0f00;
    let (_, filter) = with(&ORDINARY, Machine::X86_64);
    let (_, privileged) = with(&[Capability::SysAdmin], Machine::X86_64);
    for abi in [Abi::X86_64, Abi::X86, Abi::X32] {
        assert_eq!(verdict(&filter, abi, "clone", &[THREAD]), ALLOW);
        assert_eq!(verdict(&filter, abi, "clone3", &[]), ENOSYS);
        assert_eq!(verdict(&privileged, abi, "clone3", &[]), ALLOW);
        for namespace in NAMESPACES {
            let flags = [namespace | 17];
            assert_eq!(
                verdict(&filter, abi, "clone", &flags),
                EPERM,
                "{namespace:#x}"
            );
            assert_eq!(
                verdict(&privileged, abi, "clone", &flags),
                ALLOW,
                "{namespace:#x}"
            );
        }
    }
}

#[test]
fn only_harmless_personalities_can_be_taken() {
    let (_, filter) = with(&ORDINARY, Machine::X86_64);
    for harmless in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        assert_eq!(
            verdict(&filter, Abi::X86_64, "personality", &[harmless]),
            ALLOW
        );
    }
    const ADDR_NO_RANDOMIZE: u64 = 0x4_0000;
    const READ_IMPLIES_EXEC: u64 = 0x40_0000;
    for other in [ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC, 1] {
        assert_eq!(
            verdict(&filter, Abi::X86_64, "personality", &[other]),
            EPERM
        );
    }
}

#[test]
fn capabilities_bring_their_syscalls() {
    for (capability, name) in [
        (Capability::DacReadSearch, "open_by_handle_at"),
        (Capability::SysAdmin, "mount"),
        (Capability::SysBoot, "reboot"),
        (Capability::SysChroot, "chroot"),
        (Capability::SysModule, "init_module"),
        (Capability::SysPacct, "acct"),
        (Capability::SysPtrace, "pidfd_getfd"),
        (Capability::SysRawio, "iopl"),
        (Capability::SysTime, "settimeofday"),
        (Capability::SysTtyConfig, "vhangup"),
        (Capability::SysNice, "mbind"),
        (Capability::Syslog, "syslog"),
        (Capability::Bpf, "bpf"),
        (Capability::Perfmon, "perf_event_open"),
    ] {
        let (_, without) = with(&[], Machine::X86_64);
        let (_, with) = with(&[capability], Machine::X86_64);
        assert_eq!(verdict(&without, Abi::X86_64, name, &[]), EPERM, "{name}");
        assert_eq!(verdict(&with, Abi::X86_64, name, &[]), ALLOW, "{name}");
    }
}

/// Every number that can mean anything, under arguments that the profile looks at.
#[test]
fn every_syscall_is_treated_as_the_profile_says() {
    let samples = [
        0,
        8,
        17,
        38,
        39,
        40,
        45,
        46,
        0x2_0000,
        0x1000_0000,
        0xffff_ffff,
        1 << 32 | 38,
    ];
    for (machine, arches) in [
        (
            Machine::X86_64,
            &[0xc000_003e, 0x4000_0003, 0xc000_00b7][..],
        ),
        (
            Machine::Aarch64,
            &[0xc000_00b7, 0x4000_0028, 0xc000_003e][..],
        ),
    ] {
        for granted in [&ORDINARY[..], &[Capability::SysAdmin]] {
            let (profile, filter) = with(granted, machine);
            let evaluator = Evaluator::new(machine, &profile);
            let numbers = (0..600).chain(0xf_0000..0xf_0010);
            let numbers = numbers
                .flat_map(|n| [n, n | X32_BIT])
                .chain([u32::MAX - 1, u32::MAX]);
            for number in numbers {
                for (&arch, sample) in arches.iter().flat_map(|a| samples.map(|s| (a, s))) {
                    let data = SeccompData {
                        number,
                        arch,
                        args: [sample; 6],
                    };
                    let expected = evaluator.evaluate(&data);
                    assert_eq!(filter.run(&data).value, expected, "{machine:?} {data:x?}");
                }
            }
        }
    }
}

#[test]
fn a_common_syscall_takes_few_instructions() {
    let (_, filter) = with(&ORDINARY, Machine::X86_64);
    assert!(filter.len() < 512, "{} instructions", filter.len());
    for name in [
        "read",
        "write",
        "futex",
        "epoll_wait",
        "openat",
        "close",
        "mmap",
    ] {
        let data = SeccompData {
            number: Abi::X86_64.number(name).unwrap(),
            arch: Abi::X86_64.audit_arch(),
            ..SeccompData::default()
        };
        let steps = filter.run(&data).steps;
        assert!(steps <= 16, "{name}: {steps} instructions");
    }
}
