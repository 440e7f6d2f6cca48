//! What an image is once it is here: its names, its size, and what its configuration asks of a container.

use crate::digest::is_lower_hex;
use crate::{Digest, Error};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The digest of an image's configuration: the one id that an image has everywhere.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageId(Digest);

impl ImageId {
    pub(crate) fn new(config: Digest) -> Self {
        Self(config)
    }

    /// The digest of the configuration.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.0
    }

    /// As it is written, with the algorithm.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for ImageId {
    type Err = Error;

    /// Takes the whole id, with or without `sha256:`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let digest = if text.len() == 64 && is_lower_hex(text) {
            format!("sha256:{text}").parse()
        } else {
            text.parse()
        };
        digest.map(Self).map_err(|_| Error::InvalidReference {
            given: text.chars().take(160).collect(),
            reason: "not the id of an image",
        })
    }
}

/// An image on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub id: ImageId,
    /// Complete references with a tag, sorted.
    pub tags: Vec<String>,
    /// Complete references with the digest of what the registry gave for the reference: a manifest or
    /// an index. Sorted.
    pub digests: Vec<String>,
    /// What a registry stores for it: configuration, manifest and layers as they are transferred.
    pub size_bytes: u64,
    /// The kubelet must not remove it to gain space.
    pub pinned: bool,
    /// Those of its manifest.
    pub annotations: BTreeMap<String, String>,
    pub config: ImageConfig,
}

/// What an image's configuration asks of a container (OCI image spec, config.md). The whole
/// configuration, with its history, is [`crate::Images::config_json`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageConfig {
    /// As Go names them: `amd64`.
    pub architecture: String,
    pub os: String,
    /// `user`, `uid`, `user:group` …; empty: root.
    pub user: String,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub working_dir: String,
    pub stop_signal: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// Paths where the image expects a volume.
    pub volumes: Vec<String>,
}

/// The configuration as it is written; every field may be absent or null.
#[derive(Debug, Deserialize)]
pub(crate) struct RawConfig {
    architecture: Option<String>,
    os: Option<String>,
    config: Option<RawProcess>,
    rootfs: Option<RawRootfs>,
}

#[derive(Debug, Deserialize)]
struct RawRootfs {
    diff_ids: Option<Vec<Digest>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawProcess {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    labels: Option<BTreeMap<String, Option<String>>>,
    volumes: Option<BTreeMap<String, Option<serde::de::IgnoredAny>>>,
}

impl RawConfig {
    pub(crate) fn parse(bytes: &[u8], what: &str) -> Result<Self, Error> {
        serde_json::from_slice(bytes).map_err(|error| Error::corrupt(what, error.to_string()))
    }

    /// The digests of the layers as tar archives, base first.
    pub(crate) fn diff_ids(&self) -> Vec<Digest> {
        self.rootfs
            .as_ref()
            .and_then(|rootfs| rootfs.diff_ids.clone())
            .unwrap_or_default()
    }

    pub(crate) fn into_config(self) -> ImageConfig {
        let process = self.config.unwrap_or_default();
        ImageConfig {
            architecture: self.architecture.unwrap_or_default(),
            os: self.os.unwrap_or_default(),
            user: process.user.unwrap_or_default(),
            env: process.env.unwrap_or_default(),
            entrypoint: process.entrypoint.unwrap_or_default(),
            cmd: process.cmd.unwrap_or_default(),
            working_dir: process.working_dir.unwrap_or_default(),
            stop_signal: process.stop_signal.filter(|signal| !signal.is_empty()),
            labels: process
                .labels
                .unwrap_or_default()
                .into_iter()
                .map(|(key, value)| (key, value.unwrap_or_default()))
                .collect(),
            volumes: process.volumes.unwrap_or_default().into_keys().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_with_what_it_leaves_out() {
        let text = br#"{"architecture":"amd64","os":"linux","created":"2026-01-01T00:00:00Z",
            "config":{"Env":["A=b"],"Cmd":null,"Entrypoint":["/bin/sh"],"Volumes":{"/data":{}},
                      "Labels":{"x":"y"},"ExposedPorts":{"80/tcp":{}},"StopSignal":""},
            "rootfs":{"type":"layers","diff_ids":[]},"history":[{"empty_layer":true}]}"#;
        let raw = RawConfig::parse(text, "config").unwrap();
        assert!(raw.diff_ids().is_empty());
        let config = raw.into_config();
        assert_eq!(config.env, ["A=b"]);
        assert_eq!(config.volumes, ["/data"]);
        assert_eq!(config.stop_signal, None);
        assert!(config.cmd.is_empty() && config.user.is_empty());
    }

    #[test]
    fn an_id_is_taken_with_and_without_its_algorithm() {
        let hex = "0".repeat(64);
        let id: ImageId = hex.parse().unwrap();
        assert_eq!(id.as_str(), format!("sha256:{hex}"));
        assert_eq!(format!("sha256:{hex}").parse::<ImageId>().unwrap(), id);
        assert!("busybox".parse::<ImageId>().is_err());
    }
}
