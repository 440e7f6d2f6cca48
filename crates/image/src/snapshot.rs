//! What containers write: a directory for each, over the layers of its image.
//!
//! ```text
//! <containers_dir>/<container id>/fs             the upper directory
//! <containers_dir>/<container id>/work           overlayfs's own
//! <containers_dir>/<container id>/volumes/<n>    volumes that the image declares
//! <containers_dir>/<container id>/snapshot.json  the image and its layers, and those of other images
//!                                                that are lent to the container
//! <containers_dir>/staging/                      what is being removed; emptied at start
//! ```
//!
//! Its record completes a snapshot: what has none, or a torn one, is removed at start. Nothing is synced: what a
//! container writes does not outlive a power cut, nor do its processes.

use crate::content::make_empty_dir;
use crate::empty::{self, EmptySince};
use crate::layers::{Layer, Layers};
use crate::unpack::RootAttributes;
use crate::{Error, ImageId, quota, tree};
use crisp_crash::point;
use crisp_model::ContainerId;
use crisp_sys::mount::{Overlay, Upper};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const RECORD: &str = "snapshot.json";
/// The version of the record.
const VERSION: u32 = 1;

/// The directories of a container's overlay mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The image's layers, topmost first; never empty.
    pub lower_dirs: Vec<PathBuf>,
    pub upper_dir: PathBuf,
    pub work_dir: PathBuf,
}

impl Snapshot {
    /// What lies below the upper directory, topmost first: the layers, and under them `mount_points`, what every
    /// container has something mounted upon.
    pub fn lower_dirs_above<'a>(
        &'a self,
        mount_points: &'a Path,
    ) -> impl Iterator<Item = &'a Path> {
        let layers = self.lower_dirs.iter().map(PathBuf::as_path);
        layers.chain([mount_points])
    }

    /// The root file system that the directories make above `mount_points`, as a detached mount that nobody
    /// sees. None where the kernel needs a process of one thread for it, or refuses: who mounts it when the
    /// container is started can tell why.
    pub(crate) fn mount(&self, mount_points: &Path) -> Option<OwnedFd> {
        let lower_dirs = self.lower_dirs_above(mount_points);
        let lower_dirs: Vec<PathBuf> = lower_dirs.map(Path::to_owned).collect();
        let overlay = Overlay {
            lower_dirs: &lower_dirs,
            upper: Some(Upper {
                upper_dir: &self.upper_dir,
                work_dir: &self.work_dir,
                volatile: true,
            }),
            context: None,
            id_map: None,
        };
        let mounted = overlay.can_be_made_by_thread().then(|| overlay.mount());
        mounted?
            .inspect_err(
                |error| tracing::debug!(%error, "a root file system is not mounted in advance"),
            )
            .ok()
    }
}

/// What [`RECORD`] says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    version: u32,
    image: ImageId,
    /// The numbers of the layers, topmost first.
    layers: Vec<u64>,
    /// Images that the container mounts beside its own.
    #[serde(default)]
    lent: Vec<Lent>,
    /// What is known of the upper directory.
    #[serde(skip)]
    empty: Option<EmptySince>,
    /// Whether it has no directory of volumes, as far as is known.
    #[serde(skip)]
    lacks_volumes: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Lent {
    image: ImageId,
    layers: Vec<u64>,
}

impl Record {
    fn all_layers(&self) -> impl Iterator<Item = u64> {
        let lent = self.lent.iter().flat_map(|lent| &lent.layers);
        self.layers.iter().chain(lent).copied()
    }

    fn into_images(self) -> impl Iterator<Item = ImageId> {
        let lent = self.lent.into_iter().map(|lent| lent.image);
        [self.image].into_iter().chain(lent)
    }
}

/// All snapshots of one store.
#[derive(Debug)]
pub(crate) struct Snapshots {
    dir: PathBuf,
    layers: Arc<Layers>,
    records: Mutex<HashMap<ContainerId, Record>>,
}

impl Snapshots {
    /// Reads what is there, and removes what is not complete.
    pub(crate) fn open(dir: &Path, layers: Arc<Layers>) -> Result<Self, Error> {
        let snapshots = Self {
            dir: dir.to_owned(),
            layers,
            records: Mutex::default(),
        };
        snapshots.lift_staged_limits();
        make_empty_dir(&snapshots.staging_dir())?;
        for entry in fs::read_dir(dir).map_err(|error| Error::io("list", dir, error))? {
            let entry = entry.map_err(|error| Error::io("list", dir, error))?;
            if let Some(id) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            {
                snapshots.adopt(id);
            }
        }
        Ok(snapshots)
    }

