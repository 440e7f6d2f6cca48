//! Making a cgroup in every hierarchy.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::controller::{Controller, Version};
use crate::hierarchies::{Hierarchies, Mount};
use crate::{CgroupPath, Error, file};

/// A parent may be removed between its making and that of its child; not for ever.
const MAKE_TRIES: u32 = 5;

/// Makes a cgroup in some of the hierarchies. See [`Hierarchies::create`].
pub(crate) fn create<'a>(
    hierarchies: &Hierarchies,
    mut mounts: impl Iterator<Item = &'a Mount>,
    path: &CgroupPath,
) -> Result<(), Error> {
    let mut made = Vec::new();
    let result = mounts.try_for_each(|mount| {
        if hierarchies.version() == Version::V2 {
            enable_controllers(hierarchies, mount, path, &mut made)?;
        }
        make_dir(hierarchies, mount, path, &mut made)?;
        prepare(hierarchies, mount, path)
    });
    if result.is_err() {
        for dir in made.iter().rev() {
            // Whoever uses it by now keeps it; the error that is returned is the first one.
            _ = fs::remove_dir(dir);
        }
    }
    result
}

/// Makes the cgroup in one hierarchy with the ancestors that are missing, and notes what it made. Never
/// makes the mount point.
fn make_dir(
    hierarchies: &Hierarchies,
    mount: &Mount,
    path: &CgroupPath,
    made: &mut Vec<PathBuf>,
) -> Result<(), Error> {
    let dir = path.below(&mount.dir);
    for _ in 0..MAKE_TRIES {
        let error = match hierarchies.make_dir(mount, path) {
            Ok(()) => {
                made.push(dir);
                return Ok(());
            }
            Err(error) => error,
        };
        let parent = path.parent().filter(|parent| !parent.is_root());
        match (error.kind(), parent) {
            (io::ErrorKind::AlreadyExists, _) => return Ok(()),
            (io::ErrorKind::NotFound, Some(parent)) => {
                make_dir(hierarchies, mount, &parent, made)?;
            }
            _ => return Err(Error::io("make", &dir)(error)),
        }
    }
    Err(Error::NotFound { path: dir })
}

/// What a new version 1 cgroup needs before a process can join it.
fn prepare(hierarchies: &Hierarchies, mount: &Mount, path: &CgroupPath) -> Result<(), Error> {
    if mount.carries(Controller::CpuSet) {
        fill_cpuset(&mount.dir, path)?;
    }
    if mount.carries(Controller::Memory) && !hierarchies.accounts_hierarchically() {
        account_hierarchically(&path.below(&mount.dir))?;
    }
    Ok(())
}

/// Gives an empty cpuset the cpus and memory nodes of its ancestors: the kernel lets no process into an
/// empty one.
fn fill_cpuset(mount_point: &Path, path: &CgroupPath) -> Result<(), Error> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        inherit(mount_point, path, name)?;
    }
    Ok(())
}

/// Has the next children of a cpuset, and theirs, start with a copy of it: filling each takes the kernel longer
/// with every cpuset that there is. The root's are not crisp's alone. What cannot be, since one of the children is
/// exclusive, is made up for by filling.
fn have_children_copy(mount_point: &Path, path: &CgroupPath) {
    if !path.is_root() {
        _ = file::write(&path.below(mount_point), "cgroup.clone_children", "1");
    }
}

/// Fills a file of a cpuset, and of its ancestors as far as they are empty; returns the content.
fn inherit(mount_point: &Path, path: &CgroupPath, name: &str) -> Result<String, Error> {
    let dir = path.below(mount_point);
    let own = cpuset(&dir, name)?;
    let (true, Some(parent)) = (own.is_empty(), path.parent()) else {
        return Ok(own);
    };
    have_children_copy(mount_point, &parent);
    let inherited = inherit(mount_point, &parent, name)?;
    file::write(&dir, name, &inherited).map_err(Error::io("fill the cpuset in", &dir))?;
    Ok(inherited)
}

