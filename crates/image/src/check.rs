//! Whether what is on disk is still what was put there; and putting it right, by fetching it again.
//!
//! Looked at are the blobs of images by their digests, the files of layers by the checksums that were
//! taken when they were unpacked (`sums.rs`), and the directories of containers. A damaged layer is
//! fetched under another number. Containers that have it keep it, for it is mounted; those that are
//! created from then on have the new one.

use crate::catalogue::Entry;
use crate::image::ImageId;
use crate::install::ended;
use crate::layers::Layer;
use crate::pull::fetch_again;
use crate::store::Store;
use crate::sums::Coverage;
use crate::{Digest, Error};
use crisp_model::ContainerId;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Weak};
use tokio::task::spawn_blocking;

/// Whether what is damaged is to be fetched again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    No,
    Yes,
}

/// What a check has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub images: usize,
    pub layers: usize,
    pub containers: usize,
    /// Layers whose files there is nothing to compare with: an older crisp has unpacked them.
    pub layers_without_sums: usize,
    pub faults: Vec<Fault>,
}

/// Something that is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub owner: Owner,
    /// What of it, and how.
    pub reason: String,
    pub outcome: Outcome,
}

/// What is the worse for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// With the names that it has.
    Image(ImageId, Vec<String>),
    Container(ContainerId),
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nobody has asked for more.
    Found,
    Repaired,
    /// And why.
    NotRepaired(String),
}

/// What is wrong with something that was looked at.
type Wrong = Vec<String>;

/// An image with something wrong.
struct Damaged {
    entry: Arc<Entry>,
    reasons: Wrong,
    has_damaged_blobs: bool,
    /// All that it has.
    keys: Vec<Digest>,
    /// Those that are damaged.
    layers: Vec<Arc<Layer>>,
}

/// Something that a container has no more as it was.
struct Loss {
    container: ContainerId,
    reason: String,
    /// The key of the layer that is damaged, if it is one.
    layer: Option<Digest>,
}

/// What a look has found.
struct Findings {
    report: Report,
    images: Vec<Damaged>,
    losses: Vec<Loss>,
    /// Their numbers.
    damaged_layers: HashSet<u64>,
}

/// Who waits for a check, as seen by the check.
#[derive(Clone)]
struct Client(Weak<()>);

