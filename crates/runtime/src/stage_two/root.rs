//! The container's root: how the process gets into it, and the host out of sight.

use crate::error::{Context, StartError};
use crate::spec::Root;
use crisp_sys::mount::{Attributes, Change, Propagation, Recursion, attach_at, change};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, chroot, fchdir, pivot_root};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Makes a detached mount the root of the mount namespace, and takes the host's mounts out of it.
///
/// The new root is attached on top of the old one, so that no directory of the host is needed for it.
/// pivot_root(2) then exchanges the two, and the old one, which lies on top now, is detached with all
/// that is mounted below.
pub(super) fn enter(new_root: &OwnedFd) -> Result<(), StartError> {
    hide_from_host()?;
    attach_at(new_root, Path::new("/")).step("attach the root", "")?;
    fchdir(new_root).step("enter the root", "")?;
    exchange()
}

/// Makes a detached mount the root where there is nothing of the host's to be detached: the empty root
/// stays below. What is spared grows with the host: pivot_root(2) looks at every process for the old
/// root, and umount2(2) waits until no cpu looks at what is unmounted.
pub(super) fn cover(new_root: &OwnedFd) -> Result<(), StartError> {
    attach_at(new_root, Path::new("/")).step("attach the root", "")?;
    change_root(new_root).step("enter the root", "")
}

/// Makes the working directory the root, and detaches the old one.
fn exchange() -> Result<(), StartError> {
    let here = Path::new(".");
    pivot_root(here, here).step("make the root the root", "")?;
    umount2(here, MntFlags::MNT_DETACH).step("detach the host's mounts", "")?;
    chdir("/").step("enter the root", "")
}

/// Nothing that is attached or detached here shows in the mount table that this one is a copy of.
pub(crate) fn hide_from_host() -> Result<(), StartError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let old_root = open("/", flags, Mode::empty()).step("open the host's root", "")?;
    let private = Change {
        propagation: Some(Propagation::Private),
        ..Change::default()
    };
    change(old_root, &private, Recursion::WholeTree).step("make all mounts private", "")
}

/// Makes the root read-only and sets its propagation, once all is mounted in it: what is attached to a
/// shared mount becomes shared itself.
pub(super) fn finish(root: &OwnedFd, plan: &Root) -> Result<(), StartError> {
    let change_to = Change {
        set: match plan.readonly {
            true => Attributes::READ_ONLY,
            false => Attributes::NONE,
        },
        propagation: plan.propagation,
        ..Change::default()
    };
    if change_to.is_empty() {
        return Ok(());
    }
    change(root, &change_to, Recursion::This).step("set the options of the root", "")
}

/// The time in which the container's root lies in its place among the host's files, and is this
/// process's root already.
pub(super) struct Visit {
    host_root: OwnedFd,
}

/// Attaches the root at its place, and takes it for this process's own root: whatever is done inside
/// is done as after [`enter`].
pub(super) fn visit(new_root: &OwnedFd, place: &Path) -> Result<Visit, StartError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let host_root = open("/", flags, Mode::empty()).step("open the host's root", "")?;
    hide_from_host()?;
    attach_at(new_root, place).step("attach the root at", place)?;
    change_root(new_root).step("enter the root", "")?;
    Ok(Visit { host_root })
}

impl Visit {
    /// Takes the host's root for this process's own again.
    pub(super) fn return_to_host(&self) -> Result<(), StartError> {
        change_root(&self.host_root).step("return to the host's root", "")
    }

    /// Makes the root that of the mount namespace, and takes the host's mounts out of it.
    pub(super) fn end(self, new_root: &OwnedFd) -> Result<(), StartError> {
        self.return_to_host()?;
        fchdir(new_root).step("enter the root", "")?;
        exchange()
    }
}

fn change_root(root: &OwnedFd) -> nix::Result<()> {
    fchdir(root)?;
    chroot(".")
}
