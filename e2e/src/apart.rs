//! Programs that share less with their host.

use crate::wait::unless_interrupted;
use anyhow::Result;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tokio::runtime;

/// Does a driver's work, unless it is interrupted, with the arguments of its command line and in networks and
/// mounts of its own. To be called before there is a second thread.
///
/// # Errors
/// There is no root; and those of the work.
pub fn run_apart<T>(work: impl AsyncFnOnce(Vec<String>) -> Result<T>) -> Result<T> {
    leave_host()?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let arguments = std::env::args().skip(1).collect();
    runtime.block_on(async { unless_interrupted(work(arguments)).await? })
}

/// The host's mounts that come later are seen, but none goes the other way.
fn leave_host() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    for propagation in [MsFlags::MS_SLAVE, MsFlags::MS_SHARED] {
        mount(none, "/", none, MsFlags::MS_REC | propagation, none)?;
    }
    Ok(())
}
