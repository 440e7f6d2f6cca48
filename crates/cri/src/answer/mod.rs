//! What clients are told: the engine's views as the wire has them. Pure functions; none of them can
//! fail.

mod container;
mod event;
mod exec;
mod image;
mod node;
mod pod;
mod resources;
mod stats;
mod store;

pub(crate) use container::{container, container_status, state as container_state};
pub(crate) use event::event;
pub(crate) use exec::exec_sync;
pub(crate) use image::{
    DiskUsage, image, image_fs_info, image_info, image_reference, stored_image,
};
pub(crate) use node::{cgroup_driver, node_info, node_status, version};
pub(crate) use pod::{pod, pod_status, state as pod_state};
pub(crate) use resources::resources;
pub(crate) use stats::{container_stats, pod_stats};
pub(crate) use store::store_report;

#[cfg(test)]
pub(crate) use {
    container::{mount, signal},
    pod::namespaces,
};

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// The key under which tools look for the JSON text of a verbose answer.
const INFO: &str = "info";

/// Nanoseconds since 1970; zero for a time before it, which no clock of a running host shows.
pub(crate) fn unix_ns(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The `info` of a verbose answer about a pod or container.
pub(crate) fn info(json: &serde_json::Value) -> BTreeMap<String, String> {
    [(INFO.to_owned(), json.to_string())].into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_nanoseconds_since_1970() {
        assert_eq!(unix_ns(UNIX_EPOCH + Duration::from_nanos(300)), 300);
        assert_eq!(unix_ns(UNIX_EPOCH - Duration::from_secs(1)), 0);
    }
}
