//! The control groups of a process, opened while the host's are in sight and joined by the process: one
//! that moves itself waits for nobody (through `tasks`, on v1), and one that is born in its group need not
//! move at all (v2).

use crate::error::{Context, StartError};
use crisp_sys::cgroup::{CommonAncestor, open_unified};
use crisp_sys::mount::{Recursion, clone_mount_at};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, write};
use std::fs::read_to_string;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

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
        let ancestor = CommonAncestor::of(dirs);
        for dir in dirs {
            match tasks_of(&ancestor, dir)? {
                Some(tasks) => all.tasks.push(tasks),
                None => all.unified = Some(open_directory(dir)?),
            }
        }
        Ok(all)
    }

    /// Those of version 1 alone, for a process that was born in that of version 2.
    pub(super) fn open_tasks(dirs: &[PathBuf]) -> Result<Self, StartError> {
        let mut all = Self::default();
        let ancestor = CommonAncestor::of(dirs);
        for dir in dirs {
            all.tasks.extend(tasks_of(&ancestor, dir)?);
        }
        Ok(all)
    }

    /// The directory of version 2, if there is one, which is the last by custom.
    pub(crate) fn unified(dirs: &[PathBuf]) -> Result<Option<OwnedFd>, StartError> {
        for dir in dirs.iter().rev() {
            if let Some(opened) = open_unified(dir).step("open cgroup", dir)? {
                return Ok(Some(opened));
            }
        }
        Ok(None)
    }

    /// The directory of version 2, if there is one, in which a process that joins a container is to be born. Where the
    /// container's init has made groups below its own and handed controllers on to them, as systemd does, there are
    /// processes in these alone (kernel, admin-guide/cgroup-v2.rst, "no internal process constraint"): it goes where the
    /// init is.
    pub(crate) fn birthplace(dirs: &[PathBuf], init: Pid) -> Result<Option<OwnedFd>, StartError> {
        for dir in dirs.iter().rev() {
            // The file is one of version 2, whose directory is the last by custom.
            let Ok(handed_on) = read_to_string(dir.join("cgroup.subtree_control")) else {
                continue;
            };
            let mut dir = dir.clone();
            if !handed_on.trim().is_empty() {
                let path = format!("/proc/{init}/cgroup");
                let memberships = read_to_string(&path).step("read", &path)?;
                dir = below(&dir, &memberships).unwrap_or(dir);
            }
            return open_directory(&dir).map(Some);
        }
        Ok(None)
    }

    /// Takes the directory of version 2 out of the host's, to which `..` would lead whoever gets hold of it.
    pub(super) fn cut_off(&mut self) -> Result<(), StartError> {
        if let Some(dir) = &mut self.unified {
            *dir = clone_mount_at(&*dir, Recursion::This).step("cut off the cgroup", "")?;
        }
        Ok(())
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

/// The `tasks` file of a group; none: there is no such file in one of version 2.
fn tasks_of(
    ancestor: &CommonAncestor<'_>,
    dir: &Path,
) -> Result<Option<(PathBuf, OwnedFd)>, StartError> {
    let path = dir.join("tasks");
    match ancestor.open(&path) {
        Ok(tasks) => Ok(Some((path, tasks))),
        Err(Errno::ENOENT) if dir.exists() => Ok(None),
        Err(errno) => Err(errno).step("open", &path),
    }
}

fn open_directory(dir: &Path) -> Result<OwnedFd, StartError> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(dir, flags, Mode::empty()).step("open cgroup", dir)
}

/// The directory of the group below `dir` that a process is in, by what its `/proc/<pid>/cgroup` says
/// (cgroups(7)); none when it is elsewhere.
fn below(dir: &Path, memberships: &str) -> Option<PathBuf> {
    let path = memberships
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))?;
    let path = Path::new(path);
    // Where the hierarchy is mounted is not known: the longest beginning that the directory ends with is its own path.
    let own = path.ancestors().find(|own| dir.ends_with(own))?;
    match own.as_os_str().is_empty() {
        true => None,
        false => Some(dir.join(path.strip_prefix(own).ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_below_the_containers_alone() {
        let dir = Path::new("/sys/fs/cgroup/pods/crisp-1/0a");
        for (membership, found) in [
            ("0::/pods/crisp-1/0a/init.scope", Some("init.scope")),
            (
                "0::/pods/crisp-1/0a/a/pods/crisp-1/0a",
                Some("a/pods/crisp-1/0a"),
            ),
            ("0::/pods/crisp-1/0a", Some("")),
            ("0::/elsewhere", None),
            ("0::/", None),
            ("3:memory:/pods/crisp-1/0a", None),
        ] {
            let memberships = format!("1:name=systemd:/\n{membership}\n");
            let expected = found.map(|below| dir.join(below));
            assert_eq!(super::below(dir, &memberships), expected, "{membership}");
        }
    }
}
