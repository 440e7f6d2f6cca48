//! Programs that share less with their host.

use anyhow::Result;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Takes networks and mounts of its own, before there is a second thread. The host's mounts that come
/// later are seen, but none goes the other way.
///
/// # Errors
/// Without root.
pub fn leave_host() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    for propagation in [MsFlags::MS_SLAVE, MsFlags::MS_SHARED] {
        mount(none, "/", none, MsFlags::MS_REC | propagation, none)?;
    }
    Ok(())
}
