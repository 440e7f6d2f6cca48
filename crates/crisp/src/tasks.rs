//! The processes of a cgroup, and their threads that run, hang or are dead, from proc(5).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// How deep cgroups are nested at most where processes are looked for.
const DEPTH_MAX: usize = 8;

/// How many threads of a cgroup are looked at; more are not counted.
const TASKS_MAX: usize = 8192;

/// Threads that stand out at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tasks {
    /// They run, or would if there were a processor for them.
    pub(crate) running: usize,
    /// They wait in D state, which counts for the load average as running does: by the kernel's function
    /// that they wait in, which is empty where the kernel does not tell it.
    pub(crate) blocked: BTreeMap<String, usize>,
    /// They have ended, and nobody has waited for them.
    pub(crate) zombies: usize,
}

impl Tasks {
    /// Those of a cgroup and all below it.
    pub(crate) fn of(directories: &[PathBuf]) -> Self {
        Self::look(Path::new("/proc"), &pids(directories))
    }

    fn look(proc: &Path, pids: &BTreeSet<u32>) -> Self {
        let mut tasks = Self::default();
        let dirs = pids.iter().map(|pid| proc.join(format!("{pid}/task")));
        let threads = dirs.flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
        for thread in threads.take(TASKS_MAX) {
            let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            match state(&stat) {
                Some('R') => tasks.running += 1,
                Some('Z') => tasks.zombies += 1,
                Some('D') => *tasks.blocked.entry(place(&thread.path())).or_default() += 1,
                _ => {}
            }
        }
        tasks
    }

    /// How many wait in D state.
    pub(crate) fn blocked(&self) -> usize {
        self.blocked.values().sum()
    }
}

/// The field after the program's name, which is in parentheses and may have some itself.
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Where in the kernel a thread waits (proc_pid_wchan(5)); `0` says that the reader may not know.
fn place(thread: &Path) -> String {
    let place = fs::read_to_string(thread.join("wchan")).unwrap_or_default();
    match place.as_str() {
        "0" => String::new(),
        _ => place,
    }
}

/// The pids in a cgroup and all below it; the directories are the same cgroup in several hierarchies.
pub(crate) fn pids(directories: &[PathBuf]) -> BTreeSet<u32> {
    let mut pids = BTreeSet::new();
    if let Some(dir) = directories
        .iter()
        .find(|dir| dir.join("cgroup.procs").exists())
    {
        collect(dir, DEPTH_MAX, &mut pids);
    }
    pids
}

fn collect(dir: &Path, depth: usize, pids: &mut BTreeSet<u32>) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    if depth == 0 {
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), depth - 1, pids);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(proc: &Path, pid: u32, tid: u32, state: char, place: &str) {
        let dir = proc.join(format!("{pid}/task/{tid}"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("stat"), format!("{tid} (a) b) {state} 1 1\n")).unwrap();
        fs::write(dir.join("wchan"), place).unwrap();
    }

    #[test]
    fn threads_are_counted_by_what_they_do() {
        let proc = tempfile::tempdir().unwrap();
        thread(proc.path(), 7, 7, 'S', "do_wait");
        thread(proc.path(), 7, 8, 'D', "rpc_wait_bit_killable");
        thread(proc.path(), 7, 9, 'D', "rpc_wait_bit_killable");
        thread(proc.path(), 10, 10, 'R', "0");
        thread(proc.path(), 11, 11, 'Z', "0");
        thread(proc.path(), 12, 12, 'D', "0");
        thread(proc.path(), 99, 99, 'D', "0");
        let tasks = Tasks::look(proc.path(), &[7, 10, 11, 12, 13].into());
        let blocked = [("rpc_wait_bit_killable", 2), ("", 1)];
        let expected = Tasks {
            running: 1,
            blocked: blocked.map(|(place, n)| (place.to_owned(), n)).into(),
            zombies: 1,
        };
        assert_eq!(tasks, expected);
        assert_eq!(tasks.blocked(), 3);
    }

    #[test]
    fn processes_of_nested_cgroups_are_found() {
        let root = tempfile::tempdir().unwrap();
        let nested = root.path().join("a/b");
        fs::create_dir_all(&nested).unwrap();
        fs::write(root.path().join("cgroup.procs"), "").unwrap();
        fs::write(nested.join("cgroup.procs"), "5\n3\n").unwrap();
        let found = pids(&["/nonexistent".into(), root.path().to_owned()]);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [3, 5]);
    }
}
