//! Which devices a cgroup may use: OCI rules → lines for version 1, a BPF filter for version 2.
//!
//! The rules are an ordered list, and for each kind of access the last rule that matches decides. Where
//! none matches the cgroup may do what its ancestors allow: that is how version 1 starts, so a list that
//! means to close starts with a rule that denies everything.

use crisp_sys::bpf::{
    ACCESS_MKNOD, ACCESS_READ, ACCESS_WRITE, DEVICE_BLOCK, DEVICE_CHAR, Instruction, Register,
    context,
};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

use crate::Error;
use crate::controller::Controller;
use crate::plan::Setting;

/// Reading, writing and making nodes.
const ALL_ACCESS: u32 = ACCESS_MKNOD | ACCESS_READ | ACCESS_WRITE;

/// An OCI rule that was understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    verdict: Verdict,
    kind: Kind,
    /// None: any.
    major: Option<u32>,
    /// None: any.
    minor: Option<u32>,
    /// Bits of [`ALL_ACCESS`], at least one.
    access: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Allow,
    Deny,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Any,
    Block,
    Char,
}

/// The rules in `linux.resources.devices`.
pub(crate) fn rules(resources: &LinuxResources) -> Result<Vec<Rule>, Error> {
    let rules = resources.devices().as_deref().unwrap_or_default();
    rules.iter().map(rule).collect()
}

fn rule(rule: &LinuxDeviceCgroup) -> Result<Rule, Error> {
    let kind = match rule.typ().unwrap_or_default() {
        LinuxDeviceType::A => Kind::Any,
        LinuxDeviceType::B => Kind::Block,
        LinuxDeviceType::C | LinuxDeviceType::U => Kind::Char,
        LinuxDeviceType::P => {
            return Err(Error::invalid("devices.type", "p", "is not a device"));
        }
    };
    Ok(Rule {
        verdict: if rule.allow() {
            Verdict::Allow
        } else {
            Verdict::Deny
        },
        kind,
        major: number("devices.major", rule.major())?,
        minor: number("devices.minor", rule.minor())?,
        access: access(rule.access().as_deref().unwrap_or_default())?,
    })
}

/// Negative stands for any, as nothing does.
fn number(setting: &str, number: Option<i64>) -> Result<Option<u32>, Error> {
    match number {
        None | Some(i64::MIN..0) => Ok(None),
        Some(number) => u32::try_from(number)
            .map(Some)
            .map_err(|_| Error::invalid(setting, number, "is not a device number")),
    }
}

/// Nothing stands for everything.
fn access(letters: &str) -> Result<u32, Error> {
    let bit = |letter| match letter {
        'r' => Ok(ACCESS_READ),
        'w' => Ok(ACCESS_WRITE),
        'm' => Ok(ACCESS_MKNOD),
        _ => Err(Error::invalid(
            "devices.access",
            letters,
            "is not made of r, w and m",
        )),
    };
    match letters {
        "" => Ok(ALL_ACCESS),
        letters => letters
            .chars()
            .try_fold(0, |bits, letter| Ok(bits | bit(letter)?)),
    }
}

impl Rule {
    fn is_everything(&self) -> bool {
        self.kind == Kind::Any
            && self.access == ALL_ACCESS
            && self.major.is_none()
            && self.minor.is_none()
    }

    fn same_devices(&self, other: &Self) -> bool {
        (self.kind, self.major, self.minor) == (other.kind, other.major, other.minor)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.kind == other.kind
            && meet(self.major, other.major)
            && meet(self.minor, other.minor)
            && self.access & other.access != 0
    }
}

/// The rules for version 1 (Documentation/admin-guide/cgroup-v1/devices.rst).
///
/// There a cgroup has one verdict for all devices and a list of exceptions to it. Fails on rules that
/// this cannot express: the kernel would take them and not follow them.
pub(crate) fn settings(rules: &[Rule]) -> Result<Vec<Setting>, Error> {
    let rules: Vec<Rule> = rules.iter().flat_map(split).collect();
    check_expressible(&rules)?;
    let one = |rule: &Rule| {
        let file = match rule.verdict {
            Verdict::Allow => "devices.allow",
            Verdict::Deny => "devices.deny",
        };
        Setting::new(Controller::Devices, file, line(rule))
    };
    Ok(rules.iter().map(one).collect())
}

