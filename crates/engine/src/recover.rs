//! A new daemon finds the pods that the last one left.
//!
//! A pod whose shim answers is taken over as it is. One that was half made is taken down and
//! forgotten: its client asks again. One whose shim is gone, or that another boot of the host made, is
//! taken down and kept as not ready, its containers as exited, so that the client sees what happened.

mod orphans;

use crate::container::{Container, started_event};
use crate::engine::Engine;
use crate::error::Result;
use crate::error::chain;
use crate::making::Making;
use crate::pod::Pod;
use crate::record::{ContainerRecord, PodRecord};
use crate::shim::Shim;
use crate::wiring::Wiring;
use crisp_crash::point;
use crisp_metrics::Recovered;
use crisp_model::{ContainerEvent, ContainerState, PodState, Running};
use crisp_shim_api::message::{Exit, List, Process, reply, request};
use crisp_shim_api::{ExitRecord, PodPaths};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::task::JoinSet;

/// How long a daemon's start waits for its pods. A shim, or a process of a pod that is taken down, may hang.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long it waits for pods that CNI plugins wire. Plugins can wait for others in turn, up to pods that
/// this daemon is yet to start: after a restart of the host, say.
const PLUGINS_PATIENCE: Duration = Duration::from_secs(5);

/// The time between two tries to reach a shim that does not answer.
const RECONNECT_INTERVAL: Duration = Duration::from_secs(5);

impl Engine {
    pub(crate) async fn recover(&self) -> Result<()> {
        point!("recover.begun");
        let found = self.records.read()?;
        for (pod, containers) in found {
            self.load(pod, containers);
        }
        point!("recover.loaded");
        self.forget_checkpoints().await?;
        self.images.retain_snapshots(&self.known_containers())?;
        point!("recover.snapshots-removed");
        self.reserve_addresses();
        point!("recover.addresses-reserved");
        let (mut own, mut by_plugins) = (JoinSet::new(), JoinSet::new());
        for pod in self.store.pods() {
            let recoveries = match is_wired_by_plugins(&pod) {
                true => &mut by_plugins,
                false => &mut own,
            };
            let engine = self.this();
            recoveries.spawn(async move { engine.recover_or_tell(&pod).await });
        }
        wait_for(own, PATIENCE).await;
        wait_for(by_plugins, PLUGINS_PATIENCE).await;
        point!("recover.pods-recovered");
        self.remove_orphans().await?;
        point!("recover.done");
        Ok(())
    }

    /// What is left of a pod that was to be taken down is tried again by [`take_down_again`]; a shim that
    /// is there and does not answer here.
    ///
    /// [`take_down_again`]: crate::pod::take_down_again
    async fn recover_or_tell(&self, pod: &Arc<Pod>) {
        loop {
            {
                let _operation = pod.operation.lock().await;
                match self.recover_pod(pod).await {
                    Ok(outcome) => return self.metrics.recovered(outcome),
                    Err(error) => {
                        tracing::error!(pod = %pod.id(), error = chain(&error), "a pod is not recovered whole");
                    }
                }
                if pod.state() != PodState::Ready {
                    return self.metrics.recovered(Recovered::Failed);
                }
            }
            tokio::time::sleep(RECONNECT_INTERVAL).await;
        }
    }

    /// Takes up the shim again of a pod whose connection to it has broken. A shim that is there and does not
    /// answer is tried again.
    pub(crate) async fn recover_lost(&self, pod: &Arc<Pod>) {
        // Whoever starts or stops the pod at the moment may see to it.
        drop(pod.operation.lock().await);
        if !self.has_lost_shim(pod) {
            return;
        }
        tracing::error!(pod = %pod.id(), "the connection to the shim broke");
        self.metrics.shim_lost();
        while let Err(error) = self.reconnect_if_lost(pod).await {
            tracing::error!(pod = %pod.id(), error = chain(&error), "a pod is not recovered whole");
            tokio::time::sleep(RECONNECT_INTERVAL).await;
        }
    }

    async fn reconnect_if_lost(&self, pod: &Arc<Pod>) -> Result<()> {
        let _operation = pod.operation.lock().await;
        match self.has_lost_shim(pod) {
            true => self.reconnect(pod).await,
            false => Ok(()),
        }
    }

