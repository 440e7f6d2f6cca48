//! Creating a container: everything that can be prepared before its first process is started.

use super::bundle::Parts;
use super::host_files::{HostFiles, host_files, label_files};
use super::{Container, cdi, plan};
use crate::engine::{Engine, detached};
use crate::error::chain;
use crate::error::{Error, Result};
use crate::events::EventKind;
use crate::making::Making;
use crate::pod::Pod;
use crate::record::ContainerRecord;
use crate::store::Reserved;
use crisp_cgroup::{Cgroup, CgroupPath};
use crisp_crash::point;
use crisp_image::Image;
use crisp_metrics::Phase;
use crisp_model::spec::SecurityLabels;
use crisp_model::{ContainerConfig, ContainerId, ContainerState, PodState};
use oci_spec::runtime::Spec;
use std::os::fd::OwnedFd;
use std::sync::Arc;

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
        let config = plan::of_pod(config, &pod.config());
        plan::check(&config)?;
        let image = self.image_of(&config)?;
        let record = self.plan_container(&pod, config, &image).await?;
        let container = Container::new(record, Making::pending());
        match self.reserve(&pod, &container).await? {
            Reserved::New => {
                point!("create.named");
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

    /// Takes the container's name, unless its pod is stopped or stops.
    async fn reserve(&self, pod: &Pod, container: &Arc<Container>) -> Result<Reserved<Container>> {
        let _operation = pod.operation.lock().await;
        if pod.state() != PodState::Ready {
            return Err(pod.not_ready());
        }
        Ok(self.store.insert_container(container))
    }

    async fn make_or_undo(&self, pod: &Pod, container: &Arc<Container>, image: &Image) {
        let result = self.make_container(pod, container, image).await;
        match &result {
            Ok(()) => self.announce(EventKind::Created, container.id().as_str(), container.pod()),
            Err(_) => {
                point!("create.failed");
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
        let (config, record) = (self.config(), container.record());
        container.save(&self.records)?;
        point!("create.recorded");
        let labels = self.labels(pod, &record).await?;
        let cgroup = self.make_container_cgroup(&record);
        let root = self.prepare_root(pod, &record, image, &labels);
        let root = self.phase(Phase::Snapshot, root);
        let host = host_files(&record, config.cdi_dirs.clone(), &self.looks);
        let host = self.phase(Phase::HostFiles, host);
        // They come to their ends whatever became of the others: nothing is made while it is taken away. In this
        // order: the cgroup is made in one go, while a thread makes the root.
        let (root, host, cgroup) = tokio::join!(biased; root, host, cgroup);
        let (root, HostFiles { devices, edits }, cgroup) = (root?, host?, cgroup?);
        container.keep_root(root);
        point!("create.snapshot-made");
        let borrowed = async {
            let volumes = self.make_volumes(&record).await?;
            point!("create.volumes-made");
            Ok::<_, Error>((volumes, self.lend_images(&record).await?))
        };
        let (volumes, image_mounts) = self.phase(Phase::Volumes, borrowed).await?;
        if let Some(label) = &labels.selinux_files {
            let own_dirs = vec![config.root_dir.clone(), config.run_dir.clone()];
            label_files(&record, &volumes, label, own_dirs).await?;
        }
        let described = async {
            let parts = Parts {
                devices,
                image_mounts,
                volumes,
                confinement: self.confinement(&config, pod, &record)?,
                labels,
            };
            let mut spec = self.spec(&config, pod, &record, &parts)?;
            cdi::apply(&edits, &mut spec)?;
            Ok::<_, Error>((spec, parts.confinement))
        };
        let (spec, confinement) = self.phase(Phase::Spec, described).await?;
        let limited = self.limit(cgroup, &spec);
        let bundle = async { self.write_bundle(&record, &spec, &confinement) };
        let bundle = self.phase(Phase::Bundle, bundle).await;
        limited.await?;
        bundle?;
        point!("create.made");
        Ok(())
    }

    /// Makes what the container writes to, and mounts its root file system already, beside the making of its
    /// cgroup, if it needs neither the owners of a user namespace nor a label, and no other runtime mounts it.
    async fn prepare_root(
        &self,
        pod: &Pod,
        record: &ContainerRecord,
        image: &Image,
        labels: &SecurityLabels,
    ) -> Result<Option<OwnedFd>> {
        let pod = pod.record();
        let disk_limit = self.config().container_disk_limit(&pod.handler);
        let is_plain = record.config.security.namespaces.user.is_none()
            && pod.runtime.is_none()
            && labels.selinux_files.is_none();
        let (container, images) = (&record.id, &self.images);
        if is_plain {
            let root = images.prepare_mounted(container, &image.id, disk_limit);
            return Ok(root.await?);
        }
        images.prepare(container, &image.id, disk_limit).await?;
        Ok(None)
    }

    async fn labels(&self, pod: &Pod, record: &ContainerRecord) -> Result<SecurityLabels> {
        let selinux = self.selinux.of_container(&pod.record(), &record.config);
        let (process, files) = match selinux {
            Some(labels) => (labels.process, Some(labels.files)),
            None => (None, None),
        };
        Ok(SecurityLabels {
            apparmor_profile: self.apparmor.profile(&record.config.security).await?,
            selinux_process: process.map(|label| label.to_string()),
            selinux_files: files.map(|label| label.to_string()),
        })
    }

    /// Makes the container's cgroup. That waits for no disk, and to hand it to a thread would take a good part
    /// of the time that it takes.
    async fn make_container_cgroup(&self, record: &ContainerRecord) -> Result<Cgroup> {
        let make = async {
            let path = CgroupPath::parse(&record.cgroup)?;
            let cgroup = self.hierarchies.create(&path)?;
            point!("create.cgroup-made");
            Ok(cgroup)
        };
        self.phase(Phase::ContainerCgroup, make).await
    }

    /// Limits the container's cgroup in a thread.
    fn limit(&self, cgroup: Cgroup, spec: &Spec) -> impl Future<Output = Result<()>> + use<> {
        let resources = spec.linux().as_ref().and_then(|l| l.resources().clone());
        self.phase_beside(Phase::ContainerLimits, move || {
            cgroup.apply(&resources.unwrap_or_default())?;
            point!("create.limited");
            Ok(())
        })
    }
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
