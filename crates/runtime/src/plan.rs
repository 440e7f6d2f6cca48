//! What a caller says beyond the OCI runtime spec: where things of this very start are.

use nix::unistd::Pid;
use oci_spec::runtime::Process;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A container to start.
#[derive(Debug)]
pub struct ContainerPlan<'a> {
    /// What hooks are told that the container is called.
    pub id: &'a str,
    /// Holds `config.json`, an OCI runtime spec. Its namespaces with a path are joined, those without
    /// are new, and those it leaves out are the caller's.
    pub bundle: &'a Path,
    pub rootfs: Rootfs<'a>,
    /// One directory per hierarchy, which the container joins by itself.
    pub cgroup_dirs: &'a [PathBuf],
    pub stdio: Stdio,
    /// Takes the place of the spec's `linux.seccomp`.
    pub seccomp: SeccompFilter<'a>,
    /// A tmpfs to be mounted at /dev/shm: a detached mount, which becomes the container's.
    pub shm: Option<BorrowedFd<'a>>,
    /// A process with hardly a mount in its mount namespace, which is taken as what the container's begins
    /// as. The caller's has all mounts of the host, and the kernel copies each.
    pub mounts_from: Option<BorrowedFd<'a>>,
    /// The process is born in the pid namespace that the spec wants new, and does the work of both stages:
    /// nobody sees it there, and no second one need be forked. Not with a user namespace, which is to own that of
    /// pids, nor with hooks, which are run from outside.
    pub alone: bool,
}

impl ContainerPlan<'_> {
    /// The descriptors of the caller's that it names, but for those of `stdio`.
    pub(crate) fn borrowed(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let root = match self.rootfs {
            Rootfs::Mounted(root) => Some(root),
            Rootfs::Overlay(_) | Rootfs::Directory => None,
        };
        [self.shm, self.mounts_from, root].into_iter().flatten()
    }
}

/// One more process for a container.
#[derive(Debug)]
pub struct ExecPlan<'a> {
    /// The container's first process, in the caller's pid namespace.
    pub init: Pid,
    /// The same process; what keeps `init` from meaning another one.
    pub init_pidfd: BorrowedFd<'a>,
    /// What is executed, and as whom.
    pub process: &'a Process,
    /// As in [`ContainerPlan`].
    pub cgroup_dirs: &'a [PathBuf],
    pub stdio: Stdio,
    pub seccomp: SeccompFilter<'a>,
}

/// Where the root file system comes from.
#[derive(Debug, Clone, Copy)]
pub enum Rootfs<'a> {
    /// Made for the container, and gone with it.
    Overlay(Overlay<'a>),
    /// The same, made by the caller: a detached mount, which becomes the container's. Not where owners are to be
    /// mapped or files to be labelled.
    Mounted(BorrowedFd<'a>),
    /// What is mounted at the spec's `root.path`, relative to the bundle.
    Directory,
}

/// The layers of a container; nothing of them is synced to disk, as they die with it.
#[derive(Debug, Clone, Copy)]
pub struct Overlay<'a> {
    /// Topmost first.
    pub lower_dirs: &'a [PathBuf],
    pub upper_dir: &'a Path,
    /// Empty, on the file system of `upper_dir`.
    pub work_dir: &'a Path,
}

/// The standard descriptors of a process.
#[derive(Debug)]
pub enum Stdio {
    /// Standard input, output and error, numbered above 2 in the caller.
    Pipes([OwnedFd; 3]),
    /// A pseudoterminal of the container's own devpts; its master comes back in
    /// [`Started`](crate::Started).
    Terminal(WindowSize),
}

/// Size of a terminal in characters; zeroes: the spec's `consoleSize`, or unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WindowSize {
    pub columns: u16,
    pub rows: u16,
}

/// A compiled seccomp filter.
#[derive(Debug, Clone, Copy, Default)]
pub struct SeccompFilter<'a> {
    /// `struct sock_filter`s in the machine's byte order; empty: no filter.
    pub program: &'a [u8],
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}
