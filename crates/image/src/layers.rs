//! Unpacked layers: one directory for each diff id, shared by all images that have the layer.
//!
//! ```text
//! <layers_dir>/<n>/fs          the layer, as overlayfs stacks it
//! <layers_dir>/<n>/layer.json  what is known about it
//! <layers_dir>/<n>/implicit    paths of its directories that the archive does not describe, each with
//!                              a NUL behind it; only if there are any
//! <layers_dir>/<n>/sums        checksums of its files (`sums.rs`)
//! <layers_dir>/staging/        what is being unpacked or removed; emptied at start
//! ```
//!
//! Layers are numbered, because their paths have to fit into mount options side by side. A layer appears
//! under its number, complete, by one rename. Which layers are still needed is known by the images and
//! the snapshots, not here.

use crate::content::make_empty_dir;
use crate::sums::{self, Coverage};
use crate::unpack::{RootAttributes, Unpacked};
use crate::{Digest, Error, tree};
use crisp_crash::point;
use serde::{Deserialize, Serialize};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, DirBuilder, File};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The version of `layer.json`.
const VERSION: u32 = 1;

/// A complete layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) number: u64,
    pub(crate) record: Record,
}

/// `layer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// The diff id; for a fix-up layer the chain id that it is for.
    pub(crate) key: Digest,
    /// On disk, about.
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    pub(crate) root: Option<RootAttributes>,
    pub(crate) opaque_root: bool,
    pub(crate) has_implicit_dirs: bool,
    #[serde(default)]
    pub(crate) sums: Coverage,
}

/// All layers of one store.
#[derive(Debug)]
pub(crate) struct Layers {
    dir: PathBuf,
    state: Mutex<State>,
}

/// The layers that are not to be removed.
#[derive(Debug, Default)]
pub(crate) struct Needed {
    /// Of those that are not withdrawn: images are made of these.
    pub(crate) keys: HashSet<Digest>,
    /// Containers have these.
    pub(crate) numbers: HashSet<u64>,
}

#[derive(Debug, Default)]
struct State {
    layers: HashMap<Digest, Arc<Layer>>,
    /// What no image is made of any more, but containers may have: nobody vouches for its content.
    withdrawn: Vec<Arc<Layer>>,
    /// How many pulls need a layer that no image may have yet.
    pins: HashMap<Digest, usize>,
    next_number: u64,
}

impl Layers {
    /// Reads what is there, and removes what is not complete.
    pub(crate) fn open(dir: &Path) -> Result<Arc<Self>, Error> {
        let layers = Self {
            dir: dir.to_owned(),
            state: Mutex::default(),
        };
        let staging = layers.staging_dir();
        make_empty_dir(&staging)?;
        for number in numbers(&staging)? {
            layers.reserve_up_to(number);
        }
        let mut found = numbers(dir)?;
        found.sort_unstable();
        for number in found {
            layers.adopt(number);
        }
        Ok(Arc::new(layers))
    }

    fn adopt(&self, number: u64) {
        let mut state = self.state();
        state.next_number = state.next_number.max(number + 1);
        match read_record(&self.layer_dir(number)) {
            Some(record) => {
                let layer = Arc::new(Layer { number, record });
                // Of two with the same content the later one was made because the earlier is damaged.
                let earlier = state.layers.insert(layer.record.key.clone(), layer);
                state.withdrawn.extend(earlier);
            }
            None => {
                drop(state);
                self.discard(number);
            }
        }
    }

