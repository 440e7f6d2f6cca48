//! SELinux contexts of containers: what their processes and files are labelled with.
//!
//! The host's policy says which types containers have. Pods are kept apart by multi-category security:
//! each has two categories of its own, which its containers share.

use crate::SelinuxLabel;
use std::fmt;
use std::str::FromStr;

/// Categories of the kernel's policies: c0 to c1023.
const CATEGORIES: u32 = 1024;

/// Ways to choose two of them.
const PAIRS: u32 = CATEGORIES * (CATEGORIES - 1) / 2;

/// A security context: `user:role:type`, and with multi-level security `:level`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelinuxContext {
    pub user: String,
    pub role: String,
    pub kind: String,
    /// Empty: the policy has no levels.
    pub level: String,
}

/// A text that is no security context.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form user:role:type[:level]")]
pub struct InvalidContext(String);

impl FromStr for SelinuxContext {
    type Err = InvalidContext;

    fn from_str(text: &str) -> Result<Self, InvalidContext> {
        let mut parts = text.splitn(4, ':').map(str::to_owned);
        let mut part = || parts.next().filter(|part| !part.is_empty());
        match (part(), part(), part()) {
            (Some(user), Some(role), Some(kind)) => Ok(Self {
                user,
                role,
                kind,
                level: parts.next().unwrap_or_default(),
            }),
            _ => Err(InvalidContext(text.to_owned())),
        }
    }
}

impl fmt::Display for SelinuxContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.user, self.role, self.kind)?;
        match self.level.as_str() {
            "" => Ok(()),
            level => write!(f, ":{level}"),
        }
    }
}

/// What a policy labels containers with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerContexts {
    pub process: SelinuxContext,
    pub files: SelinuxContext,
}

/// Whether a container shares so much of the host that its processes are labelled only on demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separation {
    /// It has namespaces of its own.
    Own,
    /// It is privileged, or uses the host's pid or IPC namespace.
    Host,
}

/// The labels of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerLabels {
    /// None: processes keep the context that the policy gives to what the shim executes.
    pub process: Option<SelinuxContext>,
    pub files: SelinuxContext,
}

impl ContainerContexts {
    /// The policy's `contexts/lxc_contexts`: lines of the form `process = "context"` and
    /// `file = "context"`.
    ///
    /// # Errors
    /// If one of the two is no context, or missing.
    pub fn parse(text: &str) -> Result<Self, InvalidContext> {
        let value = |wanted: &str| {
            let mut pairs = text.lines().filter_map(|line| line.split_once('='));
            let found = pairs.find(|(name, _)| name.trim() == wanted);
            let value = found.map_or("", |(_, value)| value.trim().trim_matches('"'));
            value.parse::<SelinuxContext>()
        };
        Ok(Self {
            process: value("process")?,
            files: value("file")?,
        })
    }

    /// The level with the `number`th pair of categories; every number means one. Empty: the policy has
    /// no levels.
    #[must_use]
    pub fn level(&self, number: u32) -> String {
        match self.process.level.split(':').next() {
            None | Some("") => String::new(),
            Some(sensitivity) => {
                let (low, high) = pair(number % PAIRS);
                format!("{sensitivity}:c{low},c{high}")
            }
        }
    }

    /// The labels of a container of a pod with this level. What is asked for takes the place of what
    /// the policy says: user and level in both labels, role and type in that of processes alone.
    #[must_use]
    pub fn labels(
        &self,
        asked: Option<&SelinuxLabel>,
        level: &str,
        separation: Separation,
    ) -> ContainerLabels {
        let nothing = SelinuxLabel::default();
        let wanted = asked.unwrap_or(&nothing);
        let or = |asked: &String, default: &str| match asked.is_empty() {
            true => default.to_owned(),
            false => asked.clone(),
        };
        let label = |context: &SelinuxContext| SelinuxContext {
            user: or(&wanted.user, &context.user),
            level: or(&wanted.level, level),
            ..context.clone()
        };
        let process = SelinuxContext {
            role: or(&wanted.role, &self.process.role),
            kind: or(&wanted.kind, &self.process.kind),
            ..label(&self.process)
        };
        ContainerLabels {
            process: (asked.is_some() || separation == Separation::Own).then_some(process),
            files: label(&self.files),
        }
    }
}

