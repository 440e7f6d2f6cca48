//! Versions of the specification.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A version that this client speaks. In their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Version {
    V0_1_0,
    V0_2_0,
    /// Results with interfaces and any number of addresses.
    V0_3_0,
    V0_3_1,
    /// CHECK, and DEL is told what ADD answered.
    V0_4_0,
    /// Addresses do not say their family any more.
    V1_0_0,
    /// GC and STATUS.
    V1_1_0,
}

const TEXTS: [(Version, &str); 7] = [
    (Version::V0_1_0, "0.1.0"),
    (Version::V0_2_0, "0.2.0"),
    (Version::V0_3_0, "0.3.0"),
    (Version::V0_3_1, "0.3.1"),
    (Version::V0_4_0, "0.4.0"),
    (Version::V1_0_0, "1.0.0"),
    (Version::V1_1_0, "1.1.0"),
];

impl Version {
    /// The one of a configuration that names none.
    pub(crate) const UNSAID: Self = Self::V0_1_0;

    pub(crate) fn has_check(self) -> bool {
        self >= Self::V0_4_0
    }

    /// Whether DEL is told what ADD answered.
    pub(crate) fn deletes_by_result(self) -> bool {
        self >= Self::V0_4_0
    }

    pub(crate) fn has_gc_and_status(self) -> bool {
        self >= Self::V1_1_0
    }

    fn text(self) -> &'static str {
        let known = TEXTS.iter().find(|(version, _)| *version == self);
        known.map_or("", |(_, text)| text)
    }
}

/// A text that is no version, or one that this client does not speak.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("CNI version {0:?} is not one of 0.1.0 to {latest}", latest = Version::V1_1_0)]
pub struct UnknownVersion(String);

impl FromStr for Version {
    type Err = UnknownVersion;

    fn from_str(text: &str) -> Result<Self, UnknownVersion> {
        let known = TEXTS.iter().find(|(_, known)| *known == text);
        known
            .map(|(version, _)| *version)
            .ok_or_else(|| UnknownVersion(text.chars().take(40).collect()))
    }
}

impl TryFrom<String> for Version {
    type Error = UnknownVersion;
    fn try_from(text: String) -> Result<Self, UnknownVersion> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.text().to_owned()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_they_came() {
        assert!(TEXTS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for (version, text) in TEXTS {
            assert_eq!(text.parse(), Ok(version));
            assert_eq!(version.to_string(), text);
        }
        assert!("1.2.0".parse::<Version>().is_err());
    }
}
