//! Stopping and removing a pod, and the one teardown that also a failed start and recovery use.

use super::Pod;
use crate::container::Container;
use crate::engine::{Engine, blocking, detached};
use crate::error::{Error, Result, chain};
use crate::events::EventKind;
use crate::files::remove_dir;
use crisp_cgroup::CgroupPath;
use crisp_crash::point;
use crisp_shim_api::message::{Shutdown, request};
use crisp_shim_api::{PodPaths, ShimPid};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use std::sync::Arc;
use std::time::Duration;

/// How long a shim that was told to go may take until its connection closes.
const SHIM_END_TIMEOUT: Duration = Duration::from_secs(30);

impl Engine {
    /// Stops a pod: ends its containers and gives back its network. A pod that is not known is
    /// stopped.
    ///
    /// # Errors
    /// If something could not be taken down; asked again, it goes on with what is left.
    pub async fn stop_pod(self: &Arc<Self>, id: &str) -> Result<()> {
        let Some(pod) = self.store.pod_if_known(id)? else {
            return Ok(());
        };
        let engine = self.clone();
        detached(async move {
            let _operation = pod.operation.lock().await;
            if !engine.store.has_pod(&pod) {
                return Ok(());
            }
            engine.stop_pod_locked(&pod).await
        })
        .await
    }

    /// Removes a pod and its containers, stopping it first if need be. A pod that is not known is
    /// removed.
    ///
    /// # Errors
    /// As [`Engine::stop_pod`].
    pub async fn remove_pod(self: &Arc<Self>, id: &str) -> Result<()> {
        let Some(pod) = self.store.pod_if_known(id)? else {
            return Ok(());
        };
        let engine = self.clone();
        detached(async move {
            let _operation = pod.operation.lock().await;
            if !engine.store.has_pod(&pod) {
                return Ok(());
            }
            engine.stop_pod_locked(&pod).await?;
            engine.forget_torn_down(&pod).await?;
            let _telling = pod.telling();
            engine.announce(EventKind::Deleted, pod.id().as_str(), pod.id());
            Ok(())
        })
        .await
    }

    async fn stop_pod_locked(&self, pod: &Arc<Pod>) -> Result<()> {
        // From here on no container is created or started in it.
        let was_ready = pod.end_ready();
        self.save_pod_or_tell(pod);
        point!("stop-pod.recorded");
        self.end_stopped(pod).await?;
        if was_ready {
            self.announce(EventKind::Stopped, pod.id().as_str(), pod.id());
        }
        Ok(())
    }

    /// Takes down what there is of a pod, and forgets it with its containers.
    pub(crate) async fn forget_pod(&self, pod: &Pod) -> Result<()> {
        self.teardown_pod(pod).await?;
        self.forget_torn_down(pod).await
    }

    async fn forget_torn_down(&self, pod: &Pod) -> Result<()> {
        for container in self.store.containers_of(pod.id()) {
            self.remove_known_container(&container).await?;
        }
        point!("remove-pod.containers-removed");
        // What was kept of it tells of nobody any more.
        remove_dir(&self.pod_run_dir(pod.id()))?;
        pod.erase(&self.records)?;
        point!("remove-pod.record-removed");
        self.store.remove_pod(pod);
        Ok(())
    }

    /// Ends what runs in a pod that is not ready any more, and takes the pod down.
    pub(crate) async fn end_stopped(&self, pod: &Pod) -> Result<()> {
        let shim = pod.shim();
        let shim_is_gone = async {
            if let Some(shim) = &shim {
                shim.closed().await;
            }
        };
        tokio::select! {
            killed = self.kill_containers(pod) => killed?,
            // Nobody tells of ends any more, and what runs goes with the pod's cgroup.
            () = shim_is_gone => {}
        }
        point!("stop-pod.containers-killed");
        // One that is there has told of all ends.
        if shim.is_none_or(|shim| shim.is_closed()) {
            self.hear_exit_records(pod);
        }
        self.take_down_stopped(pod).await
    }

