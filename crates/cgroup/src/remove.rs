//! Removing a cgroup from every hierarchy.

use std::fs;
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::hierarchies::Mount;
use crate::{Cgroup, Error, file};

/// How long a cgroup may stay in use by processes that are already dying.
const REMOVE_BOUND: Duration = Duration::from_secs(2);
/// Pauses between tries grow from the first to the second.
const FIRST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

impl Cgroup {
    /// Removes it with all below it. What is not there is removed already. Processes in it must have been
    /// killed; for those that are still dying it waits, within a bound ([`Error::Busy`]).
    pub fn remove(&self) -> Result<(), Error> {
        self.refuse_root()?;
        let deadline = Instant::now() + REMOVE_BOUND;
        let results: Vec<_> = self
            .dirs()
            .iter()
            .map(|dir| remove_until(dir, deadline))
            .collect();
        if let Some(mount) = self.hierarchies().hybrid() {
            self.prune_ancestors(mount);
        }
        results.into_iter().collect()
    }

    /// Removes it with all below it if no process is left in it, and says whether it is gone. Never waits, and
    /// costs a fraction of looking for processes: the kernel removes no cgroup that has some.
    pub fn remove_if_empty(&self) -> Result<bool, Error> {
        self.refuse_root()?;
        let gone = self.try_remove(remove_tree)?;
        if let Some(mount) = self.hierarchies().hybrid().filter(|_| gone) {
            self.prune_ancestors(mount);
        }
        Ok(gone)
    }

    fn refuse_root(&self) -> Result<(), Error> {
        match self.path().is_root() {
            true => Err(Error::InvalidPath {
                path: self.path().to_string(),
                reason: "the root cgroup cannot be removed",
            }),
            false => Ok(()),
        }
    }

    /// On a hybrid host nobody but crisp made the ancestors in the version 2 hierarchy: the kubelet knows
    /// version 1 only, and would leave those of its pods there for ever. They are made again when needed.
    fn prune_ancestors(&self, mount: &Mount) {
        let mut ancestor = self.path().parent();
        while let Some(path) = ancestor.filter(|path| !path.is_root()) {
            // One that is in use ends this; so are all above it.
            if fs::remove_dir(path.below(&mount.dir)).is_err() {
                return;
            }
            ancestor = path.parent();
        }
    }

    /// Removes it if nothing is below it and no process is in it, and says whether it is gone. Its ancestors
    /// stay in any case.
    pub fn remove_if_unused(&self) -> Result<bool, Error> {
        self.try_remove(|dir| fs::remove_dir(dir))
    }

    /// Tries to remove it in each hierarchy, and says whether it is gone in all.
    fn try_remove(&self, remove: impl Fn(&Path) -> io::Result<()>) -> Result<bool, Error> {
        let mut gone = true;
        for dir in self.dirs() {
            match remove(&dir) {
                Err(error) if is_in_use(&error) => gone = false,
                Err(error) if !file::is_gone(&error) => {
                    return Err(Error::io("remove", &dir)(error));
                }
                _ => {}
            }
        }
        Ok(gone)
    }
}

fn remove_until(dir: &Path, deadline: Instant) -> Result<(), Error> {
    let mut pause = FIRST_PAUSE;
    loop {
        match remove_tree(dir) {
            Err(error) if !is_in_use(&error) => return Err(Error::io("remove", dir)(error)),
            Err(_) if Instant::now() >= deadline => {
                return Err(Error::Busy {
                    path: dir.into(),
                    state: "in use",
                    bound: REMOVE_BOUND,
                });
            }
            Err(_) => sleep(pause),
            Ok(()) => return Ok(()),
        }
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

/// Children first when there are any. The kernel's files in a cgroup go with it.
fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(error) if file::is_gone(&error) => return Ok(()),
        Err(error) if !is_in_use(&error) => return Err(error),
        Err(_) => {}
        Ok(()) => return Ok(()),
    }
    for child in file::children(dir).or_else(gone_is_empty)? {
        remove_tree(&child)?;
    }
    match fs::remove_dir(dir) {
        Err(error) if file::is_gone(&error) => Ok(()),
        other => other,
    }
}

fn gone_is_empty<T>(error: io::Error) -> io::Result<Vec<T>> {
    match file::is_gone(&error) {
        true => Ok(Vec::new()),
        false => Err(error),
    }
}

/// By processes or by children.
fn is_in_use(error: &io::Error) -> bool {
    file::is(error, Errno::EBUSY) || file::is(error, Errno::ENOTEMPTY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CgroupPath, Hierarchies};

    #[test]
    fn children_go_first_and_twice_is_fine() {
        let root = tempfile::tempdir().unwrap();
        for dir in ["cpu/pod/a/b", "cpu/pod/c", "pids/pod/a", "pids/other"] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        let hierarchies = Hierarchies::at(root.path()).unwrap();
        let pod = hierarchies.open(&CgroupPath::parse("/pod").unwrap());
        assert!(!pod.remove_if_unused().unwrap());
        // What cannot be removed is in the way of nothing else.
        fs::write(root.path().join("cpu/pod/a/process"), "").unwrap();
        assert!(!pod.remove_if_empty().unwrap());
        assert!(!root.path().join("pids/pod").exists());
        fs::remove_file(root.path().join("cpu/pod/a/process")).unwrap();
        pod.remove().unwrap();
        pod.remove().unwrap();
        assert!(pod.remove_if_unused().unwrap() && pod.remove_if_empty().unwrap());
        assert!(!root.path().join("cpu/pod").exists());
        assert!(root.path().join("pids/other").exists());
        assert!(hierarchies.open(&CgroupPath::root()).remove().is_err());
    }

    #[test]
    fn a_hybrid_hosts_version_2_keeps_no_empty_ancestors() {
        let root = tempfile::tempdir().unwrap();
        for dir in [
            "pids/kubepods/a/pod",
            "unified/kubepods/a/pod",
            "unified/kubepods/b",
        ] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        let hierarchies = Hierarchies::at(root.path()).unwrap();
        let pod = hierarchies.open(&CgroupPath::parse("/kubepods/a/pod").unwrap());
        pod.remove().unwrap();
        assert!(root.path().join("pids/kubepods/a").exists());
        assert!(!root.path().join("unified/kubepods/a").exists());
        assert!(root.path().join("unified/kubepods/b").exists());
    }
}
