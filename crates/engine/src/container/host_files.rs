//! What a container uses of the host's files: sources of its mounts, and devices.

use super::looks::{Look, Looks};
use super::{cdi, devices};
use crate::engine::blocking;
use crate::error::{Error, Result};
use crate::record::ContainerRecord;
use crate::selinux::{label_own, relabel};
use crisp_model::Mount;
use crisp_model::spec::{HostDevice, Volume};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the file systems of the host may take to show what is mounted and which devices there
/// are: one that hangs, such as a dead NFS server's, must not hold up the node.
const HOST_FILES_TIMEOUT: Duration = Duration::from_secs(10);

/// What a container uses of the host's files.
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
    let (config, user) = (record.config.clone(), record.user.clone());
    let look = looks.begin(config.mounts.iter().map(|mount| &mount.host_path))?;
    let handle = look.handle();
    let work = tokio::task::spawn_blocking(move || {
        make_sources(&config.mounts, &look)?;
        look.at("the host's devices");
        let privileged = config.security.privileged;
        let mut devices = devices::of_container(&config.devices, privileged)?;
        let edits = crisp_cdi::edits(&cdi_dirs, &config.cdi_devices)?;
        cdi::add_nodes(&mut devices, &edits, &user)?;
        Ok(HostFiles { devices, edits })
    });
    match tokio::time::timeout(HOST_FILES_TIMEOUT, work).await {
        Ok(done) => done.map_err(|e| Error::Internal(e.to_string()))?,
        Err(_) => Err(handle.give_up()),
    }
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
