//! A container's bundle: its OCI runtime spec and its seccomp filter, as files for its shim.

use crate::config::Config;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::files::{make_private_dir, replace_file};
use crate::pod::{Pod, files, hostname, netns};
use crate::record::ContainerRecord;
use crate::seccomp::Confinement;
use crisp_crash::point;
use crisp_model::spec::{
    HostDevice, ImageMount, NamespacePaths, SecurityLabels, SpecInput, Volume, container_spec,
    effective_capabilities, linux_resources,
};
use crisp_model::{ContainerConfig, ContainerId, NamespaceMode};
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// File of the bundle that holds the OCI runtime spec.
const SPEC_FILE: &str = "config.json";

/// What was prepared for a container's spec.
pub(super) struct Parts {
    pub(super) devices: Vec<HostDevice>,
    pub(super) image_mounts: Vec<ImageMount>,
    pub(super) volumes: Vec<Volume>,
    pub(super) confinement: Confinement,
    pub(super) labels: SecurityLabels,
}

impl Engine {
    pub(super) fn confinement(
        &self,
        config: &Config,
        pod: &Pod,
        record: &ContainerRecord,
    ) -> Result<Confinement> {
        let security = &record.config.security;
        let capabilities = effective_capabilities(security, &self.host.held_capabilities)?;
        let unset = config.unset_seccomp_profile;
        match pod.record().runtime {
            None => self.profiles.of(security, &capabilities, unset),
            Some(_) => Confinement::in_spec(security, &capabilities, unset),
        }
    }

    pub(super) fn spec(
        &self,
        config: &Config,
        pod: &Pod,
        record: &ContainerRecord,
        parts: &Parts,
    ) -> Result<Spec> {
        let pod_record = pod.record();
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
            devices: &parts.devices,
            image_mounts: &parts.image_mounts,
            volumes: &parts.volumes,
            seccomp: parts.confinement.profile.clone(),
            labels: &parts.labels,
            pids_limit: config.pids_limits(&pod_record.handler).container,
        };
        Ok(container_spec(&input)?)
    }

    /// Where the namespaces are that the container joins.
    fn namespaces(&self, pod: &Pod, config: &ContainerConfig) -> Result<NamespacePaths> {
        let record = pod.record();
        let pause = record.pause_pid.ok_or_else(|| pod.not_ready())?;
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

    /// The process whose pid namespace the container joins may have ended since the spec was written, and
    /// its number have become another's.
    pub(super) fn renew_pid_namespace(&self, pod: &Pod, record: &ContainerRecord) -> Result<()> {
        let NamespaceMode::Target(target) = &record.config.security.namespaces.pid else {
            return Ok(());
        };
        let path = self.pid_namespace_of(pod, target)?;
        let mut spec = self.read_spec(record)?;
        let linux = spec.linux_mut().as_mut();
        let namespaces = linux.and_then(|linux| linux.namespaces_mut().as_mut());
        let mut namespaces = namespaces.into_iter().flatten();
        match namespaces.find(|namespace| namespace.typ() == LinuxNamespaceType::Pid) {
            Some(namespace) if namespace.path().as_ref() != Some(&path) => {
                namespace.set_path(Some(path));
                self.write_spec(record, &spec)
            }
            _ => Ok(()),
        }
    }

    /// The last thing that is made of a container, and of it the spec: a container that has one is whole.
    pub(super) fn write_bundle(
        &self,
        record: &ContainerRecord,
        spec: &Spec,
        confinement: &Confinement,
    ) -> Result<()> {
        let dir = self.bundle_dir(&record.pod, &record.id);
        make_private_dir(&dir)?;
        point!("create.bundle-made");
        confinement.write(&dir)?;
        self.write_spec(record, spec)
    }

    /// Whether a container was made to its end.
    pub(crate) fn has_bundle(&self, record: &ContainerRecord) -> bool {
        self.spec_path(record).exists()
    }

    /// Prepares a bundle for a runtime other than the embedded one.
    pub(super) fn prepare_for_command(&self, pod: &Pod, record: &ContainerRecord) -> Result<()> {
        if record.resources != record.config.resources {
            self.renew_limits(record)?;
        }
        match &pod.record().config.security.namespaces.user {
            Some(user) => self.let_in(record, user.gids.host_id),
            None => Ok(()),
        }
    }

    /// Such a runtime sets the limits of the spec, which may have been changed since it was written.
    fn renew_limits(&self, record: &ContainerRecord) -> Result<()> {
        let mut spec = self.read_spec(record)?;
        let linux = spec.linux_mut().as_mut();
        if let Some(resources) = linux.and_then(|linux| linux.resources_mut().as_mut()) {
            let mut current = linux_resources(&record.resources);
            current.set_devices(resources.devices().clone());
            current.set_pids(*resources.pids());
            *resources = current;
        }
        self.write_spec(record, &spec)
    }

    /// The root of a pod's user namespace walks the path to its bundle, where the runtime mounts the root
    /// file system. It may pass, and list nothing; through what is the pod's own nobody else may.
    fn let_in(&self, record: &ContainerRecord, root_gid: u32) -> Result<()> {
        let run_dir = self.config().run_dir.clone();
        let pods = run_dir.join("pods");
        set_mode(&run_dir, 0o711)?;
        set_mode(&pods, 0o711)?;
        let bundle = self.bundle_dir(&record.pod, &record.id);
        let own = bundle.ancestors().take_while(|dir| *dir != pods);
        for dir in own {
            chown(dir, None, Some(root_gid)).map_err(Error::io("change the group of", dir))?;
            set_mode(dir, 0o710)?;
        }
        Ok(())
    }

    /// Replaces what is read when the container is started, and for each process that joins it.
    pub(super) fn write_spec(&self, record: &ContainerRecord, spec: &Spec) -> Result<()> {
        let text =
            serde_json::to_vec(spec).map_err(|e| Error::Internal(format!("the OCI spec: {e}")))?;
        replace_file(&self.spec_path(record), &text)
    }

    /// The OCI runtime spec of a container, as it was written last.
    pub(crate) fn read_spec(&self, record: &ContainerRecord) -> Result<Spec> {
        self.read_of_spec(record)
    }

    /// What the spec says of the container's process. The rest, which is most of it, is passed over.
    pub(crate) fn read_process(&self, record: &ContainerRecord) -> Result<Process> {
        #[derive(Deserialize)]
        struct OfSpec {
            process: Process,
        }
        self.read_of_spec::<OfSpec>(record).map(|of| of.process)
    }

    fn read_of_spec<T: DeserializeOwned>(&self, record: &ContainerRecord) -> Result<T> {
        let path = self.spec_path(record);
        let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
        serde_json::from_slice(&text)
            .map_err(|e| Error::Internal(format!("{}: {e}", path.display())))
    }

    fn spec_path(&self, record: &ContainerRecord) -> PathBuf {
        self.bundle_dir(&record.pod, &record.id).join(SPEC_FILE)
    }
}

fn set_mode(dir: &Path, mode: u32) -> Result<()> {
    set_permissions(dir, Permissions::from_mode(mode)).map_err(Error::io("change the mode of", dir))
}
