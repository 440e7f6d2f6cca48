//! Devices of the host for a container: their numbers, owners and modes.

use super::looks::Look;
use crate::error::{Error, Result};
use crisp_model::Device;
use crisp_model::spec::HostDevice;
use nix::sys::stat::{major, minor};
use oci_spec::runtime::LinuxDeviceType;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Where the host has its devices.
pub(super) const DIR: &str = "/dev";

/// Devices in one container; a directory with more is refused.
const DEVICES_MAX: usize = 4096;

/// Entries of /dev that each container has of its own and that are not devices of the host.
const NOT_OF_THE_HOST: [&str; 8] = [
    "pts",
    "shm",
    "mqueue",
    "fd",
    "console",
    "ptmx",
    "hugepages",
    ".lxc",
];

/// The devices that a container asks for, and all of the host for a privileged one.
pub(super) fn of_container(
    asked: &[Device],
    privileged: bool,
    look: &Look,
) -> Result<Vec<HostDevice>> {
    let mut all = Vec::new();
    if privileged {
        look.at(DIR);
        let dev = Path::new(DIR);
        collect_dir(dev, dev, "rwm", &mut all)?;
    }
    for device in asked {
        look.at(&device.host_path);
        let access = access(&device.permissions)?;
        let host = Path::new(&device.host_path);
        let inside = match device.container_path.as_str() {
            "" => host,
            path => Path::new(path),
        };
        if !host.is_absolute() || !inside.is_absolute() {
            return Err(Error::invalid(
                "devices",
                format!("{:?} is not an absolute path", device.host_path),
            ));
        }
        let metadata = fs::metadata(host).map_err(Error::io("stat device", host))?;
        if metadata.is_dir() {
            collect_dir(host, inside, access, &mut all)?;
        } else {
            let found = describe(&metadata, inside, access);
            let not_one =
                || Error::invalid("devices.host_path", format!("{host:?} is not a device"));
            all.push(found.ok_or_else(not_one)?);
        }
    }
    Ok(all)
}

pub(super) fn access(permissions: &str) -> Result<&str> {
    match permissions {
        "" => Ok("rwm"),
        given if given.chars().all(|c| "rwm".contains(c)) => Ok(given),
        given => Err(Error::invalid(
            "devices.permissions",
            format!("{given:?} is not made of r, w and m"),
        )),
    }
}

/// All devices below a directory, but what a link points to.
fn collect_dir(host: &Path, inside: &Path, access: &str, all: &mut Vec<HostDevice>) -> Result<()> {
    for entry in fs::read_dir(host).map_err(Error::io("read", host))? {
        let entry = entry.map_err(Error::io("read", host))?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|n| NOT_OF_THE_HOST.contains(&n)) {
            continue;
        }
        // A device that goes while the directory is read is none.
        let Ok(metadata) = entry.path().symlink_metadata() else {
            continue;
        };
        let inside = inside.join(&name);
        if metadata.is_dir() {
            collect_dir(&entry.path(), &inside, access, all)?;
        } else {
            all.extend(describe(&metadata, &inside, access));
        }
        if all.len() > DEVICES_MAX {
            return Err(Error::invalid(
                "devices",
                format!("more than {DEVICES_MAX} devices in {host:?}"),
            ));
        }
    }
    Ok(())
}

pub(super) fn describe(metadata: &Metadata, inside: &Path, access: &str) -> Option<HostDevice> {
    let kind = metadata.file_type();
    let kind = if kind.is_char_device() {
        LinuxDeviceType::C
    } else if kind.is_block_device() {
        LinuxDeviceType::B
    } else {
        return None;
    };
    Some(HostDevice {
        container_path: inside.to_owned(),
        kind,
        major: i64::try_from(major(metadata.rdev())).ok()?,
        minor: i64::try_from(minor(metadata.rdev())).ok()?,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        access: access.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_container(asked: &[Device]) -> Result<Vec<HostDevice>> {
        super::of_container(asked, false, &Look::alone())
    }

    fn device(host: &str, permissions: &str) -> Device {
        Device {
            host_path: host.into(),
            container_path: "/dev/x".into(),
            permissions: permissions.into(),
        }
    }

    #[test]
    fn a_device_is_found_out() {
        let found = of_container(&[device("/dev/null", "rw")]).unwrap();
        assert_eq!(
            (found[0].major, found[0].minor, found[0].access.as_str()),
            (1, 3, "rw")
        );
        assert_eq!(found[0].container_path, Path::new("/dev/x"));
    }

    #[test]
    fn what_is_no_device_is_refused_by_field() {
        for bad in [
            device("/etc/passwd", "r"),
            device("/dev/null", "rx"),
            device("null", "r"),
        ] {
            let error = of_container(&[bad]).unwrap_err().to_string();
            assert!(error.contains("devices"), "{error}");
        }
        assert!(of_container(&[device("/dev/nosuch", "r")]).is_err());
    }
}
