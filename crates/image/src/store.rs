//! Everything of one store together: what enters it, what leaves it, and what is removed because nothing
//! needs it any more.

use crate::catalogue::{Catalogue, Entry};
use crate::content::{Content, Indexed};
use crate::copy_up::copy_up;
use crate::image::RawConfig;
use crate::layers::{Layer, Layers, Needed, Pins};
use crate::locks::KeyedLocks;
use crate::manifest::{Document, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Manifest};
use crate::snapshot::{Snapshot, Snapshots};
use crate::stack::{Directory, Node};
use crate::{Config, Digest, Error, Image, ImageId, Settings, fixup, mount_points};
use crisp_crash::point;
use crisp_model::ContainerId;
use nix::unistd::syncfs;
use std::collections::HashSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::Semaphore;

/// Images, layers and snapshots of one set of directories.
pub(crate) struct Store {
    settings: RwLock<Arc<Settings>>,
    pub(crate) content: Content,
    pub(crate) layers: Arc<Layers>,
    pub(crate) snapshots: Snapshots,
    pub(crate) mount_points_dir: PathBuf,
    /// Layers that may be fetched and unpacked at the same time.
    transfers: RwLock<Arc<Semaphore>>,
    /// One fetches a layer, and who else needs it waits.
    pub(crate) layer_locks: KeyedLocks<Digest>,
    catalogue: Mutex<Arc<Catalogue>>,
    /// Held by whoever changes the catalogue and its index on disk.
    writer: Mutex<()>,
    /// Held by whoever looks whether all is as it was, and repairs it.
    pub(crate) checking: Arc<tokio::sync::Mutex<()>>,
    is_syncing: AtomicBool,
    boot_id: String,
}

/// An image whose layers are here.
pub(crate) struct NewImage {
    pub(crate) indexed: Indexed,
    pub(crate) manifest: Manifest,
    pub(crate) manifest_bytes: Vec<u8>,
    pub(crate) config_bytes: Vec<u8>,
}

impl Store {
    /// Reads everything, and removes what is incomplete or not needed. Blocks.
    pub(crate) fn open(config: Config) -> Result<Arc<Self>, Error> {
        // First, because it takes the lock.
        let content = Content::open(&config.images_dir)?;
        let layers = Layers::open(&config.layers_dir)?;
        mount_points::make(&config.mount_points_dir)?;
        let store = Arc::new(Self {
            content,
            snapshots: Snapshots::open(&config.containers_dir, layers.clone())?,
            mount_points_dir: config.mount_points_dir,
            layers,
            transfers: RwLock::new(transfers(&config.settings)),
            layer_locks: KeyedLocks::default(),
            catalogue: Mutex::default(),
            writer: Mutex::default(),
            checking: Arc::default(),
            is_syncing: AtomicBool::new(false),
            boot_id: boot_id(),
            settings: RwLock::new(Arc::new(config.settings)),
        });
        store.load()?;
        store.withdraw_what_images_lack();
        store.collect_garbage();
        store.sync_in_background();
        Ok(store)
    }

