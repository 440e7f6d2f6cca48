//! The engine: what it holds, how it begins, and how events reach containers.

use crate::apparmor::AppArmor;
use crate::config::Config;
use crate::container::{Container, Looks, started_event};
use crate::error::chain;
use crate::error::{Error, Result};
use crate::events::{EventKind, Events};
use crate::files::make_private_dir;
use crate::handlers::Handlers;
use crate::host::Host;
use crate::plugins::Plugins;
use crate::pod::{Pod, take_down_again};
use crate::reaper::Reaper;
use crate::record::Records;
use crate::seccomp::Profiles;
use crate::selinux::Selinux;
use crate::shim::{Listener, ShimEvent};
use crate::store::Store;
use crate::users::Users;
use crate::view::{CgroupDriver, CniStatus, ContainerView, NodeStatus, PodView};
use crisp_cgroup::{CgroupPath, Hierarchies, Version};
use crisp_crash::point;
use crisp_image::Images;
use crisp_metrics::Metrics;
use crisp_model::{ContainerEvent, ContainerId, ContainerState, ExitReason, PodId, PodState};
use crisp_network::Network;
use crisp_shim_api::message::{Exit, Process};
use crisp_sys::sealed::{ProgramCopy, SealedProgram};
use ipnet::IpNet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Notify;
use tracing::Instrument;

/// All pods of a node and everything that they are made of.
#[derive(Debug)]
pub struct Engine {
    this: Weak<Engine>,
    config: RwLock<Arc<Config>>,
    pub(crate) host: Host,
    pub(crate) apparmor: AppArmor,
    handlers: RwLock<Arc<Handlers>>,
    pub(crate) store: Store,
    pub(crate) records: Records,
    pub(crate) images: Arc<Images>,
    pub(crate) network: Network,
    pub(crate) plugins: Plugins,
    /// Told when something is left of a pod that should be gone.
    pub(crate) left: Arc<Notify>,
    pub(crate) hierarchies: Arc<Hierarchies>,
    /// A sealed copy of the shim's program, which nothing that runs can change.
    pub(crate) shim_exe: SealedProgram,
    /// A mount namespace with an empty root, which the pause processes of this daemon's pods share as soon
    /// as the first has made it.
    pub(crate) pause_mounts: OnceLock<OwnedFd>,
    pub(crate) reaper: Reaper,
    pub(crate) profiles: Profiles,
    pub(crate) selinux: Selinux,
    pub(crate) users: Users,
    pub(crate) looks: Looks,
    pub(crate) events: Events,
    pub(crate) metrics: Metrics,
}

impl Engine {
    /// Opens the node's images, network and cgroups, and finds its pods again.
    ///
    /// # Errors
    /// If a directory, the kernel's facilities or the shim's program cannot be used.
    pub async fn open(config: Config) -> Result<Arc<Self>> {
        make_private_dir(&config.root_dir)?;
        make_private_dir(&config.run_dir.join("pods"))?;
        let shim_path = config.shim_path();
        let shim_exe = File::open(&shim_path)
            .and_then(|mut program| ProgramCopy::new("crisp-shim", &mut program))
            .map_err(Error::io("copy", &shim_path))?;
        let selinux = Selinux::open(
            config.enable_selinux,
            Path::new("/sys/fs/selinux"),
            Path::new("/etc/selinux"),
        )?;
        selinux.label_program(&shim_exe)?;
        let shim_exe = shim_exe
            .seal()
            .map_err(Error::io("seal a copy of", &shim_path))?;
        let metrics = Metrics::default();
        let images = Images::open(image_config(&config), metrics.pulls())?;
        let (host, records) = (Host::inspect()?, Records::open(&config.root_dir)?);
        let network = Network::open(config.network.clone(), &config.instance).await?;
        if let Some(cidrs) = records.read_pod_cidrs()? {
            network.set_pod_cidrs(cidrs)?;
        }
        let hierarchies = Hierarchies::at(&config.cgroup.root)?;
        let handlers = Handlers::inspect(&config).await;
        let reaper = Reaper::start().map_err(Error::io("wait for", "children"))?;
        let engine = Arc::new_cyclic(|this| Self {
            this: this.clone(),
            host,
            apparmor: AppArmor::inspect(),
            handlers: RwLock::new(Arc::new(handlers)),
            store: Store::default(),
            records,
            images: Arc::new(images),
            network,
            plugins: Plugins::new(&config.network),
            left: Arc::default(),
            hierarchies: Arc::new(hierarchies),
            shim_exe,
            pause_mounts: OnceLock::new(),
            reaper,
            profiles: Profiles::default(),
            selinux,
            users: Users::default(),
            looks: Looks::default(),
            events: Events::default(),
            metrics,
            config: RwLock::new(Arc::new(config)),
        });
        tokio::spawn(take_down_again(engine.this.clone(), engine.left.clone()));
        let began = Instant::now();
        engine.recover().await?;
        engine.metrics.recovery_took(began.elapsed());
        engine.begin_with_plugins().await;
        Ok(engine)
    }

