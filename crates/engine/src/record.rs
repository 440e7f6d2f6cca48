//! Records: what is known of each pod and container, on disk.
//!
//! A record is written before the first effect that is made for it, and carries everything that is
//! needed to take the effects away again. It must outlive the daemon but not the host's power: what it
//! speaks of does not either. Only what CNI plugins make may, such as an address that they gave: the
//! record of a pod that they wire is synced.
//!
//! ```text
//! <root>/pods/<pod id>/pod.json
//! <root>/pods/<pod id>/containers/<container id>.json
//! <root>/pod-cidrs.json
//! ```
//! Each file is one JSON object with a `version`, maybe with blanks behind it. It is written in one step, over the
//! last one as well, or else appears by rename: a daemon that is killed leaves a whole one, or an empty one, which is
//! none. Fields are only ever added.
//! The version goes up when an older release would take a record for something else than it is: such a
//! release leaves it, and what it speaks of, alone.

use crate::error::{Error, Result};
use crate::files::{
    UNFINISHED, entries, make_file, make_private_dir, remove_dir, remove_file, remove_unfinished,
    replace_file, sync,
};
use crate::handlers::RuntimeCommand;
use crate::wiring::Wiring;
use crisp_crash::point;
use crisp_model::spec::ImageDefaults;
use crisp_model::{
    ContainerConfig, ContainerId, ContainerState, PodConfig, PodId, PodState, ResolvedUser,
    Resources,
};
use crisp_sys::file::overwrite;
use ipnet::IpNet;
use nix::errno::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// The version of the records that this build writes.
const VERSION: u32 = 1;

/// What is known of a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    pub(crate) version: u32,
    pub(crate) id: PodId,
    pub(crate) config: Arc<PodConfig>,
    pub(crate) handler: String,
    /// None: the embedded runtime.
    #[serde(default)]
    pub(crate) runtime: Option<RuntimeCommand>,
    pub(crate) created_at: SystemTime,
    pub(crate) state: PodState,
    /// Of the host; what another boot made is gone.
    pub(crate) boot_id: String,
    /// None: the host's network is used.
    pub(crate) network: Option<Wiring>,
    /// Within the hierarchies.
    pub(crate) cgroup: String,
    pub(crate) pause_pid: Option<u32>,
    pub(crate) shim_pid: Option<u32>,
    /// The level of the SELinux labels of its containers; none: nothing is labelled.
    #[serde(default)]
    pub(crate) selinux_level: Option<String>,
}

/// What is known of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) version: u32,
    pub(crate) id: ContainerId,
    pub(crate) pod: PodId,
    pub(crate) config: Arc<ContainerConfig>,
    pub(crate) image_id: String,
    pub(crate) image: Arc<ImageDefaults>,
    pub(crate) user: ResolvedUser,
    /// In force, with all updates.
    pub(crate) resources: Resources,
    pub(crate) stop_signal: i32,
    pub(crate) created_at: SystemTime,
    pub(crate) state: ContainerState,
    pub(crate) log_path: Option<PathBuf>,
    pub(crate) cgroup: String,
    /// The stop that is under way, if one is.
    #[serde(default)]
    pub(crate) stop: Option<Stop>,
}

/// A stop that was asked for: it goes on whatever becomes of its client, and of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stop {
    /// What is to be sent first. None: it was sent, or there is no grace.
    pub(crate) signal: Option<i32>,
    /// When patience ends, since the host's boot (`CLOCK_MONOTONIC`: no clock that is set moves it).
    pub(crate) kill_at: Duration,
}

impl Stop {
    /// The stop that holds when another one is asked for: patience ends at the earlier moment, and
    /// what was sent is not sent again. Without a grace what was not sent yet is not sent any more.
    pub(crate) fn joined_by(self, later: Self) -> Self {
        Self {
            signal: self.signal.and(later.signal),
            kill_at: self.kill_at.min(later.kill_at),
        }
    }
}

impl PodRecord {
    /// A pod that is about to be made.
    pub(crate) fn new(
        id: PodId,
        config: PodConfig,
        handler: &str,
        boot_id: &str,
        network: Option<Wiring>,
        cgroup: String,
    ) -> Self {
        Self {
            version: VERSION,
            id,
            config: Arc::new(config),
            handler: handler.to_owned(),
            runtime: None,
            created_at: SystemTime::now(),
            state: PodState::Starting,
            boot_id: boot_id.to_owned(),
            network,
            cgroup,
            pause_pid: None,
            shim_pid: None,
            selinux_level: None,
        }
    }

