//! The processes of a cgroup: listing, freezing and killing them.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crisp_sys::process::{pidfd_open, pidfd_send_signal};
use nix::errno::Errno;
use nix::libc::SIGKILL;
use nix::unistd::Pid;

use crate::controller::Controller;
use crate::hierarchies::Mount;
use crate::{Cgroup, Error, file, parse};

/// How long `kill` waits for killed processes to be gone: those that wait for a disk or a network file
/// system die when that answers.
const KILL_BOUND: Duration = Duration::from_secs(10);
/// How long `freeze` and `thaw` wait for the kernel to say that it is done.
const FREEZE_BOUND: Duration = Duration::from_secs(5);
/// Pauses between looks grow from the first to the second.
const FIRST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

impl Cgroup {
    /// The processes in it and below it, in any hierarchy: one that is about to join has not yet done so
    /// in all. Ended processes that nobody has waited for are not among them.
    pub fn pids(&self) -> Result<Vec<u32>, Error> {
        let mut pids = BTreeSet::new();
        for dir in self.dirs() {
            pids.extend(pids_below(&dir).map_err(|error| self.unreadable(&dir, error))?);
        }
        Ok(pids.into_iter().collect())
    }

    /// Ends every process in it and below it with SIGKILL, and returns when none is left; frozen ones
    /// too. Bounded: [`Error::Busy`] when some are still there. A cgroup that does not exist has none.
    ///
    /// Refuses the root cgroup, and one that holds the calling process.
    pub fn kill(&self) -> Result<(), Error> {
        if self.path().is_root() {
            return Err(self.not_to_kill("the root cgroup is not crisp's to kill"));
        }
        let pids = self.living()?;
        if pids.is_empty() {
            return Ok(());
        }
        if pids.contains(&std::process::id()) {
            return Err(self.not_to_kill("the calling process is in it"));
        }
        let deadline = Instant::now() + KILL_BOUND;
        self.kill_at_once(deadline)?;
        self.kill_one_by_one(deadline)
    }

    fn not_to_kill(&self, reason: &'static str) -> Error {
        Error::InvalidPath {
            path: self.path().to_string(),
            reason,
        }
    }

    /// Like [`Self::pids`], where no cgroup means no processes.
    fn living(&self) -> Result<Vec<u32>, Error> {
        let mut pids = BTreeSet::new();
        for dir in self.dirs() {
            match pids_below(&dir) {
                Err(error) if file::is_gone(&error) => {}
                other => pids.extend(other.map_err(|error| self.unreadable(&dir, error))?),
            }
        }
        Ok(pids.into_iter().collect())
    }

    /// Where the kernel has `cgroup.kill` (5.14), one write reaches all that are in the version 2
    /// hierarchy, forking ones too. A process may be missing there that is elsewhere.
    fn kill_at_once(&self, deadline: Instant) -> Result<(), Error> {
        let Some(dir) = self.unified_dir() else {
            return Ok(());
        };
        match file::write(&dir, "cgroup.kill", "1") {
            Err(error) if file::is_gone(&error) => return Ok(()),
            other => other.map_err(Error::io("kill the processes in", &dir))?,
        }
        self.thaw_for_signals();
        let mut pause = FIRST_PAUSE;
        while self.is_populated(&dir)? {
            if Instant::now() >= deadline {
                return Err(self.busy("in use", KILL_BOUND));
            }
            sleep(pause);
            pause = LONGEST_PAUSE.min(pause * 2);
        }
        Ok(())
    }

    fn is_populated(&self, dir: &Path) -> Result<bool, Error> {
        match file::read(dir, "cgroup.events") {
            Ok(events) => Ok(parse::FlatKeyed(&events).get("populated") == Some(1)),
            Err(error) if file::is_gone(&error) => Ok(false),
            Err(error) => Err(self.unreadable(dir, error)),
        }
    }

