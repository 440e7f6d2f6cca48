//! Overlays of directories of the host, as detached mounts.

use crate::error::{Context, StartError};
use crate::stage_two::hide_from_host;
use crisp_sys::mount::{Attributes, FsContext, Overlay, attach_at};
use crisp_sys::namespace::{Kind, unshare};
use crisp_sys::process::SingleThreaded;
use nix::mount::{MntFlags, umount2};
use nix::unistd::{chdir, fchdir};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Makes an overlay. This may leave the host's mount namespace for a private copy.
/// `about` is for messages.
pub(super) fn mount(
    overlay: &Overlay<'_>,
    about: &Path,
    witness: &SingleThreaded,
) -> Result<OwnedFd, StartError> {
    let mounted = match overlay.needs_staging() {
        true => {
            let staging = staging(witness)?;
            let mounted = overlay.mount_attaching(staging.as_fd());
            detach(&staging)?;
            mounted
        }
        false => overlay.mount(),
    };
    mounted.step("at", about)
}

/// An empty directory to attach mounts in, where nobody sees them: in a mount namespace of this
/// stage's own, on top of the root, where no path leads to.
fn staging(witness: &SingleThreaded) -> Result<OwnedFd, StartError> {
    let root = Path::new("/");
    unshare(Kind::Mount.flag(), witness).step("make a mount namespace", "")?;
    hide_from_host()?;
    let staging = FsContext::open("tmpfs")
        .and_then(|context| context.mount(Attributes::NONE))
        .step("on", root)?;
    attach_at(&staging, root).step("attach a mount at", root)?;
    Ok(staging)
}

/// The mounts of the staging directory would be locked in the mount namespace that the container's
/// user namespace owns, and the root below them could not be taken out of it.
fn detach(staging: &OwnedFd) -> Result<(), StartError> {
    fchdir(staging)
        .and_then(|()| umount2(".", MntFlags::MNT_DETACH))
        .and_then(|()| chdir("/"))
        .step("detach the lower directories", "")
}
