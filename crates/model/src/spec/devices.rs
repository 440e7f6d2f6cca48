//! Devices: the nodes that a container sees and the cgroup rules that allow them.

use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};
use std::path::PathBuf;

/// A device of the host as it is shown in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    pub container_path: PathBuf,
    pub kind: LinuxDeviceType,
    pub major: i64,
    pub minor: i64,
    /// Permission bits of the node.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Some of `r`, `w` and `m`, for the cgroup.
    pub access: String,
}

/// Character devices that every container may use: null, zero, full, random, urandom, tty, console,
/// ptmx, and every pty (Documentation/admin-guide/devices.txt).
const ALLOWED: [(i64, Option<i64>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];

pub(super) fn nodes(devices: &[HostDevice]) -> Vec<LinuxDevice> {
    devices.iter().map(node).collect()
}

fn node(device: &HostDevice) -> LinuxDevice {
    LinuxDeviceBuilder::default()
        .path(&device.container_path)
        .typ(device.kind)
        .major(device.major)
        .minor(device.minor)
        .file_mode(device.mode)
        .uid(device.uid)
        .gid(device.gid)
        .build()
        .expect("every field is set")
}

/// The rules of the devices cgroup, in the order in which they are applied.
pub(super) fn cgroup_rules(privileged: bool, devices: &[HostDevice]) -> Vec<LinuxDeviceCgroup> {
    if privileged {
        return vec![rule(true, LinuxDeviceType::A, None, None, "rwm")];
    }
    let mut rules = vec![
        rule(false, LinuxDeviceType::A, None, None, "rwm"),
        // Nodes can be made, as mknod of what may not be opened does no harm.
        rule(true, LinuxDeviceType::C, None, None, "m"),
        rule(true, LinuxDeviceType::B, None, None, "m"),
    ];
    for (major, minor) in ALLOWED {
        rules.push(rule(true, LinuxDeviceType::C, Some(major), minor, "rwm"));
    }
    for device in devices {
        let (major, minor) = (Some(device.major), Some(device.minor));
        rules.push(rule(true, device.kind, major, minor, &device.access));
    }
    rules
}

fn rule(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut builder = LinuxDeviceCgroupBuilder::default()
        .allow(allow)
        .typ(kind)
        .access(access);
    if let Some(major) = major {
        builder = builder.major(major);
    }
    if let Some(minor) = minor {
        builder = builder.minor(minor);
    }
    builder.build().expect("every field is set")
}