/// A rule on both kinds of devices becomes one per kind, unless it is on everything: the kernel ignores
/// what follows an `a`.
fn split(rule: &Rule) -> Vec<Rule> {
    let of_kind = |kind| Rule { kind, ..*rule };
    match rule.kind {
        Kind::Any if !rule.is_everything() => vec![of_kind(Kind::Block), of_kind(Kind::Char)],
        _ => vec![*rule],
    }
}

/// Follows what the kernel makes of the rules. A rule that agrees with the verdict for all devices takes
/// back exceptions, but only of exactly the devices it names; one that would cut into another exception
/// has no effect.
fn check_expressible(rules: &[Rule]) -> Result<(), Error> {
    let mut verdict = Verdict::Allow;
    let mut exceptions: Vec<Rule> = Vec::new();
    for rule in rules {
        if rule.is_everything() {
            verdict = rule.verdict;
            exceptions.clear();
        } else if rule.verdict != verdict {
            exceptions.push(*rule);
        } else if exceptions
            .iter()
            .any(|exception| exception.overlaps(rule) && !exception.same_devices(rule))
        {
            return Err(Error::unsupported(
                &format!("devices rule {:?}", line(rule)),
                "cgroup v1 cannot make an exception to an exception",
            ));
        } else {
            for exception in &mut exceptions {
                if exception.same_devices(rule) {
                    exception.access &= !rule.access;
                }
            }
        }
    }
    Ok(())
}

fn line(rule: &Rule) -> String {
    let number = |number: Option<u32>| number.map_or("*".into(), |number| number.to_string());
    let kind = match rule.kind {
        Kind::Any => return "a".into(),
        Kind::Block => 'b',
        Kind::Char => 'c',
    };
    let letters = [(ACCESS_READ, 'r'), (ACCESS_WRITE, 'w'), (ACCESS_MKNOD, 'm')];
    let access: String = letters
        .into_iter()
        .filter(|(bit, _)| rule.access & bit != 0)
        .map(|(_, letter)| letter)
        .collect();
    let (major, minor) = (number(rule.major), number(rule.minor));
    format!("{kind} {major}:{minor} {access}")
}

/// The kind of the device that is asked for.
const KIND: Register = Register::R2;
/// The kinds of access that are asked for and that no rule has decided yet.
const UNDECIDED: Register = Register::R3;
const MAJOR: Register = Register::R4;
const MINOR: Register = Register::R5;

const ALLOW: u32 = 1;
const DENY: u32 = 0;

/// The rules for version 2, as a program that tries them from the last to the first.
pub(crate) fn filter(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        Instruction::load_u32(KIND, Register::CONTEXT, context::ACCESS_TYPE),
        Instruction::copy_u32(UNDECIDED, KIND),
        Instruction::and_u32(KIND, 0xffff),
        Instruction::shift_right_u32(UNDECIDED, 16),
        Instruction::load_u32(MAJOR, Register::CONTEXT, context::MAJOR),
        Instruction::load_u32(MINOR, Register::CONTEXT, context::MINOR),
    ];
    for rule in rules.iter().rev() {
        program.extend(instructions(rule));
        // The verifier refuses instructions that nothing reaches.
        if rule.is_everything() {
            return program;
        }
    }
    program.extend(end(ALLOW));
    program
}

/// Ends the filter, or falls through to what follows.
fn instructions(rule: &Rule) -> Vec<Instruction> {
    let decision = match (rule.verdict, rule.access) {
        (Verdict::Deny, ALL_ACCESS) => end(DENY).to_vec(),
        (Verdict::Allow, ALL_ACCESS) => end(ALLOW).to_vec(),
        (Verdict::Deny, access) => {
            let [set, exit] = end(DENY);
            let deny = Instruction::skip_if_any(UNDECIDED, access, 1);
            vec![deny, Instruction::skip(2), set, exit]
        }
        (Verdict::Allow, access) => {
            let [set, exit] = end(ALLOW);
            let decide = Instruction::and_u32(UNDECIDED, ALL_ACCESS & !access);
            let go_on = Instruction::skip_if_any(UNDECIDED, ALL_ACCESS, 2);
            vec![decide, go_on, set, exit]
        }
    };
    let kind = match rule.kind {
        Kind::Any => None,
        Kind::Block => Some((KIND, DEVICE_BLOCK)),
        Kind::Char => Some((KIND, DEVICE_CHAR)),
    };
    let major = rule.major.map(|major| (MAJOR, major));
    let minor = rule.minor.map(|minor| (MINOR, minor));
    let conditions = [minor, major, kind].into_iter().flatten();
    conditions.fold(decision, |body, (register, value)| {
        let skip = i16::try_from(body.len()).expect("at most seven instructions");
        [
            vec![Instruction::skip_unless_equal(register, value, skip)],
            body,
        ]
        .concat()
    })
}

