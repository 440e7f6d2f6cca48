//! A directory on top of the bundle that only the helper and the runtime see.

use crate::error::{Context, StartError};
use crisp_sys::mount::{
    Attributes, Change, FsContext, Propagation, Recursion, attach, attach_at, change,
};
use crisp_sys::namespace::{Kind, unshare};
use crisp_sys::process::SingleThreaded;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};
use nix::unistd::fchdir;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The spec, which the runtime looks for under this name.
pub(super) const SPEC: &str = "config.json";
/// Where the root file system is. For `exec` an empty directory: runc goes there before it enters the
/// container.
pub(super) const ROOTFS: &str = "rootfs";
/// The description of a process to execute.
pub(super) const PROCESS: &str = "process.json";

/// The most that the files in it may take: a spec, and what the runtime logs.
const SIZE: &str = "64m";

/// The working directory of the helper and of what it runs, so that names without a path lead there.
#[derive(Debug)]
pub(super) struct Workspace {
    root: OwnedFd,
    path: PathBuf,
}

impl Workspace {
    /// Leaves the caller's mount namespace for a copy, and makes a workspace at `bundle` there.
    pub(super) fn make(bundle: &Path, witness: &SingleThreaded) -> Result<Self, StartError> {
        let path = bundle.canonicalize().step("find the bundle", bundle)?;
        unshare(Kind::Mount.flag(), witness).step("make a mount namespace", "")?;
        hide_mounts_at(&path)?;
        let root = FsContext::open("tmpfs")
            .and_then(|tmpfs| {
                tmpfs.set_string("size", SIZE)?;
                // A container's root of another user namespace finds its way through it.
                tmpfs.set_string("mode", "0755")?;
                tmpfs.mount(Attributes::NO_SUID | Attributes::NO_DEV | Attributes::NO_EXEC)
            })
            .step("for", &path)?;
        attach_at(&root, &path).step("attach a mount at", &path)?;
        fchdir(&root).step("enter", &path)?;
        let mode = Mode::from_bits_truncate(0o755);
        mkdirat(&root, ROOTFS, mode).step("make the mount point", ROOTFS)?;
        Ok(Self { root, path })
    }

    /// Where the runtime finds it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Shows the root file system.
    pub(super) fn attach_root(&self, root: &OwnedFd) -> Result<(), StartError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let target = openat(&self.root, ROOTFS, flags, Mode::empty()).step("open", ROOTFS)?;
        attach(root, target).step("attach a mount at", ROOTFS)
    }

    /// Shows a mount, of a directory or a file.
    pub(super) fn attach(&self, name: &str, mount: &OwnedFd) -> Result<(), StartError> {
        let target = self
            .target(name, mount)
            .step("make the mount point", name)?;
        attach(mount, target).step("attach a mount at", name)
    }

    fn target(&self, name: &str, mount: &OwnedFd) -> nix::Result<OwnedFd> {
        let kind = SFlag::from_bits_truncate(fstat(mount)?.st_mode) & SFlag::S_IFMT;
        let path = OFlag::O_PATH | OFlag::O_CLOEXEC;
        if kind == SFlag::S_IFDIR {
            mkdirat(&self.root, name, Mode::from_bits_truncate(0o755))?;
            return openat(&self.root, name, path | OFlag::O_DIRECTORY, Mode::empty());
        }
        let create = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        openat(&self.root, name, create, Mode::S_IRUSR)?;
        openat(&self.root, name, path, Mode::empty())
    }

    /// Writes a file that only root reads: a process's environment holds secrets.
    pub(super) fn write(
        &self,
        name: &str,
        content: &impl serde::Serialize,
    ) -> Result<(), StartError> {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let file = openat(&self.root, name, flags, Mode::S_IRUSR).step("make", name)?;
        let text = serde_json::to_vec(content)
            .map_err(|error| StartError::invalid(format!("{name}: {error}")))?;
        File::from(file).write_all(&text).step("write", name)
    }
}

/// What is mounted at or below `path` shows nowhere else. Only the one mount that holds it stops
/// passing mounts on: volumes on others go on as the container was promised.
fn hide_mounts_at(path: &Path) -> Result<(), StartError> {
    let private = Change {
        propagation: Some(Propagation::Private),
        ..Change::default()
    };
    for ancestor in path.ancestors() {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(ancestor, flags, Mode::empty()).step("open", ancestor)?;
        match change(directory.as_fd(), &private, Recursion::This) {
            // Not where a file system is mounted: mount_setattr(2).
            Err(Errno::EINVAL) => {}
            done => return done.step("make private the mount at", ancestor),
        }
    }
    Err(Errno::ENOENT).step("find the mount of", path)
}

/// The end of a file, as much as `max_bytes` of it; nothing when it cannot be read.
pub(super) fn tail(name: &str, max_bytes: u64) -> Vec<u8> {
    let read = || -> std::io::Result<Vec<u8>> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = fs::File::open(name)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(max_bytes)))?;
        let mut end = Vec::new();
        file.take(max_bytes).read_to_end(&mut end)?;
        Ok(end)
    };
    read().unwrap_or_default()
}
