//! Device nodes from the host, for containers that cannot make their own.

use crate::error::{Context, StartError};
use crate::spec::{Container, Device};
use crisp_sys::mount::{Recursion, clone_mount};
use nix::sys::stat::{SFlag, fstat};
use std::os::fd::OwnedFd;

/// A device node to be in a container.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) device: Device,
    /// The host's node; none: the container makes one. In a user namespace mknod(2) is refused.
    pub(crate) host: Option<OwnedFd>,
}

pub(super) fn open(container: &Container, bound: bool) -> Result<Vec<Node>, StartError> {
    let devices = container.devices.iter().cloned();
    devices
        .map(|device| {
            let host = if bound && device.kind != SFlag::S_IFIFO {
                Some(host_node(&device)?)
            } else {
                None
            };
            Ok(Node { device, host })
        })
        .collect()
}

/// The host's node at the same path, if it is the same device.
fn host_node(device: &Device) -> Result<OwnedFd, StartError> {
    let path = &device.path;
    let node = clone_mount(path, Recursion::This).step("open the host's device", path)?;
    let stat = fstat(&node).step("look at the host's device", path)?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    if kind != device.kind || stat.st_rdev != device.number {
        return Err(StartError::invalid(format!(
            "device {}: the host has another one there, and a user namespace can make none",
            path.display()
        )));
    }
    Ok(node)
}
