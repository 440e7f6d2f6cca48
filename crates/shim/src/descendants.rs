//! Whom a process has started, to be killed with it.

use crate::cgroup::Cgroup;
use crisp_sys::process::pidfd_send_signal;
use crisp_sys::stat::ProcessStat;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// How often it is looked for processes that were started meanwhile, and how long between two
/// looks that find nobody new: those who start processes that start more could keep the shim here.
const MAX_LOOKS: usize = 200;
const PAUSE: Duration = Duration::from_millis(1);

/// How many are signalled at once: each takes a descriptor meanwhile.
const BATCH: usize = 128;

/// A process and whom it comes from.
#[derive(Debug, Clone, Copy)]
struct Origin {
    pid: i32,
    parent: i32,
    group: i32,
    session: i32,
    /// Neither running nor in the middle of a system call.
    is_still: bool,
}

/// Kills the processes of a cgroup that come from `root`: its descendants, and, since orphans have
/// another parent, all of its session and process group. Only a daemon that has left all three gets
/// away, with the container.
///
/// All are stopped before the first is killed: who has stopped starts no process, and its children can
/// still be told by their parent. A fork that was under way when the signal came is completed first.
pub(crate) fn kill_descendants(cgroup: &Cgroup, root: Pid) {
    let mut stopped = BTreeSet::new();
    let mut all_are_still = false;
    for _ in 0..MAX_LOOKS {
        // Listed before it is seen who stands still: the next list is the one that is complete.
        let members: Vec<Origin> = cgroup.processes().into_iter().filter_map(origin).collect();
        let found = descendants(&members, root.as_raw());
        let new: BTreeSet<i32> = found.difference(&stopped).copied().collect();
        if new.is_empty() {
            if all_are_still {
                break;
            }
            let mut old = members.iter().filter(|p| stopped.contains(&p.pid));
            all_are_still = old.all(|p| p.is_still);
            if !all_are_still {
                sleep(PAUSE);
            }
            continue;
        }
        all_are_still = false;
        signal(cgroup, &new, Signal::SIGSTOP);
        stopped.extend(new);
    }
    signal(cgroup, &stopped, Signal::SIGKILL);
}

fn signal(cgroup: &Cgroup, processes: &BTreeSet<i32>, signal: Signal) {
    let processes: Vec<Pid> = processes.iter().copied().map(Pid::from_raw).collect();
    for batch in processes.chunks(BATCH) {
        for (_, pidfd) in cgroup.hold(batch.iter().copied().collect()) {
            // Who has ended meanwhile needs no signal.
            let _ = pidfd_send_signal(pidfd, signal as i32);
        }
    }
}

fn descendants(processes: &[Origin], root: i32) -> BTreeSet<i32> {
    let mut found: BTreeSet<i32> = processes
        .iter()
        .filter(|p| [p.pid, p.group, p.session].contains(&root))
        .map(|p| p.pid)
        .collect();
    loop {
        let before = found.len();
        let children = processes
            .iter()
            .filter(|p| p.parent == root || found.contains(&p.parent));
        let children: Vec<i32> = children.map(|p| p.pid).collect();
        found.extend(children);
        if found.len() == before {
            return found;
        }
    }
}

/// Fields 3 to 6 of proc_pid_stat(5).
fn origin(pid: Pid) -> Option<Origin> {
    let stat = ProcessStat::read(Path::new(&format!("/proc/{pid}"))).ok()?;
    Some(Origin {
        pid: pid.as_raw(),
        parent: stat.field(4)?,
        group: stat.field(5)?,
        session: stat.field(6)?,
        is_still: matches!(stat.state()?, 'T' | 't' | 'Z' | 'X'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, group: i32, session: i32) -> Origin {
        Origin {
            pid,
            parent,
            group,
            session,
            is_still: false,
        }
    }

    #[test]
    fn all_that_comes_from_a_process_is_found_and_nothing_else() {
        let processes = [
            process(1, 0, 1, 1),
            process(20, 1, 1, 1),
            process(50, 9, 50, 50),
            process(51, 50, 51, 50),
            process(52, 51, 52, 52),
            process(53, 52, 53, 53),
            // Orphans of the session and of the group.
            process(60, 1, 60, 50),
            process(61, 1, 50, 61),
            process(70, 60, 70, 70),
        ];
        let found: Vec<i32> = descendants(&processes, 50).into_iter().collect();
        assert_eq!(found, [50, 51, 52, 53, 60, 61, 70]);
    }

    #[test]
    fn orphans_are_found_after_their_leader_has_ended() {
        let processes = [process(1, 0, 1, 1), process(60, 1, 60, 50)];
        assert_eq!(
            descendants(&processes, 50).into_iter().collect::<Vec<_>>(),
            [60]
        );
    }
}
