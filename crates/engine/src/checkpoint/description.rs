//! The files of an archive that say what was checkpointed, as checkpointctl, CRI-O and containerd read
//! them (checkpointctl, package lib).

use super::external::is_bind;
use crate::pod::Pod;
use crate::record::ContainerRecord;
use crisp_model::ContainerState;
use crisp_shim_api::timestamp;
use oci_spec::runtime::{Mount, Spec};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// `config.dump`.
pub(super) fn config(record: &ContainerRecord, runtime: &str) -> Value {
    json!({
        "id": record.id,
        "name": record.config.metadata.name,
        "rootfsImage": record.config.image.name(),
        "rootfsImageRef": record.image_id,
        "rootfsImageName": record.config.image.name(),
        "runtime": runtime,
        "createdTime": rfc_3339(record.created_at),
        "checkpointedTime": rfc_3339(SystemTime::now()),
        // Go's zero: it was never restored.
        "restoredTime": "0001-01-01T00:00:00Z",
        "restored": false,
    })
}

/// `spec.dump`, with the annotations that readers tell the container's pod by.
pub(super) fn spec(mut spec: Spec, record: &ContainerRecord, pod: &Pod) -> Spec {
    let pod_name = pod.metadata();
    let mut annotations: HashMap<_, _> = spec.annotations().clone().unwrap_or_default();
    let own = [
        ("container-type", "container"),
        ("container-name", record.config.metadata.name.as_str()),
        ("sandbox-id", record.pod.as_str()),
        ("sandbox-name", pod_name.name.as_str()),
        ("sandbox-namespace", pod_name.namespace.as_str()),
        ("sandbox-uid", pod_name.uid.as_str()),
    ];
    for (name, value) in own {
        annotations.insert(format!("io.kubernetes.cri.{name}"), value.to_owned());
    }
    spec.set_annotations(Some(annotations));
    spec
}

/// The pod's /dev/shm as the container's own, which it becomes with a restore: its content is dumped.
pub(super) fn insert_shm(spec: &mut Spec) {
    let options = ["nosuid", "noexec", "nodev", "mode=1777"].map(str::to_owned);
    let mut shm = Mount::default();
    shm.set_destination("/dev/shm".into());
    shm.set_typ(Some("tmpfs".to_owned()));
    shm.set_source(Some("shm".into()));
    shm.set_options(Some(options.to_vec()));
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    let is_dev = |mount: &Mount| mount.destination() == Path::new("/dev");
    let place = mounts.iter().position(is_dev).map_or(0, |dev| dev + 1);
    mounts.insert(place, shm);
    spec.set_mounts(Some(mounts));
}

/// `status.dump`: the CRI's `ContainerStatus` under the names of its fields.
pub(super) fn status(record: &ContainerRecord) -> Value {
    let started_at = match &record.state {
        ContainerState::Running(running) => timestamp::unix_ns(running.started_at),
        _ => 0,
    };
    json!({
        "id": record.id,
        "metadata": {
            "name": record.config.metadata.name,
            "attempt": record.config.metadata.attempt,
        },
        // CONTAINER_RUNNING.
        "state": 1,
        "created_at": timestamp::unix_ns(record.created_at),
        "started_at": started_at,
        "image": {
            "image": record.config.image.image,
            "user_specified_image": record.config.image.user_specified_image,
        },
        "image_ref": record.image_id,
        "labels": record.config.labels,
        "annotations": record.config.annotations,
        "log_path": record.log_path,
    })
}

/// `bind.mounts`: of what kind the sources of mounts are, which whoever restores has to make if they are
/// missing. Those that are gone are left out.
pub(super) fn bind_mounts(spec: &Spec) -> Value {
    let mounts = spec.mounts().iter().flatten();
    let described = mounts.filter(|mount| is_bind(mount)).filter_map(|mount| {
        let source = mount.source().as_ref()?;
        let metadata = fs::metadata(source).ok()?;
        Some(json!({
            "source": source,
            "destination": mount.destination(),
            "file_type": if metadata.is_dir() { "directory" } else { "file" },
            "permissions": metadata.permissions().mode() & 0o777,
        }))
    });
    described.collect()
}

/// `descriptors.json`, which runc finds the pipes of the standard streams by: where they lead.
pub(super) fn descriptors(pid: u32) -> Value {
    let target = |number: u32| fs::read_link(format!("/proc/{pid}/fd/{number}"));
    let targets = (0..3).map(|number| target(number).unwrap_or_default());
    targets.map(|target| target.display().to_string()).collect()
}

/// `deleted.files`.
pub(super) fn deleted(paths: &[PathBuf]) -> Value {
    let absolute = paths.iter().map(|path| Path::new("/").join(path));
    absolute.map(|path| path.display().to_string()).collect()
}

fn rfc_3339(time: SystemTime) -> String {
    String::from_utf8_lossy(&timestamp::format(time)).into_owned()
}
