//! The container's root: how the process gets into it, and the host out of sight.

use crate::error::{Context, StartError};
use crate::spec::Root;
use crisp_sys::mount::{Attributes, Change, Propagation, Recursion, attach_at, change};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, fchdir, pivot_root};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Makes a detached mount the root of the mount namespace, and takes the host's mounts out of it.
///
/// The new root is attached on top of the old one, so that no directory of the host is needed for it.
/// pivot_root(2) then exchanges the two, and the old one, which lies on top now, is detached with all
/// that is mounted below.
pub(super) fn enter(new_root: OwnedFd) -> Result<OwnedFd, StartError> {
    let here = Path::new(".");
    hide_from_host()?;
    attach_at(&new_root, Path::new("/")).step("attach the root", "")?;
    fchdir(&new_root).step("enter the root", "")?;
    pivot_root(here, here).step("make the root the root", "")?;
    umount2(here, MntFlags::MNT_DETACH).step("detach the host's mounts", "")?;
    chdir("/").step("enter the root", "")?;
    Ok(new_root)
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