fn cpuset(dir: &Path, name: &str) -> Result<String, Error> {
    let list = file::read(dir, name).map_err(Error::io("read the cpuset in", dir))?;
    Ok(list.trim().into())
}

const USE_HIERARCHY: &str = "memory.use_hierarchy";

/// Whether the memory of what is below a cgroup counts for it.
pub(crate) fn has_children_counted(dir: &Path) -> bool {
    file::read(dir, USE_HIERARCHY).is_ok_and(|value| value.trim() == "1")
}

/// Makes a cgroup's memory count for its ancestors. Since Linux 5.11 it always does; before, a cgroup
/// has to say so before it has children.
fn account_hierarchically(dir: &Path) -> Result<(), Error> {
    match file::read(dir, USE_HIERARCHY) {
        Ok(value) if value.trim() == "0" => file::write(dir, USE_HIERARCHY, "1")
            .map_err(Error::io("set memory.use_hierarchy in", dir)),
        Err(error) if !file::is_gone(&error) => {
            Err(Error::io("read memory.use_hierarchy in", dir)(error))
        }
        _ => Ok(()),
    }
}

/// Makes the ancestors of `path` on version 2, and has each hand all its controllers down.
fn enable_controllers(
    hierarchies: &Hierarchies,
    mount: &Mount,
    path: &CgroupPath,
    made: &mut Vec<PathBuf>,
) -> Result<(), Error> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    enable_controllers(hierarchies, mount, &parent, made)?;
    if !parent.is_root() {
        make_dir(hierarchies, mount, &parent, made)?;
    }
    hand_down(&parent.below(&mount.dir), hierarchies.controllers())
}

/// Enables the controllers for the children of `dir`.
///
/// One that cannot be enabled is passed over: it may not be delegated to crisp (EACCES, EPERM), be
/// missing in an ancestor (ENOENT), or be barred by processes in `dir` (EBUSY) or by real-time processes
/// (EINVAL), and no limit may ever need it. A limit that does is refused by `apply`, which names it.
fn hand_down(dir: &Path, controllers: &[Controller]) -> Result<(), Error> {
    const FILE: &str = "cgroup.subtree_control";
    let enabled =
        file::read(dir, FILE).map_err(Error::io("read cgroup.subtree_control in", dir))?;
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
        for (dir, list) in [("", "0-7\n"), ("a", "0-3\n"), ("a/b", "\n")] {
            let dir = cpuset.join(dir);
            fs::write(dir.join("cpuset.cpus"), list).unwrap();
            fs::write(dir.join("cpuset.mems"), list).unwrap();
            fs::write(dir.join("cgroup.clone_children"), "0\n").unwrap();
        }
        fill_cpuset(&cpuset, &CgroupPath::parse("/a/b").unwrap()).unwrap();
        let filled = cpuset.join("a/b");
        assert_eq!(super::cpuset(&filled, "cpuset.cpus").unwrap(), "0-3");
        assert_eq!(super::cpuset(&filled, "cpuset.mems").unwrap(), "0-3");
        let flag = |dir: &Path| file::read(dir, "cgroup.clone_children").unwrap();
        assert_eq!(flag(&cpuset.join("a")).trim(), "1");
        // One that is full needs nothing, and the root's children are not crisp's alone.
        fs::write(filled.join("cgroup.clone_children"), "0\n").unwrap();
        fs::create_dir(filled.join("c")).unwrap();
        for name in ["cpuset.cpus", "cpuset.mems"] {
            fs::write(filled.join("c").join(name), "0\n").unwrap();
        }
        fill_cpuset(&cpuset, &CgroupPath::parse("/a/b/c").unwrap()).unwrap();
        assert_eq!(flag(&filled).trim(), "0");
        fs::write(cpuset.join("a/cpuset.cpus"), "\n").unwrap();
        fill_cpuset(&cpuset, &CgroupPath::parse("/a").unwrap()).unwrap();
        assert_eq!(
            super::cpuset(&cpuset.join("a"), "cpuset.cpus").unwrap(),
            "0-7"
        );
        assert_eq!(flag(&cpuset).trim(), "0");
    }
}
