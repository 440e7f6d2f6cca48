//! Image references as people write them: `busybox`, `registry.example:5000/team/app:v1`,
//! `app@sha256:…`. The grammar is that of the distribution project's reference package.

use crate::{Digest, Error};
use std::fmt;
use std::str::FromStr;

/// Where references without a registry lead.
const DEFAULT_REGISTRY: &str = "docker.io";
/// The older name of the same registry.
const LEGACY_DEFAULT_REGISTRY: &str = "index.docker.io";
/// Where repositories of one component live on the default registry.
const DEFAULT_NAMESPACE: &str = "library";
/// The longest registry and repository together.
const MAX_NAME_LEN: usize = 255;
/// The longest tag.
const MAX_TAG_LEN: usize = 128;

/// A complete reference: registry, repository, and a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    version: Version,
}

/// Which content of a repository is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// Whatever the registry names so at the moment.
    Tag(String),
    /// This content; a tag beside a digest says nothing more and is dropped.
    Digest(Digest),
}

impl Reference {
    /// The registry's host, with its port if it was given.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository's path on its registry, such as `library/busybox`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag or digest.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Registry and repository, as they stand before the tag or digest.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The same repository's content with this digest.
    #[must_use]
    pub fn with_digest(&self, digest: &Digest) -> Self {
        Self {
            version: Version::Digest(digest.clone()),
            ..self.clone()
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match &self.version {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(given: &str) -> Result<Self, Error> {
        parse(given).map_err(|reason| Error::InvalidReference {
            given: given.chars().take(2 * MAX_NAME_LEN).collect(),
            reason,
        })
    }
}

fn parse(given: &str) -> Result<Reference, &'static str> {
    let (rest, digest) = match given.split_once('@') {
        Some((rest, digest)) => (
            rest,
            Some(
                digest
                    .parse::<Digest>()
                    .map_err(|_| "the digest is malformed")?,
            ),
        ),
        None => (given, None),
    };
    let (name, tag) = split_tag(rest);
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (registry, repository) = split_name(name);
    check_registry(registry)?;
    let (registry, repository) = normalise(registry, repository);
    check_repository(&repository)?;
    if registry.len() + repository.len() + 1 > MAX_NAME_LEN {
        return Err("the name is longer than 255 characters");
    }
    let version = match digest {
        Some(digest) => Version::Digest(digest),
        None => Version::Tag(tag.unwrap_or("latest").to_owned()),
    };
    Ok(Reference {
        registry,
        repository,
        version,
    })
}

/// A colon before the last slash belongs to the registry's port.
fn split_tag(rest: &str) -> (&str, Option<&str>) {
    let last_component = rest.rfind('/').map_or(0, |slash| slash + 1);
    match rest[last_component..].find(':') {
        Some(colon) => {
            let colon = last_component + colon;
            (&rest[..colon], Some(&rest[colon + 1..]))
        }
        None => (rest, None),
    }
}

/// The first component is a registry if it cannot be part of a repository, or is `localhost`.
fn split_name(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest)) if is_registry(first) => (first, rest),
        _ => (DEFAULT_REGISTRY, name),
    }
}

fn is_registry(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn normalise(registry: &str, repository: &str) -> (String, String) {
    let registry = if registry == LEGACY_DEFAULT_REGISTRY {
        DEFAULT_REGISTRY
    } else {
        registry
    };
    let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
        format!("{DEFAULT_NAMESPACE}/{repository}")
    } else {
        repository.to_owned()
    };
    (registry.to_owned(), repository)
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let starts_well = tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if starts_well && tag.len() <= MAX_TAG_LEN && tag.bytes().all(word) {
        Ok(())
    } else {
        Err("the tag is malformed")
    }
}

fn check_registry(registry: &str) -> Result<(), &'static str> {
    let (host, port) = split_port(registry);
    let host_is_valid = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(is_host_label),
    };
    let port_is_valid = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0));
    if host_is_valid && port_is_valid {
        Ok(())
    } else {
        Err("the registry is malformed")
    }
}

/// Splits `host:port`; the colons of an IPv6 address are inside brackets.
pub(crate) fn split_port(registry: &str) -> (&str, Option<&str>) {
    match registry.rfind(':') {
        Some(colon) if !registry[colon..].contains(']') => {
            (&registry[..colon], Some(&registry[colon + 1..]))
        }
        _ => (registry, None),
    }
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn check_repository(repository: &str) -> Result<(), &'static str> {
    if repository.split('/').all(is_path_component) {
        Ok(())
    } else if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        Err("the repository must be lower case")
    } else {
        Err("the repository is malformed")
    }
}

/// Lower-case letters and digits, parted by `.`, `_`, `__` or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let edges = component.bytes().next().is_some_and(alphanumeric)
        && component.bytes().next_back().is_some_and(alphanumeric);
    let separators = component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'));
    edges && separators
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn names_are_completed() {
        let cases = [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            (
                "index.docker.io/busybox",
                "docker.io/library/busybox:latest",
            ),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("team/app", "docker.io/team/app:latest"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
            ("localhost/app", "localhost/app:latest"),
            (
                "localhost:5000/a/b-c__d.e:T_1",
                "localhost:5000/a/b-c__d.e:T_1",
            ),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
            ("[2001:db8::1]/app", "[2001:db8::1]/app:latest"),
            ("Registry.Example/app", "Registry.Example/app:latest"),
            ("a/b", "docker.io/a/b:latest"),
        ];
        for (given, complete) in cases {
            assert_eq!(
                given.parse::<Reference>().unwrap().to_string(),
                complete,
                "{given}"
            );
        }
    }

    #[test]
    fn a_digest_outweighs_a_tag() {
        let reference: Reference = format!("busybox:1.36@sha256:{HEX}").parse().unwrap();
        assert_eq!(
            reference.to_string(),
            format!("docker.io/library/busybox@sha256:{HEX}")
        );
        assert!(matches!(reference.version(), Version::Digest(d) if d.hex() == HEX));
    }

    #[test]
    fn parts_can_be_asked_for() {
        let reference: Reference = "localhost:5000/a/b:c".parse().unwrap();
        assert_eq!(
            (
                reference.registry(),
                reference.repository(),
                reference.name().as_str()
            ),
            ("localhost:5000", "a/b", "localhost:5000/a/b")
        );
    }

    #[test]
    fn malformed_names_are_refused() {
        let long = format!("{}:x", "a".repeat(256));
        let bad = [
            "",
            "/",
            ":",
            "@",
            "a:",
            ":a",
            "a:b:c",
            "UPPER",
            "a/UPPER",
            "a//b",
            "/a",
            "a/",
            "a..b/c",
            "-a",
            "a-",
            "a___b",
            "a b",
            "a\n",
            "a/../b",
            "../a",
            "host:99999/a",
            "host:0/a",
            "host:x/a",
            "[::1/a",
            "[zz]/a",
            "ex ample.com/a",
            "a@sha256:00",
            "a@",
            "a@md5:00",
            "http://example.com/a",
            "a:-b",
            &long,
            "é",
            "-host.x/a",
            "a.b./c",
        ];
        for given in bad {
            assert!(
                matches!(
                    given.parse::<Reference>(),
                    Err(Error::InvalidReference { .. })
                ),
                "{given:?} was accepted"
            );
        }
    }
}
