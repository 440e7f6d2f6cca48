//! Whom a process has started, to be killed with it.

use crate::cgroup::Cgroup;
use crisp_sys::process::kill;
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;

/// A process and whom it comes from.
#[derive(Debug, Clone, Copy)]
struct Origin {
    pid: i32,
    parent: i32,
    group: i32,
    session: i32,
}

/// Kills the processes of a cgroup that come from `root`: its descendants, and, since orphans have
/// another parent, all of its session and process group. Only a daemon that has left all three gets
/// away, with the container.
pub(crate) fn kill_descendants(cgroup: &Cgroup, root: Pid) {
    let members: Vec<Origin> = cgroup.processes().into_iter().filter_map(origin).collect();
    let condemned = descendants(&members, root.as_raw());
    for (_, pidfd) in cgroup.hold(condemned.into_iter().map(Pid::from_raw).collect()) {
        kill(&pidfd);
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

fn origin(pid: Pid) -> Option<Origin> {
    parse(
        pid.as_raw(),
        &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?,
    )
}

/// Fields 4 to 6 of proc_pid_stat(5), counted from behind the program's name, which may hold anything.
fn parse(pid: i32, stat: &str) -> Option<Origin> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(1).map(str::parse);
    Some(Origin {
        pid,
        parent: fields.next()?.ok()?,
        group: fields.next()?.ok()?,
        session: fields.next()?.ok()?,
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

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let origin = parse(7, "7 (a) S (b) R 3 4 5 0 -1").unwrap();
        assert_eq!((origin.parent, origin.group, origin.session), (3, 4, 5));
    }
}
