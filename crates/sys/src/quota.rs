//! Project quotas of file systems that have them: ext4 and xfs (quotactl(2), ioctl_xfs_fsgetxattr(2)).
//!
//! A directory that belongs to a project hands it on to what is made in it, and the file system counts and
//! limits what a project's files take together.

use nix::errno::Errno;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd};

/// `FS_XFLAG_PROJINHERIT`: what is made in the directory belongs to its project.
const PROJECT_INHERIT: u32 = 0x200;
/// `PRJQUOTA`, the type of quota, and the commands for it (linux/quota.h, linux/dqblk_xfs.h).
const PROJECT_QUOTA: u32 = 2;
const GET_QUOTA: u32 = 0x80_0007;
const SET_QUOTA: u32 = 0x80_0008;
const GET_STATE: u32 = 0x5808;
/// `FS_QSTATV_VERSION1`.
const STATE_VERSION: i8 = 1;
/// `FS_QUOTA_PDQ_ENFD`: limits of projects are in force.
const PROJECTS_ENFORCED: u16 = 1 << 5;
/// `QIF_BLIMITS`: the limits of space are those to be set.
const SPACE_LIMITS: u32 = 1;
/// `QIF_DQBLKSIZE`: limits of space are counted in KiB.
const LIMIT_UNIT: u64 = 1024;

/// `struct fsxattr`.
#[repr(C)]
#[derive(Clone, Copy)]
struct FileAttributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    padding: [u8; 8],
}

/// `struct fs_quota_statv`, of which one member is looked at.
#[repr(C)]
struct State {
    version: i8,
    padding: u8,
    flags: u16,
    rest: [u64; 19],
}

mod ioctl {
    use super::FileAttributes;
    nix::ioctl_read!(get_attributes, b'X', 31, FileAttributes);
    nix::ioctl_write_ptr!(set_attributes, b'X', 32, FileAttributes);
}

/// What the files of a project take, and may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub inodes: u64,
    /// None: as much as there is.
    pub limit_bytes: Option<u64>,
}

/// The project that a directory or file belongs to; 0 is none.
///
/// # Errors
/// ENOTTY, EOPNOTSUPP: the file system knows no projects.
pub fn project(file: impl AsFd) -> Result<u32, Errno> {
    Ok(attributes(file)?.project)
}

/// Makes an empty directory, and what is made in it from now on, belong to a project.
///
/// # Errors
/// ENOTTY, EOPNOTSUPP: the file system knows no projects; EINVAL in a user namespace.
pub fn set_project(dir: impl AsFd, project: u32) -> Result<(), Errno> {
    let mut attributes = attributes(&dir)?;
    attributes.project = project;
    attributes.flags |= PROJECT_INHERIT;
    // SAFETY: the descriptor is open, and the kernel reads the struct, which is of the type that the
    // request's number was made of, before the call returns.
    unsafe { ioctl::set_attributes(dir.as_fd().as_raw_fd(), &raw const attributes) }.map(drop)
}

fn attributes(file: impl AsFd) -> Result<FileAttributes, Errno> {
    let mut attributes = FileAttributes {
        flags: 0,
        extent_size: 0,
        extents: 0,
        project: 0,
        copy_extent_size: 0,
        padding: [0; 8],
    };
    // SAFETY: the descriptor is open, and the kernel writes a struct of the type that the request's
    // number was made of, which is ours alone.
    unsafe { ioctl::get_attributes(file.as_fd().as_raw_fd(), &raw mut attributes) }?;
    Ok(attributes)
}

/// Whether the file system on which a file is holds projects to their limits.
///
/// # Errors
/// Other than those by which kernels and file systems say that they have no quotas.
pub fn enforces_projects(on: impl AsFd) -> Result<bool, Errno> {
    let mut state = State {
        version: STATE_VERSION,
        padding: 0,
        flags: 0,
        rest: [0; 19],
    };
    // SAFETY: the command writes at most a `struct fs_quota_statv` of the version asked for, as long as
    // `State`, which is ours alone.
    match unsafe { quotactl(on, GET_STATE, 0, (&raw mut state).cast()) } {
        Ok(()) => Ok(state.flags & PROJECTS_ENFORCED != 0),
        Err(Errno::ENOSYS | Errno::ESRCH | Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Sets how much the files of a project may take on the file system on which a file is; none: as much as
/// there is.
///
/// # Errors
/// ESRCH, ENOSYS: it has no quotas of projects; EPERM.
pub fn limit(on: impl AsFd, project: u32, limit_bytes: Option<u64>) -> Result<(), Errno> {
    // SAFETY: zeros are a value of this struct of numbers.
    let mut quota: libc::dqblk = unsafe { zeroed() };
    // 0 is no limit.
    quota.dqb_bhardlimit = limit_bytes.map_or(0, |bytes| bytes.div_ceil(LIMIT_UNIT).max(1));
    quota.dqb_bsoftlimit = quota.dqb_bhardlimit;
    quota.dqb_valid = SPACE_LIMITS;
    // SAFETY: the command reads a `struct if_dqblk`.
    unsafe { quotactl(on, SET_QUOTA, project, (&raw mut quota).cast()) }
}

/// What a project's files take on the file system on which a file is.
///
/// # Errors
/// As [`limit`].
pub fn usage(on: impl AsFd, project: u32) -> Result<Usage, Errno> {
    // SAFETY: zeros are a value of this struct of numbers.
    let mut quota: libc::dqblk = unsafe { zeroed() };
    // SAFETY: the command writes a `struct if_dqblk`, which is ours alone.
    unsafe { quotactl(on, GET_QUOTA, project, (&raw mut quota).cast()) }?;
    Ok(Usage {
        bytes: quota.dqb_curspace,
        inodes: quota.dqb_curinodes,
        limit_bytes: (quota.dqb_bhardlimit > 0).then(|| quota.dqb_bhardlimit * LIMIT_UNIT),
    })
}

/// quotactl_fd(2) of quotas of projects; Linux 5.14.
///
/// # Safety
/// `data` points to what the command reads or writes.
unsafe fn quotactl(
    on: impl AsFd,
    command: u32,
    project: u32,
    data: *mut libc::c_void,
) -> Result<(), Errno> {
    // The kernel's macro QCMD.
    let command = command << 8 | PROJECT_QUOTA;
    let fd = on.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open; of the data the caller says it.
    let result = unsafe { libc::syscall(libc::SYS_quotactl_fd, fd, command, project, data) };
    Errno::result(result).map(drop)
}

// The kernel's `struct if_dqblk`, and `struct fs_quota_statv`, are of these sizes.
const _: () = assert!(size_of::<libc::dqblk>() == 72 && size_of::<State>() == 160);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_without_projects_says_so() {
        let dir = std::fs::File::open("/proc/self").unwrap();
        assert_eq!(enforces_projects(&dir), Ok(false));
        assert!(set_project(&dir, 5).is_err());
    }
}
