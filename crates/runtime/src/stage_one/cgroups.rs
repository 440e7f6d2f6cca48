//! The control groups of a process, opened by the first stage and joined by the second: a process
//! that moves itself waits for nobody (through `tasks`, on v1), and one that is born in its group
//! need not move at all (v2).

use crate::error::{Context, StartError};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
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

    /// Those of a process that joins a container. Where the container's init has made groups below its own and handed
    /// controllers on to them, as systemd does, there are processes in these alone (kernel,
    /// admin-guide/cgroup-v2.rst, "no internal process constraint"): it goes where the init is.
    pub(super) fn open_with_init(dirs: &[PathBuf], init: Pid) -> Result<Self, StartError> {
        let mut own = dirs.to_vec();
        for dir in &mut own {
            let handed_on = read_to_string(dir.join("cgroup.subtree_control"));
            if handed_on.is_ok_and(|controllers| !controllers.trim().is_empty()) {
                let path = format!("/proc/{init}/cgroup");
                let memberships = read_to_string(&path).step("read", &path)?;
                *dir = below(dir, &memberships).unwrap_or_else(|| dir.clone());
            }
        }
        Self::open(&own)
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
