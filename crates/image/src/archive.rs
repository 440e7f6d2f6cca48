//! Archives of images: OCI layouts, and what docker saves; tar, compressed or not.
//!
//! The parts of an archive come in any order, and what a part is becomes clear at the end. So its files
//! are written aside as they come, known by their digests from then on, and then taken as if a registry
//! gave them. Nothing in an archive is trusted: names are looked up in a table and never on disk.

use crate::content::{CONTAINERD_NAME, Content, REF_NAME, make_private_dir};
use crate::digest::Hasher;
use crate::image::RawConfig;
use crate::install::Found;
use crate::manifest::{
    Descriptor, Document, LAYER, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, OCI_CONFIG, OCI_MANIFEST,
};
use crate::tar::{self, Archive, Entry, Kind};
use crate::{Digest, Error, Reference, platform, stream, tree};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::PathBuf;

/// What is read of a file or an archive at once.
const CHUNK_BYTES: usize = 128 << 10;
/// The most files of an archive.
const MAX_FILES: usize = 100_000;
/// The longest name of a file in an archive.
const MAX_NAME_LEN: usize = 4096;
/// Links from one name to the next.
const MAX_LINKS: usize = 8;
/// Indexes inside of indexes.
const MAX_INDEX_DEPTH: usize = 4;

const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// The files of an archive, in a directory that is removed with this.
#[derive(Debug)]
pub(crate) struct Spool {
    dir: PathBuf,
    files: HashMap<Digest, SpooledFile>,
    /// Names in the archive.
    names: HashMap<String, Digest>,
    links: HashMap<String, String>,
}

#[derive(Debug)]
struct SpooledFile {
    path: PathBuf,
    size_bytes: u64,
}

/// An entry of docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// A manifest that is made for an image that came without one.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MadeManifest<'a> {
    schema_version: u32,
    media_type: &'a str,
    config: &'a Descriptor,
    layers: &'a [Descriptor],
}

impl Spool {
    /// Reads a whole archive of at most `max_bytes` (decompressed). Blocks; `arrived` is told the bytes
    /// read so far.
    pub(crate) fn read(
        archive: impl Read,
        content: &Content,
        max_bytes: u64,
        arrived: impl Fn(u64),
    ) -> Result<Self, Error> {
        let mut spool = Self {
            dir: content.stage()?,
            files: HashMap::new(),
            names: HashMap::new(),
            links: HashMap::new(),
        };
        make_private_dir(&spool.dir)?;
        let counted = Counted {
            reader: archive,
            count: 0,
            arrived,
        };
        let decoder = stream::decoder(BufReader::with_capacity(CHUNK_BYTES, counted))
            .map_err(|error| unreadable(&tar::Error::Read(error)))?;
        let mut limited = BufReader::with_capacity(CHUNK_BYTES, decoder.take(max_bytes));
        match spool.read_entries(&mut limited) {
            Err(_) if limited.get_ref().limit() == 0 => Err(Error::refused(
                "the archive",
                "it unpacks to more than the configured bound of an image",
            )),
            result => result.map(|()| spool),
        }
    }

    fn read_entries(&mut self, reader: &mut impl io::BufRead) -> Result<(), Error> {
        let mut archive = Archive::new(reader);
        while let Some(entry) = archive.next_entry().map_err(|error| unreadable(&error))? {
            if self.names.len() + self.links.len() >= MAX_FILES {
                return Err(Error::refused(
                    "the archive",
                    format!("it has more than {MAX_FILES} files"),
                ));
            }
            let name = normalise(&entry.path)?;
            match entry.kind {
                Kind::Directory => {}
                Kind::File => {
                    let digest = self.write(&entry, &mut archive)?;
                    self.names.insert(name, digest);
                }
                Kind::HardLink => {
                    self.links.insert(name, normalise(&entry.link)?);
                }
                Kind::Symlink => {
                    let target = relative_to(&name, &entry.link)?;
                    self.links.insert(name, target);
                }
                _ => {
                    return Err(Error::refused(
                        "the archive",
                        format!("{name:?} is a device or a pipe"),
                    ));
                }
            }
        }
        archive.finish().map_err(|error| unreadable(&error))
    }

    fn write(
        &mut self,
        entry: &Entry,
        archive: &mut Archive<impl io::BufRead>,
    ) -> Result<Digest, Error> {
        if entry.sparse.is_some() {
            return Err(Error::refused("the archive", "it has a file with holes"));
        }
        let path = self.dir.join(self.files.len().to_string());
        let mut file = File::create(&path).map_err(|error| Error::io("create", &path, error))?;
        let mut hasher = Hasher::sha256();
        let mut failure = None;
        let read = archive.read_data(entry.size_bytes, |chunk| {
            hasher.update(chunk);
            file.write_all(chunk).map_err(|error| {
                let stopped = tar::Error::Read(io::ErrorKind::Other.into());
                failure = Some(Error::io("write", &path, error));
                stopped
            })
        });
        match (failure, read) {
            (Some(error), _) => return Err(error),
            (None, result) => result.map_err(|error| unreadable(&error))?,
        }
        let digest = hasher.finish();
        // Content that was there already is written over by the next file.
        let size_bytes = entry.size_bytes;
        self.files
            .entry(digest.clone())
            .or_insert(SpooledFile { path, size_bytes });
        Ok(digest)
    }

