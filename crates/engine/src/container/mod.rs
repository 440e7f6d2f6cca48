//! One container: what is known of it, its state, and the lock under which it is changed.

mod bundle;
mod cdi;
mod create;
mod devices;
pub(crate) mod exec;
mod exec_sync;
mod host_files;
mod looks;
mod oom_score;
mod plan;
mod remove;
mod start;
mod stop;
mod update;
mod volumes;

pub(crate) use looks::Looks;
pub(crate) use start::{has_pod_shm, started_event};

use crate::error::Result;
use crate::gauge::Gauge;
use crate::making::Making;
use crate::record::{ContainerRecord, RecordFile, Records};
use crate::view::ContainerView;
use crisp_model::{ContainerEvent, ContainerId, ContainerMetadata, ContainerState, PodId};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedMutexGuard, watch};

/// A container in memory.
#[derive(Debug)]
pub(crate) struct Container {
    id: ContainerId,
    pod: PodId,
    record: Mutex<ContainerRecord>,
    file: RecordFile,
    /// As in the record; for those who wait for a change.
    state: watch::Sender<ContainerState>,
    /// Its root file system, which nobody sees, from its creation until its start.
    root: Mutex<Option<OwnedFd>>,
    telling: Mutex<()>,
    /// Held by whoever creates, starts, updates or removes it.
    pub(crate) operation: tokio::sync::Mutex<()>,
    pub(crate) making: Making,
    pub(crate) gauge: Gauge,
    stopping: stop::Stopping,
    /// Held while it is checkpointed.
    checkpoint: Arc<tokio::sync::Mutex<()>>,
}

impl Container {
    pub(crate) fn new(record: ContainerRecord, making: Making) -> Arc<Self> {
        Arc::new(Self {
            id: record.id.clone(),
            pod: record.pod.clone(),
            state: watch::Sender::new(record.state.clone()),
            record: Mutex::new(record),
            root: Mutex::default(),
            telling: Mutex::default(),
            file: RecordFile::default(),
            operation: tokio::sync::Mutex::default(),
            making,
            gauge: Gauge::default(),
            stopping: stop::Stopping::default(),
            checkpoint: Arc::default(),
        })
    }

    pub(crate) fn id(&self) -> &ContainerId {
        &self.id
    }

    pub(crate) fn pod(&self) -> &PodId {
        &self.pod
    }

    pub(crate) fn metadata(&self) -> ContainerMetadata {
        self.locked().config.metadata.clone()
    }

    pub(crate) fn record(&self) -> ContainerRecord {
        self.locked().clone()
    }

    /// Changes the record in memory; [`Self::save`] puts it on disk.
    pub(crate) fn update(&self, change: impl FnOnce(&mut ContainerRecord)) {
        change(&mut self.locked());
    }

    fn keep_root(&self, root: Option<OwnedFd>) {
        *self.root.lock().unwrap_or_else(PoisonError::into_inner) = root;
    }

    fn take_root(&self) -> Option<OwnedFd> {
        self.root
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    pub(crate) fn state(&self) -> ContainerState {
        self.state.borrow().clone()
    }

    /// Puts the record on disk as it is now.
    pub(crate) fn save(&self, records: &Records) -> Result<()> {
        self.file.write(|| records.write_container(&self.record()))
    }

    /// The same if the last write of the record failed.
    pub(crate) fn save_if_stale(&self, records: &Records) -> Result<()> {
        self.file
            .write_if_stale(|| records.write_container(&self.record()))
    }

    /// Removes the record from the disk.
    pub(crate) fn erase(&self, records: &Records) -> Result<()> {
        self.file
            .remove(|| records.remove_container(&self.pod, &self.id))
    }

    /// Moves it to its next state; none when the event cannot happen in this one.
    pub(crate) fn apply(&self, event: ContainerEvent) -> Option<ContainerState> {
        let mut record = self.locked();
        record.state = record.state.apply(event).ok()?;
        if matches!(record.state, ContainerState::Exited(_)) {
            record.stop = None;
        }
        self.state.send_replace(record.state.clone());
        Some(record.state.clone())
    }

    /// Held by whoever changes its state, or has removed it, until that is told: what is told comes in
    /// the order in which it happened.
    pub(crate) fn telling(&self) -> MutexGuard<'_, ()> {
        self.telling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its creation, and for a start that is under way: what these make is to be taken away too.
    pub(crate) async fn settled(&self) {
        // One that failed has taken away what it had made.
        let _ = self.making.wait().await;
        drop(self.operation.lock().await);
    }

    /// Waits until its first process has ended.
    pub(crate) async fn exited(&self) {
        let mut state = self.state.subscribe();
        // The sender lives as long as `self`.
        let _ = state
            .wait_for(|s| matches!(s, ContainerState::Exited(_)))
            .await;
    }

    /// For as long as the guard lives no other checkpoint of it begins; none: one is under way.
    pub(crate) fn begin_checkpoint(&self) -> Option<OwnedMutexGuard<()>> {
        self.checkpoint.clone().try_lock_owned().ok()
    }

    pub(crate) fn view(&self) -> ContainerView {
        let record = self.locked();
        ContainerView {
            id: self.id.clone(),
            pod: self.pod.clone(),
            config: record.config.clone(),
            image_id: record.image_id.clone(),
            created_at: record.created_at,
            state: record.state.clone(),
            log_path: record.log_path.clone(),
            user: record.user.clone(),
            resources: record.resources.clone(),
            stop_signal: record.stop_signal,
            cgroup: record.cgroup.clone(),
        }
    }

    fn locked(&self) -> MutexGuard<'_, ContainerRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
