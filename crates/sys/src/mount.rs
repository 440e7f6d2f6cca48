//! The file-descriptor mount API: fsopen, fsmount, open_tree, move_mount, mount_setattr.
//!
//! A mount made here is detached: nobody sees it before it is attached, and it vanishes with its
//! descriptor. None of this depends on the calling thread's directory or mount table, so it also
//! serves processes with many threads.

use crate::process::owned_fd;
use nix::errno::Errno;
use nix::unistd::read;
use std::ffi::{CString, OsStr, c_int, c_uint, c_void};
use std::ops::{BitOr, BitOrAssign};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

mod overlay;

pub use overlay::{Overlay, Upper};

/// Longest value that fsconfig(2) takes, without its terminator.
pub(crate) const FSCONFIG_VALUE_MAX: usize = 255;

/// Per-mount attributes (`MOUNT_ATTR_*` in linux/mount.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes(u64);

impl Attributes {
    pub const NONE: Self = Self(0);
    pub const READ_ONLY: Self = Self(0x1);
    pub const NO_SUID: Self = Self(0x2);
    pub const NO_DEV: Self = Self(0x4);
    pub const NO_EXEC: Self = Self(0x8);
    pub const NO_ATIME: Self = Self(0x10);
    pub const STRICT_ATIME: Self = Self(0x20);
    pub const NO_DIR_ATIME: Self = Self(0x80);
    pub const NO_SYMLINK_FOLLOW: Self = Self(0x20_0000);
    /// The bits that say when access times are kept: one choice in several bits (`MOUNT_ATTR__ATIME`).
    /// To clear it is to choose relatime.
    pub const ATIME: Self = Self(0x70);
    const ID_MAP: Self = Self(0x10_0000);

    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Attributes {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Attributes {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// How mounts made below one mount appear below its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Shared,
    Slave,
    Private,
    Unbindable,
}

impl Propagation {
    fn bits(self) -> u64 {
        match self {
            Self::Shared => libc::MS_SHARED,
            Self::Slave => libc::MS_SLAVE,
            Self::Private => libc::MS_PRIVATE,
            Self::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

/// Whether an operation goes for the mounts below, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recursion {
    This,
    WholeTree,
}

impl Recursion {
    fn bits(self) -> c_uint {
        match self {
            Self::This => 0,
            Self::WholeTree => libc::AT_RECURSIVE.cast_unsigned(),
        }
    }
}

/// A file system that could not be configured or made; `detail` is what the kernel said about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {}{}{detail}", errno.desc(), if detail.is_empty() { "" } else { ": " })]
pub struct FsError {
    /// The call and what it was about, such as `mount tmpfs with mode=755`.
    pub operation: String,
    pub errno: Errno,
    pub detail: String,
}

impl FsError {
    pub(crate) fn new(operation: impl Into<String>, errno: Errno) -> Self {
        Self {
            operation: operation.into(),
            errno,
            detail: String::new(),
        }
    }
}

/// A file system being configured (fsopen(2)).
#[derive(Debug)]
pub struct FsContext {
    fd: OwnedFd,
    fs_type: String,
}

impl FsContext {
    /// Begins a file system of this type.
    ///
    /// # Errors
    /// `ENODEV` for a type that the kernel lacks.
    pub fn open(fs_type: &str) -> Result<Self, FsError> {
        let fail = |errno| FsError::new(format!("open file system {fs_type}"), errno);
        let name = CString::new(fs_type).map_err(|_| fail(Errno::EINVAL))?;
        // SAFETY: `name` is a string that outlives the call.
        let fd = unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) };
        Ok(Self {
            fd: owned_fd(fd).map_err(fail)?,
            fs_type: fs_type.to_owned(),
        })
    }

    /// Sets an option that has no value.
    ///
    /// # Errors
    /// `EINVAL` for an option that the file system does not know.
    pub fn set_flag(&self, key: &str) -> Result<(), FsError> {
        self.configure(FSCONFIG_SET_FLAG, key, None, 0)
    }

    /// Sets an option to a value.
    ///
    /// # Errors
    /// `EINVAL` for an option or value that the file system does not know.
    pub fn set_string(&self, key: &str, value: impl AsRef<OsStr>) -> Result<(), FsError> {
        self.configure(FSCONFIG_SET_STRING, key, Some(value.as_ref()), 0)
    }

    /// Sets an option to an open file.
    ///
    /// # Errors
    /// `EINVAL` for an option that the file system does not take so.
    pub fn set_fd(&self, key: &str, fd: BorrowedFd<'_>) -> Result<(), FsError> {
        self.configure(FSCONFIG_SET_FD, key, None, fd.as_raw_fd())
    }

    /// Makes the file system, and a detached mount of it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn mount(self, attributes: Attributes) -> Result<OwnedFd, FsError> {
        self.configure(FSCONFIG_CMD_CREATE, "", None, 0)?;
        // SAFETY: fsmount takes integers.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_fsmount,
                self.fd.as_raw_fd(),
                FSMOUNT_CLOEXEC,
                attributes.0,
            )
        };
        owned_fd(fd).map_err(|errno| self.error(String::new(), errno))
    }

    fn configure(
        &self,
        command: c_uint,
        key: &str,
        value: Option<&OsStr>,
        aux: c_int,
    ) -> Result<(), FsError> {
        let about = || match value {
            Some(value) => format!("{key}={}", value.display()),
            None => key.to_owned(),
        };
        let invalid = || self.error(about(), Errno::EINVAL);
        let key_string = CString::new(key).map_err(|_| invalid())?;
        let value_string = value
            .map(|value| CString::new(value.as_bytes()).map_err(|_| invalid()))
            .transpose()?;
        let null_when_absent = |present: bool, pointer| match present {
            true => pointer,
            false => std::ptr::null(),
        };
        // SAFETY: each string is null or outlives the call; the kernel checks which ones a command
        // takes.
        let result = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.fd.as_raw_fd(),
                command,
                null_when_absent(!key.is_empty(), key_string.as_ptr()),
                value_string
                    .as_ref()
                    .map_or(std::ptr::null(), |value| value.as_ptr()),
                aux,
            )
        };
        Errno::result(result)
            .map(drop)
            .map_err(|errno| self.error(about(), errno))
    }

    fn error(&self, option: String, errno: Errno) -> FsError {
        let separator = if option.is_empty() { "" } else { " with " };
        FsError {
            operation: format!("mount {}{separator}{option}", self.fs_type),
            errno,
            detail: self.message(),
        }
    }

    /// The kernel's newest message about this file system: a letter for its severity, a space, text.
    fn message(&self) -> String {
        let mut buffer = [0; 1024];
        let mut last = String::new();
        while let Ok(length @ 1..) = read(&self.fd, &mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]);
            last = text.trim_end().chars().skip(2).collect();
        }
        last
    }
}

