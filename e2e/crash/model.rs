//! What a kubelet was told, and so relies on.

use crate::finding::{Finding, stuck};
use crisp_cri_api::v1::{ContainerState, PodSandboxConfig, PodSandboxState};
use crisp_e2e::{Node, Pod};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The pods, containers and images that there have to be.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) images: BTreeSet<String>,
    pub(crate) pod: Option<PodModel>,
}

#[derive(Debug, Clone)]
pub(crate) struct PodModel {
    pub(crate) id: String,
    pub(crate) config: PodSandboxConfig,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) is_ready: bool,
    /// By their names.
    pub(crate) containers: BTreeMap<&'static str, ContainerModel>,
}

#[derive(Debug, Clone)]
pub(crate) struct ContainerModel {
    pub(crate) id: String,
    pub(crate) state: Known,
}

/// What a client knows of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    Created,
    /// When its start was told to have been, in nanoseconds.
    Running {
        started_at: i64,
    },
    Exited {
        code: i32,
    },
}

/// What is being changed at the moment, and so may be in its old or its new state, or not be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flux {
    Nothing,
    Image,
    Container(&'static str),
    /// With all that is in it.
    Pod,
}

impl PodModel {
    pub(crate) fn handle<'a>(&self, node: &'a Node) -> Pod<'a> {
        Pod::new(node, self.id.clone(), self.config.clone())
    }
}

impl Model {
    /// The ids of what is being changed.
    pub(crate) fn ids_in(&self, flux: Flux) -> Vec<String> {
        let Some(pod) = &self.pod else {
            return Vec::new();
        };
        let containers = pod.containers.iter().filter(|(name, _)| match flux {
            Flux::Pod => true,
            Flux::Container(changed) => changed == **name,
            Flux::Nothing | Flux::Image => false,
        });
        let ids = containers.map(|(_, container)| container.id.clone());
        let pod = (flux == Flux::Pod).then(|| pod.id.clone());
        ids.chain(pod).collect()
    }

    /// Holds what a node says against what it said before.
    ///
    /// # Errors
    /// The first thing that is not as it was.
    pub(crate) async fn check(&self, node: &Node, flux: Flux) -> Result<(), Finding> {
        self.check_images(node, flux).await?;
        if flux != Flux::Pod {
            self.check_pods(node).await?;
            self.check_containers(node, flux).await?;
        }
        Ok(())
    }

    async fn check_images(&self, node: &Node, flux: Flux) -> Result<(), Finding> {
        if flux == Flux::Image {
            return Ok(());
        }
        for image in &self.images {
            let found = node.image(image).await.map_err(stuck)?;
            found.ok_or_else(|| Finding::Lost(format!("image {image}")))?;
        }
        Ok(())
    }

    async fn check_pods(&self, node: &Node) -> Result<(), Finding> {
        let found = node.pods().await.map_err(stuck)?;
        let ids: BTreeSet<&str> = found.iter().map(|pod| pod.id.as_str()).collect();
        let known: BTreeSet<&str> = self.pod.iter().map(|pod| pod.id.as_str()).collect();
        same_ids("pod", &known, &ids)?;
        let (Some(pod), Some(found)) = (&self.pod, found.first()) else {
            return Ok(());
        };
        let ready = found.state == i32::from(PodSandboxState::SandboxReady);
        if ready != pod.is_ready {
            return Err(Finding::Lost(format!("the pod's state: {found:?}")));
        }
        if ready {
            let addresses = pod.handle(node).addresses().await.map_err(stuck)?;
            if addresses != pod.addresses {
                return Err(Finding::Lost(format!(
                    "addresses: {:?} became {addresses:?}",
                    pod.addresses
                )));
            }
        }
        Ok(())
    }

    async fn check_containers(&self, node: &Node, flux: Flux) -> Result<(), Finding> {
        let Some(pod) = &self.pod else {
            return Ok(());
        };
        let found = node.containers().await.map_err(stuck)?;
        let in_flux = |name: &str| matches!(flux, Flux::Container(changed) if changed == name);
        let name = |it: &crisp_cri_api::v1::Container| it.metadata.clone().unwrap_or_default().name;
        let ids: BTreeSet<&str> = found
            .iter()
            .filter(|it| !in_flux(&name(it)))
            .map(|it| it.id.as_str())
            .collect();
        let known: BTreeSet<&str> = pod
            .containers
            .iter()
            .filter(|(name, _)| !in_flux(name))
            .map(|(_, it)| it.id.as_str())
            .collect();
        same_ids("container", &known, &ids)?;
        for (name, container) in &pod.containers {
            if !in_flux(name) {
                container.check(node, pod, name).await?;
            }
        }
        Ok(())
    }
}

impl ContainerModel {
    async fn check(&self, node: &Node, pod: &PodModel, name: &str) -> Result<(), Finding> {
        let container = pod.handle(node).container(name, self.id.clone());
        let status = container.status().await.map_err(stuck)?;
        let now = match status.state() {
            ContainerState::ContainerCreated => Known::Created,
            ContainerState::ContainerRunning => Known::Running {
                started_at: status.started_at,
            },
            _ => Known::Exited {
                code: status.exit_code,
            },
        };
        if now != self.state {
            return Err(Finding::Lost(format!(
                "container {name} was {:?} and is {now:?}: {} {}",
                self.state, status.reason, status.message
            )));
        }
        if let Known::Running { .. } = now {
            let process = container.process().await.map_err(stuck)?;
            if !process.runs() {
                return Err(Finding::Lost(format!("the process of container {name}")));
            }
        }
        Ok(())
    }
}

fn same_ids(what: &str, known: &BTreeSet<&str>, found: &BTreeSet<&str>) -> Result<(), Finding> {
    if let Some(id) = known.difference(found).next() {
        return Err(Finding::Lost(format!("{what} {id}")));
    }
    match found.difference(known).next() {
        Some(id) => Err(Finding::Leaked(format!("{what} {id}"))),
        None => Ok(()),
    }
}
