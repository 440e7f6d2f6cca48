//! Tests of compiled programs against a plain reading of the profile.
//!
//! The interpreter runs a program as the kernel would; the evaluator looks the verdict up rule by
//! rule, without numbers sorted or words split. Both must agree on every syscall.

pub(crate) mod evaluator;
pub(crate) mod interpreter;

mod default_cases;
mod random_profiles;
mod rule_cases;
