//! Images as the archives that `docker save` and OCI tools write.

use crate::image::Image;
use crate::layer::{Entry, Layer, Packing};
use serde_json::json;

/// An OCI image layout in a tar file, its image under a name.
#[must_use]
pub fn oci_archive(name: &str, image: &Image) -> Vec<u8> {
    let manifest = image.manifest();
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": manifest.media_type,
            "size": manifest.bytes.len(),
            "digest": manifest.digest().to_string(),
            "annotations": {"org.opencontainers.image.ref.name": name, "io.containerd.image.name": name},
        }],
    });
    let documents = [manifest, image.config()];
    let blobs = documents.into_iter().map(|document| document.bytes);
    let blobs = blobs.chain(image.layers.iter().map(|layer| layer.blob.clone()));
    let mut entries = vec![
        Entry::file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#),
        Entry::file("index.json", index.to_string()),
    ];
    entries.extend(blobs.map(|blob| {
        let digest = crate::image::Digest::of(&blob);
        Entry::file(&format!("blobs/sha256/{}", digest.hex()), blob)
    }));
    Layer::new(entries).pack(Packing::Plain).tar
}

/// What `docker save` wrote before it learnt the OCI layout.
#[must_use]
pub fn docker_archive(name: &str, image: &Image) -> Vec<u8> {
    let config = image.config();
    let config_name = format!("{}.json", config.digest().hex());
    let layer_name = |index: usize| format!("layer-{index}/layer.tar");
    let layers: Vec<String> = (0..image.layers.len()).map(layer_name).collect();
    let manifest = json!([{"Config": config_name, "RepoTags": [name], "Layers": layers}]);
    let mut entries = vec![
        Entry::file("manifest.json", manifest.to_string()),
        Entry::file(&config_name, config.bytes),
    ];
    let tars = image.layers.iter().enumerate();
    entries.extend(tars.map(|(index, layer)| Entry::file(&layer_name(index), layer.tar.clone())));
    Layer::new(entries).pack(Packing::Plain).tar
}