    /// A file's content, piece by piece.
    pub(crate) fn chunks(
        &self,
        digest: &Digest,
    ) -> Result<impl Iterator<Item = io::Result<Bytes>> + Send + use<>, Error> {
        let path = &self.file(digest)?.path;
        let mut file = File::open(path).map_err(|error| Error::io("open", path, error))?;
        Ok(std::iter::from_fn(move || {
            let mut chunk = vec![0; CHUNK_BYTES];
            match file.read(&mut chunk) {
                Ok(0) => None,
                Ok(len) => {
                    chunk.truncate(len);
                    Some(Ok(chunk.into()))
                }
                Err(error) => Some(Err(error)),
            }
        }))
    }

    /// The images of the archive that are for this machine.
    pub(crate) fn images(&self) -> Result<Vec<Found>, Error> {
        if let Some(index) = self.named("index.json") {
            self.oci_images(&index)
        } else if let Some(manifest) = self.named("manifest.json") {
            self.docker_images(&manifest)
        } else {
            Err(Error::refused(
                "the archive",
                "it holds neither an OCI layout nor what docker saves",
            ))
        }
    }

    fn oci_images(&self, index: &Digest) -> Result<Vec<Found>, Error> {
        let bytes = self.content(index, MAX_MANIFEST_BYTES)?;
        let Document::Index(descriptors) = Document::parse(&bytes, "", "index.json")? else {
            return Err(Error::corrupt("index.json", "it is not an index"));
        };
        let runs_here = |descriptor: &&Descriptor| {
            descriptor.platform.is_none()
                || platform::choose(std::slice::from_ref(*descriptor)).is_some()
        };
        let found = descriptors
            .iter()
            .filter(runs_here)
            .map(|descriptor| self.oci_image(descriptor));
        let found = found.collect::<Result<Vec<_>, _>>()?;
        if found.is_empty() {
            return Err(Error::refused(
                "the archive",
                format!("it has no image for {}", platform::name()),
            ));
        }
        Ok(found)
    }

    fn oci_image(&self, descriptor: &Descriptor) -> Result<Found, Error> {
        let mut chosen = descriptor.clone();
        for _ in 0..MAX_INDEX_DEPTH {
            let what = chosen.digest.to_string();
            let manifest_bytes = self.content(&chosen.digest, MAX_MANIFEST_BYTES)?;
            match Document::parse(&manifest_bytes, &chosen.media_type, &what)? {
                Document::Manifest(manifest) => {
                    let config_bytes = self.content(&manifest.config.digest, MAX_CONFIG_BYTES)?;
                    let names = oci_names(descriptor)?;
                    let descriptor =
                        Descriptor::new(OCI_MANIFEST, chosen.digest, manifest_bytes.len() as u64);
                    return Ok(Found {
                        descriptor,
                        manifest,
                        manifest_bytes,
                        config_bytes,
                        names,
                    });
                }
                Document::Index(descriptors) => {
                    let here: Vec<_> = descriptors
                        .into_iter()
                        .filter(|d| self.files.contains_key(&d.digest))
                        .collect();
                    chosen = platform::choose(&here).cloned().ok_or_else(|| {
                        Error::refused(
                            &what,
                            format!("the archive has no image of it for {}", platform::name()),
                        )
                    })?;
                }
            }
        }
        Err(Error::refused(
            descriptor.digest.as_str(),
            "its indexes lie too deep",
        ))
    }

    fn docker_images(&self, manifest: &Digest) -> Result<Vec<Found>, Error> {
        let bytes = self.content(manifest, MAX_MANIFEST_BYTES)?;
        let images: Vec<DockerImage> = serde_json::from_slice(&bytes)
            .map_err(|error| Error::corrupt("manifest.json", error.to_string()))?;
        images
            .iter()
            .map(|image| self.docker_image(image))
            .collect()
    }

    fn docker_image(&self, image: &DockerImage) -> Result<Found, Error> {
        let config_digest = self.required(&image.config)?;
        let config_bytes = self.content(&config_digest, MAX_CONFIG_BYTES)?;
        RawConfig::parse(&config_bytes, &image.config)?;
        let config = Descriptor::new(OCI_CONFIG, config_digest, config_bytes.len() as u64);
        let names = image.layers.iter().flatten();
        let layers = names
            .map(|name| self.docker_layer(name))
            .collect::<Result<Vec<_>, _>>()?;
        let made = MadeManifest {
            schema_version: 2,
            media_type: OCI_MANIFEST,
            config: &config,
            layers: &layers,
        };
        let manifest_bytes =
            serde_json::to_vec(&made).expect("strings and numbers always serialise");
        let what = image.config.as_str();
        let Document::Manifest(manifest) = Document::parse(&manifest_bytes, OCI_MANIFEST, what)?
        else {
            return Err(Error::corrupt(what, "it is not an image"));
        };
        let tags = image.repo_tags.iter().flatten();
        let names = tags.map(|tag| tag.parse::<Reference>().map(|tag| tag.to_string()));
        Ok(Found {
            descriptor: Descriptor::new(
                OCI_MANIFEST,
                Digest::of(&manifest_bytes),
                manifest_bytes.len() as u64,
            ),
            manifest,
            manifest_bytes: manifest_bytes.into(),
            config_bytes,
            names: names.collect::<Result<_, _>>()?,
        })
    }

