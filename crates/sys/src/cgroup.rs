//! The directories of control groups.

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Opens the directory of a group if that is one of version 2, in which a process can be born; none: it is of
/// another hierarchy.
///
/// # Errors
/// Those of open(2), such as `ENOENT` when there is no such group.
pub fn open_unified(dir: &Path) -> nix::Result<Option<OwnedFd>> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let opened = open(dir, flags, Mode::empty())?;
    let is_unified = fstatfs(&opened)?.filesystem_type() == CGROUP2_SUPER_MAGIC;
    Ok(is_unified.then_some(opened))
}
