//! Kernel parameters of the container's namespaces.

use crate::error::{Context, StartError};
use crate::spec::Container;
use crisp_sys::path::open_beneath;
use nix::fcntl::OFlag;
use nix::unistd::write;
use std::os::fd::OwnedFd;

/// Writes them through the host's procfs, which shows those of the writer's namespaces.
pub(super) fn apply(proc_sys: &OwnedFd, container: &Container) -> Result<(), StartError> {
    for sysctl in &container.sysctls {
        let parameter = open_beneath(proc_sys, &sysctl.path, OFlag::O_WRONLY)
            .step("open /proc/sys to write", &sysctl.path)?;
        write(parameter, sysctl.value.as_bytes())
            .step(format!("write {:?} to sysctl", sysctl.value), &sysctl.path)?;
    }
    Ok(())
}
