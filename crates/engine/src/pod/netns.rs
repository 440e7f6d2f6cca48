//! The pod's network namespace as a file, so that it is found by name and by `ip netns`.

use crate::error::{Error, Result};
use crate::files::remove_file;
use crisp_crash::point;
use crisp_model::PodId;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Where the namespace of a pod is.
pub(crate) fn path(netns_dir: &Path, pod: &PodId) -> PathBuf {
    netns_dir.join(format!("crisp-{pod}"))
}

/// The pod whose namespace has a file of this name.
pub(crate) fn pod_of(name: &str) -> Option<PodId> {
    name.strip_prefix("crisp-")?.parse().ok()
}

/// Binds a namespace to its file.
pub(super) fn pin(netns: &OwnedFd, path: &Path) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(Error::io("make directory", dir))?;
    }
    File::create(path).map_err(Error::io("create", path))?;
    point!("run-pod.netns-file-made");
    let source = format!("/proc/self/fd/{}", netns.as_raw_fd());
    mount(
        Some(source.as_str()),
        path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .map_err(|e| Error::io("bind the network namespace to", path)(e.into()))?;
    point!("run-pod.netns-pinned");
    Ok(())
}

/// Unbinds and removes the file, if it is there.
pub(super) fn unpin(path: &Path) -> Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::ENOENT | Errno::EINVAL) => {}
        Err(error) => return Err(Error::io("unmount", path)(error.into())),
    }
    point!("teardown.netns-unmounted");
    remove_file(path)?;
    point!("teardown.netns-removed");
    Ok(())
}
