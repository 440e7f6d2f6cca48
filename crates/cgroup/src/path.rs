//! The path of a cgroup within its hierarchy, and how the kubelet names a pod's parent.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;

/// The longest name of a directory (`NAME_MAX`).
const MAX_NAME_BYTES: usize = 255;
/// Leaves room for a mount point and a file's name below `PATH_MAX` (4096).
const MAX_PATH_BYTES: usize = 3072;
/// Where pods go whose configuration names no parent.
const DEFAULT_PARENT: &str = "/crisp";

/// The path of a cgroup: absolute, seen from the mount point of each hierarchy.
///
/// It has no empty, `.` or `..` components, no NUL and no newline, so it never leaves the mount point.
/// When crisp itself runs in a container (kind), what is mounted at `/sys/fs/cgroup` is the subtree that
/// it may use, and paths are relative to that subtree, as the kubelet's are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CgroupPath(String);

impl CgroupPath {
    /// The hierarchies' root.
    #[must_use]
    pub fn root() -> Self {
        Self("/".into())
    }

    /// A path as it is written for cgroupfs. A missing slash at the start, one too many between
    /// components and one at the end are forgiven.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut path = String::with_capacity(text.len() + 1);
        for name in text.split('/').filter(|name| !name.is_empty()) {
            check_name(text, name)?;
            path.push('/');
            path.push_str(name);
        }
        if path.is_empty() {
            path.push('/');
        }
        if path.len() > MAX_PATH_BYTES {
            return Err(invalid(text, "it is too long"));
        }
        Ok(Self(path))
    }

    /// The path that a CRI `cgroup_parent` means: a systemd slice (`a-b.slice`) with all the slices it is
    /// nested in, a cgroupfs path, or, when there is none, `/crisp`.
    pub fn from_parent(cgroup_parent: Option<&str>) -> Result<Self, Error> {
        match cgroup_parent.filter(|parent| !parent.is_empty()) {
            None => Self::parse(DEFAULT_PARENT),
            Some(slice) if slice.ends_with(".slice") && !slice.contains('/') => {
                Self::from_slice(slice)
            }
            Some(path) => Self::parse(path),
        }
    }

    /// `a-b.slice` → `/a.slice/a-b.slice` (systemd.slice(5)).
    fn from_slice(slice: &str) -> Result<Self, Error> {
        let name = slice.strip_suffix(".slice").unwrap_or(slice);
        if name == "-" {
            return Ok(Self::root());
        }
        if name.is_empty() || name.split('-').any(str::is_empty) {
            return Err(invalid(slice, "a slice has no empty parts between dashes"));
        }
        let nested = name
            .match_indices('-')
            .map(|(dash, _)| &name[..dash])
            .chain([name])
            .map(|prefix| format!("/{prefix}.slice"))
            .collect::<String>();
        Self::parse(&nested)
    }

    /// The child of that name.
    pub fn join(&self, name: &str) -> Result<Self, Error> {
        if name.is_empty() || name.contains('/') {
            return Err(invalid(name, "a child's name is one component"));
        }
        Self::parse(&format!("{}/{name}", self.0))
    }

    /// None at the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        match self.0.rfind('/') {
            _ if self.is_root() => None,
            Some(0) | None => Some(Self::root()),
            Some(slash) => Some(Self(self.0[..slash].into())),
        }
    }

    /// Whether it is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0 == "/"
    }

    /// Its own name, without its parents'; empty for the root's.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// With its slash at the start.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory below a mount point.
    pub(crate) fn below(&self, mount_point: &Path) -> PathBuf {
        if self.is_root() {
            return mount_point.to_path_buf();
        }
        mount_point.join(self.relative())
    }

    /// From the top of a hierarchy.
    pub(crate) fn relative(&self) -> &str {
        if self.is_root() { "." } else { &self.0[1..] }
    }
}

fn check_name(path: &str, name: &str) -> Result<(), Error> {
    match name {
        "." | ".." => Err(invalid(path, "`.` and `..` are not allowed")),
        _ if name.contains(['\0', '\n']) => {
            Err(invalid(path, "it has a NUL character or a line break"))
        }
        _ if name.len() > MAX_NAME_BYTES => {
            Err(invalid(path, "a component is longer than 255 bytes"))
        }
        _ => Ok(()),
    }
}

fn invalid(path: &str, reason: &'static str) -> Error {
    Error::InvalidPath {
        path: path.into(),
        reason,
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl TryFrom<String> for CgroupPath {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        Self::parse(&text)
    }
}

impl From<CgroupPath> for String {
    fn from(path: CgroupPath) -> Self {
        path.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_resolved() {
        let table = [
            (None, "/crisp"),
            (Some(""), "/crisp"),
            (Some("/"), "/"),
            (Some("/kubepods/burstable/podX"), "/kubepods/burstable/podX"),
            (Some("kubepods//podX/"), "/kubepods/podX"),
            (Some("system.slice"), "/system.slice"),
            (Some("-.slice"), "/"),
            (
                Some("kubepods-burstable-podX.slice"),
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podX.slice",
            ),
            (Some("/a/b.slice"), "/a/b.slice"),
        ];
        for (parent, path) in table {
            assert_eq!(
                CgroupPath::from_parent(parent).unwrap().as_str(),
                path,
                "{parent:?}"
            );
        }
    }

    #[test]
    fn hostile_parents_are_refused() {
        let long_name = "a".repeat(256);
        let long_path = "/abc".repeat(1000);
        for parent in [
            "..",
            "/a/../b",
            "/a/./b",
            "a\0b",
            "/a\nb",
            "a--b.slice",
            "-a.slice",
            "a-.slice",
            ".slice",
            &long_name,
            &long_path,
        ] {
            let result = CgroupPath::from_parent(Some(parent));
            assert!(
                matches!(result, Err(Error::InvalidPath { .. })),
                "{parent:?}"
            );
        }
    }

    #[test]
    fn children_and_parents_are_inverse() {
        let pod = CgroupPath::parse("/crisp/crisp-1").unwrap();
        assert_eq!(pod.join("pause").unwrap().as_str(), "/crisp/crisp-1/pause");
        assert_eq!(pod.join("pause").unwrap().parent(), Some(pod.clone()));
        assert_eq!(
            CgroupPath::root().join("a").unwrap().parent(),
            Some(CgroupPath::root())
        );
        assert_eq!(CgroupPath::root().parent(), None);
        for name in ["", "a/b", ".."] {
            assert!(pod.join(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn paths_stay_below_the_mount_point() {
        let mount = Path::new("/sys/fs/cgroup/pids");
        assert_eq!(CgroupPath::root().below(mount), mount);
        assert_eq!(
            CgroupPath::parse("/a/b").unwrap().below(mount),
            Path::new("/sys/fs/cgroup/pids/a/b")
        );
    }
}