    fn docker_layer(&self, name: &str) -> Result<Descriptor, Error> {
        let digest = self.required(name)?;
        let file = self.file(&digest)?;
        let first = self.chunks(&digest)?.next().transpose();
        let first = first
            .map_err(|error| Error::io("read", &file.path, error))?
            .unwrap_or_default();
        let media_type = match stream::compression(&first) {
            stream::Compression::None => LAYER,
            stream::Compression::Gzip => LAYER_GZIP,
            stream::Compression::Zstd => LAYER_ZSTD,
        };
        Ok(Descriptor::new(media_type, digest, file.size_bytes))
    }

    fn named(&self, name: &str) -> Option<Digest> {
        let mut name = name.to_owned();
        for _ in 0..MAX_LINKS {
            match self.names.get(&name) {
                Some(digest) => return Some(digest.clone()),
                None => name = self.links.get(&name)?.clone(),
            }
        }
        None
    }

    fn required(&self, name: &str) -> Result<Digest, Error> {
        let missing = || Error::corrupt("the archive", format!("{name:?} is missing"));
        self.named(&normalise(name.as_bytes())?).ok_or_else(missing)
    }

    fn file(&self, digest: &Digest) -> Result<&SpooledFile, Error> {
        let missing = || Error::corrupt("the archive", format!("{digest} is missing"));
        self.files.get(digest).ok_or_else(missing)
    }

    fn content(&self, digest: &Digest, max_bytes: u64) -> Result<Bytes, Error> {
        let file = self.file(digest)?;
        if file.size_bytes > max_bytes {
            return Err(Error::refused(
                digest.as_str(),
                format!("it is larger than {max_bytes} bytes"),
            ));
        }
        fs::read(&file.path)
            .map(Bytes::from)
            .map_err(|error| Error::io("read", &file.path, error))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(errno) = tree::remove(&self.dir) {
            tracing::warn!(path = %self.dir.display(), error = %errno, "cannot remove an archive's files");
        }
    }
}

/// The names that an image of a layout is to have: that for its tag, and that for its digest.
fn oci_names(descriptor: &Descriptor) -> Result<Vec<String>, Error> {
    // A tag alone says nothing: the repository is known to whoever copied the layout.
    let ref_name = descriptor
        .annotation(REF_NAME)
        .filter(|name| name.contains(['/', ':']));
    let Some(name) = descriptor.annotation(CONTAINERD_NAME).or(ref_name) else {
        return Ok(Vec::new());
    };
    let reference: Reference = name.parse()?;
    let by_digest = reference.with_digest(&descriptor.digest).to_string();
    Ok(vec![reference.to_string(), by_digest])
}

/// A name without `./` in front; one with `..` is refused.
fn normalise(path: &[u8]) -> Result<String, Error> {
    let name = std::str::from_utf8(path)
        .ok()
        .filter(|name| name.len() <= MAX_NAME_LEN)
        .ok_or_else(|| Error::refused("the archive", "the name of a file is malformed"))?;
    resolve(&[], name)
        .ok_or_else(|| Error::refused("the archive", format!("{name:?} leads out of it")))
}

/// The target of a symbolic link, seen from the directory that it is in.
fn relative_to(name: &str, link: &[u8]) -> Result<String, Error> {
    let target = std::str::from_utf8(link).unwrap_or("..");
    let directory: Vec<&str> = name
        .rsplit_once('/')
        .map_or(Vec::new(), |(dir, _)| dir.split('/').collect());
    resolve(&directory, target)
        .ok_or_else(|| Error::refused("the archive", format!("the link {name:?} leads out of it")))
}

fn resolve(directory: &[&str], path: &str) -> Option<String> {
    let mut parts: Vec<&str> = if path.starts_with('/') {
        Vec::new()
    } else {
        directory.to_vec()
    };
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

fn unreadable(error: &tar::Error) -> Error {
    let reason = match error {
        tar::Error::Read(source) => format!("{error}: {source}"),
        tar::Error::Malformed(_) => error.to_string(),
    };
    Error::corrupt("the archive", reason)
}

/// Tells how much was read.
struct Counted<R, F> {
    reader: R,
    count: u64,
    arrived: F,
}

impl<R: Read, F: Fn(u64)> Read for Counted<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.reader.read(buffer)?;
        self.count += len as u64;
        (self.arrived)(self.count);
        Ok(len)
    }
}