    fn lift_staged_limits(&self) {
        let entries = fs::read_dir(self.staging_dir()).into_iter().flatten();
        for entry in entries.flatten() {
            if let Err(error) = quota::lift(&entry.path()) {
                tracing::warn!(error = &error as &dyn std::error::Error, "a limit stays");
            }
        }
    }

    fn adopt(&self, id: ContainerId) {
        let Some(record) = read_record(&self.snapshot_dir(&id)) else {
            if let Err(error) = self.discard(&id) {
                tracing::warn!(container = %id, error = &error as &dyn std::error::Error, "cannot remove a snapshot");
            }
            return;
        };
        if let Some(highest) = record.all_layers().max() {
            self.layers.reserve_up_to(highest);
        }
        self.records().insert(id, record);
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn get(&self, container: &ContainerId) -> Option<Snapshot> {
        self.records()
            .get(container)
            .map(|record| self.snapshot(container, record))
    }

    /// The numbers of all layers that containers have.
    pub(crate) fn uses(&self) -> HashSet<u64> {
        self.records()
            .values()
            .flat_map(Record::all_layers)
            .collect()
    }

    /// Makes a snapshot over `stack`, topmost first, that takes at most `limit_bytes` of what the container
    /// writes. The layers count as used from here on, so nothing removes them while the directories are
    /// made.
    pub(crate) fn prepare(
        &self,
        container: &ContainerId,
        image: &ImageId,
        stack: &[Arc<Layer>],
        limit_bytes: Option<u64>,
    ) -> Result<Snapshot, Error> {
        let record = Record {
            version: VERSION,
            image: image.clone(),
            layers: numbers(stack),
            lent: Vec::new(),
            empty: None,
            lacks_volumes: true,
        };
        {
            let mut records = self.records();
            match records.get(container) {
                Some(known) if known.image == *image => return Ok(self.snapshot(container, known)),
                Some(known) => {
                    return Err(Error::SnapshotExists {
                        container: container.to_string(),
                        image: known.image.to_string(),
                    });
                }
                None => records.insert(container.clone(), record.clone()),
            };
        }
        self.make(container, &record, root_attributes(stack), limit_bytes)
            .inspect_err(|_| {
                self.records().remove(container);
            })?;
        Ok(self.snapshot(container, &record))
    }

    fn make(
        &self,
        container: &ContainerId,
        record: &Record,
        root: Option<RootAttributes>,
        limit_bytes: Option<u64>,
    ) -> Result<(), Error> {
        let dir = self.snapshot_dir(container);
        make_dir(&dir).map_err(|error| Error::io("make the snapshot", &dir, error))?;
        let limited = match limit_bytes {
            Some(limit_bytes) => quota::limit(&dir, container, limit_bytes),
            None => Ok(()),
        };
        let made = limited.and_then(|()| {
            fill(&dir, record, root).map_err(|error| Error::io("make the snapshot", &dir, error))
        });
        made.inspect_err(|_| {
            if let Err(error) = self.discard(container) {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a half-made snapshot is left"
                );
            }
        })
    }

    /// Counts the layers of another image, topmost first, as used for as long as the snapshot is there.
    /// The caller has them pinned until then. To be called by one at a time for each container.
    pub(crate) fn lend(
        &self,
        container: &ContainerId,
        image: &ImageId,
        stack: &[Arc<Layer>],
    ) -> Result<(), Error> {
        let lent = Lent {
            image: image.clone(),
            layers: numbers(stack),
        };
        let known = self.records().get(container).cloned();
        let mut record = known.ok_or_else(|| Error::not_found(container.as_str()))?;
        if record.lent.contains(&lent) {
            return Ok(());
        }
        record.lent.push(lent);
        let dir = self.snapshot_dir(container);
        replace_record(&dir, &record)
            .map_err(|error| Error::io("write the record of", &dir, error))?;
        self.records().insert(container.clone(), record);
        Ok(())
    }

