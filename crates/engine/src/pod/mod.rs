//! One pod: what is known of it, and the lock under which it is changed.

mod bandwidth;
mod cni;
pub(crate) mod files;
pub(crate) mod netns;
mod retry;
mod start;
mod stop;
mod sysctl;
mod update;
mod wire;

pub(crate) use retry::take_down_again;
pub(crate) use start::hostname;
pub(crate) use stop::kill_shim;

use crate::error::{Error, Result};
use crate::gauge::Gauge;
use crate::making::Making;
use crate::record::{PodRecord, RecordFile, Records};
use crate::shim::Shim;
use crate::view::PodView;
use crate::wiring::Wiring;
use crisp_model::{ContainerId, PodConfig, PodId, PodMetadata, PodState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A pod in memory.
#[derive(Debug)]
pub(crate) struct Pod {
    id: PodId,
    record: Mutex<PodRecord>,
    file: RecordFile,
    shim: Mutex<Option<Arc<Shim>>>,
    telling: Mutex<()>,
    pause_ended: AtomicBool,
    /// Held by whoever starts, stops or removes it, or adds a container.
    pub(crate) operation: tokio::sync::Mutex<()>,
    pub(crate) making: Making,
    pub(crate) gauge: Gauge,
}

impl Pod {
    pub(crate) fn new(record: PodRecord, making: Making) -> Arc<Self> {
        Arc::new(Self {
            id: record.id.clone(),
            record: Mutex::new(record),
            file: RecordFile::default(),
            shim: Mutex::default(),
            telling: Mutex::default(),
            pause_ended: AtomicBool::default(),
            operation: tokio::sync::Mutex::default(),
            making,
            gauge: Gauge::default(),
        })
    }

    pub(crate) fn id(&self) -> &PodId {
        &self.id
    }

    /// The name of a pod's cgroup. It has not the whole id, by which cAdvisor would take it for the pause's own.
    pub(crate) fn cgroup_name(id: &PodId) -> String {
        format!("crisp-{}", id.short())
    }

    /// The cgroup of a container in it.
    pub(crate) fn container_cgroup(&self, container: &ContainerId) -> String {
        format!("{}/{container}", self.locked().cgroup)
    }

    pub(crate) fn metadata(&self) -> PodMetadata {
        self.locked().config.metadata.clone()
    }

    pub(crate) fn config(&self) -> Arc<PodConfig> {
        self.locked().config.clone()
    }

    pub(crate) fn state(&self) -> PodState {
        self.locked().state
    }

    /// For a request that takes a pod that is ready.
    pub(crate) fn not_ready(&self) -> Error {
        let id = &self.id;
        Error::FailedPrecondition(format!("pod {id} is not ready: it was stopped, or stops"))
    }

    pub(crate) fn record(&self) -> PodRecord {
        self.locked().clone()
    }

    /// Changes the record in memory; [`Self::save`] puts it on disk.
    pub(crate) fn update(&self, change: impl FnOnce(&mut PodRecord)) {
        change(&mut self.locked());
    }

    /// Puts the record on disk as it is now.
    pub(crate) fn save(&self, records: &Records) -> Result<()> {
        self.file.write(|| records.write_pod(&self.record()))
    }

    /// The same if the last write of the record failed.
    pub(crate) fn save_if_stale(&self, records: &Records) -> Result<()> {
        self.file
            .write_if_stale(|| records.write_pod(&self.record()))
    }

    /// Removes the record from the disk, with those of its containers.
    pub(crate) fn erase(&self, records: &Records) -> Result<()> {
        self.file.remove(|| records.remove_pod(&self.id))
    }

    /// Held by whoever changes its state, or has removed it, until that is told: what is told comes in
    /// the order in which it happened. Stops and removals have an order by `operation` already.
    pub(crate) fn telling(&self) -> MutexGuard<'_, ()> {
        self.telling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes it not ready; whether it was ready till now.
    pub(crate) fn end_ready(&self) -> bool {
        let mut record = self.locked();
        std::mem::replace(&mut record.state, PodState::NotReady) == PodState::Ready
    }

    /// The pause process has ended; whether the pod was ready till now. One that still starts finds
    /// it out when it gets ready.
    pub(crate) fn lose_pause(&self) -> bool {
        self.pause_ended.store(true, Ordering::Relaxed);
        self.state() == PodState::Ready && self.end_ready()
    }

    /// Makes it ready, unless its pause process has ended already.
    ///
    /// # Errors
    /// It has.
    pub(crate) fn get_ready(&self) -> Result<()> {
        if self.pause_ended.load(Ordering::Relaxed) {
            let what = "lost the pause process before the pod was ready";
            return Err(Error::Shim(what.to_owned()));
        }
        self.update(|record| record.state = PodState::Ready);
        Ok(())
    }

    /// The connection to its shim; none: it was not started, or is gone.
    pub(crate) fn shim(&self) -> Option<Arc<Shim>> {
        self.shim
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set_shim(&self, shim: Option<Arc<Shim>>) {
        *self.shim.lock().unwrap_or_else(PoisonError::into_inner) = shim;
    }

    pub(crate) fn view(&self, netns_dir: &std::path::Path) -> PodView {
        let record = self.locked();
        let network = record.network.as_ref();
        PodView {
            id: self.id.clone(),
            config: record.config.clone(),
            handler: record.handler.clone(),
            created_at: record.created_at,
            state: record.state,
            addresses: network.map(Wiring::addresses).unwrap_or_default(),
            pause_pid: record.pause_pid,
            shim_pid: record.shim_pid,
            netns: network.map(|_| netns::path(netns_dir, &self.id)),
            host_interface: network
                .and_then(Wiring::built_in)
                .filter(|n| n.uplink.is_none())
                .map(|n| n.host_interface.clone()),
            cgroup: record.cgroup.clone(),
        }
    }

    fn locked(&self) -> MutexGuard<'_, PodRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
