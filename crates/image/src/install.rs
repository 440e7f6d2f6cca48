//! Getting an image whose manifest is known into the store: all its layers at once, then the index.

use crate::archive::Spool;
use crate::content::Indexed;
use crate::image::RawConfig;
use crate::layers::Pins;
use crate::manifest::{Descriptor, Manifest};
use crate::progress::Audience;
use crate::registry::Registry;
use crate::store::{NewImage, Store, visible};
use crate::stream::{self, Expected};
use crate::{Digest, Error, Image, LayerSize, Progress, Settings, content, fixup};
use bytes::Bytes;
use crisp_crash::point;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet, spawn_blocking};

/// Chunks of a layer between the network and its reader; each is at most 128 KiB.
const CHUNKS: usize = 8;

/// Where layers come from.
#[derive(Clone)]
pub(crate) enum Source {
    Registry(Arc<Registry>),
    Archive(Arc<Spool>),
}

/// An image that is to be installed.
pub(crate) struct Found {
    pub(crate) descriptor: Descriptor,
    pub(crate) manifest: Manifest,
    pub(crate) manifest_bytes: Bytes,
    pub(crate) config_bytes: Bytes,
    /// Complete references that it will be known by.
    pub(crate) names: Vec<String>,
}

/// One layer to fetch and unpack.
#[derive(Clone)]
struct Job {
    store: Arc<Store>,
    settings: Arc<Settings>,
    source: Source,
    blob: Descriptor,
    diff_id: Digest,
    /// What all layers of the image may still unpack to.
    budget: Arc<AtomicU64>,
    audience: Audience,
    /// Becomes true when another layer has failed.
    stop: watch::Receiver<bool>,
}

/// Installs all of it, or nothing that would stay.
pub(crate) async fn install(
    store: &Arc<Store>,
    settings: &Arc<Settings>,
    source: Source,
    found: Found,
    audience: &Audience,
) -> Result<Arc<Image>, Error> {
    let result = try_install(store, settings, source, found, audience).await;
    if let Err(error) = &result
        && !error.is_transient()
    {
        // Layers that did arrive are kept when the registry went away: the next pull goes on from there.
        let store = store.clone();
        spawn_blocking(move || store.collect_layers())
            .await
            .map_err(|error| ended(&error))?;
    }
    result
}

async fn try_install(
    store: &Arc<Store>,
    settings: &Arc<Settings>,
    source: Source,
    found: Found,
    audience: &Audience,
) -> Result<Arc<Image>, Error> {
    let what = found.descriptor.digest.to_string();
    let diff_ids = diff_ids(&found, &what)?;
    check_size(settings, &found, &what)?;
    let pins = pin(store, &diff_ids);
    let manifest = &found.manifest;
    let kept = fetch_layers(store, settings, source, manifest, &diff_ids, audience).await?;
    audience.tell(&Progress::Committing);
    let store = store.clone();
    spawn_blocking(move || {
        let image = commit(&store, found, &diff_ids, &kept);
        drop(pins);
        image
    })
    .await
    .map_err(|error| ended(&error))?
}

/// The diff ids, when manifest and configuration agree and the image is for this system.
fn diff_ids(found: &Found, what: &str) -> Result<Vec<Digest>, Error> {
    let config = RawConfig::parse(&found.config_bytes, what)?;
    let diff_ids = config.diff_ids();
    if diff_ids.len() != found.manifest.layers.len() {
        let (layers, ids) = (found.manifest.layers.len(), diff_ids.len());
        return Err(Error::corrupt(
            what,
            format!("its manifest has {layers} layers, its configuration {ids}"),
        ));
    }
    match config.into_config().os.as_str() {
        "" | "linux" => Ok(diff_ids),
        os => Err(Error::refused(what, format!("it is made for {os:?}"))),
    }
}

/// What is too large to be transferred is not begun with.
fn check_size(settings: &Settings, found: &Found, what: &str) -> Result<(), Error> {
    let max_bytes = settings.max_image_bytes;
    match found.manifest.size_bytes() {
        Some(size_bytes) if size_bytes <= max_bytes => Ok(()),
        _ => Err(Error::refused(
            what,
            format!("it is larger than {max_bytes} bytes, the configured bound"),
        )),
    }
}

/// All layers that the image can need, its fix-up among them.
fn pin(store: &Store, diff_ids: &[Digest]) -> Pins {
    let mut keys = diff_ids.to_vec();
    keys.push(fixup::chain_id(diff_ids));
    store.layers.pin(keys)
}

async fn fetch_layers(
    store: &Arc<Store>,
    settings: &Arc<Settings>,
    source: Source,
    manifest: &Manifest,
    diff_ids: &[Digest],
    audience: &Audience,
) -> Result<Vec<Kept>, Error> {
    let size = |layer: &Descriptor| LayerSize {
        digest: layer.digest.clone(),
        total_bytes: layer.size_bytes,
    };
    audience.tell(&Progress::Layers(
        manifest.layers.iter().map(size).collect(),
    ));
    let (stop, stopped) = watch::channel(false);
    let budget = Arc::new(AtomicU64::new(settings.max_image_bytes));
    let mut layers: Vec<_> = manifest.layers.iter().zip(diff_ids).collect();
    // The largest first, so that none is left alone at the end.
    layers.sort_by_key(|(blob, _)| std::cmp::Reverse(blob.size_bytes));
    let mut jobs = JoinSet::new();
    for (blob, diff_id) in layers {
        let job = Job {
            store: store.clone(),
            settings: settings.clone(),
            source: source.clone(),
            blob: blob.clone(),
            diff_id: diff_id.clone(),
            budget: budget.clone(),
            audience: audience.clone(),
            stop: stopped.clone(),
        };
        jobs.spawn(job.run());
    }
    let mut kept = Ok(Vec::new());
    while let Some(done) = jobs.join_next().await {
        match (done.unwrap_or_else(|error| Err(ended(&error))), &mut kept) {
            (Ok(file), Ok(kept)) => kept.extend(file),
            (Err(error), Ok(_)) => {
                kept = Err(error);
                // All jobs are waited for, so that nothing of them is left when the error is told.
                stop.send_replace(true);
            }
            (_, Err(_)) => {}
        }
    }
    kept
}