    /// Where a volume of a container that has a snapshot belongs. The directory around it is there then.
    pub(crate) fn volume_dir(
        &self,
        container: &ContainerId,
        number: usize,
    ) -> Result<PathBuf, Error> {
        if let Some(record) = self.records().get_mut(container) {
            record.lacks_volumes = false;
        }
        let volumes = self.snapshot_dir(container).join("volumes");
        match make_dir(&volumes) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(Error::io("make the directory", &volumes, error))
            }
            _ => Ok(volumes.join(number.to_string())),
        }
    }

    /// Removes a snapshot, and tells which images it had; that there is none is fine. Fails if
    /// something of it cannot be removed, and can then be tried again.
    pub(crate) fn remove(&self, container: &ContainerId) -> Result<Vec<ImageId>, Error> {
        self.discard(container)?;
        let record = self.records().remove(container);
        Ok(record.into_iter().flat_map(Record::into_images).collect())
    }

    /// The numbers of a container's layers, its image's and those lent to it; none: it has no snapshot.
    pub(crate) fn layers_of(&self, container: &ContainerId) -> Option<Vec<u64>> {
        let records = self.records();
        let record = records.get(container)?;
        Some(record.all_layers().collect())
    }

    /// The containers that have a snapshot.
    pub(crate) fn containers(&self) -> Vec<ContainerId> {
        self.records().keys().cloned().collect()
    }

    /// What a container has written, and what its volumes hold.
    pub(crate) fn size(&self, container: &ContainerId) -> Result<tree::Size, Error> {
        let not_found = || Error::not_found(container.as_str());
        let (known, lacks_volumes) = match self.records().get(container) {
            Some(record) => (record.empty, record.lacks_volumes),
            None => return Err(not_found()),
        };
        let dir = self.snapshot_dir(container);
        let (upper, volumes) = (dir.join("fs"), dir.join("volumes"));
        let (mut size, empty) = match empty::measure(&upper, known) {
            // It is just being removed.
            Err(Errno::ENOENT) => return Err(not_found()),
            measured => measured.map_err(|errno| Error::io("measure", &upper, errno))?,
        };
        if empty != known
            && let Some(record) = self.records().get_mut(container)
        {
            record.empty = empty;
        }
        if lacks_volumes {
            return Ok(size);
        }
        match tree::measure(&volumes) {
            // The image declares none.
            Err(Errno::ENOENT) => {}
            measured => size += measured.map_err(|errno| Error::io("measure", &volumes, errno))?,
        }
        Ok(size)
    }

    fn discard(&self, container: &ContainerId) -> Result<(), Error> {
        let (path, staged) = (self.snapshot_dir(container), self.staged_dir(container));
        match fs::rename(&path, &staged) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            result => result.map_err(|error| Error::io("rename", &path, error))?,
        }
        point!("snapshot.hidden");
        quota::lift(&staged)?;
        remove_staged(&staged)
    }

    fn snapshot(&self, container: &ContainerId, record: &Record) -> Snapshot {
        let dir = self.snapshot_dir(container);
        Snapshot {
            lower_dirs: record
                .layers
                .iter()
                .map(|&number| self.layers.lower_dir(number))
                .collect(),
            upper_dir: dir.join("fs"),
            work_dir: dir.join("work"),
        }
    }

    fn records(&self) -> MutexGuard<'_, HashMap<ContainerId, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn staging_dir(&self) -> PathBuf {
        self.dir.join("staging")
    }

    fn staged_dir(&self, container: &ContainerId) -> PathBuf {
        self.staging_dir().join(container.as_str())
    }

    fn snapshot_dir(&self, container: &ContainerId) -> PathBuf {
        self.dir.join(container.as_str())
    }
}

