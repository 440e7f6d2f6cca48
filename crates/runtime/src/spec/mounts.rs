//! Mounts: their options in words (mount(8), OCI runtime spec "Linux mount options") as what the
//! kernel is told.

use super::{IdMaps, absolute};
use crate::error::StartError;
use crisp_sys::mount::{Attributes, Change, Propagation, Recursion};
use oci_spec::runtime::Mount;
use std::path::{Path, PathBuf};

/// A mount to be made in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountPlan {
    /// Inside the container.
    pub(crate) target: PathBuf,
    pub(crate) source: Source,
    pub(crate) options: Options,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A directory or file of the host.
    Bind { path: PathBuf, recursion: Recursion },
    /// Directories of the host, topmost first, laid over each other; read-only.
    Overlay { lower_dirs: Vec<PathBuf> },
    /// A new instance of a file system.
    FileSystem {
        fs_type: String,
        /// Empty: it needs none.
        source: String,
        data: Vec<FsOption>,
    },
    /// The container's own cgroups.
    Cgroup,
}

/// An option that the file system itself takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FsOption {
    Flag(String),
    Value(String, String),
}

/// What holds for the mount whatever is mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) set: Attributes,
    pub(crate) clear: Attributes,
    /// These go for the mounts below it too.
    pub(crate) set_recursively: Attributes,
    pub(crate) clear_recursively: Attributes,
    pub(crate) propagation: Option<(Propagation, Recursion)>,
    pub(crate) id_mapped: Option<IdMapped>,
}

impl Options {
    /// The changes to a mount that make it so, but for the id mapping.
    pub(crate) fn changes(&self) -> impl Iterator<Item = (Change<'static>, Recursion)> {
        let own = attributes(self.set, self.clear, Recursion::This);
        own.into_iter().chain(self.further_changes())
    }

    /// Those of hierarchies of version 1, and of the tmpfs that holds them.
    pub(crate) fn of_hierarchies(&self) -> Attributes {
        self.set | Attributes::NO_SUID | Attributes::NO_DEV | Attributes::NO_EXEC
    }

    /// Those that are left of a mount that was made with its own attributes.
    pub(crate) fn further_changes(&self) -> impl Iterator<Item = (Change<'static>, Recursion)> {
        let propagation = self.propagation.map(|(kind, recursion)| {
            let change = Change {
                propagation: Some(kind),
                ..Change::default()
            };
            (change, recursion)
        });
        let (set, clear) = (self.set_recursively, self.clear_recursively);
        let below = attributes(set, clear, Recursion::WholeTree);
        below.into_iter().chain(propagation)
    }
}

/// None: nothing is to be changed.
fn attributes(
    set: Attributes,
    clear: Attributes,
    recursion: Recursion,
) -> Option<(Change<'static>, Recursion)> {
    let change = Change {
        set,
        clear,
        ..Change::default()
    };
    (!change.is_empty()).then_some((change, recursion))
}

/// How the owners of files are mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdMapped {
    /// None: by the container's own user namespace.
    pub(crate) maps: Option<IdMaps>,
    pub(crate) recursion: Recursion,
}

pub(super) fn from_spec(mounts: &[Mount]) -> Result<Vec<MountPlan>, StartError> {
    mounts.iter().map(mount).collect()
}

fn mount(mount: &Mount) -> Result<MountPlan, StartError> {
    let target = absolute(mount.destination())?;
    let mut words = Words::default();
    for word in mount.options().as_deref().unwrap_or_default() {
        words.add(word);
    }
    let maps = IdMaps::from_spec(
        mount.uid_mappings().as_deref(),
        mount.gid_mappings().as_deref(),
    );
    let mut options = words.options;
    if !maps.is_empty() {
        let recursion = options
            .id_mapped
            .as_ref()
            .map_or(Recursion::This, |idmap| idmap.recursion);
        options.id_mapped = Some(IdMapped {
            maps: Some(maps),
            recursion,
        });
    }
    let source = match (words.bind, mount.typ().as_deref().unwrap_or_default()) {
        (None, "") => Err("has neither a type nor the option bind".to_owned()),
        (Some(recursion), _) => bind(mount, recursion, &words.data),
        (None, "bind") => bind(mount, Recursion::WholeTree, &words.data),
        (None, "cgroup" | "cgroup2") => Ok(Source::Cgroup),
        (None, fs_type) => Ok(file_system(fs_type, mount, words.data)),
    };
    let source = source
        .map_err(|why| StartError::invalid(format!("mount at {}: {why}", target.display())))?;
    if matches!(source, Source::Bind { .. }) && options.propagation.is_none() {
        // Otherwise a mount of the host would go on showing what is mounted in the container.
        options.propagation = Some((Propagation::Private, Recursion::WholeTree));
    }
    Ok(MountPlan {
        target,
        source,
        options,
    })
}

fn bind(mount: &Mount, recursion: Recursion, data: &[FsOption]) -> Result<Source, String> {
    let mut names = data.iter().map(|option| match option {
        FsOption::Flag(name) | FsOption::Value(name, _) => name.as_str(),
    });
    if let Some(name) = names.find(|name| !SUPERBLOCK_FLAGS.contains(name)) {
        return Err(format!("{name:?} is no option of a bind mount"));
    }
    match mount.source() {
        Some(path) if !path.as_os_str().is_empty() => Ok(Source::Bind {
            path: path.clone(),
            recursion,
        }),
        _ => Err("a bind mount needs a source".to_owned()),
    }
}