    fn load(&self) -> Result<(), Error> {
        let _writer = self.lock_writer();
        let indexed = self.content.read_index().unwrap_or_else(|error| {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the index of images is lost"
            );
            Vec::new()
        });
        let (count, settings) = (indexed.len(), self.settings());
        let mut catalogue = Catalogue::default();
        for indexed in indexed {
            let digest = indexed.manifest.digest.clone();
            match self.load_image(indexed, &settings) {
                Ok(entry) => catalogue = catalogue.with(entry, &settings),
                Err(error) => {
                    tracing::warn!(%digest, error = &error as &dyn std::error::Error, "dropping an image");
                }
            }
        }
        let is_changed = catalogue.entries().count() != count;
        self.set_catalogue(catalogue, is_changed)
    }

    /// What containers alone have may have come shortly before a power cut, with an image that was dropped
    /// for it: no other image is to be made of that.
    fn withdraw_what_images_lack(&self) {
        let keys = self.keys();
        self.layers
            .withdraw_unless(|layer| keys.contains(&layer.record.key));
    }

    /// Those of the layers of all images.
    fn keys(&self) -> HashSet<Digest> {
        let catalogue = self.catalogue();
        let keys_of = |entry: &Arc<Entry>| entry.layer_keys();
        catalogue.entries().flat_map(keys_of).collect()
    }

    fn load_image(&self, indexed: Indexed, settings: &Settings) -> Result<Entry, Error> {
        let digest = &indexed.manifest.digest;
        if indexed
            .unsynced_since_boot
            .as_ref()
            .is_some_and(|boot| *boot != self.boot_id)
        {
            return Err(Error::corrupt(
                digest.as_str(),
                "the machine stopped before it was on disk",
            ));
        }
        let bytes = self.content.read_blob(digest, MAX_MANIFEST_BYTES)?;
        let Document::Manifest(manifest) = Document::parse(&bytes, "", digest.as_str())? else {
            return Err(Error::corrupt(digest.as_str(), "it is not a manifest"));
        };
        let config = self
            .content
            .read_blob(&manifest.config.digest, MAX_CONFIG_BYTES)?;
        let config = RawConfig::parse(&config, manifest.config.digest.as_str())?;
        let entry = Entry::new(indexed, &manifest, config, settings);
        self.stack(&entry).map(|_| entry)
    }

    /// The settings in force. An operation asks once and goes by the answer to its end.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Who may fetch and unpack layers now.
    pub(crate) fn transfers(&self) -> Arc<Semaphore> {
        self.transfers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Puts other settings in force, and pins the images that they say. Layers that are being fetched
    /// count for the earlier bound of them. Blocks.
    pub(crate) fn reconfigure(&self, settings: Settings) {
        // What is entered is pinned by the settings in force: not while they change.
        let _writer = self.lock_writer();
        if settings.max_concurrent_downloads != self.settings().max_concurrent_downloads {
            *self
                .transfers
                .write()
                .unwrap_or_else(PoisonError::into_inner) = transfers(&settings);
        }
        self.show_catalogue(self.catalogue().pinned_by(&settings));
        *self
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    /// The images as they are now.
    pub(crate) fn catalogue(&self) -> Arc<Catalogue> {
        self.catalogue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Puts an image into the catalogue, for which the caller has its layers pinned. Blocks.
    pub(crate) fn enter(self: &Arc<Self>, new: NewImage) -> Result<Arc<Image>, Error> {
        let NewImage {
            mut indexed,
            manifest,
            manifest_bytes,
            config_bytes,
        } = new;
        let writer = self.lock_writer();
        let id = ImageId::new(manifest.config.digest.clone());
        self.content
            .write_blob(&indexed.manifest.digest, &manifest_bytes)?;
        self.content
            .write_blob(&manifest.config.digest, &config_bytes)?;
        point!("pull.blobs-written");
        indexed.unsynced_since_boot = Some(self.boot_id.clone());
        let config = RawConfig::parse(&config_bytes, id.as_str())?;
        let settings = self.settings();
        let entry = Entry::new(indexed, &manifest, config, &settings);
        self.set_catalogue(self.catalogue().with(entry, &settings), true)?;
        drop(writer);
        point!("pull.entered");
        self.sync_in_background();
        self.image(&id)
    }

    /// Makes a container's snapshot, for at most so much of what it writes. Blocks.
    pub(crate) fn prepare(
        &self,
        container: &ContainerId,
        image: &ImageId,
        limit_bytes: Option<u64>,
    ) -> Result<Snapshot, Error> {
        let (_pins, stack) = self.pinned_stack(image)?;
        self.snapshots
            .prepare(container, image, &stack, limit_bytes)
    }

    /// Lends an image to a container that has a snapshot: what is to be mounted. Blocks.
    pub(crate) fn lend(
        &self,
        container: &ContainerId,
        image: &ImageId,
        sub_path: &str,
    ) -> Result<Vec<PathBuf>, Error> {
        let (_pins, stack) = self.pinned_stack(image)?;
        self.snapshots.lend(container, image, &stack)?;
        let found = Directory::root(&self.dirs_of(&stack))?.places(sub_path)?;
        found.ok_or_else(|| Error::NoSuchPath {
            image: image.to_string(),
            path: sub_path.to_owned(),
        })
    }

    /// The layers of an image as overlayfs stacks them, topmost first. The image may be removed at any
    /// moment: its layers stay for as long as the pins are held.
    fn pinned_stack(&self, image: &ImageId) -> Result<(Pins, Vec<Arc<Layer>>), Error> {
        let catalogue = self.catalogue();
        let entry = catalogue
            .get(image)
            .ok_or_else(|| Error::not_found(image.as_str()))?;
        let pins = self.layers.pin(entry.layer_keys());
        Ok((pins, self.stack(entry)?))
    }

    /// Makes a volume that a container's image declares, with what the image has there. Blocks.
    pub(crate) fn make_volume(
        &self,
        container: &ContainerId,
        number: usize,
        path: &Path,
    ) -> Result<PathBuf, Error> {
        let snapshot = self.snapshots.get(container);
        let snapshot = snapshot.ok_or_else(|| Error::not_found(container.as_str()))?;
        let volume = self.snapshots.volume_dir(container, number)?;
        let found = Directory::root(&snapshot.lower_dirs)?.resolve(path.as_os_str());
        match found.map_err(|errno| Error::io("look up", path, errno))? {
            Some(Node::Directory(directory)) => copy_up(&directory, &volume)?,
            None => make_plain(&volume)
                .map_err(|error| Error::io("make the directory", &volume, error))?,
            Some(Node::Other { .. }) => {
                let reason = "the image declares it, but has something else than a directory there";
                return Err(Error::refused(format!("volume {}", path.display()), reason));
            }
        }
        Ok(volume)
    }

    /// Removes a container's snapshot, and layers that nothing but this one has. Blocks.
    pub(crate) fn remove_snapshot(&self, container: &ContainerId) -> Result<(), Error> {
        let images = self.snapshots.remove(container)?;
        let catalogue = self.catalogue();
        let is_gone = |image: &ImageId| catalogue.get(image).is_none();
        if images.iter().any(is_gone) || self.layers.has_withdrawn() {
            self.collect_layers();
        }
        Ok(())
    }

    /// The layers of an image as lower directories, topmost first.
    pub(crate) fn lower_dirs(&self, image: &ImageId) -> Result<Vec<PathBuf>, Error> {
        let catalogue = self.catalogue();
        let entry = catalogue
            .get(image)
            .ok_or_else(|| Error::not_found(image.as_str()))?;
        Ok(self.dirs_of(&self.stack(entry)?))
    }

    fn dirs_of(&self, stack: &[Arc<Layer>]) -> Vec<PathBuf> {
        stack
            .iter()
            .map(|layer| self.layers.lower_dir(layer.number))
            .collect()
    }

    /// Removes layers and blobs that neither an image nor a snapshot nor a pull needs. Blocks.
    pub(crate) fn collect_garbage(&self) {
        self.collect_layers();
        point!("remove-image.layers-removed");
        let _writer = self.lock_writer();
        let catalogue = self.catalogue();
        self.content
            .retain_blobs(&catalogue.entries().flat_map(|entry| &entry.blobs).collect());
    }

    /// Removes layers that neither an image nor a snapshot nor a pull needs. Blocks.
    pub(crate) fn collect_layers(&self) {
        self.layers.retain(|| Needed {
            keys: self.keys(),
            numbers: self.snapshots.uses(),
        });
    }

    /// The layers of an image as overlayfs stacks them, topmost first.
    pub(crate) fn stack(&self, entry: &Entry) -> Result<Vec<Arc<Layer>>, Error> {
        self.layers_of(&entry.diff_ids, entry.has_fixup)
            .map(visible)
    }

    /// All layers with these diff ids (base first), topmost first.
    pub(crate) fn layers_of(
        &self,
        diff_ids: &[Digest],
        has_fixup: bool,
    ) -> Result<Vec<Arc<Layer>>, Error> {
        let get = |key: &Digest| {
            self.layers
                .get(key)
                .ok_or_else(|| Error::corrupt(format!("layer {key}"), "it is missing"))
        };
        layer_keys(diff_ids, has_fixup).iter().map(get).collect()
    }

    pub(crate) fn image(&self, id: &ImageId) -> Result<Arc<Image>, Error> {
        let catalogue = self.catalogue();
        catalogue
            .get(id)
            .map(|entry| entry.image.clone())
            .ok_or_else(|| Error::not_found(id.as_str()))
    }

    /// The caller holds the writer's lock.
    pub(crate) fn set_catalogue(
        &self,
        catalogue: Catalogue,
        is_changed: bool,
    ) -> Result<(), Error> {
        if is_changed {
            self.content.write_index(&catalogue.indexed())?;
        }
        self.show_catalogue(catalogue);
        Ok(())
    }

    pub(crate) fn show_catalogue(&self, catalogue: Catalogue) {
        *self
            .catalogue
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(catalogue);
    }

    pub(crate) fn lock_writer(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets new images onto the disk without anybody waiting for it, and then says so in the index.
    fn sync_in_background(self: &Arc<Self>) {
        if self.catalogue().unsynced().is_empty() || self.is_syncing.swap(true, Ordering::AcqRel) {
            return;
        }
        let store = self.clone();
        let sync = move || {
            let result = store.sync_all();
            store.is_syncing.store(false, Ordering::Release);
            if let Err(error) = result {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot sync images to disk"
                );
            } else {
                // What came in between the last look and the flag's change.
                store.sync_in_background();
            }
        };
        if let Err(error) = std::thread::Builder::new()
            .name("image-sync".to_owned())
            .spawn(sync)
        {
            self.is_syncing.store(false, Ordering::Release);
            tracing::warn!(%error, "cannot start a thread to sync images to disk");
        }
    }

    fn sync_all(&self) -> Result<(), Error> {
        loop {
            let unsynced = self.catalogue().unsynced();
            if unsynced.is_empty() {
                return Ok(());
            }
            for dir in [self.layers.dir(), self.content.dir()] {
                sync_file_system(dir).map_err(|error| Error::io("sync", dir, error))?;
            }
            point!("pull.synced");
            let _writer = self.lock_writer();
            self.set_catalogue(self.catalogue().with_synced(&unsynced), true)?;
        }
    }
}

fn transfers(settings: &Settings) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(settings.max_concurrent_downloads.max(1)))
}

