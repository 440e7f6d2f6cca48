//! The cgroup of a container, as its shim needs it: who is in it, kill them all, was it the OOM killer.
//!
//! On v1 a cgroup is a directory in each hierarchy, all with the same processes; on v2 it is one.

use crisp_sys::cgroup::{CommonAncestor, open_unified};
use crisp_sys::process::{kill, pidfd_open, pidfd_send_signal};
use nix::errno::Errno;
use nix::unistd::{Pid, write};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Processes killed in one pass over a v1 cgroup, so that a fork bomb does not hold up the loop.
const MAX_KILLED_PER_PASS: usize = 4096;

/// Cgroups below a container's that are looked into.
const MAX_DESCENDANTS: usize = 1024;

/// The directories that the processes of a container have joined.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cgroup {
    dirs: Vec<PathBuf>,
}

impl Cgroup {
    pub(crate) fn new(dirs: Vec<PathBuf>) -> Self {
        Self { dirs }
    }

    pub(crate) fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// The processes in it and in those that the container has made below it, in the shim's pid namespace.
    /// None are left when the cgroup is gone.
    pub(crate) fn processes(&self) -> BTreeSet<Pid> {
        let mut dirs = self.dirs.iter();
        let own = dirs.find_map(|dir| Some((dir, read(dir, "cgroup.procs")?)));
        let Some((dir, list)) = own else {
            return BTreeSet::new();
        };
        let below = descendants(dir);
        let lists = below.iter().filter_map(|dir| read(dir, "cgroup.procs"));
        let lists: Vec<String> = lists.chain([list]).collect();
        let pids = lists.iter().flat_map(|list| list.lines());
        pids.filter_map(|line| line.parse().ok())
            .filter(|&pid| pid > 0)
            .map(Pid::from_raw)
            .collect()
    }

    /// Kills all processes, without waiting for their end. Returns whether there were none.
    pub(crate) fn kill(&self) -> bool {
        let processes = self.processes();
        if processes.is_empty() {
            return true;
        }
        if !self.kill_at_once() {
            self.kill_each(processes);
        }
        false
    }

    /// Sends a signal to all processes.
    pub(crate) fn signal(&self, signal: i32) {
        for (_, pidfd) in self.hold(self.processes()) {
            // It has ended meanwhile.
            let _ = pidfd_send_signal(&pidfd, signal);
        }
    }

    /// Whether the OOM killer has killed a process of it.
    pub(crate) fn was_oom_killed(&self) -> bool {
        let counts = |dir: &PathBuf| {
            let mut files = ["memory.oom_control", "memory.events"].iter();
            files.find_map(|file| read(dir, file))
        };
        // One of them counts memory.
        let text = self.dirs.iter().find_map(counts).unwrap_or_default();
        oom_kills(&text) > 0
    }

    /// `cgroup.kill` (v2 from Linux 5.14) also gets processes that are being forked.
    fn kill_at_once(&self) -> bool {
        self.dirs
            .iter()
            .any(|dir| write_existing(&dir.join("cgroup.kill"), "1").is_ok())
    }

    /// Kills one by one. Frozen processes (v1's freezer) cannot fork faster than they are killed; they
    /// die when they are thawed.
    fn kill_each(&self, processes: BTreeSet<Pid>) {
        let frozen = self.freeze();
        let processes = match frozen {
            true => self.processes(),
            false => processes,
        };
        for (_, pidfd) in self.hold(processes.into_iter().take(MAX_KILLED_PER_PASS).collect()) {
            kill(&pidfd);
        }
        if frozen {
            self.set_freezer("THAWED");
        }
    }

    /// Pidfds of processes. A number that has come to mean a process outside is left out: what is
    /// still in the cgroup after its pidfd was opened was in it when it was.
    pub(crate) fn hold(&self, processes: BTreeSet<Pid>) -> Vec<(Pid, OwnedFd)> {
        let opened: Vec<_> = processes
            .into_iter()
            .filter_map(|pid| pidfd_open(pid).ok().map(|pidfd| (pid, pidfd)))
            .collect();
        let members = self.processes();
        opened
            .into_iter()
            .filter(|(pid, _)| members.contains(pid))
            .collect()
    }

    /// Moves a process that may be long in dying, as it waits for a file system, into the shim's own group of
    /// version 2: that of the container can be removed without it.
    pub(crate) fn expel(&self, pid: Pid) -> io::Result<()> {
        let Some((position, _)) = unified(&self.dirs)? else {
            return Ok(());
        };
        let dir = &self.dirs[position];
        // It may be gone, or be elsewhere.
        let its = membership(&pid.to_string()).ok();
        let Some(root) = its.and_then(|its| root_of(dir, &its)) else {
            return Ok(());
        };
        let procs = root.join(membership("self")?).join("cgroup.procs");
        match write_existing(&procs, &pid.to_string()) {
            Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(()),
            moved => moved,
        }
    }

