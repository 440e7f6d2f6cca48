//! Writing images out of the store as one archive, which is an OCI image layout (OCI image spec,
//! image-layout.md) and at the same time what docker loads (`manifest.json`).
//!
//! An image whose layers are kept as they were fetched leaves as it came, byte for byte. Otherwise its
//! layers are archived anew from what was unpacked, uncompressed, and the manifest and the configuration
//! name these: the files are the same, the image has another id. Archived once more, also from another
//! store, they are the same bytes.
//!
//! An archive has the digests and sizes in front of the content. So each layer is archived twice, the
//! first time to nowhere: no copy of it touches the disk.

mod hashed;
mod layer;
mod nowhere;

use crate::catalogue::{Catalogue, Entry};
use crate::content::{CONTAINERD_NAME, REF_NAME};
use crate::layers::Layer;
use crate::manifest::{
    Descriptor, Document, LAYER, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Manifest, OCI_CONFIG,
    OCI_INDEX, OCI_MANIFEST,
};
use crate::pack::BLOCK_BYTES;
use crate::store::Store;
use crate::{Digest, Error, ImageId, Reference, Version};
use ::tar::{Builder, EntryType, Header};
use hashed::Hashed;
use nowhere::Nowhere;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, BufWriter, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long one export may take; its reader sets the pace.
const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);

/// What is written at once.
const CHUNK_BYTES: usize = 128 << 10;

/// Writes the images with these names or ids. An image that is asked for by a tag has that tag in the
/// archive, one that is asked for otherwise all that it has here. Ends when nobody wants it any more.
/// Blocks.
pub(crate) fn export(
    store: &Store,
    names: &[String],
    to: impl Write,
    is_wanted: &dyn Fn() -> bool,
) -> Result<(), Error> {
    let wanted = wanted(&store.catalogue(), names)?;
    let keys = wanted.iter().flat_map(|image| image.entry.layer_keys());
    let _pins = store.layers.pin(keys.collect());
    let mut plan = Plan::new(store, is_wanted);
    for image in &wanted {
        plan.add(image)?;
    }
    plan.write(BufWriter::with_capacity(CHUNK_BYTES, to))
}

/// An image that is to be exported.
struct Wanted {
    entry: Arc<Entry>,
    tags: BTreeSet<String>,
}

fn wanted(catalogue: &Catalogue, names: &[String]) -> Result<Vec<Wanted>, Error> {
    let mut wanted: BTreeMap<ImageId, Wanted> = BTreeMap::new();
    for name in names {
        let found = catalogue.find(name)?;
        let entry = found.ok_or_else(|| Error::not_found(name))?;
        let new = || Wanted {
            entry: entry.clone(),
            tags: BTreeSet::new(),
        };
        let image = wanted.entry(entry.image.id.clone()).or_insert_with(new);
        image.tags.extend(tags_of(entry, name));
    }
    Ok(wanted.into_values().collect())
}

/// The tags that an image leaves with which is asked for by this name.
fn tags_of(entry: &Entry, name: &str) -> Vec<String> {
    let tag = name.parse::<Reference>().ok().map(|name| name.to_string());
    let is_own = |tag: &String| entry.image.tags.contains(tag);
    match tag.filter(is_own) {
        Some(tag) => vec![tag],
        None => entry.image.tags.clone(),
    }
}

/// A file of the archive that is known by its digest.
struct Blob {
    size_bytes: u64,
    source: Source,
}

enum Source {
    Memory(Vec<u8>),
    /// As it was fetched, in the store.
    Kept,
    /// Archived anew.
    Unpacked(Arc<Layer>),
}

/// What an archive is going to hold.
struct Plan<'a> {
    store: &'a Store,
    is_wanted: &'a dyn Fn() -> bool,
    until: Instant,
    blobs: BTreeMap<Digest, Blob>,
    /// Layers that were archived once, by their diff ids.
    measured: HashMap<Digest, Descriptor>,
    /// The images in OCI's words and in docker's.
    index: Vec<Value>,
    docker: Vec<Value>,
}

/// An image as the archive has it.
struct Exported {
    manifest: Descriptor,
    config: Digest,
    layers: Vec<Digest>,
}

impl<'a> Plan<'a> {
    fn new(store: &'a Store, is_wanted: &'a dyn Fn() -> bool) -> Self {
        Self {
            store,
            is_wanted,
            until: Instant::now() + MAX_DURATION,
            blobs: BTreeMap::new(),
            measured: HashMap::new(),
            index: Vec::new(),
            docker: Vec::new(),
        }
    }

