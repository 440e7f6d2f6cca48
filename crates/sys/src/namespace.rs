//! Entering, leaving and describing namespaces.

use crate::process::SingleThreaded;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::CloneFlags;
use nix::sys::stat::{FileStat, Mode, fstat, stat};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// The kinds of namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    User,
    Cgroup,
    Ipc,
    Uts,
    Network,
    Pid,
    Time,
    Mount,
}

impl Kind {
    /// The bit of clone3(2), unshare(2) and setns(2).
    #[must_use]
    pub fn flag(self) -> CloneFlags {
        match self {
            Self::User => CloneFlags::CLONE_NEWUSER,
            Self::Cgroup => CloneFlags::CLONE_NEWCGROUP,
            Self::Ipc => CloneFlags::CLONE_NEWIPC,
            Self::Uts => CloneFlags::CLONE_NEWUTS,
            Self::Network => CloneFlags::CLONE_NEWNET,
            Self::Pid => CloneFlags::CLONE_NEWPID,
            Self::Time => CloneFlags::from_bits_retain(libc::CLONE_NEWTIME),
            Self::Mount => CloneFlags::CLONE_NEWNS,
        }
    }

    /// Its name under `/proc/<pid>/ns`.
    #[must_use]
    pub fn file_name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Cgroup => "cgroup",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Network => "net",
            Self::Pid => "pid",
            Self::Time => "time",
            Self::Mount => "mnt",
        }
    }
}

/// Opens a namespace file and verifies that it is one of this kind.
///
/// # Errors
/// `EINVAL` when `path` is no namespace of this kind, else those of open(2).
pub fn open_namespace(path: &Path, kind: Kind) -> nix::Result<OwnedFd> {
    let fd = open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    // SAFETY: NS_GET_NSTYPE takes no argument; on a file of another kind it fails.
    let found = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) };
    match Errno::result(found) {
        Ok(bit) if bit == kind.flag().bits() => Ok(fd),
        _ => Err(Errno::EINVAL),
    }
}

/// linux/nsfs.h.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// Enters the namespace of this kind that `fd` names (a pidfd names all of its process); a pid
/// namespace is entered by the children only.
///
/// # Errors
/// Those of setns(2).
pub fn setns(fd: impl AsFd, kinds: CloneFlags, _witness: &SingleThreaded) -> nix::Result<()> {
    nix::sched::setns(fd, kinds)
}

/// Leaves namespaces for new ones; a new pid namespace is that of the children.
///
/// # Errors
/// Those of unshare(2).
pub fn unshare(kinds: CloneFlags, _witness: &SingleThreaded) -> nix::Result<()> {
    nix::sched::unshare(kinds)
}

/// Sets the NIS domain name of the UTS namespace.
///
/// # Errors
/// `EPERM` without privilege, `EINVAL` for a name of more than 64 bytes.
pub fn set_domain_name(name: &str) -> nix::Result<()> {
    // SAFETY: the pointer and length are those of a live string.
    let result = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
    Errno::result(result).map(drop)
}

/// What is the same for all names of one namespace, and for no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    device: libc::dev_t,
    inode: libc::ino_t,
}

/// The identity of the namespace that `fd` names.
///
/// # Errors
/// Those of fstat(2).
pub fn identity(fd: impl AsFd) -> nix::Result<Identity> {
    fstat(fd).map(Identity::of)
}

/// The identity of the namespace of this kind that a process is in: `process` is its pid, or `self`. The
/// procfs at /proc has to be one.
///
/// # Errors
/// `ENOENT` without such a process, else those of stat(2).
pub fn identity_at(process: &str, kind: Kind) -> nix::Result<Identity> {
    stat(format!("/proc/{process}/ns/{}", kind.file_name()).as_str()).map(Identity::of)
}

impl Identity {
    fn of(stat: FileStat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_of_another_kind_or_a_plain_file_is_refused() {
        assert!(open_namespace(Path::new("/proc/self/ns/uts"), Kind::Uts).is_ok());
        for path in ["/proc/self/ns/net", "/proc/self/status"] {
            assert_eq!(
                open_namespace(Path::new(path), Kind::Uts).unwrap_err(),
                Errno::EINVAL,
                "{path}"
            );
        }
    }

    #[test]
    fn identity_tells_namespaces_apart() {
        let open = |name| open_namespace(Path::new(name), Kind::Uts).unwrap();
        let own = identity(open("/proc/self/ns/uts")).unwrap();
        assert_eq!(own, identity(open("/proc/thread-self/ns/uts")).unwrap());
        assert_eq!(own, identity_at("self", Kind::Uts).unwrap());
        let net = open_namespace(Path::new("/proc/self/ns/net"), Kind::Network).unwrap();
        assert_ne!(own, identity(net).unwrap());
    }
}
