//! Processes as a tree, from proc(5).

use crate::text::Table;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The longest command that is shown, in letters.
const COMMAND_MAX: usize = 100;

/// A process as the host sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    parent: u32,
    /// Its number in the innermost pid namespace that it is in; none: the host's only.
    own_pid: Option<u32>,
    uid: u32,
    command: String,
}

/// A process; none when it has just ended.
pub(super) fn read(pid: u32) -> Option<Process> {
    let dir = Path::new("/proc").join(pid.to_string());
    let status = fs::read_to_string(dir.join("status")).ok()?;
    let command = fs::read(dir.join("cmdline")).ok()?;
    parse(pid, &status, &command)
}

fn parse(pid: u32, status: &str, command: &[u8]) -> Option<Process> {
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim)
    };
    let command = match command {
        // A zombie, or a thread of the kernel.
        [] => format!("[{}]", field("Name")?),
        words => {
            let words = words.strip_suffix(&[0]).unwrap_or(words);
            let text = String::from_utf8_lossy(words).replace('\0', " ");
            text.chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .take(COMMAND_MAX)
                .collect()
        }
    };
    let mut own: Vec<&str> = field("NSpid")?.split_whitespace().collect();
    let innermost = own.pop().filter(|_| !own.is_empty());
    Some(Process {
        pid,
        parent: field("PPid")?.parse().ok()?,
        own_pid: innermost.and_then(|pid| pid.parse().ok()),
        uid: field("Uid")?.split_whitespace().next()?.parse().ok()?,
        command,
    })
}

/// Children below their parents.
pub(super) fn tree(processes: &[Process]) -> Table {
    let mut table = Table::titled(&["PID", "IN POD", "UID", "COMMAND"]);
    let known: BTreeSet<u32> = processes.iter().map(|process| process.pid).collect();
    let roots = processes
        .iter()
        .filter(|process| !known.contains(&process.parent));
    for root in roots {
        add(root, processes, "", "", &mut table);
    }
    table
}

fn add(process: &Process, all: &[Process], branch: &str, below: &str, table: &mut Table) {
    let own_pid = process
        .own_pid
        .map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let command = format!("{branch}{}", process.command);
    table.row([
        process.pid.to_string(),
        own_pid,
        process.uid.to_string(),
        command,
    ]);
    let children: Vec<&Process> = all
        .iter()
        .filter(|child| child.parent == process.pid)
        .collect();
    for (index, child) in children.iter().enumerate() {
        let (branch, goes_on) = match index + 1 == children.len() {
            true => ("└─ ", "   "),
            false => ("├─ ", "│  "),
        };
        add(
            child,
            all,
            &format!("{below}{branch}"),
            &format!("{below}{goes_on}"),
            table,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_both_its_pids() {
        let status = "Name:\tsleep\nPPid:\t7\nUid:\t1000\t1000\t1000\t1000\nNSpid:\t4242\t3\n";
        let process = parse(4242, status, b"sleep\x001000\0").unwrap();
        assert_eq!(process.own_pid, Some(3));
        assert_eq!((process.parent, process.uid), (7, 1000));
        assert_eq!(process.command, "sleep 1000");
        let host = parse(1, &status.replace("4242\t3", "4242"), b"").unwrap();
        assert_eq!((host.own_pid, host.command.as_str()), (None, "[sleep]"));
        assert_eq!(parse(1, "Name:\tx\n", b""), None);
    }

    #[test]
    fn a_command_cannot_write_to_the_terminal() {
        let status = "Name:\tx\nPPid:\t7\nUid:\t0\nNSpid:\t1\n";
        let process = parse(1, status, b"a\x1b[31m\0b\n\0").unwrap();
        assert_eq!(process.command, "a [31m b ");
    }

    #[test]
    fn children_hang_below_their_parents() {
        let process = |pid, parent, command: &str| Process {
            pid,
            parent,
            own_pid: None,
            uid: 0,
            command: command.to_owned(),
        };
        let all = [
            process(10, 1, "shim"),
            process(11, 10, "pause"),
            process(12, 10, "sh"),
            process(13, 12, "sleep"),
            process(14, 11, "x"),
        ];
        let text = tree(&all).render(0);
        let commands: Vec<_> = text
            .lines()
            .skip(1)
            .map(|line| &line[line.find("0   ").unwrap() + 4..])
            .collect();
        assert_eq!(commands.len(), 5);
        assert!(
            text.contains("├─ pause\n") && text.contains("│  └─ x\n"),
            "{text}"
        );
        assert!(
            text.contains("└─ sh\n") && text.contains("   └─ sleep\n"),
            "{text}"
        );
    }
}
