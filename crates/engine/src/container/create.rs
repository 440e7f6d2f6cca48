//! Creating a container: everything that can be prepared before its first process is started.

use super::{Container, cdi, devices};
use crate::engine::{Engine, detached};
use crate::error::{Error, Kind, Result};
use crate::events::EventKind;
use crate::making::Making;
use crate::pod::{Pod, files, hostname, netns};
use crate::record::{ContainerRecord, current_version, make_private_dir, replace_file};
use crate::seccomp::Confinement;
use crate::shim::chain;
use crate::store::Reserved;
use crisp_cgroup::CgroupPath;
use crisp_image::Image;
use crisp_model::signal::{SIGTERM, signal_number};
use crisp_model::spec::{
    HostDevice, ImageDefaults, ImageMount, NamespacePaths, SpecInput, Volume, container_spec,
    effective_capabilities,
};
use crisp_model::{
    ContainerConfig, ContainerId, ContainerState, Mount, NamespaceMode, PodConfig, PodState,
    SecurityProfile,
};
use oci_spec::runtime::Spec;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How long the file systems of the host may take to show what is mounted and which devices there
/// are: one that hangs, such as a dead NFS server's, must not hold up the node.
const HOST_FILES_TIMEOUT: Duration = Duration::from_secs(10);

/// File of the bundle that holds the OCI runtime spec.
const SPEC_FILE: &str = "config.json";

impl Engine {
    /// Creates a container in a pod. Asked again with the same metadata and configuration while it is
    /// created, it waits for, or gives, the container that was made for the first request.
    ///
    /// # Errors
    /// If the pod is not ready, the configuration is wrong, the image is missing, the name is taken,
    /// or a part cannot be made; nothing is left then.
    pub async fn create_container(
        self: &Arc<Self>,
        pod: &str,
        config: ContainerConfig,
    ) -> Result<ContainerId> {
        let pod = self.store.pod(pod)?;
        let config = of_pod(config, &pod.config());
        check(&config)?;
        let image = self.image_of(&config)?;
        let record = self.plan_container(&pod, config, &image).await?;
        let container = Container::new(record, Making::pending());
        match self.reserve(&pod, &container).await? {
            Reserved::New => {
                let (engine, new) = (self.clone(), container.clone());
                detached(async move {
                    engine.make_or_undo(&pod, &new, &image).await;
                    Ok(())
                })
                .await?;
                container.making.wait().await?;
                Ok(container.id().clone())
            }
            Reserved::Taken(holder) => {
                adoptable(&holder, &container)?;
                holder.making.wait().await?;
                Ok(holder.id().clone())
            }
        }
    }

    fn image_of(&self, config: &ContainerConfig) -> Result<Arc<Image>> {
        let name = &config.image.image;
        if name.is_empty() {
            return Err(Error::invalid("image.image", "is empty"));
        }
        let missing = || Error::NotFound {
            kind: Kind::Image,
            id: name.clone(),
        };
        self.images.find(name)?.ok_or_else(missing)
    }

    async fn plan_container(
        &self,
        pod: &Pod,
        config: ContainerConfig,
        image: &Arc<Image>,
    ) -> Result<ContainerRecord> {
        let id = ContainerId::generate();
        let defaults = image_defaults(image);
        let user = self
            .users
            .resolve(&self.images, image, &config.security, &defaults.user)
            .await?;
        let pod_record = pod.record();
        Ok(ContainerRecord {
            version: current_version(),
            pod: pod.id().clone(),
            image_id: image.id.to_string(),
            stop_signal: stop_signal(&config, &defaults)?,
            log_path: log_path(&pod_record.config, &config)?,
            cgroup: format!("{}/{id}", pod_record.cgroup),
            resources: config.resources.clone(),
            config: Arc::new(config),
            image: Arc::new(defaults),
            user,
            created_at: SystemTime::now(),
            state: ContainerState::Created,
            id,
        })
    }

    /// Takes the container's name, unless its pod is stopped or stops.
    async fn reserve(&self, pod: &Pod, container: &Arc<Container>) -> Result<Reserved<Container>> {
        let _operation = pod.operation.lock().await;
        if pod.state() != PodState::Ready {
            return Err(not_ready(pod));
        }
        Ok(self.store.insert_container(container))
    }