    /// Whether a teardown has something to take down.
    pub(crate) fn has_effects(&self) -> bool {
        self.network.is_some() || self.pause_pid.is_some() || self.shim_pid.is_some()
    }

    /// After the teardown: what was torn down may belong to another pod by now.
    pub(crate) fn forget_effects(&mut self) {
        self.network = None;
        self.pause_pid = None;
        self.shim_pid = None;
    }
}

/// The file of one record, which several may want to write.
#[derive(Debug, Default)]
pub(crate) struct RecordFile {
    presence: Mutex<Presence>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// As it was written last.
    #[default]
    Kept,
    /// The last write failed: the disk is full, say.
    Stale,
    Removed,
}

impl RecordFile {
    /// Has `write` write the record as it is when its turn has come, so that the newest is written last.
    /// One that was removed stays so.
    pub(crate) fn write(&self, write: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut presence = self.presence();
        match *presence {
            Presence::Removed => Ok(()),
            Presence::Kept | Presence::Stale => presence.after(write()),
        }
    }

    /// The same if what is on disk is not what it should be.
    pub(crate) fn write_if_stale(&self, write: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut presence = self.presence();
        match *presence {
            Presence::Removed | Presence::Kept => Ok(()),
            Presence::Stale => presence.after(write()),
        }
    }

    /// Removes it for good.
    pub(crate) fn remove(&self, remove: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut presence = self.presence();
        remove()?;
        *presence = Presence::Removed;
        Ok(())
    }

    fn presence(&self) -> MutexGuard<'_, Presence> {
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Presence {
    /// Becomes what an attempt to write has made of it.
    fn after(&mut self, written: Result<()>) -> Result<()> {
        *self = match written {
            Ok(()) => Self::Kept,
            Err(_) => Self::Stale,
        };
        written
    }
}

/// The version that a new record carries.
pub(crate) fn current_version() -> u32 {
    VERSION
}

/// The records of a node. One daemon writes them, under the lock of what it writes.
#[derive(Debug)]
pub(crate) struct Records {
    pods_dir: PathBuf,
    pod_cidrs: PathBuf,
    /// Writes of pods that failed so far, and up to which of them nothing is left to be written again.
    failed: AtomicU64,
    made_good: AtomicU64,
}

/// A pod as it is found on disk, with its containers.
type Found = (PodRecord, Vec<ContainerRecord>);

impl Records {
    pub(crate) fn open(root_dir: &Path) -> Result<Self> {
        let pods_dir = root_dir.join("pods");
        make_private_dir(&pods_dir)?;
        Ok(Self {
            pods_dir,
            pod_cidrs: root_dir.join("pod-cidrs.json"),
            failed: AtomicU64::default(),
            made_good: AtomicU64::default(),
        })
    }

    /// The address ranges that the kubelet told last; it tells them once.
    pub(crate) fn read_pod_cidrs(&self) -> Result<Option<Vec<IpNet>>> {
        read(&self.pod_cidrs)
    }

    pub(crate) fn write_pod_cidrs(&self, cidrs: &[IpNet]) -> Result<()> {
        write(&self.pod_cidrs, &cidrs)
    }

    pub(crate) fn write_pod(&self, record: &PodRecord) -> Result<()> {
        self.put_pod(record).inspect_err(|_| {
            self.failed.fetch_add(1, Ordering::AcqRel);
        })
    }

    /// Has `write_again` write what could not be written of pods, if there may be any.
    pub(crate) fn make_good(&self, write_again: impl FnOnce() -> Result<()>) -> Result<()> {
        let failed = self.failed.load(Ordering::Acquire);
        if self.made_good.load(Ordering::Acquire) == failed {
            return Ok(());
        }
        write_again()?;
        self.made_good.fetch_max(failed, Ordering::AcqRel);
        Ok(())
    }

    fn put_pod(&self, record: &PodRecord) -> Result<()> {
        let dir = self.pod_dir(&record.id);
        let path = dir.join("pod.json");
        let text = text(&path, record)?;
        let plugins = record.network.as_ref().and_then(Wiring::plugins);
        if plugins.is_none() && try_overwrite(&path, &text)? {
            return Ok(());
        }
        make_private_dir(&dir.join("containers"))?;
        put(&path, &text)?;
        match plugins {
            Some(_) => sync([path.as_path(), &dir, &self.pods_dir]),
            None => Ok(()),
        }
    }