impl Client {
    fn has_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

/// Looks at everything, then repairs image by image. One does so at a time. Without anybody who waits, a
/// look is broken off; a repair that has begun goes on to its end.
pub(crate) async fn check(
    store: &Arc<Store>,
    repair: Repair,
    told: impl Fn(u64) + Send + 'static,
) -> Result<Report, Error> {
    let alone = store.checking.clone().lock_owned().await;
    let waiting = Arc::new(());
    let (store, client) = (store.clone(), Client(Arc::downgrade(&waiting)));
    let checking = async move {
        let report = look_and_repair(&store, repair, told, &client).await;
        drop(alone);
        report
    };
    let checked = tokio::spawn(checking).await;
    drop(waiting);
    checked.map_err(|error| ended(&error))?
}

async fn look_and_repair(
    store: &Arc<Store>,
    repair: Repair,
    told: impl Fn(u64) + Send + 'static,
    client: &Client,
) -> Result<Report, Error> {
    let (looking, listening) = (store.clone(), client.clone());
    let look = move || Look::new(&looking, told, listening).all();
    let mut found = spawn_blocking(look).await.map_err(|error| ended(&error))?;
    let mut faults = Vec::new();
    for image in std::mem::take(&mut found.images) {
        // What a look that was broken off has found means nothing.
        if client.has_gone() {
            break;
        }
        let outcome = match repair {
            Repair::No => Outcome::Found,
            Repair::Yes => match make_whole(store, &image, &found.damaged_layers).await {
                Ok(()) => Outcome::Repaired,
                Err(error) => Outcome::NotRepaired(crate::error::with_causes(&error)),
            },
        };
        faults.extend(image.faults(&outcome));
    }
    for loss in found.losses {
        faults.push(Fault {
            outcome: match repair {
                Repair::No => Outcome::Found,
                Repair::Yes => loss.outcome(store, &found.damaged_layers),
            },
            owner: Owner::Container(loss.container),
            reason: loss.reason,
        });
    }
    Ok(Report {
        faults,
        ..found.report
    })
}

impl Damaged {
    fn faults(self, outcome: &Outcome) -> impl Iterator<Item = Fault> {
        let names = self.entry.names().cloned().collect();
        let owner = Owner::Image(self.entry.image.id.clone(), names);
        self.reasons.into_iter().map(move |reason| Fault {
            owner: owner.clone(),
            reason,
            outcome: outcome.clone(),
        })
    }
}

impl Loss {
    /// After all images were repaired as far as that goes. The container keeps what it has.
    fn outcome(&self, store: &Store, damaged_layers: &HashSet<u64>) -> Outcome {
        let is_replaced = self
            .layer
            .as_ref()
            .is_some_and(|key| is_whole(store, key, damaged_layers));
        let why = match is_replaced {
            true => "only a container that takes its place has the whole layer",
            false => "there is none that is whole",
        };
        Outcome::NotRepaired(why.to_owned())
    }
}

/// Whether there is such a layer, and it is none of the damaged ones.
fn is_whole(store: &Store, key: &Digest, damaged_layers: &HashSet<u64>) -> bool {
    let layer = store.layers.get(key);
    layer.is_some_and(|layer| !damaged_layers.contains(&layer.number))
}

/// Fetches an image again, unless another one that was fetched has left nothing to do.
async fn make_whole(
    store: &Arc<Store>,
    image: &Damaged,
    damaged_layers: &HashSet<u64>,
) -> Result<(), Error> {
    let mut keys = image.keys.iter();
    match !image.has_damaged_blobs && keys.all(|key| is_whole(store, key, damaged_layers)) {
        true => Ok(()),
        false => fetch(store, image).await,
    }
}

/// Has the image whole again, or as it was.
async fn fetch(store: &Arc<Store>, image: &Damaged) -> Result<(), Error> {
    let keys = image.layers.iter().map(|layer| layer.record.key.clone());
    // Until it is known whether they are still needed.
    let pins = store.layers.pin(keys.collect());
    for layer in &image.layers {
        store.layers.withdraw(layer);
    }
    let fetched = fetch_again(store, &image.entry).await;
    for layer in image.layers.iter().filter(|_| fetched.is_err()) {
        store.layers.reinstate(layer);
    }
    drop(pins);
    let store = store.clone();
    spawn_blocking(move || store.collect_layers())
        .await
        .map_err(|error| ended(&error))?;
    fetched
}

/// A look at the whole store. Each layer is looked at once, whoever has it.
struct Look<'a, F> {
    store: &'a Store,
    told: F,
    client: Client,
    read_bytes: u64,
    layers: HashMap<u64, Wrong>,
    report: Report,
}

impl<'a, F: Fn(u64)> Look<'a, F> {
    fn new(store: &'a Store, told: F, client: Client) -> Self {
        Self {
            store,
            told,
            client,
            read_bytes: 0,
            layers: HashMap::new(),
            report: Report::default(),
        }
    }

    /// Blocks.
    fn all(mut self) -> Findings {
        let catalogue = self.store.catalogue();
        let (mut images, mut losses) = (Vec::new(), Vec::new());
        for entry in catalogue.entries() {
            if self.client.has_gone() {
                break;
            }
            self.report.images += 1;
            images.extend(self.image(entry));
        }
        for container in self.store.snapshots.containers() {
            self.report.containers += 1;
            losses.extend(self.container(&container));
        }
        self.report.layers = self.layers.len();
        let damaged = self.layers.iter().filter(|(_, wrong)| !wrong.is_empty());
        Findings {
            damaged_layers: damaged.map(|(number, _)| *number).collect(),
            report: self.report,
            images,
            losses,
        }
    }

