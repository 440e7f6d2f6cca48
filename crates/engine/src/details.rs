//! What only metrics tell of pods and containers, beside their figures.

use crate::engine::Engine;
use crate::error::chain;
use crate::processes::Processes;
use crate::view::{ContainerStats, PodStats, PodView};
use crisp_cgroup::{Cgroup, CgroupPath, Extent, IoTimes, Limits, Stats};
use crisp_model::ContainerState;
use nix::sys::stat::{major, minor};
use nix::sys::statvfs::statvfs;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// Where the kernel's links from numbers of block devices to their names are.
const DEVICES: &str = "/sys/dev/block";

/// Figures of a pod, with details of it and of its containers.
#[derive(Debug, Clone)]
pub struct PodMetrics {
    /// Those of its containers are in `containers` only.
    pub pod: PodStats,
    pub details: Details,
    /// Those that run.
    pub containers: Vec<(ContainerStats, Details)>,
}

/// What only metrics tell of a pod or container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// None: the cgroup goes.
    pub limits: Option<Limits>,
    /// Empty where the kernel does not count them.
    pub io_times: Vec<IoTimes>,
    /// The block devices that were used by their names, such as `/dev/vda`, by major and minor number.
    pub device_names: BTreeMap<(u32, u32), String>,
    /// Of containers only; None: the cgroup goes.
    pub processes: Option<Processes>,
    /// The one that the writable layer is on; of containers only.
    pub file_system: Option<FileSystem>,
}

/// A file system that containers write to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// `/dev/vda`; its numbers `0:35` when it is on no block device that has a name.
    pub device: String,
    pub size_bytes: u64,
    /// Zero where inodes are made as needed.
    pub inodes: u64,
    pub inodes_free: u64,
}

impl Engine {
    /// Figures and details of pods with their containers, in the order given.
    pub async fn pod_metrics(self: &Arc<Self>, pods: Vec<PodView>) -> Vec<PodMetrics> {
        let stats = self.pod_figures(pods, Extent::All).await;
        let engine = self.clone();
        let work = tokio::task::spawn_blocking(move || {
            let pods = stats.into_iter();
            pods.map(|pod| engine.with_details(pod)).collect()
        });
        // The work does not panic; a runtime that ends has no use for figures.
        work.await.unwrap_or_default()
    }

    fn with_details(&self, mut pod: PodStats) -> PodMetrics {
        let containers = std::mem::take(&mut pod.containers).into_iter();
        PodMetrics {
            details: self.details(&pod.pod.cgroup, pod.cgroup.as_ref()),
            containers: containers
                .map(|container| {
                    let details = self.container_details(&container);
                    (container, details)
                })
                .collect(),
            pod,
        }
    }

    fn container_details(&self, stats: &ContainerStats) -> Details {
        let view = &stats.container;
        let processes = match view.state {
            ContainerState::Running(running) => self.processes(&view.cgroup, running.pid),
            _ => None,
        };
        let layer = stats.writable_layer.as_ref();
        Details {
            processes,
            file_system: layer.and_then(|layer| FileSystem::at(&layer.mountpoint)),
            ..self.details(&view.cgroup, stats.cgroup.as_ref())
        }
    }

    fn details(&self, path: &str, stats: Option<&Stats>) -> Details {
        let Some(cgroup) = self.cgroup(path) else {
            return Details::default();
        };
        let used = stats.and_then(|stats| stats.io.as_ref());
        let io_times = known(&cgroup, cgroup.io_times()).unwrap_or_default();
        let numbers = used.into_iter().flatten().map(|io| (io.major, io.minor));
        let timed = io_times.iter().map(|times| (times.major, times.minor));
        Details {
            limits: known(&cgroup, cgroup.limits()),
            device_names: numbers
                .chain(timed)
                .map(|device| (device, device_name(Path::new(DEVICES), device)))
                .collect(),
            io_times,
            processes: None,
            file_system: None,
        }
    }

    fn processes(&self, path: &str, first: u32) -> Option<Processes> {
        let cgroup = self.cgroup(path)?;
        let pids = known(&cgroup, cgroup.pids())?;
        Some(Processes::look(Path::new("/proc"), &pids, first))
    }

    fn cgroup(&self, path: &str) -> Option<Cgroup> {
        let path = CgroupPath::parse(path).ok()?;
        Some(self.hierarchies.open(&path))
    }
}

/// None while the cgroup goes.
fn known<T>(cgroup: &Cgroup, read: Result<T, crisp_cgroup::Error>) -> Option<T> {
    read.inspect_err(|error| {
        tracing::debug!(
            cgroup = cgroup.path().as_str(),
            error = chain(error),
            "no details"
        );
    })
    .ok()
}

impl FileSystem {
    /// The one that a directory is on; None when the directory is gone.
    fn at(dir: &Path) -> Option<Self> {
        let device = fs::metadata(dir).ok()?.dev();
        let number = |part: u64| u32::try_from(part).ok();
        let device = (number(major(device))?, number(minor(device))?);
        let size = statvfs(dir).ok()?;
        Some(Self {
            device: device_name(Path::new(DEVICES), device),
            size_bytes: size.blocks().saturating_mul(size.fragment_size()),
            inodes: size.files(),
            inodes_free: size.files_available(),
        })
    }
}

/// The kernel has `!` in names where the device's file has `/`.
fn device_name(devices: &Path, (major, minor): (u32, u32)) -> String {
    let number = format!("{major}:{minor}");
    let link = fs::read_link(devices.join(&number)).ok();
    let name = link.as_deref().and_then(|link| link.file_name()?.to_str());
    name.map_or(number, |name| format!("/dev/{}", name.replace('!', "/")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn devices_have_the_names_of_their_files() {
        let devices = tempfile::tempdir().unwrap();
        let link = |number: &str, target: &str| {
            symlink(target, devices.path().join(number)).unwrap();
        };
        link("8:1", "../../devices/pci0/block/sda/sda1");
        link("104:0", "../../devices/pci0/block/cciss!c0d0");
        assert_eq!(device_name(devices.path(), (8, 1)), "/dev/sda1");
        assert_eq!(device_name(devices.path(), (104, 0)), "/dev/cciss/c0d0");
        assert_eq!(device_name(devices.path(), (0, 35)), "0:35");
    }

    #[test]
    fn a_file_system_has_a_size_and_a_device() {
        let dir = tempfile::tempdir().unwrap();
        let found = FileSystem::at(dir.path()).unwrap();
        assert!(found.size_bytes > 0);
        assert!(found.inodes >= found.inodes_free);
        assert!(!found.device.is_empty());
        assert_eq!(FileSystem::at(&dir.path().join("gone")), None);
    }
}
