//! What the processes of a cgroup hold, as proc(5) tells it: read when metrics are asked for, and never
//! for ordinary figures, as it takes some system calls for every thread and open file.

use crisp_sys::stat::ProcessStat;
use std::fs;
use std::path::{Path, PathBuf};

/// How many open files are looked at for one container; more are not counted.
const DESCRIPTORS_MAX: usize = 65_536;
/// How many threads are looked at for one container; more are not counted.
const TASKS_MAX: usize = 8192;

/// What the processes of a container hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Processes {
    /// Ended ones that nobody has waited for are not counted.
    pub count: u64,
    /// Open files of all processes, one that several have open several times; 65,536 are counted at
    /// most.
    pub file_descriptors: u64,
    /// Of which sockets.
    pub sockets: u64,
    pub tasks: TaskStates,
    /// The soft limit on open files of the container's first process. None: it has just ended.
    pub open_files_soft: Option<u64>,
}

/// Threads by what they do; 8192 are counted at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TaskStates {
    /// Run, or would if there were a processor for them.
    pub running: u64,
    /// Wait for something that may never come.
    pub sleeping: u64,
    /// Wait for what comes soon, a disk's answer mostly.
    pub uninterruptible: u64,
    /// By a signal or by a debugger.
    pub stopped: u64,
}

impl Processes {
    /// Looks at processes under `proc`, where a proc(5) is mounted. `first` is the one whose limits
    /// count. One that ends meanwhile is counted as far as it was seen.
    pub(crate) fn look(proc: &Path, pids: &[u32], first: u32) -> Self {
        let of_all = |directory: &'static str| {
            let dirs = pids.iter().map(move |pid| of(proc, *pid).join(directory));
            dirs.flat_map(|dir| entries(&dir))
        };
        let mut seen = Self {
            count: pids.len().try_into().unwrap_or(u64::MAX),
            ..Self::default()
        };
        for file in of_all("fd").take(DESCRIPTORS_MAX) {
            seen.file_descriptors += 1;
            seen.sockets += u64::from(is_socket(&file));
        }
        for task in of_all("task").take(TASKS_MAX) {
            let stat = ProcessStat::read(&task).ok();
            seen.tasks.add(stat.and_then(|stat| stat.state()));
        }
        if pids.contains(&first) {
            let limits = fs::read_to_string(of(proc, first).join("limits"));
            seen.open_files_soft = limits.ok().as_deref().and_then(open_files_soft);
        }
        seen
    }
}

impl TaskStates {
    /// By the letter that proc_pid_stat(5) has for it; the dead are of no state.
    fn add(&mut self, state: Option<char>) {
        match state {
            Some('R') => self.running += 1,
            Some('S' | 'I') => self.sleeping += 1,
            Some('D') => self.uninterruptible += 1,
            Some('T' | 't') => self.stopped += 1,
            _ => {}
        }
    }
}

fn of(proc: &Path, pid: u32) -> PathBuf {
    proc.join(pid.to_string())
}

/// None of a directory that is gone.
fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

/// Links to what has no path are `kind:[inode]`.
fn is_socket(file: &Path) -> bool {
    fs::read_link(file).is_ok_and(|target| {
        target
            .as_os_str()
            .as_encoded_bytes()
            .starts_with(b"socket:[")
    })
}

/// Of lines such as `Max open files            1024                 4096                 files     `.
fn open_files_soft(limits: &str) -> Option<u64> {
    let values = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files "))?;
    values.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A process with threads in these states and files open on these targets.
    fn process(proc: &Path, pid: u32, states: &[&str], files: &[&str]) {
        let dir = of(proc, pid);
        fs::create_dir_all(dir.join("fd")).unwrap();
        for (index, target) in files.iter().enumerate() {
            symlink(target, dir.join("fd").join(index.to_string())).unwrap();
        }
        for (index, state) in states.iter().enumerate() {
            let task = dir.join("task").join(index.to_string());
            fs::create_dir_all(&task).unwrap();
            fs::write(task.join("stat"), format!("{index} (a) b) {state} 1 1\n")).unwrap();
        }
    }

    #[test]
    fn files_sockets_and_threads_of_all_processes_are_counted() {
        let proc = tempfile::tempdir().unwrap();
        process(
            proc.path(),
            7,
            &["S", "R", "I"],
            &["/dev/null", "socket:[5]"],
        );
        process(
            proc.path(),
            8,
            &["D", "T", "t", "Z"],
            &["socket:[6]", "pipe:[1]"],
        );
        let limits = "Limit          Soft Limit   Hard Limit   Units\n\
                      Max processes  96551        96551        processes\n\
                      Max open files            1024                 4096                 files\n";
        fs::write(proc.path().join("7/limits"), limits).unwrap();
        let seen = Processes::look(proc.path(), &[7, 8], 7);
        let tasks = TaskStates {
            running: 1,
            sleeping: 2,
            uninterruptible: 1,
            stopped: 2,
        };
        let expected = Processes {
            count: 2,
            file_descriptors: 4,
            sockets: 2,
            tasks,
            open_files_soft: Some(1024),
        };
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_process_that_has_ended_holds_nothing() {
        let proc = tempfile::tempdir().unwrap();
        let seen = Processes::look(proc.path(), &[7], 7);
        let expected = Processes {
            count: 1,
            ..Processes::default()
        };
        assert_eq!(seen, expected);
    }

    #[test]
    fn limits_of_a_process_that_is_not_of_the_container_do_not_count() {
        let own = std::process::id();
        let seen = Processes::look(Path::new("/proc"), &[own], own);
        assert!(seen.open_files_soft.is_some());
        assert!(seen.file_descriptors > 0);
        let seen = Processes::look(Path::new("/proc"), &[], own);
        assert_eq!(seen, Processes::default());
    }
}