    fn image(&mut self, entry: &Arc<Entry>) -> Option<Damaged> {
        // What is being looked at stays, even if the image goes meanwhile.
        let keys = entry.layer_keys();
        let _pins = self.store.layers.pin(keys.clone());
        let config = entry.image.id.digest();
        let mut reasons: Wrong = entry
            .blobs
            .iter()
            .filter_map(|blob| self.blob(blob, *blob == entry.manifest.digest || blob == config))
            .collect();
        let has_damaged_blobs = !reasons.is_empty();
        let mut layers = Vec::new();
        for key in &keys {
            match self.store.layers.get(key) {
                Some(layer) => {
                    let wrong = self.layer(&layer);
                    if !wrong.is_empty() {
                        reasons.extend(wrong);
                        layers.push(layer);
                    }
                }
                None => reasons.push(format!("layer {key}: it is missing")),
            }
        }
        let is_gone = self.store.catalogue().get(&entry.image.id).is_none();
        (!reasons.is_empty() && !is_gone).then(|| Damaged {
            entry: entry.clone(),
            reasons,
            has_damaged_blobs,
            keys,
            layers,
        })
    }

    /// Compressed layers are kept only where the administrator wants it.
    fn blob(&self, digest: &Digest, is_required: bool) -> Option<String> {
        let wrong = match self.store.content.verify_blob(digest) {
            Ok(Some(true)) => return None,
            Ok(None) if !is_required => return None,
            Ok(None) => "it is missing".to_owned(),
            Ok(Some(false)) => "its digest is another".to_owned(),
            Err(error) => format!("it cannot be read: {error}"),
        };
        Some(format!("blob {digest}: {wrong}"))
    }

    fn layer(&mut self, layer: &Layer) -> Wrong {
        if self.client.has_gone() {
            return Wrong::new();
        }
        if let Some(known) = self.layers.get(&layer.number) {
            return known.clone();
        }
        if layer.record.sums == Coverage::Nothing && layer.record.bytes > 0 {
            self.report.layers_without_sums += 1;
        }
        let (read, told, client) = (&mut self.read_bytes, &self.told, &self.client);
        let wrong = self.store.layers.verify(layer, |bytes| {
            *read += bytes;
            told(*read);
            match client.has_gone() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        let key = &layer.record.key;
        let wrong: Wrong = wrong
            .into_iter()
            .map(|reason| format!("layer {key}: {reason}"))
            .collect();
        self.layers.insert(layer.number, wrong.clone());
        wrong
    }

    fn container(&mut self, container: &ContainerId) -> Vec<Loss> {
        let loss = |reason, layer| Loss {
            container: container.clone(),
            reason,
            layer,
        };
        let mut losses = Vec::new();
        for number in self
            .store
            .snapshots
            .layers_of(container)
            .unwrap_or_default()
        {
            match self.store.layers.numbered(number) {
                Some(layer) => {
                    let wrong = self.layer(&layer).into_iter();
                    losses.extend(wrong.map(|reason| loss(reason, Some(layer.record.key.clone()))));
                }
                None => losses.push(loss(format!("layer {number}: it is missing"), None)),
            }
        }
        if let Some(snapshot) = self.store.snapshots.get(container) {
            let dirs = [&snapshot.upper_dir, &snapshot.work_dir];
            let missing = dirs.into_iter().filter(|dir| !dir.is_dir());
            let missing = missing.map(|dir| format!("{}: it is missing", dir.display()));
            losses.extend(missing.map(|reason| loss(reason, None)));
        }
        // One that was removed meanwhile is none the worse.
        match self.store.snapshots.get(container) {
            Some(_) => losses,
            None => Vec::new(),
        }
    }
}