    /// Kills what is listed until nothing is, with forks barred meanwhile so that it ends.
    fn kill_one_by_one(&self, deadline: Instant) -> Result<(), Error> {
        let mut pause = FIRST_PAUSE;
        let mut barred = None;
        loop {
            let pids = self.living()?;
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.busy("in use", KILL_BOUND));
            }
            if barred.is_none() {
                barred = Some(self.bar_forks());
            }
            self.kill_members(&pids)?;
            self.thaw_for_signals();
            sleep(pause);
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// Signals reach the members only: a number that is reused between the listing and the signal either
    /// has a new owner that is not listed again, or its descriptor is of the dead one.
    fn kill_members(&self, pids: &[u32]) -> Result<(), Error> {
        let processes: Vec<(u32, OwnedFd)> = pids.iter().filter_map(|pid| open(*pid)).collect();
        let members = self.living()?;
        for (pid, process) in processes {
            if members.binary_search(&pid).is_ok() {
                // An error is ESRCH: it is dead, which is what was wanted.
                _ = pidfd_send_signal(process, SIGKILL);
            }
        }
        Ok(())
    }

    /// No process of the cgroup can fork while the result lives.
    fn bar_forks(&self) -> ForkBar<'_> {
        let before = self
            .content(Controller::Pids, "pids.max")
            .ok()
            .flatten()
            .filter(|_| self.write_pids_max("0").is_ok());
        ForkBar {
            cgroup: self,
            before,
        }
    }

    fn write_pids_max(&self, value: &str) -> Result<(), Error> {
        match self.dir_of(Controller::Pids) {
            Some(dir) => file::write(&dir, "pids.max", value).map_err(Error::io("limit", &dir)),
            None => Ok(()),
        }
    }

    /// Version 1's freezer keeps signals from frozen processes (version 2's does not).
    fn thaw_for_signals(&self) {
        if let Some(dir) = self.dir_of(Controller::Freezer) {
            for dir in [dir.clone()].into_iter().chain(file::descendants(&dir)) {
                // What cannot be thawed stays, and is reported as such.
                _ = file::write(&dir, "freezer.state", "THAWED");
            }
        }
    }

    /// Stops every process in it and below it, and returns when all are stopped.
    pub fn freeze(&self) -> Result<(), Error> {
        self.freezer(Freezer::Frozen)
    }

    /// Lets them go on.
    pub fn thaw(&self) -> Result<(), Error> {
        self.freezer(Freezer::Thawed)
    }

    fn freezer(&self, wanted: Freezer) -> Result<(), Error> {
        if let Some(mount) = self.hierarchies().mount_of(Controller::Freezer) {
            let state = match wanted {
                Freezer::Frozen => "FROZEN",
                Freezer::Thawed => "THAWED",
            };
            return self.set_freezer(mount, "freezer.state", state, wanted, || {
                Ok(self.text(mount, "freezer.state")?.as_deref().map(str::trim) == Some(state))
            });
        }
        let Some(mount) = self.hierarchies().unified() else {
            return Err(Error::unsupported("freezing", "this host has no freezer"));
        };
        let (write, done) = match wanted {
            Freezer::Frozen => ("1", 1),
            Freezer::Thawed => ("0", 0),
        };
        self.set_freezer(mount, "cgroup.freeze", write, wanted, || {
            let events = self.text(mount, "cgroup.events")?.unwrap_or_default();
            Ok(parse::FlatKeyed(&events).get("frozen") == Some(done))
        })
    }

    /// Writes again at each look: version 1 may miss processes that were just made.
    fn set_freezer(
        &self,
        mount: &Mount,
        file: &str,
        value: &str,
        wanted: Freezer,
        is_done: impl Fn() -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let dir = self.dir_in(mount);
        let deadline = Instant::now() + FREEZE_BOUND;
        let mut pause = FIRST_PAUSE;
        loop {
            file::write(&dir, file, value).map_err(|error| self.unreadable(&dir, error))?;
            if is_done()? {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.busy(wanted.lacking(), FREEZE_BOUND));
            }
            sleep(pause);
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    pub(crate) fn busy(&self, state: &'static str, bound: Duration) -> Error {
        Error::Busy {
            path: self.path().as_str().into(),
            state,
            bound,
        }
    }
}

