//! A way in for fuzzers: what a plugin could answer, without one. Not for anybody else.

use crate::{Version, answer};
use ipnet::IpNet;

/// Reads `input` as the answer to an ADD in the version `asked` for: the answer as it is kept, and the
/// addresses of the interface eth0. None if it is refused.
#[must_use]
pub fn result(input: &[u8], asked: Version) -> Option<(String, Vec<IpNet>)> {
    let kept = answer::parse(input, asked).ok()?;
    let addresses = answer::addresses(&kept, asked, "eth0").ok()?;
    Some((kept.to_string(), addresses))
}
