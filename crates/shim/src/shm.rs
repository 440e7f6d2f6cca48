//! The pod's /dev/shm: one tmpfs, of which every container gets a mount of its own.

use crisp_sys::mount::{Recursion, clone_mount, clone_mount_at};
use crisp_sys::namespace::{Kind, open_namespace, setns};
use crisp_sys::process::SingleThreaded;
use nix::unistd::Pid;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Where pause has it, if it has it.
pub(crate) const PATH_OF_PAUSE: &str = "/shm";

/// What is cloned for each container.
#[derive(Debug)]
pub(crate) enum Shm {
    /// The host's IPC namespace is used, and with it the host's /dev/shm.
    None,
    /// A detached mount.
    Detached(OwnedFd),
    /// The mount at [`PATH_OF_PAUSE`] of pause. Before Linux 6.15 a mount is cloned only by who is in the
    /// mount namespace that it is attached in.
    AttachedByPause,
}

impl Shm {
    /// One more mount of it, detached.
    pub(crate) fn mount(
        &self,
        pause: Pid,
        witness: &SingleThreaded,
    ) -> io::Result<Option<OwnedFd>> {
        let mount = match self {
            Self::None => return Ok(None),
            Self::Detached(mount) => clone_mount_at(mount, Recursion::This),
            Self::AttachedByPause => clone_within(pause, witness),
        };
        Ok(Some(mount?))
    }
}

/// Clones the mount in the mount namespace of pause, which the shim enters for that. It comes back with
/// the root of its own namespace as its root and working directory, which it had before.
fn clone_within(pause: Pid, witness: &SingleThreaded) -> nix::Result<OwnedFd> {
    let open = |path: &Path| open_namespace(path, Kind::Mount);
    let ours = open(Path::new("/proc/self/ns/mnt"))?;
    let theirs = open(&PathBuf::from(format!("/proc/{pause}/ns/mnt")))?;
    setns(&theirs, Kind::Mount.flag(), witness)?;
    let mount = clone_mount(Path::new(PATH_OF_PAUSE), Recursion::This);
    setns(&ours, Kind::Mount.flag(), witness)
        .expect("a process can always return to where it came from");
    mount
}