    pub(crate) fn write_container(&self, record: &ContainerRecord) -> Result<()> {
        write(&self.container_path(&record.pod, &record.id), record)
    }

    pub(crate) fn remove_container(&self, pod: &PodId, id: &ContainerId) -> Result<()> {
        remove_file(&self.container_path(pod, id))
    }

    pub(crate) fn remove_pod(&self, id: &PodId) -> Result<()> {
        remove_dir(&self.pod_dir(id))
    }

    /// Every pod on disk. What was being written when the last daemon ended is removed, and records of
    /// containers that cannot be read; directories of pods without a record that can be stay.
    pub(crate) fn read(&self) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        remove_unfinished(&self.pod_cidrs)?;
        for dir in entries(&self.pods_dir)? {
            remove_unfinished(&dir.join("pod.json"))?;
            if let Some(pod) = read::<PodRecord>(&dir.join("pod.json"))? {
                found.push((pod, read_containers(&dir)?));
            }
        }
        Ok(found)
    }

    /// Where each pod has a directory by its id.
    pub(crate) fn dir(&self) -> &Path {
        &self.pods_dir
    }

    fn pod_dir(&self, id: &PodId) -> PathBuf {
        self.pods_dir.join(id.as_str())
    }

    fn container_path(&self, pod: &PodId, id: &ContainerId) -> PathBuf {
        self.pod_dir(pod)
            .join("containers")
            .join(format!("{id}.json"))
    }
}

/// Writes a record, over the one that is there if that takes one step.
pub(crate) fn write<T: Serialize>(path: &Path, record: &T) -> Result<()> {
    let text = text(path, record)?;
    match try_overwrite(path, &text)? {
        true => Ok(()),
        false => put(path, &text),
    }
}

/// Writes a record where none can be overwritten.
fn put(path: &Path, text: &[u8]) -> Result<()> {
    match make_file(path, text)? {
        true => Ok(()),
        false => replace_file(path, text),
    }
}

/// Whether there was a record that one step could overwrite.
fn try_overwrite(path: &Path, text: &[u8]) -> Result<bool> {
    let overwritten = overwrite(path, text).map_err(Error::io("write", path))?;
    if overwritten {
        point!("record.overwritten");
    }
    Ok(overwritten)
}

/// `path` is for messages.
fn text<T: Serialize>(path: &Path, record: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(record)
        .map_err(|e| Error::Internal(format!("record {}: {e}", path.display())))
}

/// A record; one that is empty, torn, or that the disk does not give, is none.
///
/// # Errors
/// It is a newer release's; or the host lacks memory or descriptors at the moment, which tells nothing of
/// the record.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if is_shortage(&error) => return Err(Error::io("read", path)(error)),
        text => text,
    };
    if let Ok(text) = &text {
        if text.is_empty() {
            return Ok(None);
        }
        refuse_newer(path, text)?;
    }
    let record = text.and_then(|text| Ok(serde_json::from_slice(&text)?));
    let told = record.inspect_err(|error| {
        tracing::warn!(path = %path.display(), %error, "a record cannot be read and is dropped");
    });
    Ok(told.ok())
}

/// What a newer release has made is not to be taken for lost, and taken down.
fn refuse_newer(path: &Path, text: &[u8]) -> Result<()> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    match serde_json::from_slice(text) {
        Ok(Versioned { version }) if version > VERSION => Err(Error::FailedPrecondition(format!(
            "{} was written by a newer crisp (version {version} of records, this one knows {VERSION}): start that one again, or have it remove all pods first",
            path.display()
        ))),
        _ => Ok(()),
    }
}

fn is_shortage(error: &std::io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE))
}

fn read_containers(pod_dir: &Path) -> Result<Vec<ContainerRecord>> {
    let mut all = Vec::new();
    for path in entries(&pod_dir.join("containers"))? {
        match path.extension().and_then(|e| e.to_str()) {
            Some("json") => match read::<ContainerRecord>(&path)? {
                Some(record) => all.push(record),
                None => remove_file(&path)?,
            },
            Some(UNFINISHED) => remove_file(&path)?,
            _ => {}
        }
    }
    Ok(all)
}

