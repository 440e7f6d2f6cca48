//! From a profile to a program.
//!
//! The program tells the architectures apart, finds the run of numbers that the syscall falls into
//! by bisection, and tests arguments last. Runs that are treated alike are merged, so the default
//! profile takes about eight tests for most syscalls.

use crate::abi::{Abi, Machine};
use crate::assembler::{Assembler, Label, Program, Test};
use crate::rules::{Rule, Rules, When};
use crate::segments::{Segment, Verdict, X32, segments};
use crate::{Error, action};
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompFilterFlag};
use std::collections::HashMap;

/// Offsets in `struct seccomp_data` (linux/seccomp.h).
const NUMBER_OFFSET: u32 = 0;
const ARCH_OFFSET: u32 = 4;

/// SECCOMP_FILTER_FLAG_* (linux/seccomp.h).
const FLAG_LOG: u32 = 1 << 1;
const FLAG_SPEC_ALLOW: u32 = 1 << 2;

/// Compiles a profile for the machine that this program runs on.
///
/// Architectures that the machine cannot run are left out, and its own is always in.
///
/// # Errors
/// The profile asks for what cannot be done, or this machine is not one that filters can be made
/// for; see [`Error`].
pub fn compile(profile: &LinuxSeccomp) -> Result<Program, Error> {
    compile_for(Machine::RUNNING.ok_or(Error::UnsupportedMachine)?, profile)
}

pub(crate) fn compile_for(machine: Machine, profile: &LinuxSeccomp) -> Result<Program, Error> {
    let rules = Rules::from_profile(profile)?;
    let listed: Vec<Abi> = profile
        .architectures()
        .iter()
        .flatten()
        .filter_map(|&architecture| machine.abi(architecture))
        .collect();
    Ok(Program {
        filter: Compiler::new(&rules).write(machine, &listed)?,
        flags: flags(profile),
    })
}

/// The flags asked for that mean something for a process with one thread and no listener. Without a
/// list, runc's default: programs that trust their own code keep speculative execution.
fn flags(profile: &LinuxSeccomp) -> u32 {
    use LinuxSeccompFilterFlag as Flag;
    let Some(flags) = profile.flags() else {
        return FLAG_SPEC_ALLOW;
    };
    flags
        .iter()
        .map(|flag| match flag {
            Flag::SeccompFilterFlagLog => FLAG_LOG,
            Flag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
            Flag::SeccompFilterFlagTsync | Flag::SeccompFilterFlagWaitKillableRecv => 0,
        })
        .fold(0, |all, flag| all | flag)
}

struct Compiler<'r> {
    assembler: Assembler,
    rules: &'r Rules<'r>,
    /// Where the rules of a syscall start, so that syscalls with the same ones share them.
    written: HashMap<(Vec<usize>, bool), Label>,
}

impl<'r> Compiler<'r> {
    fn new(rules: &'r Rules<'r>) -> Self {
        Self {
            assembler: Assembler::default(),
            rules,
            written: HashMap::new(),
        }
    }

    /// The native ABI's part comes first in the program, and so is written last.
    fn write(mut self, machine: Machine, listed: &[Abi]) -> Result<Vec<u8>, Error> {
        let native = machine.native();
        let x32 = if listed.contains(&Abi::X32) {
            X32::Listed
        } else {
            X32::Unlisted
        };
        let mut entry = self.assembler.ret(action::KILL_PROCESS)?;
        for abi in [Abi::X86, Abi::Arm] {
            if listed.contains(&abi) {
                entry = self.architecture(abi, x32, entry)?;
            }
        }
        entry = self.architecture(native, x32, entry)?;
        self.assembler.load(ARCH_OFFSET, u32::MAX, entry)?;
        Ok(self.assembler.finish())
    }

    fn architecture(&mut self, abi: Abi, x32: X32, other: Label) -> Result<Label, Error> {
        let root = self.bisect(&segments(self.rules, abi, x32))?;
        let numbers = self.assembler.load(NUMBER_OFFSET, u32::MAX, root)?;
        self.assembler
            .branch(Test::Equal, abi.audit_arch(), numbers, other)
    }

    /// Finds the segment of the number in the accumulator; there is at least one.
    fn bisect(&mut self, segments: &[Segment]) -> Result<Label, Error> {
        if let [segment] = segments {
            return self.verdict(segment);
        }
        let (left, right) = segments.split_at(segments.len() / 2);
        let start = right[0].start;
        let right = self.bisect(right)?;
        let left = self.bisect(left)?;
        self.assembler.branch(Test::AtLeast, start, right, left)
    }

    fn verdict(&mut self, segment: &Segment) -> Result<Label, Error> {
        let indices = match &segment.verdict {
            Verdict::Return(value) => return self.assembler.ret(*value),
            Verdict::FirstOf(indices) => indices,
        };
        let key = (indices.clone(), segment.abi.has_wide_arguments());
        if let Some(&label) = self.written.get(&key) {
            return Ok(label);
        }
        let mut next = self.assembler.ret(self.rules.default)?;
        for &index in indices.iter().rev() {
            next = self.rule(&self.rules.rules[index], segment.abi, next)?;
        }
        self.written.insert(key, next);
        Ok(next)
    }

    /// The code of a rule that goes on to `next` when the rule does not apply.
    fn rule(&mut self, rule: &Rule<'_>, abi: Abi, next: Label) -> Result<Label, Error> {
        let applies = self.assembler.ret(rule.value)?;
        match &rule.when {
            When::Always => Ok(applies),
            When::AllOf(conditions) => conditions.iter().rev().try_fold(applies, |yes, c| {
                c.write(&mut self.assembler, abi, yes, next)
            }),
            When::AnyOf(conditions) => conditions
                .iter()
                .rev()
                .try_fold(next, |no, c| c.write(&mut self.assembler, abi, applies, no)),
        }
    }
}

/// The architectures that the default profile lists on this machine.
pub(crate) fn own_architectures() -> Option<Vec<Arch>> {
    Machine::RUNNING.map(Machine::architectures)
}
