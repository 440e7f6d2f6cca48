//! How long requests to block devices take: counted by cgroup only by the scheduler BFQ, on version 1, in
//! kernels with `CONFIG_BFQ_CGROUP_DEBUG` (Documentation/block/bfq-iosched.rst).

use std::collections::BTreeMap;

use serde::Serialize;

use super::v1::io_line;
use crate::controller::{Controller, Version};
use crate::{Cgroup, Error};

/// Requests of a cgroup, with all below it, to one block device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct IoTimes {
    /// The device's major number.
    pub major: u32,
    /// The device's minor number.
    pub minor: u32,
    /// Requests that wait in the scheduler now.
    pub queued: u64,
    /// From the device's getting reads to their end, summed over reads.
    pub read_ns: u64,
    /// The same of writes.
    pub write_ns: u64,
    /// The same of all requests.
    pub service_ns: u64,
    /// In the scheduler's queues, summed over all requests.
    pub wait_ns: u64,
    /// Reads that were joined to others.
    pub reads_merged: u64,
    /// Writes that were joined to others.
    pub writes_merged: u64,
}

/// Where a line of a file goes, by its kind.
type Place = for<'a> fn(&'a mut IoTimes, &str) -> Option<&'a mut u64>;

const SOURCES: [(&str, Place); 4] = [
    ("io_service_time", |times, kind| match kind {
        "Read" => Some(&mut times.read_ns),
        "Write" => Some(&mut times.write_ns),
        "Total" => Some(&mut times.service_ns),
        _ => None,
    }),
    ("io_wait_time", |times, kind| {
        (kind == "Total").then_some(&mut times.wait_ns)
    }),
    ("io_merged", |times, kind| match kind {
        "Read" => Some(&mut times.reads_merged),
        "Write" => Some(&mut times.writes_merged),
        _ => None,
    }),
    ("io_queued", |times, kind| {
        (kind == "Total").then_some(&mut times.queued)
    }),
];

impl Cgroup {
    /// Times of requests to the devices that were used; none where the kernel does not count them.
    pub fn io_times(&self) -> Result<Vec<IoTimes>, Error> {
        if self.hierarchies().version() == Version::V2 {
            return Ok(Vec::new());
        }
        io_times(|name| {
            let file = format!("blkio.bfq.{name}_recursive");
            self.content(Controller::BlkIo, &file)
        })
    }
}

fn io_times<E>(mut read: impl FnMut(&str) -> Result<Option<String>, E>) -> Result<Vec<IoTimes>, E> {
    let mut devices = BTreeMap::new();
    for (name, place) in SOURCES {
        let text = read(name)?.unwrap_or_default();
        for ((major, minor), kind, value) in text.lines().filter_map(io_line) {
            let device = devices.entry((major, minor)).or_insert(IoTimes {
                major,
                minor,
                ..IoTimes::default()
            });
            if let Some(place) = place(device, kind) {
                *place = value;
            }
        }
    }
    Ok(devices.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_put_together_from_the_files_that_there_are() {
        let read = |name: &str| {
            Ok::<_, Error>(
                match name {
                    "io_service_time" => Some("8:0 Read 7\n8:0 Write 5\n8:0 Total 12\nTotal 12\n"),
                    "io_merged" => Some("8:0 Read 1\n8:0 Write 2\n8:0 Total 3\n"),
                    "io_queued" => Some("8:0 Read 4\n8:0 Total 4\n8:16 Total 6\n"),
                    _ => None,
                }
                .map(str::to_owned),
            )
        };
        let of_first = IoTimes {
            major: 8,
            queued: 4,
            read_ns: 7,
            write_ns: 5,
            service_ns: 12,
            reads_merged: 1,
            writes_merged: 2,
            ..IoTimes::default()
        };
        let of_second = IoTimes {
            major: 8,
            minor: 16,
            queued: 6,
            ..IoTimes::default()
        };
        assert_eq!(io_times(read).unwrap(), [of_first, of_second]);
        assert_eq!(io_times(|_| Ok::<_, Error>(None)).unwrap(), []);
    }
}