    /// For a daemon that ends: when there is no pod left, takes away what pods share, so that nothing of
    /// crisp stays in the kernel. With pods everything stays as it is.
    pub async fn close(&self) {
        if !self.store.pods().is_empty() {
            return;
        }
        let config = self.config();
        let cgroup = self
            .hierarchies
            .resolve_parent(Some(&config.cgroup.default_parent))
            .map(|path| self.hierarchies.open(&path));
        if let Err(error) = cgroup.and_then(|cgroup| cgroup.remove_if_unused()) {
            tracing::warn!(error = chain(&error), "the pods' common cgroup is left");
        }
        if let Err(error) = self.network.destroy().await {
            tracing::warn!(
                error = chain(&error),
                "the bridge or the packet filter's rules are left"
            );
        }
    }

    /// The configuration in force. An operation asks once and goes by the answer to its end.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.config
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Puts a configuration in force for what is made from then on. It may differ from the one before
    /// in what [`Config::reload`] takes up, and in nothing else.
    ///
    /// # Errors
    /// If the work ended early.
    pub async fn reconfigure(&self, config: Config) -> Result<()> {
        let (images, settings) = (self.images.clone(), config.image.clone());
        blocking(move || {
            images.reconfigure(settings);
            Ok::<_, Error>(())
        })
        .await?;
        let handlers = Arc::new(Handlers::inspect(&config).await);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        let known = self.handlers.write();
        *known.unwrap_or_else(PoisonError::into_inner) = handlers;
        Ok(())
    }

    /// The runtime handlers of the configuration, and what they can do.
    pub(crate) fn handlers(&self) -> Arc<Handlers> {
        let known = self.handlers.read();
        known.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The node's images.
    #[must_use]
    pub fn images(&self) -> &Arc<Images> {
        &self.images
    }

    /// Every pod that there is now, by id. Each is looked at when it is its turn.
    pub fn pods(&self) -> impl Iterator<Item = PodView> {
        let pods = self.store.pods().into_iter();
        let config = self.config();
        pods.filter(|pod| pod.making.finished())
            .map(move |pod| pod.view(&config.netns_dir))
    }

    /// A pod by id or unique prefix.
    ///
    /// # Errors
    /// If there is none, or several.
    pub fn pod(&self, id: &str) -> Result<PodView> {
        Ok(self.store.pod(id)?.view(&self.config().netns_dir))
    }

    /// A pod by id or unique prefix, if it is ready.
    ///
    /// # Errors
    /// If there is none, or several, or it was stopped.
    pub fn ready_pod(&self, id: &str) -> Result<PodView> {
        let pod = self.store.pod(id)?;
        match pod.state() {
            PodState::Ready => Ok(pod.view(&self.config().netns_dir)),
            PodState::Starting | PodState::NotReady => Err(pod.not_ready()),
        }
    }

    /// Every container that there is now, by id; like [`Self::pods`].
    pub fn containers(&self) -> impl Iterator<Item = ContainerView> {
        views(self.store.containers())
    }

    /// Those of a pod, by name.
    pub fn containers_of(&self, pod: &PodId) -> impl Iterator<Item = ContainerView> {
        views(self.store.containers_of(pod))
    }

    /// A container by id or unique prefix.
    ///
    /// # Errors
    /// If there is none, or several.
    pub fn container(&self, id: &str) -> Result<ContainerView> {
        Ok(self.store.container(id)?.view())
    }

    /// Whether the node can run pods, as far as is known now.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        self.look_at_plugins();
        let cni = self.plugins.status();
        let built_in = self.network.ready().err().map(|why| why.reason);
        NodeStatus {
            network_not_ready: match *cni {
                CniStatus::Unused => built_in,
                _ => cni.not_ready(),
            },
            cni,
            handlers: self.handlers().all(),
        }
    }

