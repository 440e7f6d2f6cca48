//! Memory, huge pages, and waiting for memory.

use super::Samples::{Each, One};
use super::figures::Figures;
use super::{Labelled, Metric, counter, gauge};

pub(super) const METRICS: &[Metric] = &[
    gauge(
        "container_memory_usage_bytes",
        "Memory charged, page cache included, in bytes.",
        One(|f| Some(f.memory()?.usage_bytes)),
    ),
    gauge(
        "container_memory_max_usage_bytes",
        "The most memory that was charged at any time, in bytes.",
        One(|f| f.memory()?.max_usage_bytes),
    ),
    gauge(
        "container_memory_working_set_bytes",
        "Memory charged without page cache that was not used lately, in bytes.",
        One(|f| Some(f.memory()?.working_set_bytes)),
    ),
    gauge(
        "container_memory_rss",
        "Anonymous memory, in bytes.",
        One(|f| Some(f.memory()?.rss_bytes)),
    ),
    gauge(
        "container_memory_cache",
        "Page cache, tmpfs and shared memory included, in bytes.",
        One(|f| Some(f.memory()?.cache_bytes)),
    ),
    gauge(
        "container_memory_mapped_file",
        "Page cache that is mapped, in bytes.",
        One(|f| Some(f.memory()?.mapped_file_bytes)),
    ),
    gauge(
        "container_memory_total_active_file_bytes",
        "Page cache that was used lately, in bytes.",
        One(|f| Some(f.memory()?.active_file_bytes)),
    ),
    gauge(
        "container_memory_total_inactive_file_bytes",
        "Page cache that was not used lately, in bytes.",
        One(|f| Some(f.memory()?.inactive_file_bytes)),
    ),
    gauge(
        "container_memory_kernel_usage",
        "Memory of the kernel's that is charged, in bytes.",
        One(|f| f.memory()?.kernel_bytes),
    ),
    gauge(
        "container_memory_swap",
        "Memory that is swapped out, in bytes.",
        One(|f| f.memory()?.swap_bytes),
    ),
    counter(
        "container_memory_failcnt",
        "How often the memory limit was met.",
        One(|f| f.memory()?.limit_hits),
    ),
    counter(
        "container_memory_failures_total",
        "Page faults (pgfault), and those that waited for a disk (pgmajfault).",
        Each(&["failure_type", "scope"], page_faults),
    ),
    counter(
        "container_oom_events_total",
        "Processes that were killed for want of memory.",
        One(|f| f.memory()?.oom_kills),
    ),
    gauge(
        "container_hugetlb_usage_bytes",
        "Huge pages in use, in bytes.",
        Each(&["pagesize"], |f| {
            f.each_page_size(|size| Some(size.usage_bytes))
        }),
    ),
    gauge(
        "container_hugetlb_max_usage_bytes",
        "The most huge pages that were in use at any time, in bytes.",
        Each(&["pagesize"], |f| {
            f.each_page_size(|size| size.max_usage_bytes)
        }),
    ),
    counter(
        "container_hugetlb_failcnt",
        "How often the limit on huge pages was met.",
        Each(&["pagesize"], |f| {
            f.each_page_size(|size| Some(size.limit_hits))
        }),
    ),
    counter(
        "container_pressure_memory_stalled_seconds_total",
        "Time in which every process that could have run waited for memory, in seconds.",
        One(|f| f.stalled(|pressure| pressure.memory)),
    ),
    counter(
        "container_pressure_memory_waiting_seconds_total",
        "Time in which at least one process waited for memory, in seconds.",
        One(|f| f.waiting(|pressure| pressure.memory)),
    ),
];

/// Version 2 counts a cgroup only together with those below it, so both scopes say the same.
fn page_faults(figures: &Figures<'_>) -> Vec<Labelled> {
    let Some(memory) = figures.memory() else {
        return Vec::new();
    };
    let kinds = [
        ("pgfault", memory.page_faults),
        ("pgmajfault", memory.major_page_faults),
    ];
    let both = |(kind, value): (&str, u64)| {
        ["container", "hierarchy"].map(|scope| (vec![kind.to_owned(), scope.to_owned()], value))
    };
    kinds.into_iter().flat_map(both).collect()
}
