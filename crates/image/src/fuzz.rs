//! Ways in for fuzzers: what a registry or an administrator could give, without either. Not for anybody
//! else.

use crate::registry::hosts;
use crate::sums;
use crate::unpack::unpack;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Unpacks `input` as a layer that is not compressed. None if it is refused.
#[must_use]
pub fn layer(input: &[u8], directory: OwnedFd) -> Option<u64> {
    unpack(input, directory, sums::Writer::none())
        .ok()
        .map(|unpacked| unpacked.inodes)
}

/// Reads `input` as the `hosts.toml` of a registry: the URLs of its hosts. None if it is refused.
#[must_use]
pub fn hosts(input: &str) -> Option<Vec<String>> {
    let hosts = hosts::parse(input, "registry.example:5000", Path::new("/certs")).ok()?;
    let url = |host: hosts::Host| format!("{}://{}{}", host.scheme, host.authority, host.path);
    Some(hosts.into_iter().map(url).collect())
}
