//! What is stored of images beside their layers: an OCI image layout (OCI image spec, image-layout.md).
//!
//! ```text
//! <images_dir>/oci-layout
//! <images_dir>/index.json          one descriptor of a manifest for each name of each image
//! <images_dir>/blobs/sha256/<hex>  manifests, configurations, and layers if they are kept
//! <images_dir>/staging/            what is being written; emptied at start
//! <images_dir>/lock                locked (flock(2)) by the process that uses the store
//! ```
//!
//! `org.opencontainers.image.ref.name` is the complete reference that an image is known by; an image
//! without a name has one descriptor without it. Further annotations:
//!
//! - `dev.crisp.unsynced-since-boot`: the image was entered during the boot with this id, and its content
//!   may still be on its way to the disk. It counts as long as that boot lasts. After another boot it is
//!   dropped, so that a power cut leaves an image whole or not at all, and no pull waits for the disk.
//! - `dev.crisp.fixup`: the image needs the layer described in `fixup.rs`.
//!
//! `index.json` is replaced by renaming a complete, synced file over it.

use crate::manifest::{self, Descriptor};
use crate::{Digest, Error, tree};
use crisp_crash::point;
use crisp_sys::file::read_bounded;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What an image of a layout is called: its tag, or more.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// A complete reference, in archives that containerd's tools made.
pub(crate) const CONTAINERD_NAME: &str = "io.containerd.image.name";
const UNSYNCED: &str = "dev.crisp.unsynced-since-boot";
const FIXUP: &str = "dev.crisp.fixup";
/// How long a process that is ending may still have the store.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
const LOCK_RETRY: Duration = Duration::from_millis(20);
/// How much of a blob is read at once.
const READ_BYTES: usize = 128 << 10;
/// The largest index that is read.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// An image as the index knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Indexed {
    pub(crate) manifest: Descriptor,
    /// Complete references with a tag or a digest.
    pub(crate) names: Vec<String>,
    /// The boot during which it was entered, if it is not on disk for certain.
    pub(crate) unsynced_since_boot: Option<String>,
    pub(crate) has_fixup: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    manifests: Vec<Descriptor>,
}

/// The layout on disk.
#[derive(Debug)]
pub(crate) struct Content {
    dir: PathBuf,
    next_staging: AtomicU64,
    _lock: Flock<File>,
}

impl Content {
    /// Makes what is missing, and removes what was being written when the last process ended. The store
    /// is this process's own from here on.
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        make_private_dir(dir)?;
        let content = Self {
            dir: dir.to_owned(),
            next_staging: AtomicU64::new(0),
            _lock: lock(&dir.join("lock"), LOCK_TIMEOUT)?,
        };
        make_empty_dir(&content.staging_dir())?;
        make_private_dir(&content.blobs_dir("sha256"))?;
        let marker = dir.join("oci-layout");
        if !marker.exists() {
            let text = br#"{"imageLayoutVersion":"1.0.0"}"#;
            content.replace(&marker, text)?;
        }
        if !content.index_path().exists() {
            content.write_index(&[])?;
        }
        Ok(content)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn index_path(&self) -> PathBuf {
        self.dir.join("index.json")
    }

    /// What `index.json` says; nothing if it is not there.
    pub(crate) fn read_index(&self) -> Result<Vec<Indexed>, Error> {
        let path = self.index_path();
        let text = match read_bounded(&path, MAX_INDEX_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.map_err(|error| Error::io("read", &path, error))?,
        };
        let index: Index = serde_json::from_slice(&text)
            .map_err(|error| Error::corrupt(path.display().to_string(), error.to_string()))?;
        Ok(group(index.manifests))
    }

    pub(crate) fn write_index(&self, images: &[Indexed]) -> Result<(), Error> {
        let index = Index {
            schema_version: 2,
            media_type: manifest::OCI_INDEX.to_owned(),
            manifests: images.iter().flat_map(descriptors).collect(),
        };
        let text = serde_json::to_vec(&index).expect("strings and numbers always serialise");
        self.replace(&self.index_path(), &text)
    }

    /// Reads a blob and checks its digest.
    pub(crate) fn read_blob(&self, digest: &Digest, max_bytes: u64) -> Result<Vec<u8>, Error> {
        let path = self.blob_path(digest);
        let bytes =
            read_bounded(&path, max_bytes).map_err(|error| Error::io("read", &path, error))?;
        let mut hasher = crate::digest::Hasher::like(digest);
        hasher.update(&bytes);
        if hasher.finish() == *digest {
            Ok(bytes)
        } else {
            Err(Error::corrupt(
                path.display().to_string(),
                "its digest is another",
            ))
        }
    }