    async fn make_or_undo(&self, pod: &Pod, container: &Arc<Container>, image: &Image) {
        let result = self.make_container(pod, container, image).await;
        match &result {
            Ok(()) => self.announce(EventKind::Created, container.id().as_str(), container.pod()),
            Err(_) => {
                if let Err(left) = self.take_away(container).await {
                    let container = container.id();
                    tracing::warn!(%container, error = chain(&left), "a failed container is left");
                }
            }
        }
        container.making.finish(result);
    }

    async fn make_container(&self, pod: &Pod, container: &Container, image: &Image) -> Result<()> {
        let _operation = container.operation.lock().await;
        let record = container.record();
        self.records.write_container(&record)?;
        let snapshot = self.images.prepare(&record.id, &image.id);
        let host = host_files(&record, self.config().cdi_dirs.clone());
        let (snapshot, host) = tokio::join!(snapshot, host);
        let (_, HostFiles { devices, edits }) = (snapshot?, host?);
        let image_mounts = self.lend_images(&record).await?;
        let volumes = self.make_volumes(&record).await?;
        let confinement = self.confinement(&record)?;
        let mut spec = self.spec(
            pod,
            &record,
            &devices,
            &image_mounts,
            &volumes,
            &confinement,
        )?;
        cdi::apply(&edits, &mut spec)?;
        self.make_container_cgroup(&record, &spec).await?;
        self.write_bundle(&record, &spec, &confinement)
    }

    fn confinement(&self, record: &ContainerRecord) -> Result<Confinement> {
        let security = &record.config.security;
        let capabilities = effective_capabilities(security, &self.host.held_capabilities)?;
        self.profiles
            .of(security, &capabilities, self.config().unset_seccomp_profile)
    }

    fn spec(
        &self,
        pod: &Pod,
        record: &ContainerRecord,
        devices: &[HostDevice],
        image_mounts: &[ImageMount],
        volumes: &[Volume],
        confinement: &Confinement,
    ) -> Result<Spec> {
        let pod_record = pod.record();
        let limits = self.config().pids_limits(&pod_record.handler);
        self.check_apparmor(&record.config.security.apparmor)?;
        let input = SpecInput {
            pod: &pod_record.config,
            container: &record.config,
            image: &record.image,
            user: &record.user,
            hostname: &hostname(&pod_record.config)?,
            namespaces: &self.namespaces(pod, &record.config)?,
            files: &files::paths(&self.pod_run_dir(pod.id())),
            cgroups_path: &record.cgroup,
            unified_cgroups: self.hierarchies.version() == crisp_cgroup::Version::V2,
            held_capabilities: &self.host.held_capabilities,
            devices,
            image_mounts,
            volumes,
            seccomp: confinement.profile.clone(),
            apparmor_profile: None,
            pids_limit: limits.and_then(|l| l.container),
        };
        Ok(container_spec(&input)?)
    }

    /// A profile that the kernel cannot enforce is an error only when it was asked for by name.
    fn check_apparmor(&self, profile: &SecurityProfile) -> Result<()> {
        match profile {
            SecurityProfile::Localhost(name) if !self.host.apparmor => {
                Err(Error::Unsupported(format!(
                    "AppArmor profile {name:?} cannot be applied: this host's kernel has no AppArmor"
                )))
            }
            SecurityProfile::Localhost(name) => Err(Error::Unsupported(format!(
                "AppArmor profile {name:?} cannot be applied: AppArmor is not supported yet"
            ))),
            _ => Ok(()),
        }
    }

    /// Where the namespaces are that the container joins.
    fn namespaces(&self, pod: &Pod, config: &ContainerConfig) -> Result<NamespacePaths> {
        let record = pod.record();
        let pause = record.pause_pid.ok_or_else(|| not_ready(pod))?;
        let of_pause = |kind: &str| Some(PathBuf::from(format!("/proc/{pause}/ns/{kind}")));
        let modes = &config.security.namespaces;
        let own_network = modes.network != NamespaceMode::Node;
        let own_ipc = modes.ipc != NamespaceMode::Node;
        let pid = match &modes.pid {
            NamespaceMode::Target(target) => Some(self.pid_namespace_of(pod, target)?),
            NamespaceMode::Pod => of_pause("pid"),
            NamespaceMode::Container | NamespaceMode::Node => None,
        };
        Ok(NamespacePaths {
            network: own_network.then(|| netns::path(&self.config().netns_dir, pod.id())),
            ipc: own_ipc.then(|| of_pause("ipc")).flatten(),
            uts: own_network.then(|| of_pause("uts")).flatten(),
            user: modes.user.as_ref().and_then(|_| of_pause("user")),
            pid,
        })
    }