fn end(verdict: u32) -> [Instruction; 2] {
    [
        Instruction::set_u32(Register::VERDICT, verdict),
        Instruction::exit(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::{lines, resources};

    fn parse(rules: &str) -> Result<Vec<Rule>, Error> {
        super::rules(&resources(&format!(r#"{{"devices": {rules}}}"#)))
    }

    const CONTAINER: &str = r#"[
        {"allow": false},
        {"allow": true, "type": "c", "access": "m"},
        {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
        {"allow": true, "type": "c", "major": 136, "minor": -1, "access": "rw"},
        {"allow": true, "type": "a", "major": 8, "access": "r"}
    ]"#;

    #[test]
    fn rules_become_lines_of_version_1() {
        let settings = settings(&parse(CONTAINER).unwrap()).unwrap();
        assert_eq!(
            lines(&settings),
            [
                "devices.deny=a",
                "devices.allow=c *:* m",
                "devices.allow=c 1:3 rwm",
                "devices.allow=c 136:* rw",
                "devices.allow=b 8:* r",
                "devices.allow=c 8:* r",
            ]
        );
    }

    #[test]
    fn rules_that_version_1_would_ignore_are_refused() {
        let table = [
            // Taking back what was allowed, whole or in part, by the same numbers.
            (
                r#"[{"allow": false}, {"allow": true, "type": "c", "major": 1}, {"allow": false, "type": "c", "major": 1, "access": "w"}]"#,
                true,
            ),
            // Cutting a device out of a range.
            (
                r#"[{"allow": false}, {"allow": true, "type": "c"}, {"allow": false, "type": "c", "major": 1}]"#,
                false,
            ),
            (
                r#"[{"allow": false, "type": "c"}, {"allow": true, "type": "c", "major": 1}]"#,
                false,
            ),
            (
                r#"[{"allow": false}, {"allow": true, "type": "c", "access": "m"}, {"allow": false, "type": "c", "major": 1, "access": "r"}]"#,
                true,
            ),
            (
                r#"[{"allow": false}, {"allow": true, "type": "c"}, {"allow": false, "type": "b"}, {"allow": true}]"#,
                true,
            ),
        ];
        for (rules, expressible) in table {
            let result = settings(&parse(rules).unwrap());
            assert_eq!(result.is_ok(), expressible, "{rules}");
        }
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        for rules in [
            r#"[{"allow": true, "access": "rx"}]"#,
            r#"[{"allow": true, "type": "p"}]"#,
            r#"[{"allow": true, "major": 4294967296}]"#,
        ] {
            let result = parse(rules);
            assert!(matches!(result, Err(Error::InvalidLimit { .. })), "{rules}");
        }
    }

    #[test]
    fn filters_end_where_nothing_follows() {
        let filter_of = |rules| filter(&parse(rules).unwrap());
        let [set, exit] = end(DENY);
        let closed = filter_of(r#"[{"allow": true, "type": "c"}, {"allow": false}]"#);
        assert_eq!(closed[6..], [set, exit]);
        assert_eq!(filter_of("[]")[6..], end(ALLOW));
    }

    #[test]
    fn partial_access_is_decided_bit_by_bit() {
        let rule = |rules| parse(rules).unwrap()[0];
        let deny = rule(r#"[{"allow": false, "type": "b", "major": 8, "access": "w"}]"#);
        assert_eq!(
            instructions(&deny),
            [
                Instruction::skip_unless_equal(KIND, DEVICE_BLOCK, 5),
                Instruction::skip_unless_equal(MAJOR, 8, 4),
                Instruction::skip_if_any(UNDECIDED, ACCESS_WRITE, 1),
                Instruction::skip(2),
                Instruction::set_u32(Register::VERDICT, DENY),
                Instruction::exit(),
            ]
        );
        let allow = rule(r#"[{"allow": true, "minor": 3, "access": "rw"}]"#);
        assert_eq!(
            instructions(&allow),
            [
                Instruction::skip_unless_equal(MINOR, 3, 4),
                Instruction::and_u32(UNDECIDED, ACCESS_MKNOD),
                Instruction::skip_if_any(UNDECIDED, ALL_ACCESS, 2),
                Instruction::set_u32(Register::VERDICT, ALLOW),
                Instruction::exit(),
            ]
        );
    }
}
