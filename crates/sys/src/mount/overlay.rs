//! Overlay file systems as detached mounts.

use super::{
    Attributes, Change, FSCONFIG_VALUE_MAX, FsContext, FsError, Recursion, change, clone_mount,
};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

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
    /// Keeps `path` valid where that names a descriptor.
    _fd: Option<OwnedFd>,
    path: PathBuf,
}

impl Overlay<'_> {
    /// Makes the overlay, detached.
    ///
    /// # Errors
    /// Those of the kernel, with what it said. `ENOENT` when a directory is missing.
    pub fn mount(&self) -> Result<OwnedFd, FsError> {
        match self.mount_appending() {
            // Before Linux 6.7 there is no `lowerdir+`.
            Err(error) if error.errno == Errno::EINVAL => {
                self.mount_joined().map_err(|joined| match joined.errno {
                    Errno::EINVAL => error,
                    _ => joined,
                })
            }
            done => done,
        }
    }

    fn mount_appending(&self) -> Result<OwnedFd, FsError> {
        if let Some(single) = self.single_directory() {
            return self.mount_single(single);
        }
        let context = self.context()?;
        let lower = self.layers()?;
        for layer in &lower {
            context.set_string("lowerdir+", &layer.path)?;
        }
        self.set_upper(&context)?;
        context.mount(self.attributes())
    }

    /// As [`Self::mount`] does it where the kernel cannot append lower directories: as one option of
    /// at most 255 bytes, into which descriptor numbers relative to `/proc/self/fd` fit for some 60
    /// directories. Public because a test on a newer kernel must reach it.
    ///
    /// # Errors
    /// As [`Self::mount`]; `E2BIG` for more directories than fit.
    pub fn mount_joined(&self) -> Result<OwnedFd, FsError> {
        if let Some(single) = self.single_directory() {
            return self.mount_single(single);
        }
        let lower = self.layers()?;
        let open: Vec<OwnedFd> = lower
            .iter()
            .map(|layer| open_directory(&layer.path))
            .collect::<Result<_, _>>()?;
        let numbers: Vec<String> = open.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
        let option = numbers.join(":");
        if option.len() > FSCONFIG_VALUE_MAX {
            return Err(FsError::new("mount overlay with lowerdir", Errno::E2BIG));
        }
        in_descriptor_directory(|| {
            let context = self.context()?;
            context.set_string("lowerdir", &option)?;
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

    fn layers(&self) -> Result<Vec<Layer>, FsError> {
        self.lower_dirs.iter().map(|dir| self.layer(dir)).collect()
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
        Ok(Layer { _fd: fd, path })
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

fn open_directory(path: &Path) -> Result<OwnedFd, FsError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty())
        .map_err(|errno| FsError::new(format!("open {}", path.display()), errno))
}

/// Runs `mount` where relative paths are descriptor numbers. A thread with a working directory of its
/// own does it, because the caller's belongs to the whole process.
fn in_descriptor_directory(
    mount: impl FnOnce() -> Result<OwnedFd, FsError> + Send,
) -> Result<OwnedFd, FsError> {
    let fail = |errno| FsError::new("enter /proc/self/fd", errno);
    let body = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).map_err(fail)?;
        nix::unistd::chdir("/proc/thread-self/fd").map_err(fail)?;
        mount()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .spawn_scoped(scope, body)
            .map_err(|_| fail(Errno::EAGAIN))?;
        thread.join().unwrap_or(Err(fail(Errno::EFAULT)))
    })
}