    /// Who makes the cgroups above a pod's. Where systemd does, it is asked to by the kubelet: a pod's
    /// cgroup_parent is then the name of a slice. systemd manages version 1 in part only.
    #[must_use]
    pub fn cgroup_driver(&self) -> CgroupDriver {
        match (self.host.systemd, self.hierarchies.version()) {
            (true, Version::V2) => CgroupDriver::Systemd,
            _ => CgroupDriver::Cgroupfs,
        }
    }

    /// The address ranges of pods, as the kubelet learns them from its node object.
    ///
    /// # Errors
    /// If a range cannot be used.
    pub fn set_pod_cidrs(&self, cidrs: Vec<IpNet>) -> Result<()> {
        self.network.set_pod_cidrs(cidrs.clone())?;
        self.records.write_pod_cidrs(&cidrs)
    }

    pub(crate) fn this(&self) -> Arc<Self> {
        self.this
            .upgrade()
            .expect("the engine is borrowed, so it is alive")
    }

    pub(crate) fn pod_run_dir(&self, pod: &PodId) -> PathBuf {
        self.config().run_dir.join("pods").join(pod.as_str())
    }

    pub(crate) fn bundle_dir(&self, pod: &PodId, container: &ContainerId) -> PathBuf {
        self.pod_run_dir(pod)
            .join("containers")
            .join(container.as_str())
    }

    /// What a pod's shim tells goes to the pod's containers.
    pub(crate) fn listener(&self, pod: &Arc<Pod>) -> Listener {
        let (engine, pod) = (self.this.clone(), Arc::downgrade(pod));
        Box::new(move |event| {
            let (Some(engine), Some(pod)) = (engine.upgrade(), pod.upgrade()) else {
                return;
            };
            match event {
                ShimEvent::Started(process) => engine.container_started(&process),
                ShimEvent::Exit(exit) => engine.container_exited(&exit),
                ShimEvent::PodExited => engine.pause_exited(&pod),
                ShimEvent::Lost => engine.shim_lost(&pod),
            }
        })
    }

    /// Takes up a start that a daemon before this one has asked for.
    fn container_started(&self, process: &Process) {
        if let Ok(container) = self.store.container(&process.container_id) {
            let started = started_event(process.pid, process.started_at_ns);
            self.transition(&container, started);
        }
    }

    pub(crate) fn container_exited(&self, exit: &Exit) {
        let Ok(container) = self.store.container(&exit.container_id) else {
            return;
        };
        point!("exit.heard");
        let at = from_unix_ns(exit.finished_at_ns);
        self.transition(
            &container,
            ContainerEvent::Ended {
                at,
                reason: exit_reason(exit),
            },
        );
        self.drop_cgroup(&container);
    }

    /// Removes the cgroup of a container that has ended: who looks at cgroups would go on telling of it.
    /// One that has cgroups or processes in it still goes with the container.
    fn drop_cgroup(&self, container: &Container) {
        let record = container.record();
        let removed = CgroupPath::parse(&record.cgroup)
            .and_then(|path| self.hierarchies.open(&path).remove_if_unused());
        if let Err(error) = removed {
            tracing::warn!(container = %record.id, error = chain(&error), "the cgroup stays for now");
        }
    }

    /// Moves a container to its next state, in memory and on disk. What cannot happen in its state,
    /// such as a second report of its end, changes nothing, and nothing happens to one that was removed.
    pub(crate) fn transition(&self, container: &Container, event: ContainerEvent) {
        let _telling = container.telling();
        if !self.store.has_container(container) {
            return;
        }
        let Some(state) = container.apply(event) else {
            return;
        };
        point!("state.changed");
        self.save_container_or_tell(container);
        let kind = match state {
            ContainerState::Created => EventKind::Created,
            ContainerState::Running(_) => EventKind::Started,
            ContainerState::Exited(exited) => {
                self.metrics.exited(exited.reason.word());
                EventKind::Stopped
            }
        };
        self.announce(kind, container.id().as_str(), container.pod());
    }

