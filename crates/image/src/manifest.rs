//! Manifests and indexes (OCI image spec, manifest.md and image-index.md; docker's schema 2, which has
//! the same shape under other names).

use crate::platform::Platform;
use crate::{Digest, Error};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// A layer that is not compressed.
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+";

/// Layers that anyone may store and pass on. How they are compressed is seen from their first bytes.
const LAYERS: [&str; 6] = [
    LAYER,
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

/// The largest manifest or index (distribution spec, § Pushing Manifests).
pub(crate) const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// The largest configuration.
pub(crate) const MAX_CONFIG_BYTES: u64 = 8 << 20;
/// The annotations of one image that are kept.
const MAX_ANNOTATIONS_BYTES: usize = 16 << 10;
/// The most layers of an image; overlayfs stacks 500 at most.
const MAX_LAYERS: usize = 480;

/// Content by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    #[serde(rename = "size")]
    pub(crate) size_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: Digest, size_bytes: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size_bytes,
            platform: None,
            annotations: None,
        }
    }

    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

/// What a registry gives for a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    Manifest(Manifest),
    /// One manifest for each platform.
    Index(Vec<Descriptor>),
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    /// Base first.
    pub(crate) layers: Vec<Descriptor>,
    /// What its publisher says about it; nothing when that is too much to be kept in memory.
    pub(crate) annotations: BTreeMap<String, String>,
}

/// All that a document of either kind may hold.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    annotations: Option<BTreeMap<String, String>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Parses what came with the media type `given` (empty: unknown). A document that could be taken for
    /// one kind by one reader and for another by the next is refused (CVE-2021-41190).
    pub(crate) fn parse(bytes: &[u8], given: &str, what: &str) -> Result<Self, Error> {
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|error| Error::corrupt(what, error.to_string()))?;
        let said = raw.media_type.as_deref().unwrap_or_default();
        if raw.fs_layers.is_some()
            || given.starts_with(DOCKER_SCHEMA_1)
            || raw.schema_version == Some(1)
        {
            return Err(Error::refused(
                what,
                "docker's schema 1 is not supported; push the image again",
            ));
        }
        if raw.manifests.is_some() && (raw.layers.is_some() || raw.config.is_some()) {
            return Err(Error::refused(
                what,
                "it is an index and a manifest at the same time",
            ));
        }
        match raw {
            Raw {
                manifests: Some(manifests),
                ..
            } => {
                check_media_type(&[OCI_INDEX, DOCKER_INDEX], given, said, what)?;
                Ok(Self::Index(manifests))
            }
            Raw {
                config: Some(config),
                layers,
                annotations,
                ..
            } => {
                check_media_type(&[OCI_MANIFEST, DOCKER_MANIFEST], given, said, what)?;
                Manifest {
                    config,
                    layers: layers.unwrap_or_default(),
                    annotations: annotations.filter(are_few).unwrap_or_default(),
                }
                .check(what)
                .map(Self::Manifest)
            }
            _ => Err(Error::corrupt(
                what,
                "it is neither an index nor a manifest",
            )),
        }
    }
}

/// Every list of images carries the annotations of each.
fn are_few(annotations: &BTreeMap<String, String>) -> bool {
    let bytes = annotations
        .iter()
        .map(|(key, value)| key.len() + value.len());
    bytes.sum::<usize>() <= MAX_ANNOTATIONS_BYTES
}

/// Both the transport's and the document's own media type have to be of the kind that the content is.
fn check_media_type(kinds: &[&str], given: &str, said: &str, what: &str) -> Result<(), Error> {
    let is_known = |media_type: &str| {
        [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST].contains(&media_type)
    };
    for media_type in [given, said] {
        if is_known(media_type) && !kinds.contains(&media_type) {
            return Err(Error::refused(
                what,
                format!("its content is not {media_type}"),
            ));
        }
    }
    if !said.is_empty() && !is_known(said) {
        return Err(Error::refused(
            what,
            format!("media type {said:?} is not supported"),
        ));
    }
    Ok(())
}

impl Manifest {
    fn check(self, what: &str) -> Result<Self, Error> {
        if self.layers.len() > MAX_LAYERS {
            return Err(Error::refused(
                what,
                format!("it has more than {MAX_LAYERS} layers"),
            ));
        }
        if let Some(layer) = self
            .layers
            .iter()
            .find(|layer| !is_layer(&layer.media_type))
        {
            return Err(Error::refused(what, layer_reason(&layer.media_type)));
        }
        Ok(self)
    }

