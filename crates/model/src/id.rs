//! Identifiers of pods, containers and exec'd processes, parsed once at the edge.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Bytes of randomness in an identifier; written as twice as many hexadecimal digits, the form that
/// crictl truncates and that log collectors expect.
const ID_BYTES: usize = 32;

/// An identifier that is not 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not an id of 64 lower-case hexadecimal digits")]
pub struct InvalidId {
    given: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// A fresh random identifier.
            ///
            /// # Panics
            /// If the kernel has no random numbers, which Linux never reports once it has booted.
            #[must_use]
            pub fn generate() -> Self {
                Self(random_hex())
            }

            /// The 64 hexadecimal digits.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 13 digits, as crictl shows them.
            #[must_use]
            pub fn short(&self) -> &str {
                &self.0[..13]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                check(text).map(|()| Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                check(&text).map(|()| Self(text))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

id!(
    /// Identifies a pod on this node.
    PodId
);
id!(
    /// Identifies a container on this node.
    ContainerId
);
id!(
    /// Identifies one exec'd process of a container.
    ExecId
);

fn check(text: &str) -> Result<(), InvalidId> {
    let valid = text.len() == 2 * ID_BYTES
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if valid {
        Ok(())
    } else {
        Err(InvalidId {
            given: text.chars().take(80).collect(),
        })
    }
}

fn random_hex() -> String {
    use fmt::Write;
    let mut bytes = [0u8; ID_BYTES];
    getrandom::fill(&mut bytes).expect("getrandom(2) works on every booted Linux");
    let mut text = String::with_capacity(2 * ID_BYTES);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_id_parses_and_differs() {
        let id = PodId::generate();
        assert_eq!(id.as_str().parse::<PodId>().unwrap(), id);
        assert_ne!(id, PodId::generate());
        assert_eq!(id.short().len(), 13);
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for bad in [
            "",
            "abc",
            "../../etc/passwd",
            &"A".repeat(64),
            &"g".repeat(64),
        ] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad}");
        }
    }
}
