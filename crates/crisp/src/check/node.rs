//! Bounds of the host that pods share: processes, open files, inotify, huge pages, swap.

use super::Finding;
use crate::text::bytes;
use crisp_engine::Config;
use nix::sys::resource::{Resource, getrlimit};
use std::fs;

/// What a node with a hundred pods needs.
const PIDS_MIN: u64 = 32_768;
const OPEN_FILES_MIN: u64 = 65_536;
const INOTIFY_INSTANCES_MIN: u64 = 1024;
const INOTIFY_WATCHES_MIN: u64 = 65_536;

pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let number = |path: &str| read(path).trim().parse().unwrap_or(0);
    let pids = number("/proc/sys/kernel/pid_max").min(number("/proc/sys/kernel/threads-max"));
    let own_files = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    let instances = number("/proc/sys/fs/inotify/max_user_instances");
    let watches = number("/proc/sys/fs/inotify/max_user_watches");
    vec![
        processes(pids, config.pod_pids_limit),
        at_least(
            "open files",
            own_files,
            OPEN_FILES_MIN,
            "the daemon's limit is reached with many pods",
            "ulimit -n 1048576, or LimitNOFILE= in the unit",
        ),
        at_least(
            "inotify instances",
            instances,
            INOTIFY_INSTANCES_MIN,
            "programs in pods that watch files fail with \"too many open files\"",
            "sysctl fs.inotify.max_user_instances=8192",
        ),
        at_least(
            "inotify watches",
            watches,
            INOTIFY_WATCHES_MIN,
            "programs in pods that watch files fail with \"no space left on device\"",
            "sysctl fs.inotify.max_user_watches=524288",
        ),
        huge_pages(&read("/proc/meminfo")),
        swap(&read("/proc/swaps")),
    ]
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn processes(host: u64, pod_limit: i64) -> Finding {
    let subject = "processes";
    let fact = format!("at most {host}");
    let remedy = "sysctl kernel.pid_max=4194304 kernel.threads-max=1000000";
    let pod_limit = u64::try_from(pod_limit).unwrap_or(0);
    if pod_limit >= host {
        let consequence = format!("one pod may use them all: pod_pids_limit is {pod_limit}");
        return Finding::note(subject, fact, consequence, "lower pod_pids_limit");
    }
    match host >= PIDS_MIN {
        true => Finding::fine(subject, fact),
        false => Finding::note(
            subject,
            fact,
            "a node with many pods runs out of them",
            remedy,
        ),
    }
}

fn at_least(
    subject: &'static str,
    number: u64,
    wanted: u64,
    consequence: &str,
    remedy: &str,
) -> Finding {
    let fact = format!("at most {number}");
    match number >= wanted {
        true => Finding::fine(subject, fact),
        false => Finding::note(subject, fact, consequence, remedy),
    }
}

fn huge_pages(meminfo: &str) -> Finding {
    let field = |name: &str| {
        let line = meminfo
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let (total, size) = (field("HugePages_Total"), field("Hugepagesize") * 1024);
    Finding::fine(
        "huge pages",
        match total {
            0 => "none reserved; pods that ask for them wait in vain".to_owned(),
            total => format!(
                "{total} of {}, {} free",
                bytes(size),
                field("HugePages_Free")
            ),
        },
    )
}

/// The first line of proc_swaps(5) is a title.
fn swap(swaps: &str) -> Finding {
    let devices: Vec<&str> = swaps
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    match devices.is_empty() {
        true => Finding::fine("swap", "none"),
        false => Finding::note(
            "swap",
            devices.join(", "),
            "kubelets do not start unless failSwapOn is false",
            "swapoff -a, and take it out of /etc/fstab",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn bounds_are_judged_by_what_pods_may_use() {
        assert_eq!(processes(100_000, 16_384).verdict, Verdict::Fine);
        assert_ne!(processes(10_000, 100).verdict, Verdict::Fine);
        let one_pod = processes(40_000, 50_000);
        assert!(
            matches!(&one_pod.verdict, Verdict::Note(advice) if advice.remedy == "lower pod_pids_limit")
        );
        assert_eq!(at_least("x", 5, 5, "", "").verdict, Verdict::Fine);
        assert_ne!(at_least("x", 4, 5, "a", "b").verdict, Verdict::Fine);
    }

    #[test]
    fn huge_pages_and_swap_are_read_from_proc() {
        let meminfo =
            "HugePages_Total:       4\nHugePages_Free:        3\nHugepagesize:       2048 kB\n";
        assert_eq!(huge_pages(meminfo).fact, "4 of 2 MiB, 3 free");
        assert!(huge_pages("").fact.starts_with("none reserved"));
        let title = "Filename\tType\tSize\tUsed\tPriority\n";
        assert_eq!(swap(title).verdict, Verdict::Fine);
        assert_eq!(
            swap(&format!("{title}/dev/sda2 partition 1 0 -2\n")).fact,
            "/dev/sda2"
        );
    }
}
