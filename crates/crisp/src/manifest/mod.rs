//! Kubernetes Pod manifests, for nodes without a kubelet.
//!
//! [`parse`] reads them into [`Pod`], which has what is supported and nothing else; what a manifest
//! says beyond that is an error that names every such field, but for what means nothing without a
//! cluster. [`pod_config`] and [`container_config`] are what the kubelet would have made of it. All of
//! it is pure; `crisp pod run` acts on it.

mod container;
mod environment;
mod ignored;
mod parse;
mod pod;
mod resolver;
mod resources;
mod schema;
mod security;
mod volume;

pub(crate) use container::container_config;
pub(crate) use parse::parse;
pub(crate) use pod::{log_directory, pod_config};
pub(crate) use schema::{Container, HostPathType, Pod, PullPolicy, Volume};
pub(crate) use security::must_not_be_root;

use std::path::PathBuf;

/// Marks pods that `crisp pod run` made: their logs and volumes are its to remove.
pub(crate) const RUN_ANNOTATION: &str = "io.crisp.pod-run";

/// Seconds that a container gets to end by itself, where the kubelet looks for it, too.
pub(crate) const GRACE_ANNOTATION: &str = "io.kubernetes.pod.terminationGracePeriod";

/// The kubelet's labels, by which tools find pods and containers.
pub(crate) mod label {
    pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
    pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
    pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
}

/// What a manifest's meaning depends on beside its text.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    /// Where the log directories of pods are.
    pub(crate) log_dir: PathBuf,
    /// Where the emptyDir volumes of pods are, a directory for each pod's uid.
    pub(crate) volumes_dir: PathBuf,
    /// All of the host's memory: the kubelet's OOM scores are shares of it.
    pub(crate) memory_bytes: u64,
    /// The text of the host's resolv.conf.
    pub(crate) resolv_conf: String,
}

/// A manifest that cannot be what it says; names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub(crate) struct Invalid {
    pub(crate) field: String,
    pub(crate) reason: String,
}

impl Invalid {
    fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn host() -> Host {
        Host {
            log_dir: "/logs".into(),
            volumes_dir: "/run/x/volumes".into(),
            memory_bytes: 1 << 30,
            resolv_conf: String::new(),
        }
    }

    pub(super) fn sample() -> Pod {
        let text = r#"
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, uid: u-1, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 7
  securityContext: {sysctls: [{name: net.core.somaxconn, value: "512"}]}
  volumes:
  - {name: tmp, emptyDir: {}}
  - {name: srv, hostPath: {path: /srv, type: Directory}}
  containers:
  - name: main
    image: busybox:1
    args: [serve, $(PORT)]
    env: [{name: PORT, value: "8080"}, {name: URL, value: "http://:$(PORT)/"}]
    ports: [{containerPort: 8080}, {containerPort: 53, hostPort: 5353, hostIP: 127.0.0.1, protocol: UDP}]
    resources: {limits: {memory: 64Mi}}
    volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: srv, mountPath: /srv, readOnly: true, mountPropagation: HostToContainer}
"#;
        parse(text).unwrap().pods.remove(0)
    }
}
