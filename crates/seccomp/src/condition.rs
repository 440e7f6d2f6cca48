//! Conditions on the arguments of a syscall, and their code.

use crate::Error;
use crate::abi::Abi;
use crate::assembler::{Assembler, Label, Test};
use oci_spec::runtime::{LinuxSeccompArg, LinuxSeccompOperator};

/// Syscalls have this many arguments.
pub(crate) const ARGUMENTS: usize = 6;

/// `offsetof(struct seccomp_data, args)`; each argument has two words, the low one first on the
/// little-endian machines that filters are made for.
const ARGUMENTS_OFFSET: u32 = 16;

/// What an argument must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condition {
    /// Below [`ARGUMENTS`].
    pub(crate) argument: u32,
    pub(crate) comparison: Comparison,
    /// Bits of the argument that are compared; the others count as zero.
    pub(crate) mask: u64,
    pub(crate) value: u64,
}

/// How the argument compares to the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Greater,
    AtLeast,
    Less,
    AtMost,
}

impl Condition {
    pub(crate) fn from_oci(
        arg: &LinuxSeccompArg,
        syscalls: impl FnOnce() -> String,
    ) -> Result<Self, Error> {
        use LinuxSeccompOperator as Op;
        let argument = u32::try_from(arg.index())
            .ok()
            .filter(|&index| (index as usize) < ARGUMENTS)
            .ok_or_else(|| Error::ArgumentIndex {
                syscalls: syscalls(),
                index: arg.index(),
            })?;
        let comparison = match arg.op() {
            Op::ScmpCmpNe => Comparison::NotEqual,
            Op::ScmpCmpLt => Comparison::Less,
            Op::ScmpCmpLe => Comparison::AtMost,
            Op::ScmpCmpEq | Op::ScmpCmpMaskedEq => Comparison::Equal,
            Op::ScmpCmpGe => Comparison::AtLeast,
            Op::ScmpCmpGt => Comparison::Greater,
        };
        // With a mask, `value` is the mask and `valueTwo` what must be left; libseccomp masks both.
        let (mask, value) = match arg.op() {
            Op::ScmpCmpMaskedEq => (arg.value(), arg.value() & arg.value_two().unwrap_or(0)),
            _ => (u64::MAX, arg.value()),
        };
        Ok(Self {
            argument,
            comparison,
            mask,
            value,
        })
    }

    /// Writes the code that goes to `yes` when the condition holds, else to `no`.
    pub(crate) fn write(
        &self,
        assembler: &mut Assembler,
        abi: Abi,
        yes: Label,
        no: Label,
    ) -> Result<Label, Error> {
        let (test, yes, no) = match self.comparison {
            Comparison::Equal => (Test::Equal, yes, no),
            Comparison::NotEqual => (Test::Equal, no, yes),
            Comparison::Greater => (Test::Greater, yes, no),
            Comparison::AtMost => (Test::Greater, no, yes),
            Comparison::AtLeast => (Test::AtLeast, yes, no),
            Comparison::Less => (Test::AtLeast, no, yes),
        };
        let low = self.word(Half::Low).write(assembler, test, yes, no)?;
        if !abi.has_wide_arguments() {
            return Ok(low);
        }
        let high = self.word(Half::High);
        match test {
            Test::Equal => high.write(assembler, Test::Equal, low, no),
            // Larger, or as large so that the low half decides.
            Test::Greater | Test::AtLeast => {
                let as_large = assembler.branch(Test::Equal, high.value, low, no)?;
                high.write(assembler, Test::Greater, yes, as_large)
            }
        }
    }

    fn word(&self, half: Half) -> Word {
        Word {
            offset: ARGUMENTS_OFFSET + 8 * self.argument + half.offset(),
            mask: half.of(self.mask),
            value: half.of(self.value),
        }
    }
}

/// Part of a 64-bit argument; BPF computes with 32 bits.
#[derive(Clone, Copy)]
enum Half {
    Low,
    High,
}

impl Half {
    fn offset(self) -> u32 {
        match self {
            Self::Low => 0,
            Self::High => 4,
        }
    }

    #[allow(clippy::cast_possible_truncation)] // The other half is not meant.
    fn of(self, value: u64) -> u32 {
        match self {
            Self::Low => value as u32,
            Self::High => (value >> 32) as u32,
        }
    }
}

struct Word {
    offset: u32,
    mask: u32,
    value: u32,
}

impl Word {
    fn write(
        &self,
        assembler: &mut Assembler,
        test: Test,
        yes: Label,
        no: Label,
    ) -> Result<Label, Error> {
        // Nothing is compared: only tests for equality have a mask, and the value is masked too.
        if self.mask == 0 {
            return Ok(yes);
        }
        let branch = assembler.branch(test, self.value, yes, no)?;
        assembler.load(self.offset, self.mask, branch)
    }
}
