//! What the rest of crisp sees of this crate's work.

use crate::archive::Spool;
use crate::check::{Repair, Report, check};
use crate::export::export;
use crate::install::{Source, ended, install};
use crate::manifest::MAX_CONFIG_BYTES;
use crate::progress::Audience;
use crate::pull::pull;
use crate::stack::Directory;
use crate::store::Store;
use crate::{
    Auth, Bounds, Config, Digest, Error, Image, ImageId, Naming, Progress, ProgressSink, Reference,
    Settings, Snapshot, changes,
};
use crisp_metrics::Pulls;
use crisp_model::ContainerId;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::Instrument;

/// What a part of the store takes on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Where it is.
    pub path: PathBuf,
    pub bytes: u64,
    pub inodes: u64,
}

/// The images of this node, and the snapshots that containers have of them.
///
/// Looking things up ([`list`](Self::list), [`find`](Self::find), [`snapshot`](Self::snapshot)) is done
/// from memory. What is said to block is for a thread that may; what is `async` blocks no thread of the
/// caller's, and goes on when the caller gives up.
pub struct Images {
    store: Arc<Store>,
    pulls: Arc<Mutex<HashMap<Wanted, Pull>>>,
    counts: Pulls,
}

/// Pulls of the same reference with the same credentials are one. Other credentials have to be shown to
/// the registry themselves.
type Wanted = (Reference, Option<Auth>);

/// A pull that is under way.
struct Pull {
    audience: Audience,
    outcome: watch::Receiver<Option<Result<Arc<Image>, Error>>>,
}

/// Counts the bytes that arrive.
fn counted(counts: Pulls) -> ProgressSink {
    let arrived = Mutex::new(HashMap::<Digest, u64>::new());
    ProgressSink::new(move |progress| {
        if let Progress::Fetching {
            digest, done_bytes, ..
        } = progress
        {
            let mut arrived = lock(&arrived);
            let before = arrived.insert(digest.clone(), *done_bytes).unwrap_or(0);
            counts.received(done_bytes.saturating_sub(before));
        }
    })
}

/// What a pull came to: `success`, or the kind of its error.
fn result_word(outcome: &Result<Arc<Image>, Error>) -> &'static str {
    outcome.as_ref().map_or_else(Error::word, |_| "success")
}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Images")
            .field("settings", &self.store.settings())
            .finish_non_exhaustive()
    }
}

impl Images {
    /// Opens the store, and makes its directories if they are not there. What an earlier process left
    /// half-made is removed, and so is what neither an image nor a snapshot needs. Pulls are counted by
    /// `counts`. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`] when a directory cannot be made or read, or another process uses the store. Broken
    /// content is dropped, not told.
    pub fn open(config: Config, counts: Pulls) -> Result<Self, Error> {
        Ok(Self {
            store: Store::open(config)?,
            pulls: Arc::default(),
            counts,
        })
    }

