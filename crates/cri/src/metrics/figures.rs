//! What samples are made of: the figures of a pod or of a container in one shape.

use super::Labelled;
use crisp_cgroup::{
    CpuStats, HugetlbStats, IoStats, IoTimes, Limits, MemoryStats, PidsStats, Pressure,
    PressureStats, Stats,
};
use crisp_engine::{ContainerStats, Details, DiskUsage, FileSystem, PodStats, Processes};
use crisp_model::ContainerState;
use crisp_network::InterfaceStatistics;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Everything known of a pod or container at one moment.
pub(super) struct Figures<'a> {
    pub(super) at: SystemTime,
    pub(super) started_at: Option<SystemTime>,
    cgroup: Option<&'a Stats>,
    details: &'a Details,
    /// Of pods only.
    pub(super) network: Option<&'a InterfaceStatistics>,
    /// Of containers only.
    pub(super) writable_layer: Option<&'a DiskUsage>,
    /// As given by the client, which version 2 keeps as a weight.
    cpu_shares: Option<u64>,
    /// Whether everything could be read that should have been.
    pub(super) complete: bool,
}

impl<'a> Figures<'a> {
    pub(super) fn of_pod(stats: &'a PodStats, details: &'a Details) -> Self {
        Self {
            at: stats.at,
            started_at: Some(stats.pod.created_at),
            cgroup: stats.cgroup.as_ref(),
            details,
            network: stats.network.as_ref(),
            writable_layer: None,
            cpu_shares: None,
            complete: stats.cgroup.is_some() && details.limits.is_some(),
        }
    }

    pub(super) fn of_container(stats: &'a ContainerStats, details: &'a Details) -> Self {
        let container = &stats.container;
        Self {
            at: stats.at,
            started_at: match container.state {
                ContainerState::Running(running) => Some(running.started_at),
                _ => None,
            },
            cgroup: stats.cgroup.as_ref(),
            details,
            network: None,
            writable_layer: stats.writable_layer.as_ref(),
            cpu_shares: container.resources.cpu_shares,
            complete: stats.cgroup.is_some()
                && details.limits.is_some()
                && details.processes.is_some()
                && details.file_system.is_some(),
        }
    }

    pub(super) fn cpu(&self) -> Option<CpuStats> {
        self.cgroup?.cpu
    }

    pub(super) fn memory(&self) -> Option<MemoryStats> {
        self.cgroup?.memory
    }

    pub(super) fn pids(&self) -> Option<PidsStats> {
        self.cgroup?.pids
    }

    pub(super) fn processes(&self) -> Option<Processes> {
        self.details.processes
    }

    pub(super) fn limits(&self) -> Option<&'a Limits> {
        self.details.limits.as_ref()
    }

    pub(super) fn cpu_shares(&self) -> Option<u64> {
        self.cpu_shares.or_else(|| self.limits()?.cpu_shares)
    }

    pub(super) fn file_system(&self) -> Option<&'a FileSystem> {
        self.details.file_system.as_ref()
    }

    /// How long all processes were kept waiting, in seconds.
    pub(super) fn stalled(&self, resource: fn(&PressureStats) -> Pressure) -> Option<u64> {
        let pressure = resource(&self.cgroup?.pressure?);
        Some(whole_seconds(Duration::from_micros(pressure.full.total_us)))
    }

    /// How long at least one process was kept waiting, in seconds.
    pub(super) fn waiting(&self, resource: fn(&PressureStats) -> Pressure) -> Option<u64> {
        let pressure = resource(&self.cgroup?.pressure?);
        Some(whole_seconds(Duration::from_micros(pressure.some.total_us)))
    }

    /// A sample for each size of huge pages.
    pub(super) fn each_page_size(&self, value: fn(&HugetlbStats) -> Option<u64>) -> Vec<Labelled> {
        let sizes = self.cgroup.into_iter().flat_map(|cgroup| &cgroup.hugetlb);
        sizes
            .filter_map(|size| Some((vec![size.page_size.clone()], value(size)?)))
            .collect()
    }

    /// The block devices that were used.
    pub(super) fn devices(&self) -> impl Iterator<Item = &'a IoStats> + use<'a> {
        let devices = self.cgroup.and_then(|cgroup| cgroup.io.as_ref());
        devices.into_iter().flatten()
    }

    /// A sample for each block device that was used.
    pub(super) fn each_device(&self, value: fn(&IoStats) -> u64) -> Vec<Labelled> {
        self.devices()
            .map(|io| (vec![self.device_name(io.major, io.minor)], value(io)))
            .collect()
    }

    /// A sample for each block device whose requests are timed.
    pub(super) fn each_timed_device(&self, value: fn(&IoTimes) -> u64) -> Vec<Labelled> {
        let devices = self.details.io_times.iter();
        devices
            .map(|io| (vec![self.device_name(io.major, io.minor)], value(io)))
            .collect()
    }

    pub(super) fn device_name(&self, major: u32, minor: u32) -> String {
        let name = self.details.device_names.get(&(major, minor));
        name.cloned().unwrap_or_else(|| format!("{major}:{minor}"))
    }
}

/// Rounded down.
pub(super) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs()
}

/// Nanoseconds as whole seconds.
pub(super) fn seconds_of(time_ns: u64) -> u64 {
    whole_seconds(Duration::from_nanos(time_ns))
}

/// Seconds since 1970.
pub(super) fn unix_seconds(time: SystemTime) -> u64 {
    whole_seconds(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}