/// An overlay of nothing but lower directories is made of the host's, as its spec names them.
fn file_system(fs_type: &str, mount: &Mount, data: Vec<FsOption>) -> Source {
    match (fs_type, data.as_slice()) {
        ("overlay", [FsOption::Value(key, directories)]) if key == "lowerdir" => Source::Overlay {
            lower_dirs: split_escaped(directories),
        },
        _ => Source::FileSystem {
            fs_type: fs_type.to_owned(),
            source: text(mount.source().as_deref()),
            data,
        },
    }
}

/// Parts at colons, but those after a backslash (kernel, filesystems/overlayfs.rst, "Multiple lower
/// layers").
fn split_escaped(directories: &str) -> Vec<PathBuf> {
    let mut all = vec![String::new()];
    let mut characters = directories.chars();
    while let Some(character) = characters.next() {
        let last = all.len() - 1;
        match character {
            ':' => all.push(String::new()),
            '\\' => all[last].extend(characters.next()),
            other => all[last].push(other),
        }
    }
    all.into_iter().map(PathBuf::from).collect()
}

fn text(source: Option<&Path>) -> String {
    source.map_or_else(String::new, |path| path.to_string_lossy().into_owned())
}

/// Flags of whole file systems, which a bind mount lets pass: they stay as they are.
const SUPERBLOCK_FLAGS: [&str; 6] = ["sync", "async", "dirsync", "mand", "lazytime", "nolazytime"];

#[derive(Default)]
struct Words {
    options: Options,
    bind: Option<Recursion>,
    data: Vec<FsOption>,
}

impl Words {
    fn add(&mut self, word: &str) {
        if let Some(change) = attribute(word) {
            self.options.set = change.apply(self.options.set);
            self.options.clear = change.inverse().apply(self.options.clear);
        } else if let Some(change) = word.strip_prefix('r').and_then(attribute) {
            let options = &mut self.options;
            options.set_recursively = change.apply(options.set_recursively);
            options.clear_recursively = change.inverse().apply(options.clear_recursively);
        } else if let Some(propagation) = propagation(word) {
            self.options.propagation = Some(propagation);
        } else {
            self.add_other(word);
        }
    }

    fn add_other(&mut self, word: &str) {
        let id_mapped = |recursion| {
            Some(IdMapped {
                maps: None,
                recursion,
            })
        };
        match word {
            "bind" => self.bind = Some(Recursion::This),
            "rbind" => self.bind = Some(Recursion::WholeTree),
            "idmap" => self.options.id_mapped = id_mapped(Recursion::This),
            "ridmap" => self.options.id_mapped = id_mapped(Recursion::WholeTree),
            "defaults" | "" => {}
            _ => self.data.push(match word.split_once('=') {
                Some((key, value)) => FsOption::Value(key.to_owned(), value.to_owned()),
                None => FsOption::Flag(word.to_owned()),
            }),
        }
    }
}

#[derive(Clone, Copy)]
enum AttributeChange {
    Set(Attributes),
    Clear(Attributes),
}

impl AttributeChange {
    fn apply(self, attributes: Attributes) -> Attributes {
        match self {
            Self::Set(bits) => attributes | bits,
            Self::Clear(bits) => attributes.without(bits),
        }
    }

    fn inverse(self) -> Self {
        match self {
            Self::Set(bits) => Self::Clear(bits),
            Self::Clear(bits) => Self::Set(bits),
        }
    }
}

fn attribute(word: &str) -> Option<AttributeChange> {
    use AttributeChange::{Clear, Set};
    Some(match word {
        "ro" => Set(Attributes::READ_ONLY),
        "rw" => Clear(Attributes::READ_ONLY),
        "nosuid" => Set(Attributes::NO_SUID),
        "suid" => Clear(Attributes::NO_SUID),
        "nodev" => Set(Attributes::NO_DEV),
        "dev" => Clear(Attributes::NO_DEV),
        "noexec" => Set(Attributes::NO_EXEC),
        "exec" => Clear(Attributes::NO_EXEC),
        "noatime" => Set(Attributes::NO_ATIME),
        "strictatime" => Set(Attributes::STRICT_ATIME),
        "atime" | "relatime" | "norelatime" | "nostrictatime" => Clear(Attributes::ATIME),
        "nodiratime" => Set(Attributes::NO_DIR_ATIME),
        "diratime" => Clear(Attributes::NO_DIR_ATIME),
        "nosymfollow" => Set(Attributes::NO_SYMLINK_FOLLOW),
        "symfollow" => Clear(Attributes::NO_SYMLINK_FOLLOW),
        _ => return None,
    })
}

pub(super) fn propagation(word: &str) -> Option<(Propagation, Recursion)> {
    let kind = |word| {
        Some(match word {
            "shared" => Propagation::Shared,
            "slave" => Propagation::Slave,
            "private" => Propagation::Private,
            "unbindable" => Propagation::Unbindable,
            _ => return None,
        })
    };
    match kind(word) {
        Some(found) => Some((found, Recursion::This)),
        None => Some((kind(word.strip_prefix('r')?)?, Recursion::WholeTree)),
    }
}
