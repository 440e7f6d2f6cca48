//! The writable layer, the file system that it is on, block devices, and waiting for them.
//!
//! How long requests take is counted by cgroup in few kernels only: see [`crisp_cgroup::IoTimes`].

use super::Samples::{Each, One};
use super::figures::{Figures, seconds_of};
use super::{Labelled, Metric, counter, gauge};
use crisp_engine::FileSystem;

/// The unit in which the kernel counts what block devices transfer, whatever their own sectors are.
const SECTOR_BYTES: u64 = 512;

const DEVICE: &[&str] = &["device"];

pub(super) const METRICS: &[Metric] = &[
    gauge(
        "container_fs_usage_bytes",
        "What the container's writable layer takes, in bytes.",
        Each(DEVICE, |f| {
            let used = f.writable_layer.map(|layer| layer.used_bytes);
            on_file_system(f, |_| used)
        }),
    ),
    gauge(
        "container_fs_limit_bytes",
        "Size of the file system that the container's writable layer is on, in bytes.",
        Each(DEVICE, |f| on_file_system(f, |fs| Some(fs.size_bytes))),
    ),
    gauge(
        "container_fs_inodes_total",
        "Inodes of the file system that the container's writable layer is on.",
        Each(DEVICE, |f| on_file_system(f, |fs| Some(fs.inodes))),
    ),
    gauge(
        "container_fs_inodes_free",
        "Of these inodes the ones that are free.",
        Each(DEVICE, |f| on_file_system(f, |fs| Some(fs.inodes_free))),
    ),
    counter(
        "container_fs_reads_total",
        "Reads from block devices.",
        Each(DEVICE, |f| f.each_device(|io| io.read_operations)),
    ),
    counter(
        "container_fs_reads_bytes_total",
        "Read from block devices, in bytes.",
        Each(DEVICE, |f| f.each_device(|io| io.read_bytes)),
    ),
    counter(
        "container_fs_sector_reads_total",
        "Read from block devices, in sectors of 512 bytes.",
        Each(DEVICE, |f| f.each_device(|io| io.read_bytes / SECTOR_BYTES)),
    ),
    counter(
        "container_fs_reads_merged_total",
        "Reads from block devices that were joined to others.",
        Each(DEVICE, |f| f.each_timed_device(|io| io.reads_merged)),
    ),
    counter(
        "container_fs_read_seconds_total",
        "Time that block devices took for reads, in seconds, summed over reads.",
        Each(DEVICE, |f| f.each_timed_device(|io| seconds_of(io.read_ns))),
    ),
    counter(
        "container_fs_writes_total",
        "Writes to block devices.",
        Each(DEVICE, |f| f.each_device(|io| io.write_operations)),
    ),
    counter(
        "container_fs_writes_bytes_total",
        "Written to block devices, in bytes.",
        Each(DEVICE, |f| f.each_device(|io| io.write_bytes)),
    ),
    counter(
        "container_fs_sector_writes_total",
        "Written to block devices, in sectors of 512 bytes.",
        Each(DEVICE, |f| {
            f.each_device(|io| io.write_bytes / SECTOR_BYTES)
        }),
    ),
    counter(
        "container_fs_writes_merged_total",
        "Writes to block devices that were joined to others.",
        Each(DEVICE, |f| f.each_timed_device(|io| io.writes_merged)),
    ),
    counter(
        "container_fs_write_seconds_total",
        "Time that block devices took for writes, in seconds, summed over writes.",
        Each(DEVICE, |f| {
            f.each_timed_device(|io| seconds_of(io.write_ns))
        }),
    ),
    gauge(
        "container_fs_io_current",
        "Requests that wait for a block device now.",
        Each(DEVICE, |f| f.each_timed_device(|io| io.queued)),
    ),
    counter(
        "container_fs_io_time_seconds_total",
        "Time that block devices took for requests, in seconds, summed over requests.",
        Each(DEVICE, |f| {
            f.each_timed_device(|io| seconds_of(io.service_ns))
        }),
    ),
    counter(
        "container_fs_io_time_weighted_seconds_total",
        "The same with the time that requests waited before, in seconds.",
        Each(DEVICE, |f| {
            f.each_timed_device(|io| seconds_of(io.service_ns.saturating_add(io.wait_ns)))
        }),
    ),
    counter(
        "container_blkio_device_usage_total",
        "Read from and written to block devices, in bytes.",
        Each(&["device", "major", "minor", "operation"], transfers),
    ),
    counter(
        "container_pressure_io_stalled_seconds_total",
        "Time in which every process that could have run waited for a block device, in seconds.",
        One(|f| f.stalled(|pressure| pressure.io)),
    ),
    counter(
        "container_pressure_io_waiting_seconds_total",
        "Time in which at least one process waited for a block device, in seconds.",
        One(|f| f.waiting(|pressure| pressure.io)),
    ),
];

fn on_file_system(
    figures: &Figures<'_>,
    value: impl Fn(&FileSystem) -> Option<u64>,
) -> Vec<Labelled> {
    let sample = |fs: &FileSystem| Some((vec![fs.device.clone()], value(fs)?));
    figures.file_system().and_then(sample).into_iter().collect()
}

fn transfers(figures: &Figures<'_>) -> Vec<Labelled> {
    let mut samples = Vec::new();
    for io in figures.devices() {
        for (operation, bytes) in [("Read", io.read_bytes), ("Write", io.write_bytes)] {
            let labels = vec![
                figures.device_name(io.major, io.minor),
                io.major.to_string(),
                io.minor.to_string(),
                operation.to_owned(),
            ];
            samples.push((labels, bytes));
        }
    }
    samples
}
