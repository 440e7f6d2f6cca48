//! /dev: device nodes, and the links that programs expect there.

use crate::error::{Context, StartError};
use crate::spec::Device;
use crate::stage_one::Node;
use crisp_sys::mount::attach;
use crisp_sys::path::{create_file_in_root, parent_in_root, stat_entry};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{Mode, SFlag, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Links of every container (OCI runtime spec, "Default devices" and "/dev symbolic links").
const LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// Makes all nodes and links; none when the plan has no nodes, because /dev is the host's.
pub(super) fn create(root: &OwnedFd, nodes: &[Node]) -> Result<(), StartError> {
    if nodes.is_empty() {
        return Ok(());
    }
    let mut parents = Parents { root, last: None };
    for Node { device, host } in nodes {
        match host {
            Some(host) => bind(root, device, host),
            None => make(&mut parents, device),
        }
        .step("make device", &device.path)?;
    }
    for (path, target) in LINKS {
        link(&mut parents, path, target).step("make link", path)?;
    }
    replace_ptmx(&mut parents).step("make link", "/dev/ptmx")
}

/// The directories of nodes and links, nearly all of which are in the same one.
struct Parents<'a> {
    root: &'a OwnedFd,
    last: Option<(PathBuf, OwnedFd)>,
}

impl Parents<'_> {
    /// As [`parent_in_root`].
    fn of<'a>(&mut self, path: &'a Path) -> nix::Result<(BorrowedFd<'_>, &'a OsStr)> {
        let name = path.file_name().ok_or(Errno::EISDIR)?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        let known = self.last.take().filter(|(last, _)| last == parent);
        let opened = match known {
            Some(known) => known,
            None => (parent.to_owned(), parent_in_root(self.root, path)?.0),
        };
        let (_, directory) = &*self.last.insert(opened);
        Ok((directory.as_fd(), name))
    }
}

/// The umask is zero, so that the node gets the mode it is given.
fn make(parents: &mut Parents<'_>, device: &Device) -> nix::Result<()> {
    let (parent, name) = parents.of(&device.path)?;
    match mknodat(parent, name, device.kind, device.mode, device.number) {
        Ok(()) => {}
        Err(Errno::EEXIST) => verify(parent, name, device)?,
        Err(error) => return Err(error),
    }
    if (device.uid, device.gid) == (0, 0) {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
    let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
    fchownat(parent, name, Some(uid), Some(gid), flags)
}

/// A node that the image brings is left if it is the same device.
fn verify(parent: BorrowedFd<'_>, name: &OsStr, device: &Device) -> nix::Result<()> {
    let stat = stat_entry(parent, name)?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    let is_fifo = kind == SFlag::S_IFIFO;
    match kind == device.kind && (is_fifo || stat.st_rdev == device.number) {
        true => Ok(()),
        false => Err(Errno::EEXIST),
    }
}

fn bind(root: &OwnedFd, device: &Device, host: &OwnedFd) -> nix::Result<()> {
    let target = create_file_in_root(root, &device.path, Mode::from_bits_truncate(0o600))?;
    attach(host.as_fd(), target)
}

/// What the image brings in place of a link is left: it is the image's own loss.
fn link(parents: &mut Parents<'_>, path: &str, target: &str) -> nix::Result<()> {
    let (parent, name) = parents.of(Path::new(path))?;
    match symlinkat(target, parent, name) {
        Err(Errno::EEXIST) => Ok(()),
        done => done,
    }
}

/// A node at /dev/ptmx would open a terminal of another devpts than the container's.
fn replace_ptmx(parents: &mut Parents<'_>) -> nix::Result<()> {
    let (parent, name) = parents.of(Path::new("/dev/ptmx"))?;
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => symlinkat("pts/ptmx", parent, name),
        Err(error) => Err(error),
    }
}
