//! Where images live on the node, and what an administrator can set.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// The directories of one store of images, and its settings. Nobody else may write into the directories;
/// `layers_dir` and `containers_dir` may be on different file systems.
#[derive(Debug, Clone)]
pub struct Config {
    /// Manifests and configurations, as an OCI image layout.
    pub images_dir: PathBuf,
    /// Unpacked layers.
    pub layers_dir: PathBuf,
    /// What containers write.
    pub containers_dir: PathBuf,
    /// What lies below the layers of every container; made anew whenever the store is opened.
    pub mount_points_dir: PathBuf,
    pub settings: Settings,
}

/// What can be set about images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where `<registry>/hosts.toml` and certificates are looked for, in this order. The files are read
    /// again at every pull.
    pub registry_config_dirs: Vec<PathBuf>,
    /// Layers that are fetched and unpacked at the same time, over all pulls. Each needs 2 MiB of memory
    /// and up to two processors.
    pub max_concurrent_downloads: usize,
    /// A layer that unpacks to more than this is refused.
    pub max_layer_bytes: u64,
    /// An image whose layers unpack to more than this together is refused.
    pub max_image_bytes: u64,
    /// A download that brings nearly nothing for this long is tried again, and then given up.
    pub stall_timeout_s: u64,
    /// Keep layers as they were fetched beside the unpacked ones. They are of no use to running
    /// containers and double the space that images take, but let other tools copy images out of the
    /// store.
    pub keep_layer_blobs: bool,
    /// Images that the kubelet must not remove to gain space: references, or the beginning of references
    /// followed by `*`.
    pub pinned: Vec<String>,
    /// Where programs are looked for that are asked about every image before it is unpacked. Read again
    /// at every pull.
    pub verifier_dirs: Vec<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            registry_config_dirs: [
                "/etc/crisp/certs.d",
                "/etc/containerd/certs.d",
                "/etc/docker/certs.d",
            ]
            .map(PathBuf::from)
            .to_vec(),
            max_concurrent_downloads: 4,
            max_layer_bytes: 64 << 30,
            max_image_bytes: 128 << 30,
            stall_timeout_s: 60,
            keep_layer_blobs: false,
            pinned: Vec::new(),
            verifier_dirs: [
                "/opt/crisp/image-verifier/bin",
                "/opt/containerd/image-verifier/bin",
            ]
            .map(PathBuf::from)
            .to_vec(),
        }
    }
}

impl Settings {
    pub(crate) fn stall_timeout(&self) -> Duration {
        Duration::from_secs(self.stall_timeout_s.max(1))
    }

    /// Whether an image with this complete reference is pinned.
    pub(crate) fn is_pinned(&self, name: &str) -> bool {
        self.pinned
            .iter()
            .any(|pattern| match pattern.strip_suffix('*') {
                Some(beginning) => name.starts_with(beginning),
                None => {
                    pattern == name
                        || pattern
                            .parse::<crate::Reference>()
                            .is_ok_and(|pinned| pinned.to_string() == name)
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_references_or_beginnings() {
        let settings = Settings {
            pinned: vec!["busybox".into(), "registry.k8s.io/*".into()],
            ..Settings::default()
        };
        assert!(settings.is_pinned("docker.io/library/busybox:latest"));
        assert!(settings.is_pinned("registry.k8s.io/pause:3.10"));
        assert!(!settings.is_pinned("docker.io/library/busybox:1"));
        assert!(!Settings::default().is_pinned("docker.io/library/busybox:latest"));
    }
}