    fn has_lost_shim(&self, pod: &Pod) -> bool {
        let is_lost = pod.shim().is_some_and(|shim| shim.is_closed());
        is_lost && pod.state() != PodState::Starting && self.store.has_pod(pod)
    }

    fn load(&self, pod: PodRecord, containers: Vec<ContainerRecord>) {
        self.store.insert_pod(&Pod::new(pod, Making::done()));
        for container in containers {
            self.store
                .insert_container(&Container::new(container, Making::done()));
        }
    }

    /// Before anything else is allocated, so that no address is given twice. A pod that is not ready has
    /// its own until it is taken down; or it has given it back and has not come to write that down, and
    /// a pod that is ready may have it.
    fn reserve_addresses(&self) {
        let (stopped, others): (Vec<_>, Vec<_>) = self
            .store
            .pods()
            .into_iter()
            .map(|pod| pod.record())
            .partition(|record| record.state == PodState::NotReady);
        let adopt = |record: &PodRecord| {
            let wiring = record.network.as_ref().and_then(Wiring::built_in);
            wiring.map_or(Ok(()), |attachment| self.network.adopt(attachment))
        };
        for record in others {
            if let Err(error) = adopt(&record) {
                tracing::error!(pod = %record.id, error = chain(&error), "an address cannot be kept");
            }
        }
        for record in stopped {
            // What it does not have any more needs not be kept.
            let _ = adopt(&record);
        }
    }

    fn known_containers(&self) -> HashSet<crisp_model::ContainerId> {
        self.store
            .containers()
            .iter()
            .map(|c| c.id().clone())
            .collect()
    }

    async fn recover_pod(&self, pod: &Arc<Pod>) -> Result<Recovered> {
        let is_of_this_boot = pod.record().boot_id == self.host.boot_id;
        match pod.state() {
            PodState::Starting => {
                self.forget_half_made(pod).await?;
                return Ok(Recovered::Forgotten);
            }
            PodState::Ready | PodState::NotReady if !is_of_this_boot => {
                self.take_down_lost(pod).await?;
            }
            PodState::NotReady => self.finish_stop(pod).await?,
            PodState::Ready => self.reconnect(pod).await?,
        }
        Ok(match pod.state() {
            PodState::Ready => Recovered::TakenOver,
            PodState::Starting | PodState::NotReady => Recovered::TakenDown,
        })
    }

    /// Goes on with a stop, as far as the last daemon did not come to its end. A shim that is still there
    /// tells how the pod's containers end.
    async fn finish_stop(&self, pod: &Arc<Pod>) -> Result<()> {
        if let Err(error) = self.take_up_shim(pod).await {
            tracing::warn!(pod = %pod.id(), error = chain(&error), "the shim of a pod that is stopped cannot be asked");
        }
        self.end_stopped(pod).await
    }

    async fn forget_half_made(&self, pod: &Pod) -> Result<()> {
        if let Some(Wiring::Plugins { cni }) = pod.record().network {
            cni.outwait_orphans().await;
        }
        self.forget_pod(pod).await?;
        point!("recover.half-made-forgotten");
        Ok(())
    }

    /// Takes a pod over as its shim has it; without a shim, takes it down.
    async fn reconnect(&self, pod: &Arc<Pod>) -> Result<()> {
        if self.take_up_shim(pod).await? {
            return Ok(());
        }
        tracing::error!(pod = %pod.id(), "the shim is gone; its pod is taken down");
        self.take_down_lost(pod).await
    }

    /// Connects to a pod's shim and brings its containers to the states that it tells; says whether there
    /// is one.
    async fn take_up_shim(&self, pod: &Arc<Pod>) -> Result<bool> {
        let run_dir = self.pod_run_dir(pod.id());
        let connected = Shim::connect(pod.id(), &run_dir, self.listener(pod)).await?;
        let Some((shim, welcome)) = connected else {
            pod.set_shim(None);
            return Ok(false);
        };
        point!("recover.shim-connected");
        let list = match shim.call(request::Body::List(List {})).await {
            Ok((reply::Body::Processes(list), _)) => list,
            Ok((other, _)) => return Err(crate::shim::unexpected(&other)),
            Err(error) => {
                shim.abandon();
                return Err(error);
            }
        };
        pod.set_shim(Some(shim.clone()));
        point!("recover.shim-listed");
        for container in self.store.containers_of(pod.id()) {
            let process = list
                .processes
                .iter()
                .find(|p| p.container_id == container.id().as_str());
            self.catch_up(&container, process);
            self.go_on_stopping(&container);
        }
        if welcome.pod_exited.is_some() {
            self.pause_exited(pod);
        }
        self.take_away_half_made(pod).await?;
        self.remove_orphaned_containers(pod, &shim, &list.processes)
            .await?;
        Ok(true)
    }