    /// Fetches the image that `reference` means now, unless it is here. Who asks for the same while it is
    /// fetched gets the same outcome.
    ///
    /// # Errors
    /// Any but [`Error::Ambiguous`] and [`Error::SnapshotExists`]. Nothing of the image stays, but for
    /// complete layers when the registry became unavailable.
    pub async fn pull(
        &self,
        reference: &Reference,
        auth: Option<&Auth>,
        progress: &ProgressSink,
    ) -> Result<Arc<Image>, Error> {
        let mut outcome = self.join_pull((reference.clone(), auth.cloned()), progress);
        let outcome = outcome
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|outcome| outcome.clone());
        outcome.unwrap_or_else(|| {
            Err(Error::RegistryUnavailable {
                registry: reference.registry().to_owned(),
                reason: "the pull was given up".to_owned(),
            })
        })
    }

    fn join_pull(
        &self,
        wanted: Wanted,
        progress: &ProgressSink,
    ) -> watch::Receiver<Option<Result<Arc<Image>, Error>>> {
        let mut pulls = lock(&self.pulls);
        if let Some(pull) = pulls.get(&wanted) {
            pull.audience.join(progress);
            return pull.outcome.clone();
        }
        let (sender, outcome) = watch::channel(None);
        let audience = Audience::default();
        audience.join(progress);
        audience.join(&counted(self.counts.clone()));
        pulls.insert(
            wanted.clone(),
            Pull {
                audience: audience.clone(),
                outcome: outcome.clone(),
            },
        );
        let (store, pulls) = (self.store.clone(), self.pulls.clone());
        let counts = self.counts.clone();
        let work = async move {
            let registered = Registered { pulls, wanted };
            let (reference, auth) = &registered.wanted;
            let began = Instant::now();
            let outcome = pull(&store, reference, auth.as_ref(), &audience).await;
            counts.ended(result_word(&outcome), began.elapsed());
            // Who comes from now on starts anew.
            drop(registered);
            sender.send_replace(Some(outcome));
        };
        tokio::spawn(work.instrument(tracing::debug_span!("pull")));
        outcome
    }

    /// Takes in the images of an archive (an OCI layout or what docker saves, compressed or not) as it is
    /// read.
    ///
    /// # Errors
    /// As for [`pull`](Self::pull); images before the one that failed stay.
    pub async fn import(
        &self,
        archive: impl Read + Send + 'static,
        progress: &ProgressSink,
    ) -> Result<Vec<Arc<Image>>, Error> {
        let (store, audience) = (self.store.clone(), Audience::default());
        let settings = store.settings();
        audience.join(progress);
        let import = async move {
            let (reading, listener) = (store.clone(), audience.clone());
            let max_bytes = settings.max_image_bytes;
            let spool = spawn_blocking(move || {
                Spool::read(archive, &reading.content, max_bytes, |done_bytes| {
                    listener.tell(&Progress::Reading { done_bytes });
                })
            });
            let spool = Arc::new(spool.await.map_err(|error| ended(&error))??);
            let mut ids = Vec::new();
            for found in spool.images()? {
                let source = Source::Archive(spool.clone());
                let image = install(&store, &settings, source, found, &audience).await?;
                ids.push(image.id.clone());
            }
            ids.sort();
            ids.dedup();
            let catalogue = store.catalogue();
            Ok(ids
                .iter()
                .filter_map(|id| catalogue.get(id))
                .map(|entry| entry.image.clone())
                .collect())
        };
        tokio::spawn(import).await.map_err(|error| ended(&error))?
    }

    /// Looks whether what is on disk of images is what was put there, and fetches damaged images again if
    /// that is wanted. `told` hears of the bytes that were read so far. Goes on beside everything else, but
    /// for another check. Given up by the caller, it ends soon: not before the image that it fetches is there.
    ///
    /// # Errors
    /// That the work ended early; what is wrong is in the report.
    pub async fn check(
        &self,
        repair: Repair,
        told: impl Fn(u64) + Send + 'static,
    ) -> Result<Report, Error> {
        check(&self.store, repair, told).await
    }

    /// Puts other settings in force: for pulls and imports that begin from then on, and for which
    /// images are pinned. Blocks.
    pub fn reconfigure(&self, settings: Settings) {
        self.store.reconfigure(settings);
    }

    /// All images, by their ids.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.store.catalogue().list()
    }

    /// The image with this id, complete or its beginning, or with this reference.
    ///
    /// # Errors
    /// [`Error::Ambiguous`] for the beginning of several ids, [`Error::InvalidReference`] for what cannot
    /// name an image.
    pub fn find(&self, name: &str) -> Result<Option<Arc<Image>>, Error> {
        Ok(self
            .store
            .catalogue()
            .find(name)?
            .map(|entry| entry.image.clone()))
    }

    /// Removes an image with all its names; that there is none is fine. Layers that other images or
    /// snapshots need stay as long as they do.
    ///
    /// # Errors
    /// Those of [`find`](Self::find), and of writing the index.
    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        let name = name.to_owned();
        self.blocking(move |store| store.remove(&name)).await
    }

    /// Gives the image that is called `name` a tag more.
    ///
    /// # Errors
    /// Those of [`find`](Self::find), [`Error::NotFound`], [`Error::NameTaken`], and of writing the index.
    pub async fn tag(
        &self,
        name: &str,
        tag: &Reference,
        naming: Naming,
    ) -> Result<Arc<Image>, Error> {
        let (name, tag) = (name.to_owned(), tag.clone());
        self.blocking(move |store| store.tag(&name, &tag, naming))
            .await
    }

    /// Takes a name away from its image, and removes the image if it was the last one.
    ///
    /// # Errors
    /// [`Error::NotFound`] when no image has it, and those of writing the index.
    pub async fn untag(&self, name: &Reference) -> Result<(), Error> {
        let name = name.clone();
        self.blocking(move |store| store.untag(&name)).await
    }

    /// Writes an archive of images, each known by a name or id, that is an OCI layout and what docker
    /// loads. Layers that are not kept as they were fetched are archived anew: such an image has the same
    /// files and another id. Goes on when the caller gives up, until `to` takes no more or `is_wanted` says
    /// no. Images may be removed meanwhile: layers stay until it has ended, but an image that is kept as it
    /// was fetched is [`Error::NotFound`] then.
    ///
    /// # Errors
    /// Those of [`find`](Self::find), [`Error::NotFound`], [`Error::Corrupt`], [`Error::Io`] also of
    /// writing.
    pub async fn export(
        &self,
        names: &[String],
        to: impl Write + Send + 'static,
        is_wanted: impl Fn() -> bool + Send + 'static,
    ) -> Result<(), Error> {
        let names = names.to_vec();
        self.blocking(move |store| export(store, &names, to, &is_wanted))
            .await
    }

    /// The configuration of an image as it was written, JSON. Blocks.
    ///
    /// # Errors
    /// [`Error::NotFound`], or what reading it said.
    pub fn config_json(&self, image: &ImageId) -> Result<Vec<u8>, Error> {
        if self.store.catalogue().get(image).is_none() {
            return Err(Error::not_found(image.as_str()));
        }
        self.store
            .content
            .read_blob(image.digest(), MAX_CONFIG_BYTES)
    }

    /// Makes the directories for what a container writes, its volumes included, of which the file system
    /// takes at most `limit_bytes`. Repeating it gives the same.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the image, [`Error::SnapshotExists`] if the container has one of another,
    /// [`Error::NoQuotas`] if there is to be a limit and cannot be one, and those of making directories.
    pub async fn prepare(
        &self,
        container: &ContainerId,
        image: &ImageId,
        limit_bytes: Option<u64>,
    ) -> Result<Snapshot, Error> {
        let (container, image) = (container.clone(), image.clone());
        self.blocking(move |store| store.prepare(&container, &image, limit_bytes))
            .await
    }

    /// As [`Self::prepare`], and gives the container's root file system as a detached mount: nobody sees it, and
    /// it is gone with its descriptor. None where the kernel does not let it be made in advance.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub async fn prepare_mounted(
        &self,
        container: &ContainerId,
        image: &ImageId,
        limit_bytes: Option<u64>,
    ) -> Result<Option<OwnedFd>, Error> {
        let (container, image) = (container.clone(), image.clone());
        self.blocking(move |store| {
            let snapshot = store.prepare(&container, &image, limit_bytes)?;
            Ok(snapshot.mount(&store.mount_points_dir))
        })
        .await
    }

    /// Lends an image to a container for which a snapshot was prepared: its layers stay until the
    /// snapshot is removed. Gives what the container is to mount, read-only: directories to be laid over
    /// each other, topmost first, or a single directory or file. `sub_path` is looked up in the image,
    /// whose symbolic links lead nowhere but into it; empty: the whole image. To be called by one at a
    /// time for each container.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the image or the snapshot, [`Error::NoSuchPath`], [`Error::Io`].
    pub async fn lend(
        &self,
        container: &ContainerId,
        image: &ImageId,
        sub_path: &str,
    ) -> Result<Vec<PathBuf>, Error> {
        let (container, image) = (container.clone(), image.clone());
        let sub_path = sub_path.to_owned();
        self.blocking(move |store| store.lend(&container, &image, &sub_path))
            .await
    }

    /// Makes a directory of a container's own for a volume that its image declares, with all that the
    /// image has there; without anything, it is root's and of mode 0755. `path` is looked up in the
    /// image, whose symbolic links lead nowhere but into it. The directory goes with the snapshot.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the snapshot, [`Error::Refused`] if the image has no directory there but
    /// something else, [`Error::Io`], also when there is a volume of this number.
    pub async fn make_volume(
        &self,
        container: &ContainerId,
        number: usize,
        path: &Path,
    ) -> Result<PathBuf, Error> {
        let (container, path) = (container.clone(), path.to_owned());
        self.blocking(move |store| store.make_volume(&container, number, &path))
            .await
    }

    /// The snapshot that was prepared for a container, by this process or an earlier one.
    #[must_use]
    pub fn snapshot(&self, container: &ContainerId) -> Option<Snapshot> {
        self.store.snapshots.get(container)
    }

    /// What lies below the layers of every container: files and directories that all have something mounted upon.
    #[must_use]
    pub fn mount_points_dir(&self) -> &Path {
        &self.store.mount_points_dir
    }

    /// Writes an archive of what a container has made or changed in its root file system to `to`, and gives
    /// the paths that it has deleted, relative to the root. Of the paths in `left_out` it has neither.
    /// Blocks.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it has no snapshot; [`Error::NoSpace`] also when there is more of it than
    /// the bounds allow; [`Error::Io`].
    pub fn write_changes(
        &self,
        container: &ContainerId,
        left_out: &HashSet<PathBuf>,
        to: File,
        bounds: Bounds,
    ) -> Result<Vec<PathBuf>, Error> {
        let snapshot = self.snapshot(container);
        let snapshot = snapshot.ok_or_else(|| Error::not_found(container.as_str()))?;
        let (upper, lower) = (&snapshot.upper_dir, &snapshot.lower_dirs);
        changes::write(upper, lower, left_out, to, bounds)
    }

    /// Removes what a container has written; that there is nothing is fine. It must not be mounted.
    ///
    /// # Errors
    /// [`Error::Io`] when something cannot be removed; it can be tried again.
    pub async fn remove_snapshot(&self, container: &ContainerId) -> Result<(), Error> {
        let container = container.clone();
        self.blocking(move |store| store.remove_snapshot(&container))
            .await
    }

    /// Removes the snapshots of all containers but these. Blocks.
    ///
    /// # Errors
    /// The first that occurred, after all were tried.
    pub fn retain_snapshots(&self, keep: &HashSet<ContainerId>) -> Result<(), Error> {
        let unneeded = self
            .store
            .snapshots
            .containers()
            .into_iter()
            .filter(|id| !keep.contains(id));
        let results: Vec<_> = unneeded.map(|id| self.store.remove_snapshot(&id)).collect();
        results.into_iter().collect()
    }

    /// What a container has written. Walks through all of it: blocks.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it has no snapshot; [`Error::Io`].
    pub fn snapshot_usage(&self, container: &ContainerId) -> Result<Usage, Error> {
        let size = self.store.snapshots.size(container)?;
        Ok(Usage {
            path: self.store.snapshots.dir().to_owned(),
            bytes: size.bytes,
            inodes: size.inodes,
        })
    }

    /// What images take, layers and all. From memory.
    #[must_use]
    pub fn image_usage(&self) -> Usage {
        let size = self.store.layers.size();
        Usage {
            path: self.store.layers.dir().to_owned(),
            bytes: size.bytes,
            inodes: size.inodes,
        }
    }

    /// What all containers have written. Walks through all of it: blocks.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn container_usage(&self) -> Result<Usage, Error> {
        let mut usage = Usage {
            path: self.store.snapshots.dir().to_owned(),
            bytes: 0,
            inodes: 0,
        };
        for container in self.store.snapshots.containers() {
            match self.store.snapshots.size(&container) {
                Ok(size) => {
                    usage.bytes += size.bytes;
                    usage.inodes += size.inodes;
                }
                // It was removed meanwhile.
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(usage)
    }

    /// A regular file as a container of the image would see it, symbolic links followed inside of the
    /// image. None if there is none. Blocks.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the image, [`Error::Refused`] for a file of more than `max_bytes`,
    /// [`Error::Io`].
    pub fn read_file(
        &self,
        image: &ImageId,
        path: &str,
        max_bytes: usize,
    ) -> Result<Option<Vec<u8>>, Error> {
        Directory::root(&self.store.lower_dirs(image)?)?.read_file(path, max_bytes)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Store>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.store.clone();
        spawn_blocking(move || work(&store))
            .await
            .map_err(|error| ended(&error))?
    }
}

/// A pull's entry among those that are under way, for as long as its task lives.
struct Registered {
    pulls: Arc<Mutex<HashMap<Wanted, Pull>>>,
    wanted: Wanted,
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.pulls).remove(&self.wanted);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
