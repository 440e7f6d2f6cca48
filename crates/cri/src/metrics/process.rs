//! Processes, threads and what they hold.

use super::Samples::{Each, One};
use super::figures::Figures;
use super::{Labelled, Metric, gauge};

pub(super) const METRICS: &[Metric] = &[
    gauge(
        "container_processes",
        "Processes that run in the container.",
        One(|f| Some(f.processes()?.count)),
    ),
    gauge(
        "container_threads",
        "Threads of all processes.",
        One(|f| Some(f.pids()?.current)),
    ),
    gauge(
        "container_threads_max",
        "How many threads there may be; zero: no limit.",
        One(|f| Some(f.pids()?.max.unwrap_or(0))),
    ),
    gauge(
        "container_tasks_state",
        "Threads that are in the given state.",
        Each(&["state"], tasks),
    ),
    gauge(
        "container_file_descriptors",
        "Open files of the container's processes.",
        One(|f| Some(f.processes()?.file_descriptors)),
    ),
    gauge(
        "container_sockets",
        "Open sockets of the container's processes.",
        One(|f| Some(f.processes()?.sockets)),
    ),
    gauge(
        "container_ulimits_soft",
        "Soft resource limits of the container's first process.",
        Each(&["ulimit"], |f| {
            let limit = f.processes().and_then(|seen| seen.open_files_soft);
            let sample = |limit| (vec!["max_open_files".to_owned()], limit);
            limit.map(sample).into_iter().collect()
        }),
    ),
];

/// cAdvisor's fifth state, waiting for a block device, is part of the fourth in what proc(5) shows.
fn tasks(figures: &Figures<'_>) -> Vec<Labelled> {
    let Some(seen) = figures.processes() else {
        return Vec::new();
    };
    let states = [
        ("sleeping", seen.tasks.sleeping),
        ("running", seen.tasks.running),
        ("stopped", seen.tasks.stopped),
        ("uninterruptible", seen.tasks.uninterruptible),
    ];
    states
        .map(|(state, tasks)| (vec![state.to_owned()], tasks))
        .into()
}