/// The pair of different numbers below [`CATEGORIES`] that comes at this place when all are counted,
/// by the higher one first.
fn pair(place: u32) -> (u32, u32) {
    // Before a pair with this higher number come those of all lower ones: 1 + 2 + … in number.
    let high = u32::midpoint(1, (8 * place + 1).isqrt());
    (place - high * (high - 1) / 2, high)
}

/// How many pods can be kept apart.
#[must_use]
pub fn level_count() -> u32 {
    PAIRS
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const POLICY: &str = "process = \"system_u:system_r:container_t:s0\"\n\
        content = \"system_u:object_r:virt_var_lib_t:s0\"\n\
        file = \"system_u:object_r:container_file_t:s0\"\n";

    fn contexts() -> ContainerContexts {
        ContainerContexts::parse(POLICY).unwrap()
    }

    #[test]
    fn contexts_are_read_and_written_with_and_without_level() {
        for text in ["u:r:t", "u:r:t:s0", "u:r:t:s0-s0:c0.c1023"] {
            assert_eq!(text.parse::<SelinuxContext>().unwrap().to_string(), text);
        }
        for wrong in ["", "u", "u:r", "u::t", "u:r:"] {
            assert!(wrong.parse::<SelinuxContext>().is_err(), "{wrong}");
        }
        assert!(ContainerContexts::parse("process = \"u:r:t\"").is_err());
    }

    #[test]
    fn every_number_gives_two_different_categories_and_no_two_the_same() {
        let levels: HashSet<String> = (0..PAIRS)
            .step_by(97)
            .map(|n| contexts().level(n))
            .collect();
        assert_eq!(levels.len(), (0..PAIRS).step_by(97).count());
        assert_eq!(contexts().level(0), "s0:c0,c1");
        assert_eq!(contexts().level(PAIRS - 1), "s0:c1022,c1023");
        assert_eq!(contexts().level(PAIRS), contexts().level(0));
        let without = ContainerContexts::parse("process=\"u:r:t\"\nfile=\"u:r:f\"").unwrap();
        assert_eq!(without.level(7), "");
    }

    #[test]
    fn what_is_asked_for_takes_the_place_of_the_policys() {
        let text = |labels: ContainerLabels| {
            let process = labels.process.map(|process| process.to_string());
            (process.unwrap_or_default(), labels.files.to_string())
        };
        let asked = |user: &str, kind: &str, level: &str| SelinuxLabel {
            user: user.into(),
            role: String::new(),
            kind: kind.into(),
            level: level.into(),
        };
        let pods = "s0:c1,c2";
        for (asked, separation, process, files) in [
            (
                None,
                Separation::Own,
                "system_u:system_r:container_t:s0:c1,c2",
                "system_u:object_r:container_file_t:s0:c1,c2",
            ),
            (
                None,
                Separation::Host,
                "",
                "system_u:object_r:container_file_t:s0:c1,c2",
            ),
            (
                Some(asked("", "spc_t", "s0:c7")),
                Separation::Host,
                "system_u:system_r:spc_t:s0:c7",
                "system_u:object_r:container_file_t:s0:c7",
            ),
            (
                Some(asked("me", "", "")),
                Separation::Own,
                "me:system_r:container_t:s0:c1,c2",
                "me:object_r:container_file_t:s0:c1,c2",
            ),
        ] {
            let labels = contexts().labels(asked.as_ref(), pods, separation);
            assert_eq!(text(labels), (process.to_owned(), files.to_owned()));
        }
    }
}
