//! What a profile says of one syscall, read off without compiling anything.

use super::interpreter::SeccompData;
use crate::abi::{Abi, Machine, X32_BIT};
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};
use std::collections::{HashMap, HashSet};

const KILL_PROCESS: u32 = 0x8000_0000;
const ENOSYS: u32 = 0x0005_0000 + 38;

/// A profile, with the numbers of its names looked up once.
pub(crate) struct Evaluator<'p> {
    machine: Machine,
    profile: &'p LinuxSeccomp,
    /// The rules, each with the numbers that it names in each ABI.
    rules: Vec<(&'p LinuxSyscall, HashSet<(Abi, u32)>)>,
    /// The newest syscall of each ABI that is named.
    newest: HashMap<Abi, u32>,
}

const ABIS: [Abi; 5] = [Abi::X86_64, Abi::X32, Abi::X86, Abi::Aarch64, Abi::Arm];

impl<'p> Evaluator<'p> {
    pub(crate) fn new(machine: Machine, profile: &'p LinuxSeccomp) -> Self {
        let numbers = |rule: &LinuxSyscall| -> HashSet<(Abi, u32)> {
            let of = |abi: Abi, name: &String| abi.number(name).map(|number| (abi, number));
            let in_all = |name| ABIS.into_iter().filter_map(move |abi| of(abi, name));
            rule.names().iter().flat_map(in_all).collect()
        };
        let rules = profile.syscalls().iter().flatten();
        let rules: Vec<_> = rules.map(|rule| (rule, numbers(rule))).collect();
        let mut newest = HashMap::new();
        for &(abi, number) in rules.iter().flat_map(|(_, numbers)| numbers) {
            if abi.is_numbered_by_age(number) {
                let largest = newest.entry(abi).or_insert(number);
                *largest = number.max(*largest);
            }
        }
        Self {
            machine,
            profile,
            rules,
            newest,
        }
    }

    /// The value that a filter for this profile must return.
    pub(crate) fn evaluate(&self, data: &SeccompData) -> u32 {
        let Some(abi) = abi(self.machine, self.profile, data) else {
            return KILL_PROCESS;
        };
        let default = value(
            self.profile.default_action(),
            self.profile.default_errno_ret(),
        );
        let about_this: Vec<&LinuxSyscall> = self
            .rules
            .iter()
            .filter(|(_, numbers)| numbers.contains(&(abi, data.number)))
            .map(|(rule, _)| *rule)
            .collect();
        if about_this.is_empty() && self.is_new(abi, data.number) {
            return ENOSYS;
        }
        let heeded: Vec<_> = about_this
            .into_iter()
            .filter(|rule| value(rule.action(), rule.errno_ret()) != default)
            .collect();
        let unconditional = heeded.iter().find(|rule| args(rule).is_empty());
        let conditional = || heeded.iter().find(|rule| holds(rule, abi, data));
        match unconditional.or_else(conditional) {
            Some(rule) => value(rule.action(), rule.errno_ret()),
            None => default,
        }
    }

    /// Newer than all that a denying profile names.
    fn is_new(&self, abi: Abi, number: u32) -> bool {
        use LinuxSeccompAction as Action;
        let passes = [
            Action::ScmpActAllow,
            Action::ScmpActLog,
            Action::ScmpActTrace,
        ];
        !passes.contains(&self.profile.default_action())
            && self.newest.get(&abi).is_some_and(|newest| number > *newest)
    }
}

/// None: an architecture that the profile does not list.
fn abi(machine: Machine, profile: &LinuxSeccomp, data: &SeccompData) -> Option<Abi> {
    let listed = |abi| {
        let architectures = profile.architectures().iter().flatten();
        (architectures
            .filter_map(|&a| machine.abi(a))
            .any(|a| a == abi))
        .then_some(abi)
    };
    match (machine, data.arch) {
        (Machine::X86_64, 0xc000_003e) if data.number & X32_BIT == 0 || data.number == u32::MAX => {
            Some(Abi::X86_64)
        }
        (Machine::X86_64, 0xc000_003e) if data.number >= X32_BIT => listed(Abi::X32),
        (Machine::X86_64, 0x4000_0003) => listed(Abi::X86),
        (Machine::Aarch64, 0xc000_00b7) => Some(Abi::Aarch64),
        (Machine::Aarch64, 0x4000_0028) => listed(Abi::Arm),
        _ => None,
    }
}

fn value(action: LinuxSeccompAction, data: Option<u32>) -> u32 {
    action.as_u32(data)
}

fn args(rule: &LinuxSyscall) -> &[LinuxSeccompArg] {
    rule.args().as_deref().unwrap_or_default()
}

fn holds(rule: &LinuxSyscall, abi: Abi, data: &SeccompData) -> bool {
    let args = args(rule);
    let repeated = (0..6).any(|index| args.iter().filter(|a| a.index() == index).count() > 1);
    if repeated {
        args.iter().any(|arg| compare(arg, abi, data))
    } else {
        args.iter().all(|arg| compare(arg, abi, data))
    }
}

fn compare(arg: &LinuxSeccompArg, abi: Abi, data: &SeccompData) -> bool {
    let seen = |value: u64| match abi {
        Abi::X86_64 | Abi::Aarch64 => value,
        Abi::X86 | Abi::X32 | Abi::Arm => value & 0xffff_ffff,
    };
    let (is, value) = (seen(data.args[arg.index()]), seen(arg.value()));
    match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => is != value,
        LinuxSeccompOperator::ScmpCmpLt => is < value,
        LinuxSeccompOperator::ScmpCmpLe => is <= value,
        LinuxSeccompOperator::ScmpCmpEq => is == value,
        LinuxSeccompOperator::ScmpCmpGe => is >= value,
        LinuxSeccompOperator::ScmpCmpGt => is > value,
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (is ^ seen(arg.value_two().unwrap_or_default())) & value == 0
        }
    }
}
