//! Device nodes: those of the spec, and those that every container has.

use super::{MountPlan, Source, absolute};
use crate::error::StartError;
use nix::sys::stat::{Mode, SFlag, makedev};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use std::path::{Path, PathBuf};

/// A device node inside a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) path: PathBuf,
    pub(crate) kind: SFlag,
    pub(crate) number: u64,
    pub(crate) mode: Mode,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Character devices with major and minor number that every container has (OCI runtime spec,
/// "Default Devices").
const DEFAULT: [(&str, u64, u64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// The nodes to make. None when /dev is a directory of the host, which has its own.
pub(super) fn from_spec(
    devices: &[LinuxDevice],
    mounts: &[MountPlan],
) -> Result<Vec<Device>, StartError> {
    let mut all: Vec<Device> = devices.iter().map(device).collect::<Result<_, _>>()?;
    if dev_is_bound(mounts) {
        return Ok(Vec::new());
    }
    for (path, major, minor) in DEFAULT {
        if !all.iter().any(|device| device.path == Path::new(path)) {
            all.push(Device {
                path: path.into(),
                kind: SFlag::S_IFCHR,
                number: makedev(major, minor),
                mode: Mode::from_bits_truncate(0o666),
                uid: 0,
                gid: 0,
            });
        }
    }
    Ok(all)
}

fn dev_is_bound(mounts: &[MountPlan]) -> bool {
    mounts.iter().any(|mount| {
        mount.target == Path::new("/dev") && matches!(mount.source, Source::Bind { .. })
    })
}

fn device(device: &LinuxDevice) -> Result<Device, StartError> {
    let path = absolute(device.path())?;
    let invalid = |what: &str| StartError::invalid(format!("device {}: {what}", path.display()));
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => SFlag::S_IFCHR,
        LinuxDeviceType::B => SFlag::S_IFBLK,
        LinuxDeviceType::P => SFlag::S_IFIFO,
        LinuxDeviceType::A => return Err(invalid("type \"a\" is for cgroup rules only")),
    };
    let number = |number: i64| u64::try_from(number).map_err(|_| invalid("negative number"));
    Ok(Device {
        kind,
        number: makedev(number(device.major())?, number(device.minor())?),
        mode: Mode::from_bits_truncate(device.file_mode().unwrap_or(0o666) & 0o7777),
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
        path,
    })
}
