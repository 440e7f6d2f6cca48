//! Images: layers, a configuration, and the manifest that names both.

use crate::layer::{PackedLayer, Packing};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// A SHA-256 in hexadecimal; displayed with the algorithm before it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Digest(String);

impl Digest {
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(
            Sha256::digest(bytes)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        )
    }

    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

/// Whose media types the manifests carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    Oci,
    Docker,
}

impl Flavour {
    fn manifest(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.manifest.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    fn index(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.index.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.config.v1+json",
            Self::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    fn layer(self, packing: Packing) -> &'static str {
        match (self, packing) {
            (Self::Oci, Packing::Plain) => "application/vnd.oci.image.layer.v1.tar",
            (Self::Oci, Packing::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (_, Packing::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
            (Self::Docker, Packing::Plain) => "application/vnd.docker.image.rootfs.diff.tar",
            (Self::Docker, Packing::Gzip) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        }
    }
}

/// Bytes that a registry keeps, and what they are.
#[derive(Debug, Clone)]
pub struct Document {
    pub media_type: &'static str,
    pub bytes: Vec<u8>,
}

impl Document {
    fn new(media_type: &'static str, content: &Value) -> Self {
        Self {
            media_type,
            bytes: content.to_string().into_bytes(),
        }
    }

    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    fn descriptor(&self) -> Value {
        descriptor(self.media_type, &self.bytes)
    }
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "size": bytes.len(), "digest": Digest::of(bytes).to_string()})
}

/// An image for one platform.
#[derive(Debug, Clone)]
pub struct Image {
    pub layers: Vec<PackedLayer>,
    flavour: Flavour,
    architecture: &'static str,
    config: Value,
}

impl Image {
    /// An image for this machine, lowest layer first.
    #[must_use]
    pub fn new(layers: Vec<PackedLayer>) -> Self {
        Self {
            layers,
            flavour: Flavour::Oci,
            architecture: match std::env::consts::ARCH {
                "aarch64" => "arm64",
                _ => "amd64",
            },
            config: json!({
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Cmd": ["sh"],
            }),
        }
    }

    #[must_use]
    pub fn flavour(mut self, flavour: Flavour) -> Self {
        self.flavour = flavour;
        self
    }

    #[must_use]
    pub fn architecture(mut self, architecture: &'static str) -> Self {
        self.architecture = architecture;
        self
    }

    /// Sets a field of the configuration that containers start with: `User`, `StopSignal`, ….
    #[must_use]
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.config[field] = value;
        self
    }

    #[must_use]
    pub fn config(&self) -> Document {
        let diff_ids: Vec<String> = self
            .layers
            .iter()
            .map(|layer| layer.diff_id.to_string())
            .collect();
        let content = json!({
            "architecture": self.architecture,
            "os": "linux",
            "created": "2024-01-01T00:00:00Z",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        Document::new(self.flavour.config(), &content)
    }

    #[must_use]
    pub fn manifest(&self) -> Document {
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|layer| descriptor(self.flavour.layer(layer.packing), &layer.blob))
            .collect();
        let content = json!({
            "schemaVersion": 2,
            "mediaType": self.flavour.manifest(),
            "config": self.config().descriptor(),
            "layers": layers,
        });
        Document::new(self.flavour.manifest(), &content)
    }

    /// The index that offers several images as one, each for its own platform.
    ///
    /// # Panics
    /// There is no image.
    #[must_use]
    pub fn index(images: &[Self]) -> Document {
        let manifests: Vec<Value> = images
            .iter()
            .map(|image| {
                let mut entry = image.manifest().descriptor();
                entry["platform"] = json!({"architecture": image.architecture, "os": "linux"});
                entry
            })
            .collect();
        let media_type = images
            .first()
            .expect("an index has an image")
            .flavour
            .index();
        let content = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
        Document::new(media_type, &content)
    }
}