fn make_dir(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// Makes all that a snapshot has in its directory; a limit of that goes for what is made in it.
fn fill(dir: &Path, record: &Record, root: Option<RootAttributes>) -> std::io::Result<()> {
    let upper = dir.join("fs");
    make_dir(&upper)?;
    make_dir(&dir.join("work"))?;
    if let Some(root) = root {
        chown(&upper, Some(root.uid), Some(root.gid))?;
    }
    let mode = root.map_or(0o755, |root| root.mode);
    fs::set_permissions(&upper, Permissions::from_mode(mode))?;
    point!("snapshot.dirs-made");
    fs::write(dir.join(RECORD), serde_json::to_vec(record)?)?;
    point!("snapshot.recorded");
    Ok(())
}

fn remove_staged(staged: &Path) -> Result<(), Error> {
    tree::remove(staged).map_err(|errno| Error::io("remove", staged, errno))
}

fn read_record(dir: &Path) -> Option<Record> {
    let text = fs::read(dir.join(RECORD)).ok()?;
    let record: Record = serde_json::from_slice(&text).ok()?;
    (record.version == VERSION).then_some(record)
}

/// Replaces the record as a whole: one that is torn costs the snapshot.
fn replace_record(dir: &Path, record: &Record) -> std::io::Result<()> {
    let new = dir.join("snapshot.json.new");
    fs::write(&new, serde_json::to_vec(record)?)?;
    fs::rename(new, dir.join(RECORD))
}

fn numbers(stack: &[Arc<Layer>]) -> Vec<u64> {
    stack.iter().map(|layer| layer.number).collect()
}

/// overlayfs shows the upper directory's attributes for the root: they have to be those of the topmost
/// layer whose archive describes it.
fn root_attributes(stack: &[Arc<Layer>]) -> Option<RootAttributes> {
    stack.iter().find_map(|layer| layer.record.root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;
    use crate::unpack::Unpacked;
    use nix::unistd::{getegid, geteuid};

    struct Store {
        dir: tempfile::TempDir,
        layer: Arc<Layer>,
        snapshots: Snapshots,
    }

    fn image(text: &str) -> ImageId {
        ImageId::new(Digest::of(text.as_bytes()))
    }

    impl Store {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let layers = Layers::open(&dir.path().join("layers")).unwrap();
            let root = RootAttributes {
                mode: 0o711,
                uid: geteuid().as_raw(),
                gid: getegid().as_raw(),
            };
            let unpacked = Unpacked {
                root: Some(root),
                ..Unpacked::default()
            };
            let layer = layers
                .stage()
                .unwrap()
                .commit(Digest::of(b"layer"), &unpacked)
                .unwrap();
            let snapshots = Snapshots::open(&dir.path().join("containers"), layers).unwrap();
            Self {
                dir,
                layer,
                snapshots,
            }
        }

        fn prepare(&self, container: &ContainerId, name: &str) -> Result<Snapshot, Error> {
            self.snapshots.prepare(
                container,
                &image(name),
                std::slice::from_ref(&self.layer),
                None,
            )
        }
    }

    #[test]
    fn a_snapshot_is_prepared_once_and_found_again() {
        let store = Store::new();
        let id = ContainerId::generate();
        let snapshot = store.prepare(&id, "a").unwrap();
        assert_eq!(store.prepare(&id, "a").unwrap(), snapshot);
        assert!(matches!(
            store.prepare(&id, "b"),
            Err(Error::SnapshotExists { .. })
        ));
        assert!(snapshot.work_dir.is_dir() && snapshot.lower_dirs[0].is_dir());
        let mode = fs::metadata(&snapshot.upper_dir)
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o711);

        let layers = Layers::open(&store.dir.path().join("layers")).unwrap();
        let again = Snapshots::open(&store.dir.path().join("containers"), layers).unwrap();
        assert_eq!(again.get(&id), Some(snapshot));
        assert_eq!(again.uses(), HashSet::from([store.layer.number]));
    }

    #[test]
    fn layers_of_other_images_are_used_for_as_long_as_they_are_lent() {
        let store = Store::new();
        let id = ContainerId::generate();
        let staged = store.snapshots.layers.stage().unwrap();
        let other = staged
            .commit(Digest::of(b"other"), &Unpacked::default())
            .unwrap();
        let lend = || {
            let stack = std::slice::from_ref(&other);
            store.snapshots.lend(&id, &image("volume"), stack)
        };
        assert!(matches!(lend(), Err(Error::NotFound { .. })));
        store.prepare(&id, "a").unwrap();
        lend().unwrap();
        lend().unwrap();

        let layers = Layers::open(&store.dir.path().join("layers")).unwrap();
        let again = Snapshots::open(&store.dir.path().join("containers"), layers).unwrap();
        let used = HashSet::from([store.layer.number, other.number]);
        assert_eq!(again.uses(), used);
        assert_eq!(again.remove(&id).unwrap(), [image("a"), image("volume")]);
        assert!(again.uses().is_empty());
    }

    #[test]
    fn removing_leaves_nothing_and_can_be_repeated() {
        let store = Store::new();
        let id = ContainerId::generate();
        let snapshot = store.prepare(&id, "a").unwrap();
        fs::write(snapshot.upper_dir.join("file"), "x").unwrap();
        assert!(store.snapshots.size(&id).unwrap().inodes == 2);
        for _ in 0..2 {
            store.snapshots.remove(&id).unwrap();
            assert_eq!(store.snapshots.get(&id), None);
        }
        assert!(store.snapshots.uses().is_empty());
        assert!(matches!(
            store.snapshots.size(&id),
            Err(Error::NotFound { .. })
        ));
        let left: Vec<_> = fs::read_dir(store.dir.path().join("containers"))
            .unwrap()
            .flatten()
            .collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn a_snapshot_whose_record_was_torn_is_removed_at_start() {
        let store = Store::new();
        let id = ContainerId::generate();
        let snapshot = store.prepare(&id, "a").unwrap();
        let dir = snapshot.upper_dir.parent().unwrap();
        fs::write(dir.join("snapshot.json"), "").unwrap();
        let layers = Layers::open(&store.dir.path().join("layers")).unwrap();
        let again = Snapshots::open(&store.dir.path().join("containers"), layers).unwrap();
        assert_eq!(again.get(&id), None);
        assert!(!dir.exists());
    }
}