    /// What a registry stores for the image beside the manifest; none if it is more than can be counted.
    pub(crate) fn size_bytes(&self) -> Option<u64> {
        self.layers
            .iter()
            .try_fold(self.config.size_bytes, |sum, layer| {
                sum.checked_add(layer.size_bytes)
            })
    }
}

fn is_layer(media_type: &str) -> bool {
    LAYERS.contains(&media_type)
}

fn layer_reason(media_type: &str) -> String {
    if media_type.contains("foreign") || media_type.contains("nondistributable") {
        format!("its layer of type {media_type} has to be fetched from elsewhere than its registry")
    } else if media_type.contains("encrypted") {
        "it has an encrypted layer".to_owned()
    } else {
        format!("a layer of type {media_type:?} cannot be unpacked")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn manifest(layer_type: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{OCI_CONFIG}","digest":"sha256:{HEX}","size":2}},
            "layers":[{{"mediaType":"{layer_type}","digest":"sha256:{HEX}","size":3}}]}}"#
        )
    }

    fn index() -> String {
        format!(
            r#"{{"manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"sha256:{HEX}","size":2}}]}}"#
        )
    }

    fn parse(text: &str, given: &str) -> Result<Document, Error> {
        Document::parse(text.as_bytes(), given, "it")
    }

    #[test]
    fn all_kinds_of_documents_and_layers_are_read() {
        for layer in LAYERS {
            for given in [OCI_MANIFEST, DOCKER_MANIFEST, "", "application/json"] {
                let document = parse(&manifest(layer), given).unwrap();
                let Document::Manifest(manifest) = document else {
                    panic!("{document:?}")
                };
                assert_eq!(manifest.size_bytes(), Some(5));
            }
        }
        for given in [OCI_INDEX, DOCKER_INDEX, ""] {
            assert!(matches!(parse(&index(), given), Ok(Document::Index(m)) if m.len() == 1));
        }
    }

    #[test]
    fn annotations_are_kept_unless_they_are_too_much() {
        let annotated = |value: &str| {
            let annotations = format!(r#"{{"annotations":{{"key":"{value}"}},"#);
            match parse(&manifest(LAYERS[0]).replacen('{', &annotations, 1), "") {
                Ok(Document::Manifest(manifest)) => manifest.annotations,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(annotated("value")["key"], "value");
        assert!(annotated(&"x".repeat(MAX_ANNOTATIONS_BYTES)).is_empty());
    }

    #[test]
    fn ambiguous_documents_are_refused() {
        let both = manifest(LAYERS[0]).replacen('{', r#"{"manifests":[],"#, 1);
        let config_only =
            r#"{"manifests":[],"config":{"digest":"sha256:HEX","size":1}}"#.replace("HEX", HEX);
        let said =
            manifest(LAYERS[0]).replacen('{', &format!(r#"{{"mediaType":"{OCI_INDEX}","#), 1);
        for (text, given) in [
            (both, OCI_MANIFEST),
            (config_only, ""),
            (said, ""),
            (manifest(LAYERS[0]), OCI_INDEX),
            (index(), DOCKER_MANIFEST),
        ] {
            assert!(
                matches!(parse(&text, given), Err(Error::Refused { .. })),
                "{text} as {given}"
            );
        }
    }

    #[test]
    fn layers_that_cannot_be_had_or_unpacked_are_refused_with_their_reason() {
        for (layer, reason) in [
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "elsewhere",
            ),
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar",
                "elsewhere",
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
                "encrypted",
            ),
            ("application/vnd.wasm.content.layer.v1+wasm", "unpacked"),
            ("", "unpacked"),
        ] {
            let error = parse(&manifest(layer), "").unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn schema_1_and_nonsense_are_refused() {
        let schema_1 = r#"{"schemaVersion":1,"fsLayers":[]}"#;
        assert!(
            parse(schema_1, "")
                .unwrap_err()
                .to_string()
                .contains("schema 1")
        );
        for text in [
            "",
            "[]",
            "{}",
            r#"{"layers":[]}"#,
            r#"{"manifests":[{"digest":"x","size":1}]}"#,
        ] {
            assert!(
                matches!(parse(text, ""), Err(Error::Corrupt { .. })),
                "{text}"
            );
        }
    }
}