    /// Puts on disk what holds already. What fails is tried again later.
    pub(crate) fn save_container(&self, container: &Container) -> Result<()> {
        let saved = container.save(&self.records);
        saved.inspect_err(|_| self.left.notify_one())
    }

    /// The same of a pod.
    pub(crate) fn save_pod(&self, pod: &Pod) -> Result<()> {
        let saved = pod.save(&self.records);
        saved.inspect_err(|_| self.left.notify_one())
    }

    /// Puts on disk what has happened, or is being ended, whether or not there is room: on a full disk
    /// most of all there have to be ways to end what fills it. It is tried again later.
    pub(crate) fn save_container_or_tell(&self, container: &Container) {
        if let Err(error) = self.save_container(container) {
            tracing::error!(container = %container.id(), error = chain(&error), "the state of a container is not on disk yet");
        }
    }

    /// The same of a pod.
    pub(crate) fn save_pod_or_tell(&self, pod: &Pod) {
        if let Err(error) = self.save_pod(pod) {
            tracing::error!(pod = %pod.id(), error = chain(&error), "the state of a pod is not on disk yet");
        }
    }

    /// The pause process, which holds the pod's namespaces, has ended.
    pub(crate) fn pause_exited(&self, pod: &Pod) {
        let _telling = pod.telling();
        if !pod.lose_pause() {
            return;
        }
        tracing::error!(pod = %pod.id(), "the pause process ended; the pod is not ready any more");
        self.save_pod_or_tell(pod);
        self.announce(EventKind::Stopped, pod.id().as_str(), pod.id());
    }

    /// The connection to a shim that nobody told to go has broken. A shim that is still there is taken
    /// up again. With one that is gone the parent of everything in its pod is: what is left is taken
    /// down, so that the client can start the pod again.
    fn shim_lost(&self, pod: &Arc<Pod>) {
        let (engine, pod) = (self.this(), pod.clone());
        tokio::spawn(async move { engine.recover_lost(&pod).await });
    }
}

/// Runs `work` to its end even when the caller stops waiting.
pub(crate) async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(work.in_current_span()).await {
        Ok(result) => result,
        Err(error) => Err(Error::Internal(format!("a task ended early: {error}"))),
    }
}

/// Does in a thread what waits for the kernel or a disk.
pub(crate) async fn blocking<T, E>(
    work: impl FnOnce() -> std::result::Result<T, E> + Send + 'static,
) -> Result<T>
where
    T: Send + 'static,
    E: Send + 'static,
    Error: From<E>,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(Error::Internal(format!("a thread ended early: {error}"))),
    }
}

/// How a process ended.
pub(crate) fn exit_reason(exit: &Exit) -> ExitReason {
    let reason = match exit.signal {
        0 => ExitReason::Code(exit.code),
        signal => ExitReason::Signal(signal),
    };
    match (exit.oom_killed, reason.exit_code()) {
        (true, code) if code != 0 => ExitReason::OomKilled(code),
        _ => reason,
    }
}

/// A time of the wire.
pub(crate) fn from_unix_ns(ns: i64) -> SystemTime {
    let since = Duration::from_nanos(u64::try_from(ns).unwrap_or(0));
    SystemTime::UNIX_EPOCH + since
}

fn image_config(config: &Config) -> crisp_image::Config {
    crisp_image::Config {
        images_dir: config.root_dir.join("images"),
        layers_dir: config.root_dir.join("layers"),
        containers_dir: config.root_dir.join("containers"),
        mount_points_dir: config.root_dir.join("mount-points"),
        settings: config.image.clone(),
    }
}

fn views(containers: Vec<Arc<Container>>) -> impl Iterator<Item = ContainerView> {
    let made = containers
        .into_iter()
        .filter(|container| container.making.finished());
    made.map(|container| container.view())
}
