//! What a container uses of the host's files: sources of its mounts, and devices.

use super::looks::{Look, Looks};
use super::{cdi, devices};
use crate::engine::blocking;
use crate::error::{Error, Result};
use crate::record::ContainerRecord;
use crate::selinux::{label_own, relabel};
use crisp_model::spec::{HostDevice, Volume};
use crisp_model::{ContainerConfig, Mount};
use std::path::{Path, PathBuf};

/// What a container uses of the host's files.
#[derive(Default)]
pub(super) struct HostFiles {
    pub(super) devices: Vec<HostDevice>,
    /// What CDI devices change beside the device nodes.
    pub(super) edits: crisp_cdi::Edits,
}

/// Looks at what the container uses of the host's files: makes the sources of its mounts that are
/// missing, and its devices' numbers out.
pub(super) async fn host_files(
    record: &ContainerRecord,
    cdi_dirs: Vec<PathBuf>,
    looks: &Looks,
) -> Result<HostFiles> {
    let places = places(&record.config, &cdi_dirs);
    if places.is_empty() {
        return Ok(HostFiles::default());
    }
    let (config, user) = (record.config.clone(), record.user.clone());
    let work = move |look: &Look| {
        make_sources(&config.mounts, look)?;
        let privileged = config.security.privileged;
        let mut devices = devices::of_container(&config.devices, privileged, look)?;
        look.at(&cdi_place(&cdi_dirs));
        let edits = crisp_cdi::edits(&cdi_dirs, &config.cdi_devices)?;
        cdi::add_nodes(&mut devices, &edits, &user)?;
        Ok(HostFiles { devices, edits })
    };
    looks.look(&places, work).await
}

/// All that is looked at for a container, by the names under which the look says where it is.
fn places(config: &ContainerConfig, cdi_dirs: &[PathBuf]) -> Vec<String> {
    let mounts = config.mounts.iter().map(|mount| mount.host_path.clone());
    let devices = config.devices.iter().map(|device| device.host_path.clone());
    let all_devices = config.security.privileged.then(|| devices::DIR.to_owned());
    let cdi = (!config.cdi_devices.is_empty()).then(|| cdi_place(cdi_dirs));
    mounts
        .chain(devices)
        .chain(all_devices)
        .chain(cdi)
        .collect()
}

/// The directories with descriptions of CDI devices, which are read together, and the devices that
/// these describe.
fn cdi_place(dirs: &[PathBuf]) -> String {
    let dirs: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    format!("the CDI devices of {}", dirs.join(" and "))
}

/// Labels what the container may write to outside of its root: the sources of its mounts that the client
/// wants relabelled, and its volumes.
pub(super) async fn label_files(
    record: &ContainerRecord,
    volumes: &[Volume],
    label: &str,
    own_dirs: Vec<PathBuf>,
) -> Result<()> {
    let (config, label) = (record.config.clone(), label.to_owned());
    let volumes: Vec<PathBuf> = volumes.iter().map(|volume| volume.place.clone()).collect();
    blocking(move || {
        for mount in config.mounts.iter().filter(|mount| mount.selinux_relabel) {
            if mount.image.is_none() {
                relabel(Path::new(&mount.host_path), &label, &own_dirs)?;
            }
        }
        volumes
            .iter()
            .try_for_each(|place| label_own(place, &label))
    })
    .await
}

/// A source that is missing becomes an empty directory, as in every CRI runtime.
fn make_sources(mounts: &[Mount], look: &Look) -> Result<()> {
    for mount in mounts {
        let path = Path::new(&mount.host_path);
        look.at(&mount.host_path);
        if path.is_absolute() && path.symlink_metadata().is_err() {
            std::fs::create_dir_all(path).map_err(Error::io("make the mount source", path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crisp_model::Device;

    #[test]
    fn all_that_is_looked_at_has_a_name() {
        let cdi_dirs = [PathBuf::from("/etc/cdi"), PathBuf::from("/run/cdi")];
        let mut config = ContainerConfig::default();
        assert!(places(&config, &cdi_dirs).is_empty());
        config.mounts.push(Mount {
            host_path: "/data".to_owned(),
            ..Mount::default()
        });
        config.devices.push(Device {
            host_path: "/devices".to_owned(),
            container_path: String::new(),
            permissions: String::new(),
        });
        config.cdi_devices.push("vendor.com/class=name".to_owned());
        config.security.privileged = true;
        assert_eq!(
            places(&config, &cdi_dirs),
            [
                "/data",
                "/devices",
                "/dev",
                "the CDI devices of /etc/cdi and /run/cdi"
            ]
        );
    }
}
