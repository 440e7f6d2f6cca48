//! Making a cgroup in every hierarchy.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::controller::{Controller, Version};
use crate::hierarchies::{Hierarchies, Mount};
use crate::{CgroupPath, Error, file};

/// See [`Hierarchies::create`].
pub(crate) fn create(hierarchies: &Hierarchies, path: &CgroupPath) -> Result<(), Error> {
    let mut made = Vec::new();
    let result = hierarchies.mounts().iter().try_for_each(|mount| {
        if hierarchies.version() == Version::V2 {
            enable_controllers(hierarchies, &mount.dir, path, &mut made)?;
        }
        make_dir(&path.below(&mount.dir), &mut made)?;
        prepare(mount, path)
    });
    if result.is_err() {
        for dir in made.iter().rev() {
            // Whoever uses it by now keeps it; the error that is returned is the first one.
            _ = fs::remove_dir(dir);
        }
    }
    result
}

/// Makes the directory and those above it that are missing, and notes what it made.
fn make_dir(dir: &Path, made: &mut Vec<PathBuf>) -> Result<(), Error> {
    let error = match fs::create_dir(dir) {
        Ok(()) => {
            made.push(dir.into());
            return Ok(());
        }
        Err(error) => error,
    };
    match (
        Errno::from_raw(error.raw_os_error().unwrap_or(0)),
        dir.parent(),
    ) {
        (Errno::EEXIST, _) => Ok(()),
        (Errno::ENOENT, Some(parent)) => {
            make_dir(parent, made)?;
            make_dir(dir, made)
        }
        _ => Err(Error::io("make", dir)(error)),
    }
}

/// What a new version 1 cgroup needs before a process can join it.
fn prepare(mount: &Mount, path: &CgroupPath) -> Result<(), Error> {
    if mount.carries(Controller::CpuSet) {
        inherit(&mount.dir, path, "cpuset.cpus")?;
        inherit(&mount.dir, path, "cpuset.mems")?;
    }
    if mount.carries(Controller::Memory) {
        account_hierarchically(&path.below(&mount.dir))?;
    }
    Ok(())
}

/// The content of a cpuset's file, filled from the parent's when it is empty: the kernel lets no process
/// into an empty cpuset.
fn inherit(mount_point: &Path, path: &CgroupPath, name: &str) -> Result<String, Error> {
    let dir = path.below(mount_point);
    let own = file::read(&dir, name).map_err(Error::io("read the cpuset in", &dir))?;
    let own = own.trim();
    let (true, Some(parent)) = (own.is_empty(), path.parent()) else {
        return Ok(own.into());
    };
    let inherited = inherit(mount_point, &parent, name)?;
    file::write(&dir, name, &inherited).map_err(Error::io("fill the cpuset in", &dir))?;
    Ok(inherited)
}

/// Makes a cgroup's memory count for its ancestors. Since Linux 5.11 it always does; before, a cgroup
/// has to say so before it has children.
fn account_hierarchically(dir: &Path) -> Result<(), Error> {
    const FILE: &str = "memory.use_hierarchy";
    match file::read(dir, FILE) {
        Ok(value) if value.trim() == "0" => {
            file::write(dir, FILE, "1").map_err(Error::io("set memory.use_hierarchy in", dir))
        }
        Err(error) if !file::is_gone(&error) => {
            Err(Error::io("read memory.use_hierarchy in", dir)(error))
        }
        _ => Ok(()),
    }
}

/// Makes the ancestors of `path` on version 2, and has each hand all its controllers down.
fn enable_controllers(
    hierarchies: &Hierarchies,
    mount_point: &Path,
    path: &CgroupPath,
    made: &mut Vec<PathBuf>,
) -> Result<(), Error> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    enable_controllers(hierarchies, mount_point, &parent, made)?;
    let dir = parent.below(mount_point);
    if !parent.is_root() {
        make_dir(&dir, made)?;
    }
    hand_down(&dir, hierarchies.controllers())
}

/// Enables the controllers for the children of `dir`.
///
/// One that cannot be enabled is passed over: it may not be delegated to crisp (EACCES, EPERM), be
/// missing in an ancestor (ENOENT), or be barred by processes in `dir` (EBUSY) or by real-time processes
/// (EINVAL), and no limit may ever need it. A limit that does is refused by `apply`, which names it.
fn hand_down(dir: &Path, controllers: &[Controller]) -> Result<(), Error> {
    const FILE: &str = "cgroup.subtree_control";
    let enabled = match file::read(dir, FILE) {
        Ok(enabled) => enabled,
        Err(error) => return Err(Error::io("read cgroup.subtree_control in", dir)(error)),
    };
    let missing: Vec<String> = controllers
        .iter()
        .map(|controller| controller.name(Version::V2))
        .filter(|name| !enabled.split_whitespace().any(|enabled| enabled == *name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() || tolerate(file::write(dir, FILE, &missing.join(" ")), dir)? {
        return Ok(());
    }
    for controller in missing {
        tolerate(file::write(dir, FILE, &controller), dir)?;
    }
    Ok(())
}

/// Whether the controllers were enabled; false for the reasons that [`hand_down`] passes over.
fn tolerate(written: io::Result<()>, dir: &Path) -> Result<bool, Error> {
    const PASSED_OVER: [Errno; 6] = [
        Errno::EACCES,
        Errno::EPERM,
        Errno::EROFS,
        Errno::ENOENT,
        Errno::EBUSY,
        Errno::EINVAL,
    ];
    match written {
        Ok(()) => Ok(true),
        Err(error) if PASSED_OVER.iter().any(|errno| file::is(&error, *errno)) => Ok(false),
        Err(error) => Err(Error::io("enable controllers in", dir)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2_root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let controllers = "cpu io memory pids\n";
        fs::write(root.path().join("cgroup.controllers"), controllers).unwrap();
        fs::write(root.path().join("cgroup.subtree_control"), "cpu\n").unwrap();
        root
    }

    #[test]
    fn version_2_ancestors_hand_down_what_is_missing() {
        let root = v2_root();
        let hierarchies = Hierarchies::at(root.path()).unwrap();
        let path = CgroupPath::parse("/pod").unwrap();
        let cgroup = hierarchies.create(&path).unwrap();
        assert!(cgroup.exists());
        let written = file::read(root.path(), "cgroup.subtree_control").unwrap();
        assert_eq!(written, "+io +memory +pids");
    }

    #[test]
    fn a_failure_removes_what_was_made() {
        let root = v2_root();
        let hierarchies = Hierarchies::at(root.path()).unwrap();
        // Directories of a temporary file system have no cgroup.subtree_control.
        let path = CgroupPath::parse("/parent/pod/container").unwrap();
        assert!(hierarchies.create(&path).is_err());
        assert!(!root.path().join("parent").exists());
    }

    #[test]
    fn empty_cpusets_are_filled_from_the_nearest_ancestor() {
        let root = tempfile::tempdir().unwrap();
        let cpuset = root.path().join("cpuset");
        fs::create_dir_all(cpuset.join("a/b")).unwrap();
        for (dir, cpus) in [("", "0-7\n"), ("a", "0-3\n"), ("a/b", "\n")] {
            fs::write(cpuset.join(dir).join("cpuset.cpus"), cpus).unwrap();
        }
        let path = CgroupPath::parse("/a/b").unwrap();
        assert_eq!(inherit(&cpuset, &path, "cpuset.cpus").unwrap(), "0-3");
        assert_eq!(
            file::read(&cpuset.join("a/b"), "cpuset.cpus").unwrap(),
            "0-3\n"[..3]
        );
    }
}
