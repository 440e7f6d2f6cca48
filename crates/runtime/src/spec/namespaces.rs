//! Which namespaces a container joins and which are made for it.

use crate::error::StartError;
use crisp_sys::namespace::Kind;
use nix::sched::CloneFlags;
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType};
use std::path::{Path, PathBuf};

/// The namespaces of a container; kinds that it names nowhere are the caller's.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Namespaces {
    pub(crate) joined: Vec<(Kind, PathBuf)>,
    pub(crate) new: Vec<Kind>,
}

impl Namespaces {
    pub(super) fn from_spec(linux: &Linux) -> Result<Self, StartError> {
        let mut all = Self::default();
        for namespace in linux.namespaces().as_deref().unwrap_or_default() {
            let kind = kind(namespace.typ());
            if all.has(kind) {
                return Err(StartError::invalid(format!(
                    "linux.namespaces: {} is named twice",
                    kind.file_name()
                )));
            }
            match namespace.path() {
                Some(path) if !path.as_os_str().is_empty() => all.joined.push((kind, path.clone())),
                _ => all.new.push(kind),
            }
        }
        if !all.new.contains(&Kind::Mount) {
            return Err(StartError::invalid(
                "linux.namespaces: a container needs a new mount namespace",
            ));
        }
        if all.new.contains(&Kind::Time) {
            return Err(StartError::invalid(
                "linux.namespaces: the embedded runtime makes no time namespaces",
            ));
        }
        Ok(all)
    }

    /// Whether the container has one of this kind that is not simply the caller's.
    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.new.contains(&kind) || self.joined(kind).is_some()
    }

    pub(crate) fn joined(&self, kind: Kind) -> Option<&Path> {
        let found = self.joined.iter().find(|(joined, _)| *joined == kind);
        found.map(|(_, path)| path.as_path())
    }

    /// The new ones among `kinds`, as bits of unshare(2).
    pub(crate) fn new_among(&self, kinds: &[Kind]) -> CloneFlags {
        self.new
            .iter()
            .filter(|kind| kinds.contains(kind))
            .fold(CloneFlags::empty(), |flags, kind| flags | kind.flag())
    }
}

fn kind(kind: LinuxNamespaceType) -> Kind {
    match kind {
        LinuxNamespaceType::Mount => Kind::Mount,
        LinuxNamespaceType::Cgroup => Kind::Cgroup,
        LinuxNamespaceType::Uts => Kind::Uts,
        LinuxNamespaceType::Ipc => Kind::Ipc,
        LinuxNamespaceType::User => Kind::User,
        LinuxNamespaceType::Pid => Kind::Pid,
        LinuxNamespaceType::Network => Kind::Network,
        LinuxNamespaceType::Time => Kind::Time,
    }
}

/// A range of ids in a user namespace and where it lies outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdMap {
    inside: u32,
    outside: u32,
    size: u32,
}

impl IdMap {
    /// A line of `/proc/<pid>/uid_map`.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut numbers = line.split_whitespace().map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Self {
            inside: next()?,
            outside: next()?,
            size: next()?,
        })
    }
}

/// The id mappings of a user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct IdMaps {
    pub(crate) uids: Vec<IdMap>,
    pub(crate) gids: Vec<IdMap>,
}

impl IdMaps {
    pub(crate) fn from_spec(
        uids: Option<&[LinuxIdMapping]>,
        gids: Option<&[LinuxIdMapping]>,
    ) -> Self {
        let maps = |given: Option<&[LinuxIdMapping]>| {
            let maps = given.unwrap_or_default().iter();
            maps.map(|map| IdMap {
                inside: map.container_id(),
                outside: map.host_id(),
                size: map.size(),
            })
            .collect()
        };
        Self {
            uids: maps(uids),
            gids: maps(gids),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.uids.is_empty() && self.gids.is_empty()
    }

    /// The user id outside for one inside; none when it has none.
    pub(crate) fn outside_uid(&self, inside: u32) -> Option<u32> {
        outside(&self.uids, inside)
    }

    /// The group id outside for one inside; none when it has none.
    pub(crate) fn outside_gid(&self, inside: u32) -> Option<u32> {
        outside(&self.gids, inside)
    }
}

fn outside(maps: &[IdMap], inside: u32) -> Option<u32> {
    maps.iter().find_map(|map| {
        let offset = inside.checked_sub(map.inside)?;
        (offset < map.size).then(|| map.outside.checked_add(offset))?
    })
}

/// Ranges in the form of `/proc/<pid>/uid_map` (user_namespaces(7)).
pub(crate) fn id_map_lines(maps: &[IdMap]) -> String {
    maps.iter()
        .map(|map| format!("{} {} {}\n", map.inside, map.outside, map.size))
        .collect()
}