impl Job {
    /// Makes sure that the layer is there. The compressed layer's file is returned if it is to be kept.
    async fn run(self) -> Result<Option<Kept>, Error> {
        let (store, audience, digest) = (
            self.store.clone(),
            self.audience.clone(),
            self.blob.digest.clone(),
        );
        let mut stop = self.stop.clone();
        let _lock = tokio::select! {
            lock = store.layer_locks.lock(&self.diff_id) => lock,
            _ = stop.wait_for(|stop| *stop) => return Err(stopped()),
        };
        if store.layers.get(&self.diff_id).is_some() {
            audience.tell(&Progress::Present { digest });
            return Ok(None);
        }
        let transfers = store.transfers();
        let _permit = tokio::select! {
            permit = transfers.acquire() => permit,
            _ = stop.wait_for(|stop| *stop) => return Err(stopped()),
        };
        let kept = self.transfer().await?;
        audience.tell(&Progress::Unpacked { digest });
        Ok(kept)
    }

    async fn transfer(self) -> Result<Option<Kept>, Error> {
        let registry = match &self.source {
            Source::Registry(registry) => registry.clone(),
            Source::Archive(spool) => {
                let chunks = spool.chunks(&self.blob.digest)?;
                return spawn_blocking(move || self.unpack(chunks))
                    .await
                    .map_err(|error| ended(&error))?;
            }
        };
        let (blob, mut stop) = (self.blob.clone(), self.stop.clone());
        let (chunks, mut arriving) = mpsc::channel(CHUNKS);
        let arriving = std::iter::from_fn(move || arriving.blocking_recv().map(Ok));
        let unpacking = spawn_blocking(move || self.unpack(arriving));
        let fetched = tokio::select! {
            fetched = registry.stream_blob(&blob, chunks) => fetched,
            _ = stop.wait_for(|stop| *stop) => Err(stopped()),
        };
        // Without a sender the reader ends. If the transfer broke, that is why the layer is short.
        let unpacked = unpacking.await.map_err(|error| ended(&error))?;
        fetched.and(unpacked)
    }

    /// Blocks.
    fn unpack(
        self,
        chunks: impl Iterator<Item = io::Result<Bytes>> + Send,
    ) -> Result<Option<Kept>, Error> {
        let keep = || {
            let path = self.store.content.stage()?;
            Ok::<_, Error>(Kept {
                digest: self.blob.digest.clone(),
                path,
            })
        };
        let kept = self.settings.keep_layer_blobs.then(keep).transpose()?;
        let staged = self.store.layers.stage()?;
        point!("pull.layer-staged");
        let dir = staged.fs_dir();
        let expected = Expected {
            blob: &self.blob,
            diff_id: &self.diff_id,
            max_bytes: self.settings.max_layer_bytes,
            budget: &self.budget,
            keep: kept.as_ref().map(|kept| kept.path.clone()),
            dir: &dir,
        };
        let stop = &self.stop;
        let chunks = chunks.take_while(|_| !*stop.borrow());
        let (digest, total_bytes) = (&self.blob.digest, self.blob.size_bytes);
        let into = (staged.open_fs_dir()?, staged.sums()?);
        let unpacked = stream::unpack(chunks, &expected, into, |done_bytes| {
            let digest = digest.clone();
            self.audience.tell(&Progress::Fetching {
                digest,
                done_bytes,
                total_bytes,
            });
        })?;
        point!("pull.layer-unpacked");
        staged.commit(self.diff_id.clone(), &unpacked)?;
        Ok(kept)
    }
}

/// A compressed layer in the staging directory, removed unless it was moved to where it belongs.
struct Kept {
    digest: Digest,
    path: PathBuf,
}

impl Drop for Kept {
    fn drop(&mut self) {
        content::forget(&self.path);
    }
}

/// Enters the image; its layers are there and pinned. Blocks.
fn commit(
    store: &Arc<Store>,
    found: Found,
    diff_ids: &[Digest],
    kept: &[Kept],
) -> Result<Arc<Image>, Error> {
    let has_fixup = make_fixup(store, diff_ids)?;
    point!("pull.layers-made");
    for file in kept {
        store.content.adopt_blob(&file.digest, &file.path)?;
    }
    store.enter(NewImage {
        indexed: Indexed {
            manifest: found.descriptor,
            names: found.names,
            unsynced_since_boot: None,
            has_fixup,
        },
        manifest: found.manifest,
        manifest_bytes: found.manifest_bytes.into(),
        config_bytes: found.config_bytes.into(),
    })
}

fn make_fixup(store: &Store, diff_ids: &[Digest]) -> Result<bool, Error> {
    if diff_ids.is_empty() {
        store.layers.empty()?;
        return Ok(false);
    }
    let stack = visible(store.layers_of(diff_ids, false)?);
    Ok(fixup::make(&store.layers, &stack, fixup::chain_id(diff_ids))?.is_some())
}

/// A layer whose work was given up because another one of the image failed; that one's error is told.
fn stopped() -> Error {
    Error::refused("the image", "another of its layers failed")
}

/// A task that panicked, or was dropped with the runtime.
pub(crate) fn ended(error: &JoinError) -> Error {
    Error::io(
        "finish",
        "the work on an image",
        io::Error::other(error.to_string()),
    )
}