    fn add(&mut self, image: &Wanted) -> Result<(), Error> {
        let digest = &image.entry.manifest.digest;
        let text = self.store.content.read_blob(digest, MAX_MANIFEST_BYTES)?;
        let Document::Manifest(manifest) = Document::parse(&text, "", digest.as_str())? else {
            return Err(Error::corrupt(digest.as_str(), "it is not a manifest"));
        };
        let config = &manifest.config.digest;
        let config = self.store.content.read_blob(config, MAX_CONFIG_BYTES)?;
        let exported = match self.is_kept(&manifest)? {
            true => self.add_as_it_came(&image.entry, manifest, text, config),
            false => self.add_anew(&image.entry, &text, &config)?,
        };
        self.list(&exported, &image.tags);
        Ok(())
    }

    /// Whether all layers are in the store as they were fetched.
    fn is_kept(&self, manifest: &Manifest) -> Result<bool, Error> {
        for layer in &manifest.layers {
            if self.store.content.open_blob(&layer.digest)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn add_as_it_came(
        &mut self,
        entry: &Entry,
        manifest: Manifest,
        text: Vec<u8>,
        config: Vec<u8>,
    ) -> Exported {
        let layers = manifest.layers.iter().map(|layer| layer.digest.clone());
        let exported = Exported {
            manifest: entry.manifest.clone(),
            config: manifest.config.digest.clone(),
            layers: layers.collect(),
        };
        for layer in manifest.layers {
            let (size_bytes, source) = (layer.size_bytes, Source::Kept);
            self.blobs.insert(layer.digest, Blob { size_bytes, source });
        }
        self.add_bytes(exported.manifest.digest.clone(), text);
        self.add_bytes(exported.config.clone(), config);
        exported
    }

    fn add_anew(&mut self, entry: &Entry, text: &[u8], config: &[u8]) -> Result<Exported, Error> {
        let layers = entry.diff_ids.iter().map(|id| self.measure(id));
        let layers = layers.collect::<Result<Vec<Descriptor>, Error>>()?;
        let digests: Vec<Digest> = layers.iter().map(|layer| layer.digest.clone()).collect();

        let mut document = object(config, entry.image.id.as_str())?;
        document["rootfs"] = json!({ "type": "layers", "diff_ids": digests });
        let config = self.add_json(OCI_CONFIG, &document);

        let mut document = object(text, entry.manifest.digest.as_str())?;
        document["schemaVersion"] = json!(2);
        document["mediaType"] = json!(OCI_MANIFEST);
        document["config"] = json!(config);
        document["layers"] = json!(layers);
        Ok(Exported {
            manifest: self.add_json(OCI_MANIFEST, &document),
            config: config.digest,
            layers: digests,
        })
    }

    /// A layer's digest and size when it is archived.
    fn measure(&mut self, diff_id: &Digest) -> Result<Descriptor, Error> {
        if let Some(known) = self.measured.get(diff_id) {
            return Ok(known.clone());
        }
        let found = self.store.layers.get(diff_id);
        let layer =
            found.ok_or_else(|| Error::corrupt(diff_id.as_str(), "the layer is missing"))?;
        let (digest, size_bytes) = self.archive(&layer, Nowhere::new(self.is_wanted))?;
        let source = Source::Unpacked(layer);
        self.blobs
            .insert(digest.clone(), Blob { size_bytes, source });
        let descriptor = Descriptor::new(LAYER, digest, size_bytes);
        self.measured.insert(diff_id.clone(), descriptor.clone());
        Ok(descriptor)
    }

    fn archive(&self, layer: &Layer, to: impl Write) -> Result<(Digest, u64), Error> {
        let hashed = Hashed::new(to, crate::digest::Hasher::sha256());
        layer::write(&self.store.layers, layer, hashed, self.until).map(Hashed::finish)
    }

    fn add_json(&mut self, media_type: &str, document: &Value) -> Descriptor {
        let text = document.to_string().into_bytes();
        let (digest, size_bytes) = (Digest::of(&text), text.len() as u64);
        self.add_bytes(digest.clone(), text);
        Descriptor::new(media_type, digest, size_bytes)
    }

    fn add_bytes(&mut self, digest: Digest, bytes: Vec<u8>) {
        let size_bytes = bytes.len() as u64;
        let source = Source::Memory(bytes);
        self.blobs.insert(digest, Blob { size_bytes, source });
    }

    /// Enters an image in both lists.
    fn list(&mut self, image: &Exported, tags: &BTreeSet<String>) {
        let descriptor = |annotations: Option<BTreeMap<String, String>>| {
            json!(Descriptor {
                annotations,
                ..image.manifest.clone()
            })
        };
        match tags.is_empty() {
            true => self.index.push(descriptor(None)),
            false => self
                .index
                .extend(tags.iter().map(|tag| descriptor(Some(annotations(tag))))),
        }
        self.docker.push(json!({
            "Config": path(&image.config),
            "RepoTags": tags,
            "Layers": image.layers.iter().map(path).collect::<Vec<_>>(),
        }));
    }

    fn write(self, to: impl Write) -> Result<(), Error> {
        let mut archive = Builder::new(to);
        let index = json!({
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": self.index,
        });
        let documents = [
            ("oci-layout", json!({ "imageLayoutVersion": "1.0.0" })),
            ("index.json", index),
            ("manifest.json", json!(self.docker)),
        ];
        for (name, document) in documents {
            let text = document.to_string();
            append(&mut archive, name, text.len() as u64, text.as_bytes()).map_err(unwritten)?;
        }
        for (digest, blob) in &self.blobs {
            self.write_blob(&mut archive, digest, blob)?;
        }
        let finished = archive.into_inner().and_then(|mut to| to.flush());
        finished.map_err(unwritten)
    }

    fn write_blob(
        &self,
        archive: &mut Builder<impl Write>,
        digest: &Digest,
        blob: &Blob,
    ) -> Result<(), Error> {
        let (name, size_bytes) = (path(digest), blob.size_bytes);
        let written = match &blob.source {
            Source::Memory(bytes) => {
                return append(archive, &name, size_bytes, bytes.as_slice()).map_err(unwritten);
            }
            Source::Kept => {
                let file = self.store.content.open_blob(digest)?;
                let file = file.ok_or_else(|| Error::not_found(digest.as_str()))?;
                let mut hashed = Hashed::new(file, crate::digest::Hasher::like(digest));
                let content = Read::by_ref(&mut hashed).take(size_bytes);
                append(archive, &name, size_bytes, content).map_err(unwritten)?;
                hashed.finish()
            }
            Source::Unpacked(layer) => {
                let header = header(&name, size_bytes).map_err(unwritten)?;
                let to = archive.get_mut();
                to.write_all(header.as_bytes()).map_err(unwritten)?;
                let written = self.archive(layer, &mut *to)?;
                fill_block(to, size_bytes).map_err(unwritten)?;
                written
            }
        };
        match written == (digest.clone(), size_bytes) {
            true => Ok(()),
            false => Err(Error::corrupt(digest.as_str(), "it is not what it was")),
        }
    }
}

/// What names an image to containerd and to tools of OCI layouts: its whole name, and its tag.
fn annotations(name: &str) -> BTreeMap<String, String> {
    let reference = name.parse::<Reference>();
    let tag = match reference.as_ref().map(Reference::version) {
        Ok(Version::Tag(tag)) => tag.clone(),
        _ => name.to_owned(),
    };
    [(CONTAINERD_NAME, name.to_owned()), (REF_NAME, tag)]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
}

fn object(text: &[u8], what: &str) -> Result<Value, Error> {
    let parsed = serde_json::from_slice::<Value>(text).ok();
    let object = parsed.filter(Value::is_object);
    object.ok_or_else(|| Error::corrupt(what, "it is not an object"))
}

fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

fn header(name: &str, size_bytes: u64) -> io::Result<Header> {
    let mut header = Header::new_gnu();
    header.set_path(name)?;
    describe(&mut header, size_bytes);
    header.set_cksum();
    Ok(header)
}

fn describe(header: &mut Header, size_bytes: u64) {
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(size_bytes);
    header.set_mtime(0);
}

fn append(
    archive: &mut Builder<impl Write>,
    name: &str,
    size_bytes: u64,
    content: impl Read,
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    describe(&mut header, size_bytes);
    archive.append_data(&mut header, name, content)
}

/// Content ends with the block that it ends in.
fn fill_block(to: &mut impl Write, size_bytes: u64) -> io::Result<()> {
    let missing = size_bytes.next_multiple_of(BLOCK_BYTES) - size_bytes;
    io::copy(&mut io::repeat(0).take(missing), to).map(drop)
}

fn unwritten(error: io::Error) -> Error {
    Error::io("write", "the archive", error)
}
