//! The control groups of a process, opened by the first stage and joined by the second: a process
//! that moves itself waits for nobody (through `tasks`, on v1), and one that is born in its group
//! need not move at all (v2).

use crate::error::{Context, StartError};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use nix::unistd::write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Control groups to be in.
#[derive(Debug, Default)]
pub(crate) struct Cgroups {
    /// The `tasks` files of hierarchies of version 1.
    tasks: Vec<(PathBuf, OwnedFd)>,
    unified: Option<OwnedFd>,
}

impl Cgroups {
    pub(super) fn open(dirs: &[PathBuf]) -> Result<Self, StartError> {
        let mut all = Self::default();
        for path in dirs {
            let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let dir = open(path, flags, Mode::empty()).step("open cgroup", path)?;
            let fs_type = fstatfs(&dir)
                .step("look at cgroup", path)?
                .filesystem_type();
            if fs_type == CGROUP2_SUPER_MAGIC {
                all.unified = Some(dir);
            } else {
                let path = path.join("tasks");
                let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
                let tasks = open(&path, flags, Mode::empty()).step("open", &path)?;
                all.tasks.push((path, tasks));
            }
        }
        Ok(all)
    }

    /// Where a process is to be born.
    pub(super) fn unified_dir(&self) -> Option<OwnedFd> {
        self.unified.as_ref().and_then(|dir| dir.try_clone().ok())
    }

    /// Moves the caller into the groups of version 1; those who opened the files need the permission,
    /// so that it works from within a user namespace.
    pub(crate) fn join(&self) -> Result<(), StartError> {
        for (path, tasks) in &self.tasks {
            write(tasks, b"0").step("join cgroup by", path)?;
        }
        Ok(())
    }
}