    fn pid_namespace_of(&self, pod: &Pod, target: &ContainerId) -> Result<PathBuf> {
        let field = "linux.security_context.namespace_options.target_id";
        let container = self.store.container(target.as_str())?;
        if container.pod() != pod.id() {
            return Err(Error::invalid(
                field,
                format!("container {target} belongs to another pod"),
            ));
        }
        let pid = container.state().pid();
        let pid =
            pid.ok_or_else(|| Error::invalid(field, format!("container {target} does not run")))?;
        Ok(format!("/proc/{pid}/ns/pid").into())
    }

    async fn make_container_cgroup(&self, record: &ContainerRecord, spec: &Spec) -> Result<()> {
        let hierarchies = self.hierarchies.clone();
        let path = CgroupPath::parse(&record.cgroup)?;
        let resources = spec.linux().as_ref().and_then(|l| l.resources().clone());
        let work = tokio::task::spawn_blocking(move || {
            let cgroup = hierarchies.create(&path)?;
            cgroup.apply(&resources.unwrap_or_default())
        });
        let done = work.await.map_err(|e| Error::Internal(e.to_string()))?;
        Ok(done?)
    }

    fn write_bundle(
        &self,
        record: &ContainerRecord,
        spec: &Spec,
        confinement: &Confinement,
    ) -> Result<()> {
        let dir = self.bundle_dir(&record.pod, &record.id);
        make_private_dir(&dir)?;
        let text =
            serde_json::to_vec(spec).map_err(|e| Error::Internal(format!("the OCI spec: {e}")))?;
        replace_file(&dir.join(SPEC_FILE), &text)?;
        confinement.write(&dir)
    }

    /// The OCI runtime spec of a container, as it was written when it was created.
    pub(crate) fn read_spec(&self, record: &ContainerRecord) -> Result<Spec> {
        let path = self.bundle_dir(&record.pod, &record.id).join(SPEC_FILE);
        let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
        serde_json::from_slice(&text)
            .map_err(|e| Error::Internal(format!("{}: {e}", path.display())))
    }
}

/// The configuration with what the pod decides for all its containers.
fn of_pod(mut config: ContainerConfig, pod: &PodConfig) -> ContainerConfig {
    let (modes, of_pod) = (&mut config.security.namespaces, &pod.security.namespaces);
    modes.network = of_pod.network.clone();
    modes.ipc = of_pod.ipc.clone();
    modes.user = of_pod.user.clone();
    if modes.pid == NamespaceMode::Pod && of_pod.pid == NamespaceMode::Node {
        modes.pid = NamespaceMode::Node;
    }
    config
}

fn check(config: &ContainerConfig) -> Result<()> {
    if config.metadata.name.is_empty() {
        return Err(Error::invalid("config.metadata.name", "is empty"));
    }
    Ok(())
}

/// The container that has a name already may be given to a client that asks for it again.
fn adoptable(holder: &Container, asked: &Container) -> Result<()> {
    let (holder_record, asked) = (holder.record(), asked.record());
    if holder_record.config == asked.config && holder_record.state == ContainerState::Created {
        return Ok(());
    }
    let metadata = &asked.config.metadata;
    Err(Error::AlreadyExists {
        what: format!(
            "container {:?} (attempt {}) of pod {}",
            metadata.name, metadata.attempt, asked.pod
        ),
        id: holder.id().to_string(),
    })
}

fn not_ready(pod: &Pod) -> Error {
    Error::FailedPrecondition(format!(
        "pod {} is not ready: it was stopped, or stops",
        pod.id()
    ))
}

/// What an image says of how it is run.
fn image_defaults(image: &Image) -> ImageDefaults {
    let config = &image.config;
    ImageDefaults {
        entrypoint: config.entrypoint.clone(),
        command: config.cmd.clone(),
        environment: config.env.clone(),
        working_dir: config.working_dir.clone(),
        user: config.user.clone(),
        stop_signal: config.stop_signal.clone().unwrap_or_default(),
        volumes: config.volumes.clone(),
    }
}

