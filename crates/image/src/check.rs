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
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
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

/// What is known of a layer that was looked at.
type Wrong = Vec<String>;

/// An image with something wrong.
struct Damaged {
    entry: Arc<Entry>,
    reasons: Wrong,
    layers: Vec<Arc<Layer>>,
}

/// Looks at everything, then repairs image by image.
pub(crate) async fn check(
    store: &Arc<Store>,
    repair: Repair,
    told: impl Fn(u64) + Send + 'static,
) -> Result<Report, Error> {
    let looking = store.clone();
    let (mut report, damaged) = spawn_blocking(move || Look::new(&looking, told).all())
        .await
        .map_err(|error| ended(&error))?;
    let mut of_images = Vec::new();
    for image in damaged {
        let outcome = match repair {
            Repair::No => Outcome::Found,
            Repair::Yes => match fetch(store, &image).await {
                Ok(()) => Outcome::Repaired,
                Err(error) => Outcome::NotRepaired(crate::error::with_causes(&error)),
            },
        };
        let names = image
            .entry
            .image
            .tags
            .iter()
            .chain(&image.entry.image.digests);
        let owner = Owner::Image(image.entry.image.id.clone(), names.cloned().collect());
        of_images.extend(image.reasons.into_iter().map(|reason| Fault {
            owner: owner.clone(),
            reason,
            outcome: outcome.clone(),
        }));
    }
    report.faults.splice(0..0, of_images);
    Ok(report)
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
    read_bytes: u64,
    layers: HashMap<u64, Wrong>,
    report: Report,
}

impl<'a, F: Fn(u64)> Look<'a, F> {
    fn new(store: &'a Store, told: F) -> Self {
        Self {
            store,
            told,
            read_bytes: 0,
            layers: HashMap::new(),
            report: Report::default(),
        }
    }

    /// Blocks.
    fn all(mut self) -> (Report, Vec<Damaged>) {
        let catalogue = self.store.catalogue();
        let mut damaged = Vec::new();
        for entry in catalogue.entries() {
            self.report.images += 1;
            damaged.extend(self.image(entry));
        }
        for container in self.store.snapshots.containers() {
            self.report.containers += 1;
            let faults = self.container(&container).into_iter().map(|reason| Fault {
                owner: Owner::Container(container.clone()),
                reason,
                outcome: Outcome::NotRepaired(
                    "a container that takes its place has a whole image".to_owned(),
                ),
            });
            self.report.faults.extend(faults);
        }
        self.report.layers = self.layers.len();
        (self.report, damaged)
    }

    fn image(&mut self, entry: &Arc<Entry>) -> Option<Damaged> {
        // What is being looked at stays, even if the image goes meanwhile.
        let keys = crate::store::layer_keys(&entry.diff_ids, entry.has_fixup);
        let _pins = self.store.layers.pin(keys.clone());
        let config = entry.image.id.digest();
        let mut reasons: Wrong = entry
            .blobs
            .iter()
            .filter_map(|blob| self.blob(blob, *blob == entry.manifest.digest || blob == config))
            .collect();
        let mut layers = Vec::new();
        for key in keys {
            match self.store.layers.get(&key) {
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
        if let Some(known) = self.layers.get(&layer.number) {
            return known.clone();
        }
        if layer.record.sums == Coverage::Nothing && layer.record.bytes > 0 {
            self.report.layers_without_sums += 1;
        }
        let (read, told) = (&mut self.read_bytes, &self.told);
        let wrong = self.store.layers.verify(layer, |bytes| {
            *read += bytes;
            told(*read);
            ControlFlow::Continue(())
        });
        let key = &layer.record.key;
        let wrong: Wrong = wrong
            .into_iter()
            .map(|reason| format!("layer {key}: {reason}"))
            .collect();
        self.layers.insert(layer.number, wrong.clone());
        wrong
    }

    fn container(&mut self, container: &ContainerId) -> Wrong {
        let mut wrong = Wrong::new();
        for number in self
            .store
            .snapshots
            .layers_of(container)
            .unwrap_or_default()
        {
            match self.store.layers.numbered(number) {
                Some(layer) => wrong.extend(self.layer(&layer)),
                None => wrong.push(format!("layer {number}: it is missing")),
            }
        }
        if let Some(snapshot) = self.store.snapshots.get(container) {
            let dirs = [&snapshot.upper_dir, &snapshot.work_dir];
            let missing = dirs.into_iter().filter(|dir| !dir.is_dir());
            wrong.extend(missing.map(|dir| format!("{}: it is missing", dir.display())));
        }
        // One that was removed meanwhile is none the worse.
        match self.store.snapshots.get(container) {
            Some(_) => wrong,
            None => Wrong::new(),
        }
    }
}
