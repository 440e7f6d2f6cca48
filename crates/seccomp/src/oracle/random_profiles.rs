//! Profiles made up at random, compiled and compared with the evaluator.

use super::evaluator::Evaluator;
use super::interpreter::{Filter, SeccompData};
use crate::abi::{Machine, X32_BIT};
use crate::compile::compile_for;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};

/// A xorshift generator: the same profiles in every run, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn some<T>(&mut self, at_most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(at_most + 1)).map(|_| make(self)).collect()
    }
}

/// Old and new, of one architecture and of all, with numbers next to each other and apart. No
/// multiplexed ones: what those mean for socketcall and ipc has cases of its own.
const NAMES: [&str; 24] = [
    "read",
    "write",
    "open",
    "close",
    "stat",
    "fstat",
    "lstat",
    "poll",
    "openat",
    "openat2",
    "clone",
    "clone3",
    "personality",
    "execve",
    "ioctl",
    "io_setup",
    "mseal",
    "file_setattr",
    "_llseek",
    "set_tls",
    "arch_prctl",
    "sync_file_range2",
    "ptrace",
    "no_such_syscall",
];

/// Values around which comparisons change.
const VALUES: [u64; 10] = [
    0,
    1,
    2,
    0x7e02_0000,
    0x7fff_ffff,
    0xffff_fffe,
    0xffff_ffff,
    1 << 32,
    0x2_0000_0001,
    u64::MAX,
];

fn action(random: &mut Random) -> LinuxSeccompAction {
    use LinuxSeccompAction as Action;
    random.pick(&[
        Action::ScmpActKill,
        Action::ScmpActKillProcess,
        Action::ScmpActTrap,
        Action::ScmpActErrno,
        Action::ScmpActErrno,
        Action::ScmpActTrace,
        Action::ScmpActLog,
        Action::ScmpActAllow,
        Action::ScmpActAllow,
    ])
}

fn arg(random: &mut Random) -> LinuxSeccompArg {
    use LinuxSeccompOperator as Op;
    LinuxSeccompArgBuilder::default()
        .index(random.below(6))
        .op(random.pick(&[
            Op::ScmpCmpNe,
            Op::ScmpCmpLt,
            Op::ScmpCmpLe,
            Op::ScmpCmpEq,
            Op::ScmpCmpGe,
            Op::ScmpCmpGt,
            Op::ScmpCmpMaskedEq,
        ]))
        .value(random.pick(&VALUES))
        .value_two(random.pick(&VALUES))
        .build()
        .unwrap()
}

fn rule(random: &mut Random) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    let names = random.some(6, |random| random.pick(&NAMES).to_owned());
    rule.set_names(names)
        .set_action(action(random))
        .set_errno_ret(random.pick(&[None, Some(1), Some(38)]))
        .set_args(random.pick(&[false, true]).then(|| random.some(4, arg)));
    rule
}

fn profile(random: &mut Random, machine: Machine, rules: usize) -> LinuxSeccomp {
    let all = [machine.architectures(), vec![Arch::ScmpArchRiscv64]].concat();
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(action(random))
        .set_default_errno_ret(random.pick(&[None, Some(1), Some(38)]))
        .set_architectures(Some(random.some(4, |random| random.pick(&all))))
        .set_syscalls(Some(random.some(rules, rule)));
    profile
}

/// Compiles a profile and compares it on every number that some name or its neighbour has.
fn compare(random: &mut Random, machine: Machine, profile: &LinuxSeccomp) {
    let program = compile_for(machine, profile).unwrap();
    let filter = Filter::new(&program.filter);
    let evaluator = Evaluator::new(machine, profile);
    let arches = [0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028, 0x1234];
    let numbers = [
        0..20,
        100..103,
        135..160,
        200..210,
        255..260,
        320..345,
        430..475,
        510..550,
    ];
    let numbers = numbers
        .into_iter()
        .flatten()
        .chain([983_045, 0x3fff_ffff, 0x3fff_fffe]);
    for number in numbers.flat_map(|n| [n, n | X32_BIT]).chain([u32::MAX]) {
        for arch in arches {
            let around = |random: &mut Random| {
                let offset = random.pick(&[0, 0, 1, u64::MAX]);
                random.pick(&VALUES).wrapping_add(offset)
            };
            let args = std::array::from_fn(|_| around(random));
            let data = SeccompData { number, arch, args };
            let expected = evaluator.evaluate(&data);
            let outcome = filter.run(&data);
            assert_eq!(outcome.value, expected, "{data:x?} under {profile:#?}");
        }
    }
}

#[test]
fn small_profiles_are_compiled_faithfully() {
    let mut random = Random(0x5eed);
    for machine in [Machine::X86_64, Machine::Aarch64] {
        for _ in 0..200 {
            let profile = profile(&mut random, machine, 6);
            compare(&mut random, machine, &profile);
        }
    }
}

#[test]
fn profiles_with_far_jumps_are_compiled_faithfully() {
    let mut random = Random(0xfa55);
    for machine in [Machine::X86_64, Machine::Aarch64] {
        for _ in 0..20 {
            let profile = profile(&mut random, machine, 60);
            compare(&mut random, machine, &profile);
        }
    }
}
