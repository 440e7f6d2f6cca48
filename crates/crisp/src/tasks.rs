//! The processes of a cgroup, and their threads that run, hang or are dead, from proc(5).

use crisp_sys::stat::ProcessStat;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// How deep cgroups are nested at most where processes are looked for.
const DEPTH_MAX: usize = 8;

/// How many processes of the host are looked at; more are not counted.
const PROCESSES_MAX: usize = 65_536;

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

/// Processes of the host that have ended and that nobody has waited for, by the parent that should. They have
/// left their cgroups, so that the whole host is looked at.
#[derive(Debug, Default)]
pub(crate) struct Zombies(BTreeMap<u32, usize>);

impl Zombies {
    /// Those that there are.
    pub(crate) fn find() -> Self {
        Self::find_in(Path::new("/proc"))
    }

    fn find_in(proc: &Path) -> Self {
        let entries = fs::read_dir(proc).into_iter().flatten().flatten();
        let processes = entries.filter(|entry| is_pid(&entry.file_name()));
        let mut found = Self::default();
        for process in processes.take(PROCESSES_MAX) {
            let stat = ProcessStat::read(&process.path()).ok();
            if let Some(parent) = stat.as_ref().and_then(parent_of_zombie) {
                *found.0.entry(parent).or_default() += 1;
            }
        }
        found
    }

    fn of(&self, parents: &BTreeSet<u32>) -> usize {
        let counts = parents.iter().filter_map(|pid| self.0.get(pid));
        counts.sum()
    }
}

fn is_pid(name: &OsStr) -> bool {
    name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
}

/// None: it is no zombie. A process that goes on without its first thread looks like one, but for the number
/// of its threads (field 20).
fn parent_of_zombie(stat: &ProcessStat) -> Option<u32> {
    let has_ended = stat.state() == Some('Z') && stat.field(20) == Some(1);
    has_ended.then(|| stat.field(4)).flatten()
}

impl Tasks {
    /// Those of a cgroup and all below it.
    pub(crate) fn of(directories: &[PathBuf], zombies: &Zombies) -> Self {
        Self::look(Path::new("/proc"), &pids(directories), zombies)
    }

    fn look(proc: &Path, pids: &BTreeSet<u32>, zombies: &Zombies) -> Self {
        let mut tasks = Self {
            zombies: zombies.of(pids),
            ..Self::default()
        };
        let dirs = pids.iter().map(|pid| proc.join(format!("{pid}/task")));
        let threads = dirs.flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
        for thread in threads.take(TASKS_MAX) {
            let thread = thread.path();
            let stat = ProcessStat::read(&thread).ok();
            match stat.and_then(|stat| stat.state()) {
                Some('R') => tasks.running += 1,
                Some('D') => *tasks.blocked.entry(place(&thread)).or_default() += 1,
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

    fn stat(dir: &Path, fields: &str) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("stat"), format!("1 (a) b) {fields}\n")).unwrap();
    }

    fn thread(proc: &Path, pid: u32, tid: u32, state: char, place: &str) {
        let dir = proc.join(format!("{pid}/task/{tid}"));
        stat(&dir, &format!("{state} 1 1"));
        fs::write(dir.join("wchan"), place).unwrap();
    }

    #[test]
    fn threads_are_counted_by_what_they_do() {
        let proc = tempfile::tempdir().unwrap();
        thread(proc.path(), 7, 7, 'S', "do_wait");
        thread(proc.path(), 7, 8, 'D', "rpc_wait_bit_killable");
        thread(proc.path(), 7, 9, 'D', "rpc_wait_bit_killable");
        thread(proc.path(), 10, 10, 'R', "0");
        thread(proc.path(), 12, 12, 'D', "0");
        thread(proc.path(), 99, 99, 'D', "0");
        let zombies = Zombies([(7, 2), (10, 1), (99, 1)].into());
        let tasks = Tasks::look(proc.path(), &[7, 10, 12, 13].into(), &zombies);
        let blocked = [("rpc_wait_bit_killable", 2), ("", 1)];
        let expected = Tasks {
            running: 1,
            blocked: blocked.map(|(place, n)| (place.to_owned(), n)).into(),
            zombies: 3,
        };
        assert_eq!(tasks, expected);
        assert_eq!(tasks.blocked(), 3);
    }

    #[test]
    fn zombies_are_found_by_their_parents() {
        let proc = tempfile::tempdir().unwrap();
        let process = |name: &str, state, parent, threads| {
            let between = "0 ".repeat(15);
            let fields = format!("{state} {parent} {between}{threads} 0");
            stat(&proc.path().join(name), &fields);
        };
        process("7", 'S', 1, 1);
        process("8", 'Z', 7, 1);
        process("9", 'Z', 7, 1);
        process("10", 'Z', 8, 1);
        // Its first thread has ended, another runs.
        process("11", 'Z', 7, 2);
        process("sys", 'Z', 7, 1);
        let zombies = Zombies::find_in(proc.path());
        assert_eq!(zombies.0, [(7, 2), (8, 1)].into());
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
