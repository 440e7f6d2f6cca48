//! Processor time, its limit's effect, and waiting for processors.

use super::Samples::{Each, One};
use super::figures::{Figures, seconds_of};
use super::{Labelled, Metric, counter};

pub(super) const METRICS: &[Metric] = &[
    counter(
        "container_cpu_usage_seconds_total",
        "Processor time used, in seconds, over all processors.",
        Each(&["cpu"], usage),
    ),
    counter(
        "container_cpu_user_seconds_total",
        "Processor time used in user mode, in seconds.",
        One(|f| f.cpu()?.user_ns.map(seconds_of)),
    ),
    counter(
        "container_cpu_system_seconds_total",
        "Processor time used in the kernel, in seconds.",
        One(|f| f.cpu()?.system_ns.map(seconds_of)),
    ),
    counter(
        "container_cpu_cfs_periods_total",
        "Periods of the processor quota in which anything ran.",
        One(|f| f.cpu()?.periods),
    ),
    counter(
        "container_cpu_cfs_throttled_periods_total",
        "Periods in which the processor quota ran out.",
        One(|f| f.cpu()?.throttled_periods),
    ),
    counter(
        "container_cpu_cfs_throttled_seconds_total",
        "Time for which the processor quota held processes back, in seconds.",
        One(|f| f.cpu()?.throttled_ns.map(seconds_of)),
    ),
    counter(
        "container_pressure_cpu_stalled_seconds_total",
        "Time in which every process that could have run waited for a processor, in seconds.",
        One(|f| f.stalled(|pressure| pressure.cpu)),
    ),
    counter(
        "container_pressure_cpu_waiting_seconds_total",
        "Time in which at least one process waited for a processor, in seconds.",
        One(|f| f.waiting(|pressure| pressure.cpu)),
    ),
];

/// All processors in one sample, as cAdvisor has it unless told otherwise.
fn usage(figures: &Figures<'_>) -> Vec<Labelled> {
    let usage = figures.cpu().map(|cpu| seconds_of(cpu.usage_ns));
    let sample = |seconds| (vec!["total".to_owned()], seconds);
    usage.map(sample).into_iter().collect()
}
