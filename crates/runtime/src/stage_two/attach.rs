//! Putting mounts where they belong.
//!
//! The image, the volumes and other containers that write to the same volumes may have put links
//! anywhere, and may change them at any moment. So a target is resolved inside the root, once, to a
//! descriptor; what is looked at and what is mounted on is that descriptor.

use super::cgroup_mount;
use super::file_systems::{Ready, is_late};
use crate::error::{Context, StartError};
use crate::spec::{MountPlan, Source};
use crisp_sys::mount::{Attributes, Change, Recursion, attach, change};
use crisp_sys::path::{
    Symlinks, create_file_in_root, describe, mkdir_all_in_root, open_in_root, parent_in_root,
};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Files of procfs over which something may be mounted: they tell of the machine's resources, and are
/// replaced (by lxcfs) with what tells of the container's.
const PROC_FILES: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// Attaches all mounts in their order. Returns those that are to become read-only at the end.
pub(super) fn all(
    root: &OwnedFd,
    self_proc: &OwnedFd,
    mounts: Vec<Ready>,
) -> Result<Vec<Ready>, StartError> {
    let mut late = Vec::new();
    for ready in mounts {
        one(root, self_proc, &ready)?;
        if let Some(hierarchies) = &ready.cgroups {
            cgroup_mount::fill(&ready, hierarchies)?;
        }
        if is_late(&ready.plan) {
            late.push(ready);
        }
    }
    Ok(late)
}

fn one(root: &OwnedFd, self_proc: &OwnedFd, ready: &Ready) -> Result<(), StartError> {
    let path = &ready.plan.target;
    let target = target(root, ready).step("make the mount point", path)?;
    refuse_over_proc(self_proc, &target, ready)?;
    attach(&ready.mount, &target).step("attach a mount at", path)
}

fn target(root: &OwnedFd, ready: &Ready) -> nix::Result<OwnedFd> {
    let path = &ready.plan.target;
    if is_kernel_interface(&ready.plan) {
        return target_without_links(root, path);
    }
    let stat = fstat(&ready.mount)?;
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFDIR => mkdir_all_in_root(root, path, Mode::from_bits_truncate(0o755)),
        _ => create_file_in_root(root, path, Mode::from_bits_truncate(0o644)),
    }
}

/// procfs and sysfs must be where they seem to be: what is masked and made read-only in them later is
/// found by the same path.
fn is_kernel_interface(plan: &MountPlan) -> bool {
    match &plan.source {
        Source::FileSystem { fs_type, .. } => fs_type == "proc" || fs_type == "sysfs",
        _ => false,
    }
}

fn target_without_links(root: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    match open_in_root(root, path, flags, Symlinks::Refuse) {
        Err(Errno::ENOENT) => {
            let (parent, name) = parent_in_root(root, path)?;
            nix::sys::stat::mkdirat(&parent, name.as_os_str(), Mode::from_bits_truncate(0o755))?;
            open_in_root(root, path, flags, Symlinks::Refuse)
        }
        done => done,
    }
}

/// What is mounted over procfs hides what is masked there, and feeds lies to whoever writes labels to
/// it. The directory /proc itself is for procfs alone.
fn refuse_over_proc(
    self_proc: &OwnedFd,
    target: &OwnedFd,
    ready: &Ready,
) -> Result<(), StartError> {
    let path = &ready.plan.target;
    let of = |fd: &OwnedFd| Ok(fstatfs(fd).step("look at", path)?.filesystem_type());
    let on_proc = of(target)? == PROC_SUPER_MAGIC;
    let place = describe(self_proc, target).step("find out the place of", path)?;
    let allowed = match on_proc {
        true => PROC_FILES.iter().any(|file| place == Path::new(file)),
        false => place != Path::new("/proc") || of(&ready.mount)? == PROC_SUPER_MAGIC,
    };
    match allowed {
        true => Ok(()),
        false => Err(StartError::invalid(format!(
            "mount at {}: nothing may be mounted over /proc",
            path.display()
        ))),
    }
}

/// Makes mounts read-only whose mount points had to be made first.
pub(super) fn make_read_only(late: Vec<Ready>) -> Result<(), StartError> {
    let read_only = Change {
        set: Attributes::READ_ONLY,
        ..Change::default()
    };
    for ready in late {
        change(&ready.mount, &read_only, Recursion::This)
            .step("make read-only the mount at", &ready.plan.target)?;
    }
    Ok(())
}