/// A clone of the mount at `path` in the caller's mount namespace, from that directory or file on.
///
/// # Errors
/// Those of open_tree(2).
pub fn clone_mount(path: &Path, recursion: Recursion) -> nix::Result<OwnedFd> {
    open_tree(libc::AT_FDCWD, path, OPEN_TREE_CLONE | recursion.bits())
}

/// A clone of the mount that `fd` lies in, from that directory or file on. `fd` may be a detached
/// mount from Linux 6.15; before, that is `EINVAL`.
///
/// # Errors
/// Those of open_tree(2).
pub fn clone_mount_at(fd: impl AsFd, recursion: Recursion) -> nix::Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE | libc::AT_EMPTY_PATH.cast_unsigned() | recursion.bits();
    open_tree(fd.as_fd().as_raw_fd(), Path::new(""), flags)
}

/// Whether [`clone_mount_at`] clones detached mounts. The version is asked: a clone to try it with costs
/// its unmounting.
#[must_use]
pub fn clones_detached() -> bool {
    const SINCE: (u32, u32) = (6, 15);
    kernel_version() >= SINCE
}

/// Zeroes when it cannot be told.
fn kernel_version() -> (u32, u32) {
    let Ok(names) = nix::sys::utsname::uname() else {
        return (0, 0);
    };
    let release = names.release().to_string_lossy();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn open_tree(directory: c_int, path: &Path, flags: c_uint) -> nix::Result<OwnedFd> {
    let path = c_string(path)?;
    // SAFETY: `path` is a string that outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_tree,
            directory,
            path.as_ptr(),
            flags | libc::O_CLOEXEC.cast_unsigned(),
        )
    };
    owned_fd(fd)
}

