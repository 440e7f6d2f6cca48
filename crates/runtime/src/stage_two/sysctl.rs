//! Kernel parameters of the container's namespaces.

use crate::error::{Context, StartError};
use crate::spec::Container;
use crisp_sys::namespace::{Kind, identity, open_namespace};
use crisp_sys::path::open_beneath;
use nix::fcntl::OFlag;
use nix::unistd::write;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Writes them through the host's procfs, which shows those of the writer's namespaces.
pub(super) fn apply(proc_sys: &OwnedFd, container: &Container) -> Result<(), StartError> {
    for sysctl in &container.sysctls {
        refuse_hosts(container, sysctl.namespace)?;
        let parameter = open_beneath(proc_sys, &sysctl.path, OFlag::O_WRONLY)
            .step("open /proc/sys to write", &sysctl.path)?;
        write(parameter, sysctl.value.as_bytes())
            .step(format!("write {:?} to sysctl", sysctl.value), &sysctl.path)?;
    }
    Ok(())
}

/// A namespace that is joined by path may still be the host's.
fn refuse_hosts(container: &Container, kind: Kind) -> Result<(), StartError> {
    if container.namespaces.joined(kind).is_none() {
        return Ok(());
    }
    let of = |process: &str| {
        let path = format!("/proc/{process}/ns/{}", kind.file_name());
        let opened = open_namespace(Path::new(&path), kind).step("open", &path)?;
        identity(opened).step("look at", &path)
    };
    match of("self")? == of("1")? {
        false => Ok(()),
        true => Err(StartError::invalid(format!(
            "linux.sysctl: the {} namespace is the host's",
            kind.file_name()
        ))),
    }
}