    /// Numbers up to this one are taken: by a snapshot, or by what could not be removed.
    pub(crate) fn reserve_up_to(&self, number: u64) {
        let mut state = self.state();
        state.next_number = state.next_number.max(number + 1);
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn get(&self, key: &Digest) -> Option<Arc<Layer>> {
        self.state().layers.get(key).cloned()
    }

    /// What overlayfs gets as a lower directory.
    pub(crate) fn lower_dir(&self, number: u64) -> PathBuf {
        self.layer_dir(number).join("fs")
    }

    /// Bytes and inodes of all layers.
    pub(crate) fn size(&self) -> tree::Size {
        let state = self.state();
        let all = state.layers.values().chain(&state.withdrawn);
        all.fold(tree::Size::default(), |sum, layer| tree::Size {
            bytes: sum.bytes + layer.record.bytes,
            inodes: sum.inodes + layer.record.inodes,
        })
    }

    /// The directories that the archive of `layer` did not describe.
    pub(crate) fn implicit_dirs(&self, layer: &Layer) -> Result<Vec<Vec<u8>>, Error> {
        if !layer.record.has_implicit_dirs {
            return Ok(Vec::new());
        }
        let path = self.layer_dir(layer.number).join("implicit");
        let text = fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
        Ok(text
            .split(|&byte| byte == 0)
            .filter(|path| !path.is_empty())
            .map(<[u8]>::to_vec)
            .collect())
    }

    /// A fresh directory to unpack into.
    pub(crate) fn stage(self: &Arc<Self>) -> Result<Staged, Error> {
        let number = {
            let mut state = self.state();
            state.next_number += 1;
            state.next_number - 1
        };
        let staged = Staged {
            layers: self.clone(),
            number,
            is_committed: false,
        };
        for (path, mode) in [(staged.dir(), 0o700), (staged.fs_dir(), 0o755)] {
            DirBuilder::new()
                .mode(mode)
                .create(&path)
                .map_err(|error| Error::io("make the directory", &path, error))?;
        }
        Ok(staged)
    }

    /// The layer of images that have none: empty. Its key is the diff id of an empty archive.
    pub(crate) fn empty(self: &Arc<Self>) -> Result<Arc<Layer>, Error> {
        let key = Digest::of(b"");
        match self.get(&key) {
            Some(layer) => Ok(layer),
            None => self.stage()?.commit(key, &Unpacked::default()),
        }
    }

    /// A layer by its number.
    pub(crate) fn numbered(&self, number: u64) -> Option<Arc<Layer>> {
        let state = self.state();
        let mut all = state.layers.values().chain(&state.withdrawn);
        all.find(|layer| layer.number == number).cloned()
    }

    /// What is wrong with a layer's files; see [`sums::verify`]. Blocks.
    pub(crate) fn verify(
        &self,
        layer: &Layer,
        told: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Vec<String> {
        sums::verify(&self.layer_dir(layer.number), &layer.record, told)
    }

    /// Has no image made of a layer any more, so that it is fetched again when it is needed. Containers
    /// that have it keep it.
    pub(crate) fn withdraw(&self, layer: &Arc<Layer>) {
        let mut state = self.state();
        if state.layers.get(&layer.record.key) == Some(layer) {
            state.layers.remove(&layer.record.key);
            state.withdrawn.push(layer.clone());
        }
    }

    /// The same with all that are not needed.
    pub(crate) fn withdraw_unless(&self, is_needed: impl Fn(&Layer) -> bool) {
        let mut state = self.state();
        let State {
            layers, withdrawn, ..
        } = &mut *state;
        layers.retain(|_, layer| {
            let needed = is_needed(layer);
            if !needed {
                withdrawn.push(layer.clone());
            }
            needed
        });
    }

    /// Whether there are any that only containers have.
    pub(crate) fn has_withdrawn(&self) -> bool {
        !self.state().withdrawn.is_empty()
    }

    /// Takes [`Self::withdraw`] back, unless another layer is in the place already, or this one was
    /// removed since.
    pub(crate) fn reinstate(&self, layer: &Arc<Layer>) {
        let mut state = self.state();
        let State {
            layers, withdrawn, ..
        } = &mut *state;
        let found = withdrawn.iter().position(|withdrawn| withdrawn == layer);
        if let (Some(found), Entry::Vacant(place)) = (found, layers.entry(layer.record.key.clone()))
        {
            place.insert(withdrawn.swap_remove(found));
        }
    }

    /// Keeps layers until the guard is dropped, whether they are there yet or not.
    pub(crate) fn pin(self: &Arc<Self>, keys: Vec<Digest>) -> Pins {
        let mut state = self.state();
        for key in &keys {
            *state.pins.entry(key.clone()).or_default() += 1;
        }
        drop(state);
        Pins {
            layers: self.clone(),
            keys,
        }
    }

    /// Removes layers that are not pinned and that are not needed. What is needed is asked for while no
    /// pin can come or go: whoever pins a layer, enters what needs it, and drops the pin, keeps it.
    pub(crate) fn retain(&self, needed: impl FnOnce() -> Needed) {
        let unneeded: BTreeMap<u64, Digest> = {
            let mut state = self.state();
            let Needed { keys, numbers } = needed();
            let State {
                layers,
                withdrawn,
                pins,
                ..
            } = &mut *state;
            let by_key = |layer: &&Arc<Layer>| !keys.contains(&layer.record.key);
            let unneeded = layers
                .values()
                .filter(by_key)
                .chain(&*withdrawn)
                .filter(|layer| !numbers.contains(&layer.number))
                .filter(|layer| !pins.contains_key(&layer.record.key))
                .map(|layer| (layer.number, layer.record.key.clone()))
                .collect::<BTreeMap<_, _>>();
            layers.retain(|_, layer| !unneeded.contains_key(&layer.number));
            withdrawn.retain(|layer| !unneeded.contains_key(&layer.number));
            unneeded
        };
        for (number, key) in unneeded {
            tracing::debug!(number, %key, "removing a layer");
            self.discard(number);
        }
    }

    /// Moves a layer out of sight at once, and removes it. What cannot be removed is tried again at the
    /// next start.
    fn discard(&self, number: u64) {
        let staged = self.staged_dir(number);
        let result = fs::rename(self.layer_dir(number), &staged)
            .map_err(|error| Error::io("rename", self.layer_dir(number), error))
            .and_then(|()| {
                point!("layer.hidden");
                tree::remove(&staged).map_err(|errno| Error::io("remove", &staged, errno))
            });
        if let Err(error) = result {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot remove a layer"
            );
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn staging_dir(&self) -> PathBuf {
        self.dir.join("staging")
    }

    fn staged_dir(&self, number: u64) -> PathBuf {
        self.staging_dir().join(number.to_string())
    }

    fn layer_dir(&self, number: u64) -> PathBuf {
        self.dir.join(number.to_string())
    }
}

/// The entries of a directory that are numbers.
fn numbers(dir: &Path) -> Result<Vec<u64>, Error> {
    let entries = fs::read_dir(dir).map_err(|error| Error::io("list", dir, error))?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
    let names = names
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Error::io("list", dir, error))?;
    Ok(names
        .iter()
        .filter_map(|name| name.to_str()?.parse().ok())
        .collect())
}

fn read_record(dir: &Path) -> Option<Record> {
    let text = fs::read(dir.join("layer.json")).ok()?;
    let record: Record = serde_json::from_slice(&text).ok()?;
    (record.version == VERSION).then_some(record)
}

/// A layer that is being unpacked; removed when it is dropped before it is committed.
#[derive(Debug)]
pub(crate) struct Staged {
    layers: Arc<Layers>,
    number: u64,
    is_committed: bool,
}

impl Staged {
    pub(crate) fn fs_dir(&self) -> PathBuf {
        self.dir().join("fs")
    }

    /// Where the checksums of its files go.
    pub(crate) fn sums(&self) -> Result<sums::Writer, Error> {
        let path = self.dir().join(sums::FILE);
        sums::Writer::create(&path).map_err(|error| Error::io("create", &path, error))
    }

    pub(crate) fn open_fs_dir(&self) -> Result<OwnedFd, Error> {
        let path = self.fs_dir();
        File::open(&path)
            .map(OwnedFd::from)
            .map_err(|error| Error::io("open", &path, error))
    }

    /// Puts the complete layer in its place. If another pull was quicker, its layer is taken.
    pub(crate) fn commit(mut self, key: Digest, unpacked: &Unpacked) -> Result<Arc<Layer>, Error> {
        let record = Record {
            version: VERSION,
            key: key.clone(),
            bytes: unpacked.bytes,
            inodes: unpacked.inodes,
            root: unpacked.root,
            opaque_root: unpacked.opaque_root,
            has_implicit_dirs: !unpacked.implicit_dirs.is_empty(),
            sums: unpacked.sums,
        };
        self.write_record(&record, &unpacked.implicit_dirs)?;
        point!("layer.recorded");
        let layers = self.layers.clone();
        let mut state = layers.state();
        if let Some(quicker) = state.layers.get(&key) {
            return Ok(quicker.clone());
        }
        let (from, to) = (self.dir(), layers.layer_dir(self.number));
        fs::rename(&from, &to).map_err(|error| Error::io("rename", &from, error))?;
        point!("layer.renamed");
        self.is_committed = true;
        let layer = Arc::new(Layer {
            number: self.number,
            record,
        });
        state.layers.insert(key, layer.clone());
        Ok(layer)
    }

    fn write_record(&self, record: &Record, implicit_dirs: &[Vec<u8>]) -> Result<(), Error> {
        let write = |name: &str, bytes: &[u8]| {
            let path = self.dir().join(name);
            fs::write(&path, bytes).map_err(|error| Error::io("write", &path, error))
        };
        if record.has_implicit_dirs {
            let mut text = implicit_dirs.join(&0);
            text.push(0);
            write("implicit", &text)?;
        }
        let text = serde_json::to_vec(record).expect("strings and numbers always serialise");
        write("layer.json", &text)
    }

    fn dir(&self) -> PathBuf {
        self.layers.staged_dir(self.number)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.is_committed {
            return;
        }
        let dir = self.dir();
        if let Err(errno) = tree::remove(&dir) {
            tracing::warn!(path = %dir.display(), error = %errno, "cannot remove an unfinished layer");
        }
    }
}

/// Keeps layers from being removed.
#[derive(Debug)]
pub(crate) struct Pins {
    layers: Arc<Layers>,
    keys: Vec<Digest>,
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut state = self.layers.state();
        for key in &self.keys {
            if let Some(count) = state.pins.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    state.pins.remove(key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(layers: &Arc<Layers>, key: &str, unpacked: &Unpacked) -> Arc<Layer> {
        let staged = layers.stage().unwrap();
        fs::write(staged.fs_dir().join("file"), key).unwrap();
        staged.commit(Digest::of(key.as_bytes()), unpacked).unwrap()
    }

    #[test]
    fn layers_are_found_again_and_unfinished_ones_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let layers = Layers::open(dir.path()).unwrap();
        let unpacked = Unpacked {
            bytes: 5,
            implicit_dirs: vec![b"a".to_vec(), b"a/b".to_vec()],
            ..Unpacked::default()
        };
        let layer = commit(&layers, "one", &unpacked);
        std::mem::forget(layers.stage().unwrap());
        let half = dir.path().join("77");
        fs::create_dir_all(half.join("fs")).unwrap();

        let layers = Layers::open(dir.path()).unwrap();
        assert_eq!(layers.get(&layer.record.key).as_deref(), Some(&*layer));
        assert_eq!(
            layers.implicit_dirs(&layer).unwrap(),
            unpacked.implicit_dirs
        );
        assert_eq!(layers.size().bytes, 5);
        assert!(!half.exists());
        assert_eq!(fs::read_dir(layers.staging_dir()).unwrap().count(), 0);
        assert!(commit(&layers, "two", &Unpacked::default()).number > 77);
    }

    #[test]
    fn a_dropped_layer_leaves_nothing_and_the_quicker_of_two_wins() {
        let dir = tempfile::tempdir().unwrap();
        let layers = Layers::open(dir.path()).unwrap();
        drop(layers.stage().unwrap());
        let first = commit(&layers, "one", &Unpacked::default());
        let second = commit(&layers, "one", &Unpacked::default());
        assert_eq!(first, second);
        assert_eq!(fs::read_dir(layers.staging_dir()).unwrap().count(), 0);
        assert_eq!(
            fs::read_to_string(layers.lower_dir(first.number).join("file")).unwrap(),
            "one"
        );
    }

    #[test]
    fn a_layer_that_is_withdrawn_makes_room_for_another_and_goes_with_its_containers() {
        let dir = tempfile::tempdir().unwrap();
        let layers = Layers::open(dir.path()).unwrap();
        let damaged = commit(&layers, "one", &Unpacked::default());
        layers.withdraw(&damaged);
        assert_eq!(layers.get(&damaged.record.key), None);
        layers.reinstate(&damaged);
        assert_eq!(layers.get(&damaged.record.key), Some(damaged.clone()));
        layers.withdraw(&damaged);
        let fresh = commit(&layers, "one", &Unpacked::default());
        layers.reinstate(&damaged);
        assert_eq!(layers.get(&damaged.record.key), Some(fresh.clone()));

        // As long as a container has it, over restarts too.
        let (of_container, of_image) = (damaged.number, fresh.number);
        let needed = |numbers: &[u64]| Needed {
            keys: HashSet::from([damaged.record.key.clone()]),
            numbers: numbers.iter().copied().collect(),
        };
        layers.retain(|| needed(&[of_container]));
        let layers = Layers::open(dir.path()).unwrap();
        assert_eq!(layers.get(&damaged.record.key), Some(fresh));
        assert_eq!(layers.numbered(of_container).as_ref(), Some(&damaged));
        layers.retain(|| needed(&[]));
        layers.reinstate(&damaged);
        assert_eq!(layers.numbered(of_container), None);
        assert!(!layers.layer_dir(of_container).exists());
        assert!(layers.layer_dir(of_image).exists());
    }

    #[test]
    fn only_layers_that_nothing_needs_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let layers = Layers::open(dir.path()).unwrap();
        let [needed, pinned, unneeded] =
            ["needed", "pinned", "unneeded"].map(|key| commit(&layers, key, &Unpacked::default()));
        let pins = layers.pin(vec![pinned.record.key.clone()]);
        let keys = || Needed {
            keys: HashSet::from([needed.record.key.clone()]),
            ..Needed::default()
        };
        layers.retain(keys);
        assert!(
            layers.get(&pinned.record.key).is_some() && layers.get(&needed.record.key).is_some()
        );
        assert!(layers.get(&unneeded.record.key).is_none());
        assert!(!layers.layer_dir(unneeded.number).exists());
        drop(pins);
        layers.retain(keys);
        assert!(!layers.layer_dir(pinned.number).exists());
    }
}