/// Attaches a mount on the directory or file that `target` names.
///
/// # Errors
/// Those of move_mount(2), such as `ENOTDIR` for a directory on a file.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> nix::Result<()> {
    move_mount(
        mount.as_fd(),
        target.as_fd().as_raw_fd(),
        Path::new(""),
        MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
    )
}

/// Attaches a mount at a path of the caller's mount namespace, on top of what is mounted there.
///
/// # Errors
/// Those of move_mount(2).
pub fn attach_at(mount: impl AsFd, path: &Path) -> nix::Result<()> {
    move_mount(mount.as_fd(), libc::AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH)
}

fn move_mount(
    mount: BorrowedFd<'_>,
    directory: c_int,
    path: &Path,
    flags: c_uint,
) -> nix::Result<()> {
    let path = c_string(path)?;
    // SAFETY: both paths are strings that outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            directory,
            path.as_ptr(),
            flags,
        )
    };
    Errno::result(result).map(drop)
}

/// Changes to a mount (mount_setattr(2)).
#[derive(Debug, Clone, Copy, Default)]
pub struct Change<'a> {
    pub set: Attributes,
    pub clear: Attributes,
    pub propagation: Option<Propagation>,
    /// A user namespace whose mapping shifts the owners of files. For detached mounts only.
    pub id_map: Option<BorrowedFd<'a>>,
}

impl Change<'_> {
    /// Whether nothing would change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set == Attributes::NONE
            && self.clear == Attributes::NONE
            && self.propagation.is_none()
            && self.id_map.is_none()
    }
}

/// Changes the mount that `fd` is the root of.
///
/// # Errors
/// Those of mount_setattr(2); with an id map `EINVAL` for file systems that have none.
pub fn change(fd: impl AsFd, change: &Change<'_>, recursion: Recursion) -> nix::Result<()> {
    let mut attributes = libc::mount_attr {
        attr_set: change.set.0,
        attr_clr: change.clear.0,
        propagation: change.propagation.map_or(0, Propagation::bits),
        userns_fd: 0,
    };
    if change.set.intersects(Attributes::ATIME) {
        attributes.attr_clr |= Attributes::ATIME.0;
    }
    if let Some(user_namespace) = change.id_map {
        attributes.attr_set |= Attributes::ID_MAP.0;
        attributes.userns_fd = u64::from(user_namespace.as_raw_fd().cast_unsigned());
    }
    // SAFETY: `attributes` is a mount_attr of the size passed, and the path is a constant string.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH.cast_unsigned() | recursion.bits(),
            (&raw const attributes).cast::<c_void>(),
            size_of_val(&attributes),
        )
    };
    Errno::result(result).map(drop)
}

fn c_string(path: &Path) -> nix::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)
}

// linux/mount.h
const FSOPEN_CLOEXEC: c_uint = 1;
const FSMOUNT_CLOEXEC: c_uint = 1;
const FSCONFIG_SET_FLAG: c_uint = 0;
const FSCONFIG_SET_STRING: c_uint = 1;
const FSCONFIG_SET_FD: c_uint = 5;
const FSCONFIG_CMD_CREATE: c_uint = 6;
const OPEN_TREE_CLONE: c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: c_uint = 0x40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_a_set() {
        let set = Attributes::READ_ONLY | Attributes::NO_DEV;
        assert!(set.contains(Attributes::NO_DEV));
        assert!(!set.contains(Attributes::NO_DEV | Attributes::NO_EXEC));
        assert_eq!(set.without(Attributes::NO_DEV), Attributes::READ_ONLY);
        assert!(Change::default().is_empty());
    }

    #[test]
    fn an_error_reads_as_a_sentence() {
        let mut error = FsError::new("mount tmpfs with frob=1", Errno::EINVAL);
        assert_eq!(
            error.to_string(),
            "mount tmpfs with frob=1: Invalid argument"
        );
        error.detail = "tmpfs: Unknown parameter 'frob'".into();
        assert_eq!(
            error.to_string(),
            "mount tmpfs with frob=1: Invalid argument: tmpfs: Unknown parameter 'frob'"
        );
    }
}
