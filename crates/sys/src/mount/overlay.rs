//! Overlay file systems as detached mounts.

use super::{
    Attributes, Change, FSCONFIG_VALUE_MAX, FsContext, FsError, Recursion, attach, change,
    clone_mount, kernel_version,
};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Pid, fchdir, gettid, symlinkat};
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Directories laid over each other.
#[derive(Debug, Clone, Copy)]
pub struct Overlay<'a> {
    /// Topmost first; at least one.
    pub lower_dirs: &'a [PathBuf],
    /// Where changes go; none makes the overlay read-only.
    pub upper: Option<Upper<'a>>,
    /// SELinux context of all files.
    pub context: Option<&'a str>,
    /// A user namespace through whose mapping the lower directories are read, so that files owned by
    /// ids 0… on disk belong to the namespace's ids 0…. What is written to the upper directory is
    /// owned there as the writer's ids are outside of the namespace: the overlay itself writes, as who
    /// mounted it, and that one has no id in the mapping.
    pub id_map: Option<BorrowedFd<'a>>,
}

/// The writable directory of an overlay.
#[derive(Debug, Clone, Copy)]
pub struct Upper<'a> {
    pub upper_dir: &'a Path,
    /// Empty, on the file system of `upper_dir`.
    pub work_dir: &'a Path,
    /// Nothing is ever synced; such an upper directory can be mounted once only.
    pub volatile: bool,
}

/// One directory of an overlay, as it is given to the kernel.
struct Layer {
    /// Keeps `path` valid where that names a descriptor: an id-mapped mount, or a directory.
    fd: Option<OwnedFd>,
    path: PathBuf,
}

impl Overlay<'_> {
    /// Makes the overlay, detached.
    ///
    /// # Errors
    /// Those of the kernel, with what it said. `ENOENT` when a directory is missing, `EINVAL` when it
    /// [needs staging](Self::needs_staging).
    pub fn mount(&self) -> Result<OwnedFd, FsError> {
        self.mount_in_best_way(None)
    }

    /// Whether it can be made by [`Self::mount_attaching`] only: before Linux 6.15 an overlay takes no
    /// detached mounts, which id-mapped directories are. To try is no way to find out, as a failed
    /// attempt spoils a volatile upper directory.
    #[must_use]
    pub fn needs_staging(&self) -> bool {
        const SINCE: (u32, u32) = (6, 15);
        self.id_map.is_some() && kernel_version() < SINCE
    }

    /// Whether one thread of many can make it: elsewhere the working directory of the whole process is changed
    /// for a moment.
    #[must_use]
    pub fn can_be_made_by_thread(&self) -> bool {
        can_append() && !self.needs_staging()
    }

    /// As [`Self::mount`], but id-mapped lower directories are attached in `staging` first, an empty
    /// directory of the caller's own mount namespace. When the overlay is made, it needs `staging` no
    /// longer.
    ///
    /// # Errors
    /// As [`Self::mount`].
    pub fn mount_attaching(&self, staging: BorrowedFd<'_>) -> Result<OwnedFd, FsError> {
        self.mount_in_best_way(Some(staging))
    }

    fn mount_in_best_way(&self, staging: Option<BorrowedFd<'_>>) -> Result<OwnedFd, FsError> {
        if let Some(single) = self.single_directory() {
            return self.mount_single(single);
        }
        match can_append() {
            true => self.append(&self.layers(staging)?),
            false => self.join(&self.layers(staging)?),
        }
    }

    /// As [`Self::mount`] does it where the kernel cannot append lower directories: as one option of
    /// at most 255 bytes, into which 128 names of one byte fit. Public because a test on a newer kernel
    /// must reach it.
    ///
    /// # Errors
    /// As [`Self::mount`]; `E2BIG` for more directories than fit.
    pub fn mount_joined(&self) -> Result<OwnedFd, FsError> {
        match self.single_directory() {
            Some(single) => self.mount_single(single),
            None => self.join(&self.layers(None)?),
        }
    }

    fn append(&self, lower: &[Layer]) -> Result<OwnedFd, FsError> {
        let context = self.context()?;
        for layer in lower {
            context.set_string("lowerdir+", &layer.path)?;
        }
        self.set_upper(&context)?;
        context.mount(self.attributes())
    }

    fn join(&self, lower: &[Layer]) -> Result<OwnedFd, FsError> {
        let open: Vec<OwnedFd> = lower
            .iter()
            .map(|layer| open_directory(&layer.path))
            .collect::<Result<_, _>>()?;
        let names: Vec<[u8; 1]> = short_names().map(|name| [name]).take(open.len()).collect();
        let option = names.join(&b':');
        if names.len() < open.len() || option.len() > FSCONFIG_VALUE_MAX {
            return Err(FsError::new("mount overlay with lowerdir", Errno::E2BIG));
        }
        let links = FsContext::open("tmpfs")?.mount(Attributes::NONE)?;
        for (fd, name) in open.iter().zip(&names) {
            let target = format!("/proc/self/fd/{}", fd.as_raw_fd());
            symlinkat(target.as_str(), &links, OsStr::from_bytes(name))
                .map_err(|errno| FsError::new("link to a lower directory", errno))?;
        }
        within(&links, || {
            let context = self.context()?;
            context.set_string("lowerdir", OsStr::from_bytes(&option))?;
            self.set_upper(&context)?;
            context.mount(self.attributes())
        })
    }

    /// The kernel makes no overlay of one directory without an upper one.
    fn single_directory(&self) -> Option<&Path> {
        match (self.lower_dirs, self.upper) {
            ([single], None) => Some(single),
            _ => None,
        }
    }

    fn mount_single(&self, directory: &Path) -> Result<OwnedFd, FsError> {
        let fail = |errno| FsError::new(format!("bind {}", directory.display()), errno);
        let mount = clone_mount(directory, Recursion::This).map_err(fail)?;
        let read_only = Change {
            set: Attributes::READ_ONLY,
            id_map: self.id_map,
            ..Change::default()
        };
        change(&mount, &read_only, Recursion::This).map_err(fail)?;
        Ok(mount)
    }

    fn context(&self) -> Result<FsContext, FsError> {
        let context = FsContext::open("overlay")?;
        context.set_string("source", "overlay")?;
        // An index would tie the upper directory to these very lower directories; nothing that needs
        // it (NFS export, hard links across copy-up) is promised to containers.
        context.set_string("index", "off")?;
        if let Some(label) = self.context {
            context.set_string("context", label)?;
        }
        Ok(context)
    }

    fn layers(&self, staging: Option<BorrowedFd<'_>>) -> Result<Vec<Layer>, FsError> {
        let numbered = self.lower_dirs.iter().enumerate();
        numbered
            .map(|(number, directory)| {
                let layer = self.layer(directory)?;
                if let (Some(fd), Some(staging), Some(_)) = (&layer.fd, staging, self.id_map) {
                    attach_numbered(fd, staging, number)?;
                }
                Ok(layer)
            })
            .collect()
    }

    /// What is given to the kernel for a directory: its path; or that of a descriptor when it is
    /// mapped, or longer than a value may be.
    fn layer(&self, directory: &Path) -> Result<Layer, FsError> {
        let fd = if let Some(namespace) = self.id_map {
            Some(id_mapped(directory, namespace)?)
        } else if directory.as_os_str().len() > FSCONFIG_VALUE_MAX {
            Some(open_directory(directory)?)
        } else {
            None
        };
        let path = match &fd {
            Some(fd) => format!("/proc/self/fd/{}", fd.as_raw_fd()).into(),
            None => directory.to_owned(),
        };
        Ok(Layer { fd, path })
    }

    fn set_upper(&self, context: &FsContext) -> Result<(), FsError> {
        let Some(upper) = self.upper else {
            return Ok(());
        };
        if upper.volatile {
            context.set_flag("volatile")?;
        }
        context.set_string("upperdir", upper.upper_dir)?;
        context.set_string("workdir", upper.work_dir)
    }

    fn attributes(&self) -> Attributes {
        match self.upper {
            Some(_) => Attributes::NONE,
            None => Attributes::READ_ONLY,
        }
    }
}