#[derive(Clone, Copy)]
enum Freezer {
    Frozen,
    Thawed,
}

impl Freezer {
    /// What a cgroup is that did not get there.
    fn lacking(self) -> &'static str {
        match self {
            Self::Frozen => "not frozen",
            Self::Thawed => "frozen",
        }
    }
}

/// Gives the cgroup its limit on processes back.
struct ForkBar<'a> {
    cgroup: &'a Cgroup,
    before: Option<String>,
}

impl Drop for ForkBar<'_> {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // The cgroup may be gone, and then needs no limit.
            _ = self.cgroup.write_pids_max(before.trim());
        }
    }
}

fn open(pid: u32) -> Option<(u32, OwnedFd)> {
    let raw = i32::try_from(pid).ok()?;
    Some((pid, pidfd_open(Pid::from_raw(raw)).ok()?))
}

/// The processes in `dir` and the cgroups below it. Fails when `dir` itself cannot be read.
fn pids_below(dir: &Path) -> std::io::Result<Vec<u32>> {
    let mut pids = pids_in(dir)?;
    for below in file::descendants(dir) {
        // One that went away meanwhile was empty.
        pids.extend(pids_in(&below).unwrap_or_default());
    }
    Ok(pids)
}

/// A threaded cgroup of version 2 has no list; its processes are in that of the domain above it.
fn pids_in(dir: &Path) -> std::io::Result<Vec<u32>> {
    match file::read_list(dir, "cgroup.procs") {
        Err(error) if file::is(&error, Errno::EOPNOTSUPP) => Ok(Vec::new()),
        other => Ok(pids_of(&other?)),
    }
}

/// One number per line. Zero stands for a process outside this pid namespace: nothing that can be named.
fn pids_of(procs: &str) -> Vec<u32> {
    let pids = procs.lines().filter_map(|line| line.trim().parse().ok());
    pids.filter(|pid| *pid != 0).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{CgroupPath, Hierarchies};

    #[test]
    fn pids_are_numbers_on_lines() {
        assert_eq!(pids_of("1\n23\n0\nx\n"), [1, 23]);
        assert_eq!(pids_of(""), [0; 0]);
    }

    #[test]
    fn pids_of_all_hierarchies_and_children_are_listed_once() {
        let root = tempfile::tempdir().unwrap();
        for (dir, procs) in [
            ("cpu/pod", "3\n"),
            ("cpu/pod/a", "1\n2\n"),
            ("pids/pod", ""),
            ("pids/pod/a", "2\n7\n"),
        ] {
            let dir = root.path().join(dir);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("cgroup.procs"), procs).unwrap();
        }
        let hierarchies = Hierarchies::at(root.path()).unwrap();
        let pod = hierarchies.open(&CgroupPath::parse("/pod").unwrap());
        assert_eq!(pod.pids().unwrap(), [1, 2, 3, 7]);
    }

    #[test]
    fn killing_the_root_or_oneself_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("cpu/own");
        fs::create_dir_all(&own).unwrap();
        fs::write(own.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        let hierarchies = Hierarchies::at(root.path()).unwrap();
        for path in ["/", "/own"] {
            let cgroup = hierarchies.open(&CgroupPath::parse(path).unwrap());
            assert!(
                matches!(cgroup.kill(), Err(Error::InvalidPath { .. })),
                "{path}"
            );
        }
        let missing = hierarchies.open(&CgroupPath::parse("/missing").unwrap());
        assert!(missing.kill().is_ok());
        assert!(matches!(missing.pids(), Err(Error::NotFound { .. })));
    }
}