/// The keys of an image's layers, topmost first. A layer that is there twice counts where it is topmost:
/// all of it shows there, and overlayfs takes no directory twice.
pub(crate) fn layer_keys(diff_ids: &[Digest], has_fixup: bool) -> Vec<Digest> {
    let mut keys = Vec::with_capacity(diff_ids.len() + 1);
    if has_fixup {
        keys.push(fixup::chain_id(diff_ids));
    }
    for key in diff_ids.iter().rev() {
        if !keys.contains(key) {
            keys.push(key.clone());
        }
    }
    if keys.is_empty() {
        keys.push(Digest::of(b""));
    }
    keys
}

/// The layers down to the first whose root hides all below.
pub(crate) fn visible(mut layers: Vec<Arc<Layer>>) -> Vec<Arc<Layer>> {
    if let Some(opaque) = layers.iter().position(|layer| layer.record.opaque_root) {
        layers.truncate(opaque + 1);
    }
    layers
}

/// A volume that the image says nothing more about.
fn make_plain(dir: &Path) -> std::io::Result<()> {
    fs::create_dir(dir)?;
    fs::set_permissions(dir, Permissions::from_mode(0o755))
}

fn sync_file_system(dir: &Path) -> std::io::Result<()> {
    Ok(syncfs(File::open(dir)?)?)
}

/// Tells one run of the kernel from the next (random(4)).
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| String::new(), |id| id.trim().to_owned())
}