fn id_mapped(directory: &Path, namespace: BorrowedFd<'_>) -> Result<OwnedFd, FsError> {
    let fail = |errno| FsError::new(format!("map the ids of {}", directory.display()), errno);
    let mount = clone_mount(directory, Recursion::This).map_err(fail)?;
    let mapped = Change {
        id_map: Some(namespace),
        ..Change::default()
    };
    change(mount.as_fd(), &mapped, Recursion::This).map_err(fail)?;
    Ok(mount)
}

fn attach_numbered(mount: &OwnedFd, staging: BorrowedFd<'_>, number: usize) -> Result<(), FsError> {
    let name = number.to_string();
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    mkdirat(staging, name.as_str(), Mode::S_IRWXU)
        .and_then(|()| openat(staging, name.as_str(), flags, Mode::empty()))
        .and_then(|target| attach(mount, target))
        .map_err(|errno| FsError::new(format!("attach lower directory {name}"), errno))
}

/// Whether overlays take their lower directories one by one. The version is what there is to ask:
/// older kernels complain in their log about an option that they do not know.
fn can_append() -> bool {
    const SINCE: (u32, u32) = (6, 7);
    kernel_version() >= SINCE
}

fn open_directory(path: &Path) -> Result<OwnedFd, FsError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty())
        .map_err(|errno| FsError::new(format!("open {}", path.display()), errno))
}

/// Names of one byte that mean nothing in a path or in a list of directories.
fn short_names() -> impl Iterator<Item = u8> {
    (1..=u8::MAX).filter(|byte| !b"/.:,\\".contains(byte))
}

/// Runs `mount` where relative paths begin in `directory`. A thread with a working directory of its own
/// does it, because the caller's belongs to the whole process.
///
/// The thread is gone afterwards: one that was joined counts as a part of the process for a moment longer,
/// and setns(2) lets no process with threads into a user namespace.
fn within(
    directory: &OwnedFd,
    mount: impl FnOnce() -> Result<OwnedFd, FsError> + Send,
) -> Result<OwnedFd, FsError> {
    let fail = |errno| FsError::new("enter a directory of links", errno);
    let body = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).map_err(fail)?;
        fchdir(directory).map_err(fail)?;
        mount()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .spawn_scoped(scope, || (gettid(), body()))
            .map_err(|_| fail(Errno::EAGAIN))?;
        let (thread, mounted) = thread.join().map_err(|_| fail(Errno::EFAULT))?;
        wait_until_gone(thread);
        mounted
    })
}

/// For a thread that has run to its end: nothing holds it up any more.
fn wait_until_gone(thread: Pid) {
    const LOOKS: u32 = 1000;
    const PAUSE: Duration = Duration::from_micros(50);
    let directory = PathBuf::from(format!("/proc/self/task/{thread}"));
    for _ in 0..LOOKS {
        if !directory.exists() {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}
