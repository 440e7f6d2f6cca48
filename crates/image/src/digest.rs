//! Content digests (OCI image spec, descriptor.md § Digests), parsed once and computed while reading.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// `sha256:` or `sha512:` and lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// A text that is not a digest of a known algorithm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a sha256 or sha512 digest")]
pub struct InvalidDigest {
    given: String,
}

impl Digest {
    /// The SHA-256 digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::sha256();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Algorithm, colon and digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `sha256` or `sha512`.
    #[must_use]
    pub fn algorithm(&self) -> &str {
        self.split().0
    }

    /// The digits alone.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.split().1
    }

    fn split(&self) -> (&str, &str) {
        self.0
            .split_once(':')
            .expect("FromStr and Hasher make no digest without a colon")
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;
    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let digits = match text.split_once(':') {
            Some(("sha256", hex)) => (hex, 64),
            Some(("sha512", hex)) => (hex, 128),
            _ => ("", 1),
        };
        if digits.0.len() == digits.1 && is_lower_hex(digits.0) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidDigest {
                given: text.chars().take(160).collect(),
            })
        }
    }
}

pub(crate) fn is_lower_hex(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;
    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Computes a digest piece by piece, with the code that TLS uses here anyway: it takes the processor's
/// SHA instructions where there are any.
pub(crate) struct Hasher {
    algorithm: &'static str,
    context: ring::digest::Context,
}

impl Hasher {
    pub(crate) fn sha256() -> Self {
        Self {
            algorithm: "sha256",
            context: ring::digest::Context::new(&ring::digest::SHA256),
        }
    }

    /// With the algorithm that `digest` was made with, so that the two can be compared.
    pub(crate) fn like(digest: &Digest) -> Self {
        match digest.algorithm() {
            "sha512" => Self {
                algorithm: "sha512",
                context: ring::digest::Context::new(&ring::digest::SHA512),
            },
            _ => Self::sha256(),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        use fmt::Write;
        let bytes = self.context.finish();
        let mut text = format!("{}:", self.algorithm);
        for byte in bytes.as_ref() {
            write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        }
        Digest(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-2, appendix B.
    const ABC_SHA256: &str =
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_digest_is_computed_in_pieces() {
        let mut hasher = Hasher::like(&ABC_SHA256.parse().unwrap());
        hasher.update(b"a");
        hasher.update(b"bc");
        assert_eq!(hasher.finish().as_str(), ABC_SHA256);
        assert_eq!(Digest::of(b"abc").hex().len(), 64);
    }

    #[test]
    fn sha512_is_understood() {
        let text = format!("sha512:{}", "0".repeat(128));
        let digest: Digest = text.parse().unwrap();
        assert_eq!(digest.algorithm(), "sha512");
        assert_eq!(Hasher::like(&digest).finish().algorithm(), "sha512");
    }

    #[test]
    fn what_is_not_a_digest_is_refused() {
        for bad in [
            "",
            "sha256",
            "sha256:",
            "md5:00",
            "sha256:../../etc",
            &ABC_SHA256.to_uppercase(),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
