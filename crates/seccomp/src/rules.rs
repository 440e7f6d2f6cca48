//! A profile's rules with everything looked up that does not depend on the architecture.

use crate::condition::{ARGUMENTS, Condition};
use crate::{Error, action, multiplex};
use oci_spec::runtime::{LinuxSeccomp, LinuxSyscall};
use std::collections::BTreeSet;

/// What a profile says.
#[derive(Debug)]
pub(crate) struct Rules<'p> {
    /// The value for syscalls without a matching rule.
    pub(crate) default: u32,
    /// In the profile's order.
    pub(crate) rules: Vec<Rule<'p>>,
}

/// What is done with some syscalls under some conditions.
#[derive(Debug)]
pub(crate) struct Rule<'p> {
    pub(crate) syscalls: BTreeSet<&'p str>,
    pub(crate) when: When,
    /// What the filter returns.
    pub(crate) value: u32,
}

/// When a rule applies.
#[derive(Debug)]
pub(crate) enum When {
    Always,
    AllOf(Vec<Condition>),
    AnyOf(Vec<Condition>),
}

impl<'p> Rules<'p> {
    pub(crate) fn from_profile(profile: &'p LinuxSeccomp) -> Result<Self, Error> {
        let default = action::value(
            profile.default_action(),
            profile.default_errno_ret(),
            || "all other syscalls".to_owned(),
        )?;
        let mut rules = profile
            .syscalls()
            .iter()
            .flatten()
            .map(Rule::from_oci)
            .collect::<Result<Vec<_>, _>>()?;
        let multiplexed = multiplex::rules(&rules, default);
        rules.extend(multiplexed);
        Ok(Self { default, rules })
    }
}

impl<'p> Rule<'p> {
    fn from_oci(rule: &'p LinuxSyscall) -> Result<Self, Error> {
        let names = || shortened(rule.names());
        let conditions = rule
            .args()
            .iter()
            .flatten()
            .map(|arg| Condition::from_oci(arg, names))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            syscalls: rule.names().iter().map(String::as_str).collect(),
            when: When::from_conditions(conditions),
            value: action::value(rule.action(), rule.errno_ret(), names)?,
        })
    }
}

impl When {
    fn from_conditions(conditions: Vec<Condition>) -> Self {
        let mut seen = [false; ARGUMENTS];
        let repeated = conditions
            .iter()
            .any(|condition| std::mem::replace(&mut seen[condition.argument as usize], true));
        match conditions {
            none if none.is_empty() => Self::Always,
            // As runc and crun read it: libseccomp has no way to say it.
            several if repeated => Self::AnyOf(several),
            distinct => Self::AllOf(distinct),
        }
    }
}

/// The names for an error: a rule may have hundreds.
fn shortened(names: &[String]) -> String {
    match names {
        [] => "no syscalls".to_owned(),
        [name] => name.clone(),
        [first, .., last] => format!("{first} … {last} ({} syscalls)", names.len()),
    }
}