    /// Takes away containers that an earlier daemon has not made to their end: their clients ask again.
    async fn take_away_half_made(&self, pod: &Pod) -> Result<()> {
        for container in self.store.containers_of(pod.id()) {
            let is_made_here = !container.making.finished();
            let is_created = container.state() == ContainerState::Created;
            if is_created && !is_made_here && !self.has_bundle(&container.record()) {
                self.take_away(&container).await?;
                point!("recover.container-taken-away");
            }
        }
        Ok(())
    }

    /// Brings a container to the state that its shim tells.
    fn catch_up(&self, container: &Container, process: Option<&Process>) {
        match (container.state(), process) {
            (ContainerState::Created, Some(process)) => {
                self.transition(container, started_event(process.pid, process.started_at_ns));
                self.catch_up_exit(process);
            }
            (ContainerState::Running(_), Some(process)) => self.catch_up_exit(process),
            (ContainerState::Running(_), None) => {
                self.lose_container(container, "its shim does not know it any more");
            }
            _ => {}
        }
    }

    fn catch_up_exit(&self, process: &Process) {
        if let Some(exit) = &process.exit {
            self.container_exited(exit);
        }
    }

    /// Takes up an exit record, also of a container whose start is on none: the disk was full, say.
    fn catch_up_record(&self, exit: &Exit) {
        if let Ok(container) = self.store.container(&exit.container_id)
            && container.state() == ContainerState::Created
        {
            let started = Running {
                pid: exit.pid,
                started_at: container.record().created_at,
            };
            self.transition(&container, ContainerEvent::Started(started));
        }
        self.container_exited(exit);
    }

    /// What a shim has written of ends, for when it tells nothing any more.
    pub(crate) fn hear_exit_records(&self, pod: &Pod) {
        let exits = PodPaths::new(self.pod_run_dir(pod.id())).exits();
        for exit in ExitRecord::read_all(&exits).unwrap_or_default() {
            self.catch_up_record(&exit);
        }
        point!("recover.exits-read");
    }

    /// Takes down what is left of a pod whose shim is gone, and keeps it as not ready.
    pub(crate) async fn take_down_lost(&self, pod: &Pod) -> Result<()> {
        pod.update(|record| record.state = PodState::NotReady);
        self.save_pod_or_tell(pod);
        let record = pod.record();
        point!("recover.lost-recorded");
        let containers = self.store.containers_of(pod.id());
        for container in &containers {
            container.settled().await;
        }
        // Those of what was started meanwhile, too.
        self.hear_exit_records(pod);
        for container in containers {
            let message = match record.boot_id == self.host.boot_id {
                true => "its shim ended and nobody saw how it ended",
                false => "the host was restarted",
            };
            if container.state() == ContainerState::Created || container.state().pid().is_some() {
                let at = SystemTime::now();
                self.transition(
                    &container,
                    ContainerEvent::Lost {
                        at,
                        message: message.to_owned(),
                    },
                );
            }
        }
        self.take_down_stopped(pod).await
    }
}

/// Lets go on behind what takes longer.
async fn wait_for(mut recoveries: JoinSet<()>, patience: Duration) {
    let all = async { while recoveries.join_next().await.is_some() {} };
    if tokio::time::timeout(patience, all).await.is_err() {
        tracing::warn!(pods = recoveries.len(), "pods are recovered behind");
    }
    recoveries.detach_all();
}

fn is_wired_by_plugins(pod: &Pod) -> bool {
    let wiring = pod.record().network;
    wiring.is_some_and(|wiring| wiring.plugins().is_some())
}
