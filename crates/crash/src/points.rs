//! The list of all points.

/// Every point there is. Its name tells whose step it is and what was done just before; those of the
/// shim begin with `shim`.
pub const POINTS: &[&str] = &[
    // RunPodSandbox.
    "run-pod.named",
    "run-pod.addresses-taken",
    "run-pod.recorded",
    "run-pod.run-dir-made",
    "run-pod.files-written",
    "run-pod.cgroup-made",
    "run-pod.pause-cgroup-made",
    "run-pod.asked",
    "run-pod.pause-started",
    "run-pod.netns-file-made",
    "run-pod.netns-pinned",
    "run-pod.wired",
    "run-pod.ready",
    "run-pod.failed",
    // The start of a shim.
    "spawn.listening",
    "spawn.connected",
    "spawn.executed",
    // Records of pods and containers.
    "record.begun",
    "record.made",
    "record.written",
    "record.renamed",
    "record.overwritten",
    // The built-in network.
    "network.pair-made",
    "network.pod-configured",
    "network.ports-opened",
    "network.port-disabled",
    "network.ports-closed",
    // CNI plugins.
    "cni.one-added",
    "cni.added",
    "cni.recorded",
    "cni.one-deleted",
    // CreateContainer.
    "create.named",
    "create.recorded",
    "create.snapshot-made",
    "create.volumes-made",
    "create.cgroup-made",
    "create.limited",
    "create.bundle-made",
    "create.made",
    "create.failed",
    "snapshot.dirs-made",
    "snapshot.recorded",
    // StartContainer.
    "start.log-dir-made",
    "start.asked",
    "start.answered",
    "start.failed",
    "state.changed",
    // StopContainer.
    "stop.begun",
    "stop.signalled",
    "stop.ended",
    "exit.heard",
    // RemoveContainer.
    "remove.killed",
    "remove.shim-forgot",
    "remove.cgroup-removed",
    "snapshot.hidden",
    "remove.snapshot-removed",
    "remove.bundle-removed",
    "remove.record-removed",
    // StopPodSandbox and RemovePodSandbox.
    "stop-pod.recorded",
    "stop-pod.containers-killed",
    "stop-pod.recorded-torn-down",
    "teardown.shim-ended",
    "teardown.unwired",
    "teardown.netns-unmounted",
    "teardown.netns-removed",
    "teardown.cgroup-killed",
    "teardown.cgroup-removed",
    "teardown.run-dir-removed",
    "remove-pod.containers-removed",
    "remove-pod.record-removed",
    // UpdateContainerResources, UpdatePodSandboxResources, ExecSync and ReopenContainerLog.
    "update.applied",
    "update.recorded",
    "update-pod.applied",
    "update-pod.recorded",
    "exec.started",
    "exec.ended",
    "reopen.answered",
    // Exec, Attach and PortForward over streams.
    "stream.exec-started",
    "stream.exec-ended",
    "stream.attached",
    "stream.dialled",
    // CheckpointContainer.
    "checkpoint.recorded",
    "checkpoint.archive-created",
    "criu.started",
    "criu.stepped",
    "checkpoint.changes-written",
    "checkpoint.dumped",
    "checkpoint.described",
    "checkpoint.archived",
    "checkpoint.published",
    // PullImage.
    "pull.resolved",
    "pull.layer-staged",
    "pull.layer-unpacked",
    "layer.recorded",
    "layer.renamed",
    "pull.layers-made",
    "blob.staged",
    "blob.renamed",
    "pull.blobs-written",
    "index.staged",
    "index.renamed",
    "pull.entered",
    "pull.synced",
    // RemoveImage.
    "remove-image.unlisted",
    "layer.hidden",
    "remove-image.layers-removed",
    "remove-image.blobs-removed",
    // The start of a daemon.
    "recover.begun",
    "recover.loaded",
    "recover.snapshots-removed",
    "recover.addresses-reserved",
    "recover.half-made-forgotten",
    "recover.shim-connected",
    "recover.shim-listed",
    "recover.container-taken-away",
    "recover.lost-recorded",
    "recover.exits-read",
    "recover.pods-recovered",
    "recover.orphan-ended",
    "recover.orphan-run-dir-removed",
    "recover.orphan-container-ended",
    "recover.orphans-removed",
    "recover.done",
    // The shim.
    "shim.begun",
    "shim.pid-written",
    "shim.greeted",
    "shim.pause-forked",
    "shim.pause-prepared",
    "shim.pause-reported",
    "shim.pod-answered",
    "shim.container-forked",
    "shim.container-reported",
    "shim.container-answered",
    "shim.exec-forked",
    "shim.exec-answered",
    "shim.exec-ended",
    "shim.signalled",
    "shim.init-reaped",
    "shim.container-killed",
    "shim.exit-written",
    "shim.exit-renamed",
    "shim.exit-told",
    "shim.log-reopened",
    "shim.attached",
    "shim.socket-opened",
    "shim.record-removed",
    "shim.closing",
    "shim.containers-ended",
    "shim.pause-killed",
    "shim.shutdown-answered",
];

/// Whether there is a point of this name.
#[must_use]
pub const fn is_listed(name: &str) -> bool {
    let mut index = 0;
    while index < POINTS.len() {
        if is_same(POINTS[index], name) {
            return true;
        }
        index += 1;
    }
    false
}

/// `==` of strings is not for constants yet.
const fn is_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if one.len() != other.len() {
        return false;
    }
    let mut index = 0;
    while index < one.len() {
        if one[index] != other[index] {
            return false;
        }
        index += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_point_is_listed_once() {
        let names: BTreeSet<_> = POINTS.iter().collect();
        assert_eq!(names.len(), POINTS.len());
        assert!(is_listed("shim.begun") && !is_listed("shim.begu") && !is_listed(""));
    }
}