    /// Whether a blob has its digest; none: it is not here. Reads all of it, of whatever size.
    pub(crate) fn verify_blob(&self, digest: &Digest) -> io::Result<Option<bool>> {
        let Some(mut file) = self.find_blob(digest)? else {
            return Ok(None);
        };
        let mut hasher = crate::digest::Hasher::like(digest);
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(Some(hasher.finish() == *digest)),
                bytes => hasher.update(&buffer[..bytes]),
            }
        }
    }

    /// A blob's file, whatever is in it. None: it is not here.
    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<Option<File>, Error> {
        let found = self.find_blob(digest);
        found.map_err(|error| Error::io("open", self.blob_path(digest), error))
    }

    fn find_blob(&self, digest: &Digest) -> io::Result<Option<File>> {
        match File::open(self.blob_path(digest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => file.map(Some),
        }
    }

    /// Writes a blob whose digest was checked.
    pub(crate) fn write_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
        let staged = self.stage()?;
        let written = fs::write(&staged, bytes)
            .map_err(|error| Error::io("write", &staged, error))
            .and_then(|()| {
                point!("blob.staged");
                self.adopt_blob(digest, &staged)
            });
        written.inspect_err(|_| forget(&staged))
    }

    /// Moves a complete file from the staging directory to where the blob belongs.
    pub(crate) fn adopt_blob(&self, digest: &Digest, staged: &Path) -> Result<(), Error> {
        make_private_dir(&self.blobs_dir(digest.algorithm()))?;
        fs::rename(staged, self.blob_path(digest))
            .map_err(|error| Error::io("rename", staged, error))?;
        point!("blob.renamed");
        Ok(())
    }

    /// A fresh path in the staging directory.
    pub(crate) fn stage(&self) -> Result<PathBuf, Error> {
        let number = self.next_staging.fetch_add(1, Ordering::Relaxed);
        Ok(self.staging_dir().join(number.to_string()))
    }

    /// Removes blobs that are not among `keep`. A file that cannot be removed stays until the next time.
    pub(crate) fn retain_blobs(&self, keep: &HashSet<&Digest>) {
        for algorithm in ["sha256", "sha512"] {
            let Ok(entries) = fs::read_dir(self.blobs_dir(algorithm)) else {
                continue;
            };
            for entry in entries.flatten() {
                let name = entry.file_name();
                let digest = format!("{algorithm}:{}", name.to_string_lossy()).parse::<Digest>();
                if digest.is_ok_and(|digest| keep.contains(&digest)) {
                    continue;
                }
                if let Err(error) = fs::remove_file(entry.path()) {
                    tracing::warn!(path = %entry.path().display(), %error, "cannot remove an unused blob");
                }
            }
        }
    }

    /// Writes a file beside `path`, syncs it, and renames it there.
    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let staged = self.stage()?;
        let write = || {
            let mut file = File::create_new(&staged)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            point!("index.staged");
            fs::rename(&staged, path)?;
            point!("index.renamed");
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|error| {
            forget(&staged);
            Error::io("write", path, error)
        })
    }

    fn staging_dir(&self) -> PathBuf {
        self.dir.join("staging")
    }

    fn blobs_dir(&self, algorithm: &str) -> PathBuf {
        self.dir.join("blobs").join(algorithm)
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs_dir(digest.algorithm()).join(digest.hex())
    }
}

/// Removes a staged file that is of no use: on a full disk most of all it must not stay.
pub(crate) fn forget(staged: &Path) {
    match fs::remove_file(staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %staged.display(), %error, "cannot remove an unfinished file");
        }
        _ => {}
    }
}

/// Waits for a process that is ending; it may have a sync to finish.
fn lock(path: &Path, max_wait: Duration) -> Result<Flock<File>, Error> {
    let start = Instant::now();
    let mut file = File::create(path).map_err(|error| Error::io("create", path, error))?;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, Errno::EWOULDBLOCK)) if start.elapsed() < max_wait => file,
            Err((_, Errno::EWOULDBLOCK)) => {
                let reason = io::Error::new(
                    io::ErrorKind::ResourceBusy,
                    "another process uses the store",
                );
                return Err(Error::io("lock", path, reason));
            }
            Err((_, errno)) => return Err(Error::io("lock", path, errno)),
        };
        std::thread::sleep(LOCK_RETRY);
    }
}

/// Makes a directory and its parents, for root only: images hold setuid programs, which no user of the
/// host may reach (CVE-2021-41103).
pub(crate) fn make_private_dir(path: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Error::io("make the directory", path, error))
}

/// Makes a directory for what is incomplete, and removes what is left in it from before. What cannot be
/// removed must not keep the daemon from starting.
pub(crate) fn make_empty_dir(path: &Path) -> Result<(), Error> {
    if let Err(errno) = tree::remove(path) {
        tracing::warn!(path = %path.display(), error = %errno, "cannot remove what was left over");
    }
    make_private_dir(path)
}