#[cfg(test)]
mod compatibility;
#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::names;
    use std::collections::BTreeSet;

    pub(super) fn pod() -> PodRecord {
        PodRecord::new(
            PodId::generate(),
            PodConfig::default(),
            "h",
            "boot",
            None,
            "/crisp/x".into(),
        )
    }

    pub(super) fn container(pod: &PodRecord) -> ContainerRecord {
        ContainerRecord {
            version: VERSION,
            id: ContainerId::generate(),
            pod: pod.id.clone(),
            config: Arc::default(),
            image_id: "sha256:0".into(),
            image: Arc::default(),
            user: ResolvedUser::default(),
            resources: Resources::default(),
            stop_signal: 15,
            created_at: SystemTime::now(),
            state: ContainerState::Created,
            log_path: None,
            cgroup: "/crisp/x/y".into(),
            stop: None,
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let pod = pod();
        let container = container(&pod);
        records.write_pod(&pod).unwrap();
        records.write_container(&container).unwrap();
        let found = records.read().unwrap();
        assert_eq!(found, [(pod.clone(), vec![container.clone()])]);
        records.remove_container(&pod.id, &container.id).unwrap();
        records.remove_container(&pod.id, &container.id).unwrap();
        records.remove_pod(&pod.id).unwrap();
        records.remove_pod(&pod.id).unwrap();
        assert!(records.read().unwrap().is_empty());
    }

    #[test]
    fn a_record_that_changes_is_whole_whether_it_grows_or_shrinks() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let pod = pod();
        for length in [10, 1000, 10, 10_000, 100] {
            let changed = PodRecord {
                cgroup: "/x".repeat(length),
                ..pod.clone()
            };
            records.write_pod(&changed).unwrap();
            assert_eq!(records.read().unwrap(), [(changed, Vec::new())]);
        }
        let left = names(&records.pod_dir(&pod.id)).unwrap();
        let left = BTreeSet::from_iter(left);
        assert_eq!(
            left,
            BTreeSet::from(["containers", "pod.json"].map(str::to_owned))
        );
    }

    #[test]
    fn records_of_a_newer_release_are_refused_and_stay() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let newer = PodRecord {
            version: VERSION + 1,
            ..pod()
        };
        records.write_pod(&newer).unwrap();
        let error = records.read().unwrap_err().to_string();
        assert!(error.contains("written by a newer crisp"), "{error}");
        let path = records.pod_dir(&newer.id).join("pod.json");
        assert!(read::<PodRecord>(&path).is_err() && path.exists());
    }

    #[test]
    fn a_record_that_was_removed_is_not_written_again() {
        let file = RecordFile::default();
        let mut written = Vec::new();
        let refused = || Err(Error::Internal("it is refused".into()));
        let mut write = |record| {
            file.write(|| {
                written.push(record);
                Ok(())
            })
        };
        write(1).unwrap();
        assert!(file.remove(refused).is_err());
        write(2).unwrap();
        file.remove(|| Ok(())).unwrap();
        write(3).unwrap();
        assert_eq!(written, [1, 2]);
    }

    #[test]
    fn a_record_that_could_not_be_written_is_stale_until_it_is() {
        let file = RecordFile::default();
        let full = || Err(Error::Internal("the disk is full".into()));
        let is_stale = || file.write_if_stale(full).is_err();
        assert!(!is_stale());
        assert!(file.write(full).is_err() && is_stale() && is_stale());
        file.write_if_stale(|| Ok(())).unwrap();
        assert!(!is_stale());
    }

    #[test]
    fn pods_are_written_again_from_a_failure_until_all_are() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let full = || Err(Error::Internal("the disk is full".into()));
        let is_due = || records.make_good(full).is_err();
        assert!(!is_due());
        let pod = pod();
        let in_the_way = records.pod_dir(&pod.id);
        std::fs::write(&in_the_way, "").unwrap();
        assert!(records.write_pod(&pod).is_err() && is_due() && is_due());
        std::fs::remove_file(&in_the_way).unwrap();
        records.make_good(|| records.write_pod(&pod)).unwrap();
        assert!(!is_due());
    }

    #[test]
    fn a_torn_record_stops_nothing_and_its_directory_stays() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let (torn, whole) = (pod(), pod());
        for pod in [&torn, &whole] {
            records.write_pod(pod).unwrap();
        }
        std::fs::write(
            records.pod_dir(&torn.id).join("pod.json"),
            "{\"version\":1,",
        )
        .unwrap();
        let found = records.read().unwrap();
        assert_eq!(found.len(), 1);
        let dirs = BTreeSet::from_iter(names(records.dir()).unwrap());
        assert_eq!(dirs, BTreeSet::from([torn.id.into(), whole.id.into()]));
    }
}