    async fn kill_containers(&self, pod: &Pod) -> Result<()> {
        let containers = self.store.containers_of(pod.id());
        let mut killing = tokio::task::JoinSet::new();
        for container in containers {
            let engine = self.this();
            killing.spawn(async move { engine.kill_container(&container).await });
        }
        let mut result = Ok(());
        while let Some(killed) = killing.join_next().await {
            let killed = killed
                .map_err(|e| Error::Internal(e.to_string()))
                .and_then(|r| r);
            result = result.and(killed);
        }
        result
    }

    /// Takes down every effect of a pod but its containers' snapshots and the records. Idempotent;
    /// tries everything, and gives the first error. What is left then of a pod that is not ready is
    /// tried again later.
    pub(crate) async fn teardown_pod(&self, pod: &Pod) -> Result<()> {
        let record = pod.record();
        let mut result = self.end_shim(pod).await;
        point!("teardown.shim-ended");
        let mut also = |step: Result<()>| {
            if result.is_ok() {
                result = step;
            }
        };
        also(self.unwire(&record).await);
        also(self.remove_cgroup(&record.cgroup).await);
        point!("teardown.cgroup-removed");
        also(self.remove_run_dir(pod).await);
        point!("teardown.run-dir-removed");
        for container in self.store.containers_of(pod.id()) {
            self.lose_container(&container, "the pod was stopped");
        }
        if result.is_err() {
            self.metrics.teardown_failed();
            self.left.notify_one();
        }
        result
    }

    /// Removes what a pod has while it runs. Its containers' exit records stay while what they tell is not on
    /// disk, which may have been full: whoever removes the pod, or recovers it, finds them.
    async fn remove_run_dir(&self, pod: &Pod) -> Result<()> {
        let containers = self.store.containers_of(pod.id());
        for container in containers {
            if let Err(error) = container.save_if_stale(&self.records) {
                let container = container.id();
                tracing::warn!(%container, error = chain(&error), "the exit records of its pod are kept");
                return Ok(());
            }
        }
        remove_dir(&self.pod_run_dir(pod.id()))
    }

    /// Ends the shim and all that it started, by its socket or, when that is gone, by its pid.
    async fn end_shim(&self, pod: &Pod) -> Result<()> {
        if let Some(shim) = pod.shim() {
            // A shim that hangs, or is gone, is dealt with below.
            let asked = shim.call(request::Body::Shutdown(Shutdown {})).await;
            if asked.is_ok()
                && tokio::time::timeout(SHIM_END_TIMEOUT, shim.closed())
                    .await
                    .is_err()
            {
                tracing::warn!(pod = %pod.id(), "the shim does not end and is killed");
            }
            pod.set_shim(None);
        }
        let paths = PodPaths::new(self.pod_run_dir(pod.id()));
        let shim = ShimPid::read(&paths).map_err(Error::io("read", paths.shim_pid()))?;
        shim.map_or(Ok(()), |shim| kill_shim(&shim))
    }

    /// Kills what is in a cgroup, if anything still is, and removes it.
    pub(crate) async fn remove_cgroup(&self, path: &str) -> Result<()> {
        let cgroup = self.hierarchies.open(&CgroupPath::parse(path)?);
        blocking(move || {
            let gone = cgroup.remove_if_empty()?;
            if !gone {
                cgroup.kill()?;
            }
            point!("teardown.cgroup-killed");
            if gone { Ok(()) } else { cgroup.remove() }
        })
        .await
    }

    /// For a container that should have ended with its pod and of which nobody saw the end.
    pub(crate) fn lose_container(&self, container: &Container, why: &str) {
        if container.state().pid().is_some() {
            self.transition(
                container,
                crisp_model::ContainerEvent::Lost {
                    at: std::time::SystemTime::now(),
                    message: why.to_owned(),
                },
            );
        }
    }
}

/// Kills a shim, if it has not ended.
pub(crate) fn kill_shim(shim: &ShimPid) -> Result<()> {
    if !shim.is_alive() {
        return Ok(());
    }
    match kill(shim.pid(), Signal::SIGKILL) {
        // It has ended meanwhile.
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(Error::Shim(format!("cannot be killed: {error}"))),
    }
}
