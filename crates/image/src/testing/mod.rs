//! Made-up images, and a registry in this process that serves them and can be told to misbehave.

mod registry;

pub(crate) use registry::{Misbehaviour, Server};

use crate::manifest::{DOCKER_INDEX, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use crate::tar::tests::{end, entry};
use crate::{Config, Digest, Images, Settings};
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub(crate) const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

/// A store in a directory of its own, with whatever settings.
pub(crate) struct TestStore {
    pub(crate) dir: TempDir,
    pub(crate) settings: Settings,
}

impl TestStore {
    pub(crate) fn new() -> Self {
        // In memory if possible: every pull syncs a whole file system.
        let dir = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let settings = Settings {
            registry_config_dirs: vec![dir.path().join("certs.d")],
            stall_timeout_s: 1,
            verifier_dirs: vec![dir.path().join("verifiers")],
            ..Settings::default()
        };
        Self { dir, settings }
    }

    pub(crate) fn open(&self) -> Images {
        let config = Config {
            images_dir: self.path("images"),
            layers_dir: self.path("layers"),
            containers_dir: self.path("containers"),
            mount_points_dir: self.path("mount-points"),
            settings: self.settings.clone(),
        };
        Images::open(config, crisp_metrics::Pulls::default()).unwrap()
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Everything that is stored but for what an empty store has.
    pub(crate) fn leftovers(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for dir in [
            "images/blobs/sha256",
            "images/staging",
            "layers",
            "layers/staging",
            "containers",
        ] {
            let entries = std::fs::read_dir(self.path(dir))
                .unwrap()
                .map(|entry| entry.unwrap().path());
            found.extend(entries.filter(|path| !path.ends_with("staging")));
        }
        found
    }

    pub(crate) fn write_hosts(&self, registry: &str, text: &str) {
        let dir = self.path("certs.d").join(registry);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("hosts.toml"), text).unwrap();
    }
}

/// A blob with its media type.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    pub(crate) media_type: String,
    pub(crate) bytes: Vec<u8>,
}

impl Blob {
    pub(crate) fn new(media_type: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            media_type: media_type.to_owned(),
            bytes: bytes.into(),
        }
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    pub(crate) fn descriptor(&self) -> serde_json::Value {
        serde_json::json!({
            "mediaType": self.media_type, "digest": self.digest(), "size": self.bytes.len()
        })
    }
}

/// An image: its layers as they are transferred, its configuration and its manifest.
#[derive(Debug, Clone)]
pub(crate) struct TestImage {
    pub(crate) layers: Vec<Blob>,
    pub(crate) config: Blob,
    pub(crate) manifest: Blob,
}

/// An archive with these files.
pub(crate) fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes: Vec<u8> = files
        .iter()
        .flat_map(|(path, text)| entry(path, b'0', "", 0o644, text.as_bytes()))
        .collect();
    bytes.extend(end());
    bytes
}

pub(crate) fn compress(media_type: &str, bytes: &[u8]) -> Vec<u8> {
    if media_type.contains("gzip") {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    } else if media_type.contains("zstd") {
        zstd::encode_all(bytes, 1).unwrap()
    } else {
        bytes.to_vec()
    }
}

impl TestImage {
    /// From archives and the media types they are transferred with.
    pub(crate) fn new(layers: &[(&str, Vec<u8>)]) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|(_, bytes)| Digest::of(bytes)).collect();
        let layers = layers
            .iter()
            .map(|(media_type, bytes)| Blob::new(media_type, compress(media_type, bytes)));
        Self::from_blobs(layers.collect(), &diff_ids)
    }

    /// From blobs and what the configuration is to say of them.
    pub(crate) fn from_blobs(layers: Vec<Blob>, diff_ids: &[Digest]) -> Self {
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux",
            "config": { "Env": ["A=b"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = Blob::new(OCI_CONFIG, config.to_string());
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let manifest = Blob::new(OCI_MANIFEST, manifest.to_string());
        Self {
            layers,
            config,
            manifest,
        }
    }

    /// One gzip layer with one file.
    pub(crate) fn small(text: &str) -> Self {
        Self::new(&[(GZIP, layer(&[("file", text)]))])
    }

    pub(crate) fn id(&self) -> String {
        self.config.digest().to_string()
    }

    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.layers.iter().chain([&self.config, &self.manifest])
    }
}

/// An index of manifests for these architectures.
pub(crate) fn index(images: &[(&str, &TestImage)]) -> Blob {
    let manifests: Vec<_> = images
        .iter()
        .map(|(architecture, image)| {
            let mut descriptor = image.manifest.descriptor();
            descriptor["platform"] =
                serde_json::json!({ "architecture": architecture, "os": "linux" });
            descriptor
        })
        .collect();
    let media_type = if images.len().is_multiple_of(2) {
        OCI_INDEX
    } else {
        DOCKER_INDEX
    };
    let index =
        serde_json::json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
    Blob::new(media_type, index.to_string())
}

/// This machine, as image indexes name it.
pub(crate) fn own_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// Writes an executable shell script. Another process does it: a file that this one had open for writing
/// could not be executed while some child of it still has the descriptor.
pub(crate) fn write_script(path: &Path, script: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut install = std::process::Command::new("install")
        .args(["-m", "755", "/dev/stdin"])
        .arg(path)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = install.stdin.take().unwrap();
    writeln!(stdin, "#!/bin/sh\n{script}").unwrap();
    drop(stdin);
    assert!(install.wait().unwrap().success());
}
