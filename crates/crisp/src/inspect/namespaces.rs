//! Which namespaces a process is in, and with whom it shares them (namespaces(7)).

use crate::text::Table;
use std::fs;
use std::path::Path;

/// Names under `/proc/<pid>/ns`.
const KINDS: [&str; 8] = ["net", "ipc", "uts", "pid", "mnt", "user", "cgroup", "time"];

/// The namespaces of a process: kind and inode.
pub(super) type Namespaces = Vec<(&'static str, String)>;

/// Those of a process, or of this one. Empty when it has just ended.
pub(super) fn of(pid: Option<u32>) -> Namespaces {
    let process = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let dir = Path::new("/proc").join(process).join("ns");
    let read = |kind: &'static str| {
        let link = fs::read_link(dir.join(kind)).ok()?;
        let inode = link
            .to_str()?
            .strip_prefix(kind)?
            .trim_matches([':', '[', ']'])
            .to_owned();
        Some((kind, inode))
    };
    KINDS.into_iter().filter_map(read).collect()
}

/// Each namespace with whose it is.
pub(super) fn table(own: &Namespaces, pod: &Namespaces, host: &Namespaces) -> Table {
    let mut table = Table::default();
    for namespace in own {
        let (kind, inode) = namespace;
        let whose = match (host.contains(namespace), pod.contains(namespace)) {
            (true, _) => "the host's",
            (false, true) => "the pod's",
            (false, false) => "its own",
        };
        table.row([(*kind).to_owned(), inode.clone(), whose.to_owned()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_belongs_to_the_host_the_pod_or_the_container() {
        let of = |inodes: [&str; 3]| -> Namespaces {
            ["net", "mnt", "user"]
                .into_iter()
                .zip(inodes.map(str::to_owned))
                .collect()
        };
        let text = table(
            &of(["5", "9", "1"]),
            &of(["5", "6", "1"]),
            &of(["2", "3", "1"]),
        )
        .render(0);
        assert_eq!(
            text,
            "net    5   the pod's\nmnt    9   its own\nuser   1   the host's\n"
        );
    }

    #[test]
    fn this_process_has_namespaces() {
        let own = of(None);
        assert!(
            own.iter()
                .any(|(kind, inode)| *kind == "net" && inode.parse::<u64>().is_ok())
        );
        assert_eq!(own, of(Some(std::process::id())));
    }
}