fn stop_signal(config: &ContainerConfig, image: &ImageDefaults) -> Result<i32> {
    match &config.stop_signal {
        Some(name) => signal_number(name).ok_or_else(|| {
            Error::invalid("config.stop_signal", format!("{name:?} is not a signal"))
        }),
        None => Ok(signal_number(&image.stop_signal).unwrap_or(SIGTERM)),
    }
}

/// The log's absolute path, which stays below the pod's log directory.
fn log_path(pod: &PodConfig, config: &ContainerConfig) -> Result<Option<PathBuf>> {
    let Some(directory) = pod
        .log_directory
        .as_ref()
        .filter(|_| !config.log_path.is_empty())
    else {
        return Ok(None);
    };
    let relative = Path::new(&config.log_path);
    if !relative
        .components()
        .all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
    {
        let reason = format!("{:?} leaves the pod's log directory", config.log_path);
        return Err(Error::invalid("config.log_path", reason));
    }
    Ok(Some(directory.join(relative)))
}

/// What a container uses of the host's files.
struct HostFiles {
    devices: Vec<HostDevice>,
    /// What CDI devices change beside the device nodes.
    edits: crisp_cdi::Edits,
}

/// Looks at what the container uses of the host's files: makes the sources of its mounts that are
/// missing, and its devices' numbers out.
async fn host_files(record: &ContainerRecord, cdi_dirs: Vec<PathBuf>) -> Result<HostFiles> {
    let (config, user) = (record.config.clone(), record.user.clone());
    let work = tokio::task::spawn_blocking(move || {
        make_sources(&config.mounts)?;
        let privileged = config.security.privileged;
        let mut devices = devices::of_container(&config.devices, privileged)?;
        let edits = crisp_cdi::edits(&cdi_dirs, &config.cdi_devices)?;
        cdi::add_nodes(&mut devices, &edits, &user)?;
        Ok(HostFiles { devices, edits })
    });
    match tokio::time::timeout(HOST_FILES_TIMEOUT, work).await {
        Ok(done) => done.map_err(|e| Error::Internal(e.to_string()))?,
        Err(_) => Err(Error::DeadlineExceeded {
            what: "looking at the mounts' host_path (a file system that hangs?)".to_owned(),
            after_ms: 1000 * HOST_FILES_TIMEOUT.as_secs(),
        }),
    }
}

/// A source that is missing becomes an empty directory, as in every CRI runtime.
fn make_sources(mounts: &[Mount]) -> Result<()> {
    for mount in mounts {
        let path = Path::new(&mount.host_path);
        if path.is_absolute() && path.symlink_metadata().is_err() {
            std::fs::create_dir_all(path).map_err(Error::io("make the mount source", path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_stays_in_the_log_directory_of_its_pod() {
        let pod = PodConfig {
            log_directory: Some("/logs/p".into()),
            ..PodConfig::default()
        };
        let path = |log_path: &str| {
            log_path_of(&pod, log_path).map(|p| p.map(|p| p.display().to_string()))
        };
        assert_eq!(path("c/0.log").unwrap().unwrap(), "/logs/p/c/0.log");
        assert_eq!(path("").unwrap(), None);
        assert!(path("../x").is_err() && path("/etc/passwd").is_err());
    }

    fn log_path_of(pod: &PodConfig, log_path: &str) -> Result<Option<PathBuf>> {
        let config = ContainerConfig {
            log_path: log_path.to_owned(),
            ..ContainerConfig::default()
        };
        super::log_path(pod, &config)
    }

    #[test]
    fn the_stop_signal_is_the_configurations_then_the_images() {
        let image = ImageDefaults {
            stop_signal: "SIGQUIT".into(),
            ..ImageDefaults::default()
        };
        let mut config = ContainerConfig::default();
        assert_eq!(
            stop_signal(&config, &ImageDefaults::default()).unwrap(),
            SIGTERM
        );
        assert_eq!(stop_signal(&config, &image).unwrap(), 3);
        config.stop_signal = Some("SIGUSR1".into());
        assert_eq!(stop_signal(&config, &image).unwrap(), 10);
        config.stop_signal = Some("SIGNOPE".into());
        assert!(stop_signal(&config, &image).is_err());
    }
}
