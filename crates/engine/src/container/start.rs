//! Starting a container: its shim makes the first process.

use super::Container;
use super::looks::Look;
use crate::engine::{Engine, detached, from_unix_ns};
use crate::error::chain;
use crate::error::{Error, Result};
use crate::handlers::RuntimeCommand;
use crate::record::ContainerRecord;
use crate::seccomp::Confinement;
use crate::shim::{Hook, Shim};
use crisp_crash::point;
use crisp_metrics::Phase;
use crisp_model::{
    ContainerConfig, ContainerEvent, ContainerState, Mount, NamespaceMode, PodState, Running,
};
use crisp_shim_api::message::{
    OciRuntime, Overlay, RemoveContainer, StartContainer, reply, request,
};
use crisp_sys::path::is_known_directory;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

impl Engine {
    /// Starts a container that was created.
    ///
    /// # Errors
    /// If its program cannot be executed, which the error names; the container has ended then, with
    /// reason `StartError`. If it was started before, nothing changes.
    pub async fn start_container(self: &Arc<Self>, id: &str) -> Result<()> {
        let container = self.store.container(id)?;
        let engine = self.clone();
        detached(async move {
            let _operation = container.operation.lock().await;
            if container.state() != ContainerState::Created || !container.making.succeeded() {
                let state = container.state();
                let message = format!(
                    "container {} is {}; only a created one can be started",
                    container.id(),
                    state.word()
                );
                return Err(Error::FailedPrecondition(message));
            }
            let shim = engine.shim_of(&container)?;
            let result = engine.start_first_process(&container, &shim).await;
            if let Err(error) = &result {
                point!("start.failed");
                engine.abandon_start(&container, &shim, error).await;
                // It has started after all.
                if container.state() != ContainerState::Created {
                    return Ok(());
                }
                let failed = ContainerEvent::StartFailed {
                    at: SystemTime::now(),
                    message: chain(error),
                };
                engine.transition(&container, failed);
            }
            result
        })
        .await
    }

    /// The shim of a container's pod, which must be ready.
    pub(crate) fn shim_of(&self, container: &Container) -> Result<Arc<Shim>> {
        let pod = self.store.pod(container.pod().as_str())?;
        let ready = pod.state() == PodState::Ready;
        pod.shim().filter(|_| ready).ok_or_else(|| pod.not_ready())
    }

    async fn start_first_process(&self, container: &Arc<Container>, shim: &Shim) -> Result<()> {
        let record = container.record();
        self.make_log_dir(record.log_path.as_deref()).await?;
        point!("start.log-dir-made");
        let pod = self.store.pod(record.pod.as_str())?;
        self.renew_pid_namespace(&pod, &record)?;
        let runtime = pod.record().runtime;
        if runtime.is_some() {
            self.prepare_for_command(&pod, &record)?;
        }
        let root = container.take_root().filter(|_| shim.takes_rootfs());
        let request = self.start_request(&record, runtime, root.is_some())?;
        let root: Vec<OwnedFd> = root.into_iter().collect();
        let hook = self.started_hook(container);
        point!("start.asked");
        let started = shim.call_with(request::Body::StartContainer(request), &root, Some(hook));
        self.phase(Phase::RuntimeStart, started).await?;
        Ok(())
    }

    async fn make_log_dir(&self, log: Option<&Path>) -> Result<()> {
        let Some(dir) = log.and_then(Path::parent).map(Path::to_owned) else {
            return Ok(());
        };
        if is_known_directory(&dir) {
            return Ok(());
        }
        let place = text(&dir);
        let make = move |look: &Look| {
            look.at(&text(&dir));
            std::fs::create_dir_all(&dir).map_err(Error::io("make the log directory", dir))
        };
        self.looks.look(&[place], make).await
    }

    /// Has the shim give up a start of which it has told nothing in time: a source of a mount is on a file
    /// system that hangs, say. Nothing is to start any more that is taken for failed. If it has started
    /// by now, it has become known before the shim refuses.
    async fn abandon_start(&self, container: &Container, shim: &Shim, error: &Error) {
        if !matches!(error, Error::Shim(_)) {
            return;
        }
        let request = RemoveContainer {
            container_id: container.id().to_string(),
        };
        match shim.call(request::Body::RemoveContainer(request)).await {
            // It had failed by itself.
            Ok(_) | Err(Error::UnknownToShim(_)) => {}
            Err(error) => {
                tracing::warn!(container = %container.id(), error = chain(&error), "a start is not given up");
            }
        }
    }

    fn started_hook(&self, container: &Arc<Container>) -> Hook {
        let (engine, container) = (self.this(), container.clone());
        Box::new(move |reply| {
            if let reply::Body::ContainerStarted(started) = reply {
                point!("start.answered");
                engine.transition(
                    &container,
                    started_event(started.pid, started.started_at_ns),
                );
            }
        })
    }

    fn start_request(
        &self,
        record: &ContainerRecord,
        runtime: Option<RuntimeCommand>,
        rootfs_comes: bool,
    ) -> Result<StartContainer> {
        let snapshot = self.images.snapshot(&record.id);
        let snapshot = snapshot.ok_or_else(|| {
            Error::Internal(format!("container {} has no root file system", record.id))
        })?;
        let bundle = self.bundle_dir(&record.pod, &record.id);
        let filter = Confinement::read(&bundle)?;
        let config = &record.config;
        let lower_dirs = snapshot.lower_dirs_above(self.images.mount_points_dir());
        Ok(StartContainer {
            container_id: record.id.to_string(),
            bundle_dir: text(&bundle),
            rootfs: Some(Overlay {
                lower_dirs: lower_dirs.map(text).collect(),
                upper_dir: text(&snapshot.upper_dir),
                work_dir: text(&snapshot.work_dir),
            }),
            cgroup_dirs: self
                .cgroup_dirs(&record.cgroup)?
                .iter()
                .map(|d| text(d))
                .collect(),
            seccomp_filter: filter.filter,
            seccomp_flags: filter.flags,
            log_path: record.log_path.as_deref().map(text).unwrap_or_default(),
            terminal: config.tty,
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            pod_shm: has_pod_shm(config),
            runtime: runtime.map(OciRuntime::from),
            alone: is_alone(config),
            rootfs_comes,
        })
    }

    pub(crate) fn cgroup_dirs(&self, path: &str) -> Result<Vec<PathBuf>> {
        let path = crisp_cgroup::CgroupPath::parse(path)?;
        Ok(self.hierarchies.open(&path).dirs())
    }
}

/// Whether the pod's /dev/shm is mounted in the container: by its shim, the spec does not have it.
pub(crate) fn has_pod_shm(config: &ContainerConfig) -> bool {
    let is_shm = |mount: &Mount| Path::new(&mount.container_path) == Path::new("/dev/shm");
    config.security.namespaces.ipc != NamespaceMode::Node && !config.mounts.iter().any(is_shm)
}

/// Whether the container has a pid namespace of its own in which its process can be born: one that a user
/// namespace need not own, and without hooks, which CDI alone brings.
fn is_alone(config: &ContainerConfig) -> bool {
    let modes = &config.security.namespaces;
    modes.pid == NamespaceMode::Container && modes.user.is_none() && config.cdi_devices.is_empty()
}

/// The event of a start that a shim reports.
pub(crate) fn started_event(pid: u32, started_at_ns: i64) -> ContainerEvent {
    ContainerEvent::Started(Running {
        pid,
        started_at: from_unix_ns(started_at_ns),
    })
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
