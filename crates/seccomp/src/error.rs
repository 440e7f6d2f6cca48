//! What can be wrong with a profile.

use crate::assembler::MAX_INSTRUCTIONS;
use crate::profile::MAX_PROFILE_BYTES;
use std::io;

/// Why there is no program. All but the last two are for the author of the profile to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is longer than [`MAX_PROFILE_BYTES`].
    #[error("the seccomp profile has {length} bytes, and at most {MAX_PROFILE_BYTES} are accepted")]
    TooLong {
        /// Bytes of the text.
        length: usize,
    },
    /// Not JSON, or a field is missing, has the wrong type, or a value that does not exist, such as
    /// an unknown action.
    #[error("the seccomp profile is malformed: {reason}")]
    Malformed {
        /// What the JSON parser says, with line and column.
        reason: String,
    },
    /// Two fields that exclude each other.
    #[error("the seccomp profile sets both {first:?} and {second:?}")]
    Ambiguous {
        /// One field.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// Syscalls have six arguments.
    #[error("the seccomp rule for {syscalls} compares argument {index}, and the last one is 5")]
    ArgumentIndex {
        /// The names in the rule.
        syscalls: String,
        /// As the profile has it.
        index: usize,
    },
    /// The kernel would replace the number by its own limit.
    #[error("the seccomp action for {syscalls} returns {value}, and the largest possible is {max}")]
    ReturnValue {
        /// The names in the rule, or what stands for the default action.
        syscalls: String,
        /// As the profile has it.
        value: u32,
        /// What this action can carry.
        max: u32,
    },
    /// Only a listener can answer SCMP_ACT_NOTIFY, and there is none.
    #[error(
        "the seccomp action for {syscalls} is SCMP_ACT_NOTIFY, which needs a listener: none can be had here"
    )]
    NeedsListener {
        /// The names in the rule, or what stands for the default action.
        syscalls: String,
    },
    /// Too many different rules for one BPF program.
    #[error("the seccomp profile needs more than {MAX_INSTRUCTIONS} BPF instructions")]
    TooLarge,
    /// The syscalls of this machine's architecture are not known here.
    #[error("seccomp filters cannot be made for this machine's architecture")]
    UnsupportedMachine,
    /// The kernel did not say which version it is, which a profile with `minKernel` depends on.
    #[error("cannot tell the version of the kernel")]
    KernelVersion(#[source] io::Error),
}
