//! /sys/fs/cgroup of version 1: a tmpfs that holds the container's own directory of each hierarchy.

use super::file_systems::Ready;
use crate::error::{Context, StartError};
use crate::stage_one::CgroupDir;
use crisp_sys::mount::{Change, Recursion, attach, change};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::symlinkat;
use std::os::fd::OwnedFd;

/// Attaches the hierarchies in the tmpfs, which is attached itself, and becomes what the plan says.
pub(super) fn fill(ready: &Ready, hierarchies: &[CgroupDir]) -> Result<(), StartError> {
    for dir in hierarchies {
        attach_hierarchy(&ready.mount, dir).step("attach cgroup", &dir.name)?;
    }
    let complete = Change {
        set: ready.plan.options.of_hierarchies(),
        ..Change::default()
    };
    change(&ready.mount, &complete, Recursion::This)
        .step("set the options of the mount at", &ready.plan.target)
}

/// A hierarchy of several controllers (`cpu,cpuacct`) is found by each of their names, too.
fn attach_hierarchy(tmpfs: &OwnedFd, dir: &CgroupDir) -> nix::Result<()> {
    let name = dir.name.as_str();
    mkdirat(tmpfs, name, Mode::from_bits_truncate(0o755))?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    attach(&dir.mount, openat(tmpfs, name, flags, Mode::empty())?)?;
    for controller in name.split(',').filter(|controller| *controller != name) {
        symlinkat(name, tmpfs, controller)?;
    }
    Ok(())
}
