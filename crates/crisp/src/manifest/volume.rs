//! Volumes and their mounts.

use super::Host;
use super::schema::{Pod, Propagation, RecursiveReadOnly, Volume, VolumeMount};
use crisp_cri_api::v1;
use std::path::PathBuf;

impl Volume {
    /// Where it is on the host, for a pod.
    pub(crate) fn host_path(&self, pod: &Pod, host: &Host) -> PathBuf {
        match &self.host_path {
            Some(given) => given.path.clone().into(),
            None => host.volumes_dir.join(&pod.metadata.uid).join(&self.name),
        }
    }
}

pub(super) fn mounts(mounts: &[VolumeMount], pod: &Pod, host: &Host) -> Vec<v1::Mount> {
    let of = |mount: &VolumeMount| {
        let volume = pod
            .spec
            .volumes
            .iter()
            .find(|volume| volume.name == mount.name)?;
        Some(one(mount, volume.host_path(pod, host)))
    };
    mounts.iter().filter_map(of).collect()
}

fn one(asked: &VolumeMount, host_path: PathBuf) -> v1::Mount {
    let propagation = match asked.mount_propagation {
        Propagation::None => v1::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => v1::MountPropagation::PropagationBidirectional,
    };
    v1::Mount {
        container_path: asked.mount_path.clone(),
        host_path: host_path.display().to_string(),
        readonly: asked.read_only,
        // crisp always can, so "if possible" is the same.
        recursive_read_only: asked.recursive_read_only != RecursiveReadOnly::Disabled,
        propagation: propagation.into(),
        ..Default::default()
    }
}