    fn freeze(&self) -> bool {
        self.set_freezer("FROZEN")
    }

    fn set_freezer(&self, state: &str) -> bool {
        self.dirs
            .iter()
            .any(|dir| write_existing(&dir.join("freezer.state"), state).is_ok())
    }
}

/// Takes out the directory of the version 2 hierarchy, which a process can be born in.
pub(crate) fn take_unified(dirs: &mut Vec<PathBuf>) -> io::Result<Option<OwnedFd>> {
    Ok(unified(dirs)?.map(|(position, dir)| {
        dirs.remove(position);
        dir
    }))
}

/// The directory of the version 2 hierarchy, and its position; the last by custom.
fn unified(dirs: &[PathBuf]) -> io::Result<Option<(usize, OwnedFd)>> {
    for (position, path) in dirs.iter().enumerate().rev() {
        let opened = open_unified(path).map_err(|errno| {
            let error = io::Error::from(errno);
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
        if let Some(dir) = opened {
            return Ok(Some((position, dir)));
        }
    }
    Ok(None)
}

/// The group of version 2 that a process is in, relative to the root of the hierarchy (cgroups(7)).
fn membership(process: &str) -> io::Result<PathBuf> {
    let memberships = fs::read_to_string(format!("/proc/{process}/cgroup"))?;
    let mut lines = memberships.lines();
    let path = lines.find_map(|line| line.strip_prefix("0::/"));
    path.map(PathBuf::from)
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Where a hierarchy is mounted, of which `dir` is the group `path`.
fn root_of<'a>(dir: &'a Path, path: &Path) -> Option<&'a Path> {
    let is_it = dir.ends_with(path);
    dir.ancestors()
        .nth(path.components().count())
        .filter(|_| is_it)
}

/// Has the calling process join a cgroup of version 1 by its directory, which is below the ancestor. Writing to `tasks`
/// moves the one thread, which spares the kernel the lock that moving a whole process takes.
pub(crate) fn join(ancestor: &CommonAncestor<'_>, dir: &Path) -> nix::Result<()> {
    let tasks = ancestor.open(&dir.join("tasks"))?;
    write(tasks, b"0").map(drop)
}

/// The cgroups below one, so many at most: they are the container's making.
fn descendants(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    let mut next = 0;
    while next < found.len() && found.len() < MAX_DESCENDANTS {
        // One that is gone has none.
        let entries = fs::read_dir(&found[next]).into_iter().flatten().flatten();
        let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        found.extend(below.map(|entry| entry.path()));
        next += 1;
    }
    found.split_off(1)
}

fn write_existing(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::File::options().write(true).open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())
}

fn read(dir: &Path, file: &str) -> Option<String> {
    match fs::read_to_string(dir.join(file)) {
        Ok(text) => Some(text),
        // A v2 cgroup of threads lists no processes; its parents do, and they are not ours.
        Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => Some(String::new()),
        Err(_) => None,
    }
}

/// The line `oom_kill <n>`, the same in both versions.
fn oom_kills(text: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.strip_prefix("oom_kill "))
        .find_map(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroup_with(files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let missing = dir.path().join("missing");
        let cgroup = Cgroup::new(vec![missing, dir.path().to_owned()]);
        (dir, cgroup)
    }

    #[test]
    fn an_oom_kill_is_seen_in_both_versions() {
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n";
        let v2 = "low 0\nhigh 0\nmax 4\noom 1\noom_kill 1\noom_group_kill 0\n";
        let none = "oom 4\noom_kill 0\n";
        assert!(
            cgroup_with(&[("memory.oom_control", v1)])
                .1
                .was_oom_killed()
        );
        assert!(cgroup_with(&[("memory.events", v2)]).1.was_oom_killed());
        assert!(!cgroup_with(&[("memory.events", none)]).1.was_oom_killed());
        assert!(!cgroup_with(&[]).1.was_oom_killed());
    }

    #[test]
    fn processes_are_those_that_this_namespace_sees() {
        let (_dir, cgroup) = cgroup_with(&[("cgroup.procs", "12\n0\n7\n")]);
        let pids: Vec<i32> = cgroup.processes().into_iter().map(Pid::as_raw).collect();
        assert_eq!(pids, [7, 12]);
    }

    #[test]
    fn processes_in_cgroups_of_the_containers_making_are_its_own() {
        let (dir, cgroup) = cgroup_with(&[("cgroup.procs", "7\n")]);
        let below = dir.path().join("a/b");
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join("cgroup.procs"), "12\n").unwrap();
        let pids: Vec<i32> = cgroup.processes().into_iter().map(Pid::as_raw).collect();
        assert_eq!(pids, [7, 12]);
    }

    #[test]
    fn a_cgroup_that_is_gone_is_empty() {
        assert!(Cgroup::new(vec![PathBuf::from("/nonexistent")]).kill());
        assert!(Cgroup::default().kill());
    }
}