fn group(descriptors: Vec<Descriptor>) -> Vec<Indexed> {
    let mut images: BTreeMap<Digest, Indexed> = BTreeMap::new();
    for descriptor in descriptors {
        let name = descriptor.annotation(REF_NAME).map(str::to_owned);
        let unsynced = descriptor.annotation(UNSYNCED).map(str::to_owned);
        let has_fixup = descriptor.annotation(FIXUP).is_some();
        let image = images
            .entry(descriptor.digest.clone())
            .or_insert_with(|| Indexed {
                manifest: Descriptor {
                    annotations: None,
                    platform: None,
                    ..descriptor
                },
                names: Vec::new(),
                unsynced_since_boot: unsynced,
                has_fixup,
            });
        image.names.extend(name);
    }
    images.into_values().collect()
}

fn descriptors(image: &Indexed) -> Vec<Descriptor> {
    let mut common = BTreeMap::new();
    if let Some(boot) = &image.unsynced_since_boot {
        common.insert(UNSYNCED.to_owned(), boot.clone());
    }
    if image.has_fixup {
        common.insert(FIXUP.to_owned(), "true".to_owned());
    }
    let descriptor = |name: Option<&String>| {
        let mut annotations = common.clone();
        annotations.extend(name.map(|name| (REF_NAME.to_owned(), name.clone())));
        Descriptor {
            annotations: Some(annotations),
            ..image.manifest.clone()
        }
    };
    if image.names.is_empty() {
        vec![descriptor(None)]
    } else {
        image
            .names
            .iter()
            .map(|name| descriptor(Some(name)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn image(content: &str, names: &[&str], unsynced: Option<&str>) -> Indexed {
        Indexed {
            manifest: Descriptor {
                media_type: manifest::OCI_MANIFEST.into(),
                digest: Digest::of(content.as_bytes()),
                size_bytes: 5,
                platform: None,
                annotations: None,
            },
            names: names.iter().map(|&name| name.to_owned()).collect(),
            unsynced_since_boot: unsynced.map(str::to_owned),
            has_fixup: unsynced.is_some(),
        }
    }

    #[test]
    fn an_index_reads_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let content = Content::open(dir.path()).unwrap();
        assert!(content.read_index().unwrap().is_empty());
        let mut images = vec![
            image("a", &["r.example/a:1", "r.example/a:2"], Some("boot")),
            image("b", &[], None),
        ];
        content.write_index(&images).unwrap();
        images.sort_by(|a, b| a.manifest.digest.cmp(&b.manifest.digest));
        drop(content);
        assert_eq!(
            Content::open(dir.path()).unwrap().read_index().unwrap(),
            images
        );
        assert!(dir.path().join("oci-layout").exists());
    }

    #[test]
    fn a_torn_index_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let content = Content::open(dir.path()).unwrap();
        fs::write(dir.path().join("index.json"), r#"{"schemaVersion":2,"mani"#).unwrap();
        assert!(matches!(content.read_index(), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn blobs_are_checked_when_they_are_read_and_removed_when_nothing_needs_them() {
        let dir = tempfile::tempdir().unwrap();
        let content = Content::open(dir.path()).unwrap();
        let (kept, dropped) = (Digest::of(b"kept"), Digest::of(b"dropped"));
        content.write_blob(&kept, b"kept").unwrap();
        content.write_blob(&dropped, b"dropped").unwrap();
        assert!(content.read_blob(&kept, 3).is_err());
        content.retain_blobs(&HashSet::from([&kept]));
        assert_eq!(content.read_blob(&kept, 100).unwrap(), b"kept");
        assert!(content.read_blob(&dropped, 100).is_err());
        fs::write(content.blob_path(&kept), "other").unwrap();
        assert!(matches!(
            content.read_blob(&kept, 100),
            Err(Error::Corrupt { .. })
        ));
    }

    #[test]
    fn one_process_has_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let content = Content::open(dir.path()).unwrap();
        let path = dir.path().join("lock");
        assert!(matches!(
            lock(&path, Duration::ZERO),
            Err(Error::Io { op: "lock", .. })
        ));
        drop(content);
        lock(&path, Duration::ZERO).unwrap();
    }

    #[test]
    fn what_was_being_written_is_removed_and_the_directories_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let content = Content::open(dir.path()).unwrap();
        fs::write(content.stage().unwrap(), "half").unwrap();
        drop(content);
        let content = Content::open(dir.path()).unwrap();
        assert_eq!(fs::read_dir(content.staging_dir()).unwrap().count(), 0);
        let mode = fs::metadata(content.staging_dir())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
