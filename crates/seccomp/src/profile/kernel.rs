//! Versions of the kernel, as profiles compare them.

use serde::Deserialize;
use std::io;

/// Major and minor number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct KernelVersion(pub(super) u32, pub(super) u32);

impl KernelVersion {
    /// The one that runs here.
    pub(super) fn running() -> io::Result<Self> {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        Self::from_release(&release).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{release:?} does not start with two numbers"),
            )
        })
    }

    /// Of a release such as `6.18.2-cloud-amd64`.
    fn from_release(release: &str) -> Option<Self> {
        let (major, rest) = release.split_once('.')?;
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        Some(Self(major.parse().ok()?, rest[..end].parse().ok()?))
    }
}

impl TryFrom<String> for KernelVersion {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.split_once('.')
            .and_then(|(major, minor)| Some(Self(major.parse().ok()?, minor.parse().ok()?)))
            .ok_or_else(|| format!("minKernel {text:?} is not <major>.<minor>"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_up_to_the_minor_number() {
        for (release, version) in [
            ("6.18.2-cloud-amd64\n", Some(KernelVersion(6, 18))),
            ("6.1", Some(KernelVersion(6, 1))),
            ("5.10-rc1", Some(KernelVersion(5, 10))),
            ("linux", None),
            ("6.x", None),
        ] {
            assert_eq!(KernelVersion::from_release(release), version, "{release}");
        }
        assert!(KernelVersion::running().unwrap() > KernelVersion(4, 0));
        assert!(KernelVersion(6, 9) < KernelVersion(6, 18));
    }
}
