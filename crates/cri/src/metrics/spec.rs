//! When a pod or container started, the limits in force on it, and whether it could be looked at.

use super::Samples::One;
use super::figures::unix_seconds;
use super::{Metric, gauge};

pub(super) const METRICS: &[Metric] = &[
    gauge(
        "container_start_time_seconds",
        "When the container started, in seconds since 1970.",
        One(|f| f.started_at.map(unix_seconds)),
    ),
    gauge(
        "container_last_seen",
        "When the container was looked at, in seconds since 1970.",
        One(|f| Some(unix_seconds(f.at))),
    ),
    gauge(
        "container_scrape_error",
        "1 if not all figures of the container could be read, else 0.",
        One(|f| Some(u64::from(!f.complete))),
    ),
    gauge(
        "container_spec_cpu_period",
        "Period of the processor quota, in microseconds.",
        One(|f| f.limits()?.cpu_period_us),
    ),
    gauge(
        "container_spec_cpu_quota",
        "Processor time that may be used in each period, in microseconds; absent: no limit.",
        One(|f| f.limits()?.cpu_quota_us),
    ),
    gauge(
        "container_spec_cpu_shares",
        "Weight among others when processors are short.",
        One(|f| f.cpu_shares()),
    ),
    gauge(
        "container_spec_memory_limit_bytes",
        "Limit on memory, in bytes; zero: no limit.",
        One(|f| Some(f.limits()?.memory_limit_bytes.unwrap_or(0))),
    ),
    gauge(
        "container_spec_memory_reservation_limit_bytes",
        "Memory that is spared when it is short, in bytes; zero: none.",
        One(|f| Some(f.limits()?.memory_reservation_bytes.unwrap_or(0))),
    ),
    gauge(
        "container_spec_memory_swap_limit_bytes",
        "Limit on memory and swap together, in bytes; zero: no limit.",
        One(|f| Some(f.limits()?.memory_swap_limit_bytes.unwrap_or(0))),
    ),
];
