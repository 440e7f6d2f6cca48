//! Pods and containers by what people call them: a name, a namespace and a name, or the beginning of
//! an id.

use crate::client::{Client, told};
use crate::text::short;
use anyhow::{Result, bail};
use crisp_cri_api::v1;
use crisp_cri_api::v1::{Container, PodSandbox, PodSandboxState};

/// What is on the node at one moment.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) pods: Vec<PodSandbox>,
    pub(crate) containers: Vec<Container>,
}

/// What a name means.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Named<'a> {
    Pod(&'a PodSandbox),
    Container(&'a Container),
}

impl Snapshot {
    pub(crate) async fn take(client: &Client) -> Result<Self> {
        let mut runtime = client.runtime();
        let pods = runtime
            .list_pod_sandbox(v1::ListPodSandboxRequest::default())
            .await
            .map_err(told)?;
        let containers = runtime
            .list_containers(v1::ListContainersRequest::default())
            .await
            .map_err(told)?;
        let mut snapshot = Self {
            pods: pods.into_inner().items,
            containers: containers.into_inner().containers,
        };
        snapshot.pods.sort_by_key(full_name);
        // Those that stand for their name first: of what was made again, the last.
        snapshot
            .containers
            .sort_by_key(|c| (container_name(c).to_owned(), std::cmp::Reverse(attempt(c))));
        Ok(snapshot)
    }

    /// The pod of that name, `namespace/name` or id.
    ///
    /// # Errors
    /// If there is none, or several that are not one pod made again.
    pub(crate) fn pod(&self, name: &str) -> Result<&PodSandbox> {
        if name.is_empty() {
            bail!("a pod's name is empty");
        }
        let named = |pod: &&PodSandbox| pod_name(pod) == name || full_name(pod) == name;
        let with_id = |pod: &&PodSandbox| pod.id.starts_with(name);
        let mut found: Vec<&PodSandbox> = self.pods.iter().filter(named).collect();
        if found.is_empty() {
            found = self.pods.iter().filter(with_id).collect();
        }
        found.sort_by_key(|pod| std::cmp::Reverse(currency(pod)));
        let Some(first) = found.first().copied() else {
            bail!("there is no pod {name:?}: `crisp pod ls` shows those there are");
        };
        if found.iter().any(|pod| full_name(pod) != full_name(first)) {
            bail!(
                "{name:?} may be {}: say more of it",
                list(found.iter().map(|pod| full_name(pod)))
            );
        }
        Ok(first)
    }

    /// A container of a pod by its name or id; without one the only container.
    ///
    /// # Errors
    /// If there is none, or none was named and there are several.
    pub(crate) fn container(&self, pod: &PodSandbox, name: Option<&str>) -> Result<&Container> {
        let containers: Vec<&Container> = self.containers_of(pod).collect();
        let names = || list(containers.iter().map(|c| container_name(c).to_owned()));
        match (name, containers.as_slice()) {
            (_, []) => bail!("pod {} has no container", full_name(pod)),
            (None, [only]) => Ok(only),
            (None, _) => bail!(
                "pod {} has the containers {}: name one of them",
                full_name(pod),
                names()
            ),
            (Some(name), _) => match containers.iter().find(|c| called(c, name)) {
                Some(container) => Ok(container),
                None => bail!(
                    "pod {} has no container {name:?} but {}",
                    full_name(pod),
                    names()
                ),
            },
        }
    }

    /// The pod's containers, each name once: the last that was made under it.
    pub(crate) fn containers_of(&self, pod: &PodSandbox) -> impl Iterator<Item = &Container> {
        let mut last = None;
        let of_pod = self
            .containers
            .iter()
            .filter(|c| c.pod_sandbox_id == pod.id);
        of_pod.filter(move |container| {
            last.replace(container_name(container)) != Some(container_name(container))
        })
    }

    /// The pod, or else the container, that a name or id means. A container is also called
    /// `pod/container`.
    ///
    /// # Errors
    /// If there is none, or several.
    pub(crate) fn any(&self, name: &str) -> Result<Named<'_>> {
        let of_pod = self
            .pods
            .iter()
            .any(|pod| pod_name(pod) == name || full_name(pod) == name);
        let with_id = |id: &str| !name.is_empty() && id.starts_with(name);
        if of_pod {
            return self.pod(name).map(Named::Pod);
        }
        if let Some((pod, container)) = name.rsplit_once('/') {
            return self
                .container(self.pod(pod)?, Some(container))
                .map(Named::Container);
        }
        let named = self.containers.iter().filter(|c| container_name(c) == name);
        let mut found: Vec<Named<'_>> = named.map(Named::Container).collect();
        if found.is_empty() {
            found.extend(
                self.pods
                    .iter()
                    .filter(|pod| with_id(&pod.id))
                    .map(Named::Pod),
            );
            found.extend(
                self.containers
                    .iter()
                    .filter(|c| with_id(&c.id))
                    .map(Named::Container),
            );
        }
        match found.as_slice() {
            [] => {
                bail!("there is no pod or container {name:?}: `crisp pod ls` shows those there are")
            }
            [only] => Ok(*only),
            _ => bail!(
                "{name:?} may be {}: say more of it",
                list(found.iter().map(|n| self.described(*n)))
            ),
        }
    }

    fn described(&self, named: Named<'_>) -> String {
        match named {
            Named::Pod(pod) => format!("pod {}", full_name(pod)),
            Named::Container(container) => {
                let pod = self
                    .pods
                    .iter()
                    .find(|pod| pod.id == container.pod_sandbox_id);
                let pod =
                    pod.map_or_else(|| short(&container.pod_sandbox_id).to_owned(), full_name);
                format!("container {pod}/{}", container_name(container))
            }
        }
    }
}

impl Named<'_> {
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Pod(pod) => &pod.id,
            Self::Container(container) => &container.id,
        }
    }
}

fn called(container: &Container, name: &str) -> bool {
    container_name(container) == name || container.id.starts_with(name)
}

fn list(names: impl Iterator<Item = String>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// Of several pods of one name the one that is ready stands for it, and else the newest.
fn currency(pod: &PodSandbox) -> (bool, i64) {
    (pod.state() == PodSandboxState::SandboxReady, pod.created_at)
}

fn attempt(container: &Container) -> (u32, i64) {
    let attempt = container
        .metadata
        .as_ref()
        .map_or(0, |metadata| metadata.attempt);
    (attempt, container.created_at)
}

pub(crate) fn pod_name(pod: &PodSandbox) -> &str {
    pod.metadata.as_ref().map_or("", |metadata| &metadata.name)
}

pub(crate) fn container_name(container: &Container) -> &str {
    container
        .metadata
        .as_ref()
        .map_or("", |metadata| &metadata.name)
}

/// `namespace/name`.
pub(crate) fn full_name(pod: &PodSandbox) -> String {
    let metadata = pod.metadata.clone().unwrap_or_default();
    format!("{}/{}", metadata.namespace, metadata.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(id: &str, namespace: &str, name: &str, state: PodSandboxState) -> PodSandbox {
        PodSandbox {
            id: id.to_owned(),
            metadata: Some(v1::PodSandboxMetadata {
                name: name.to_owned(),
                namespace: namespace.to_owned(),
                ..Default::default()
            }),
            state: state.into(),
            ..Default::default()
        }
    }

    fn container(id: &str, pod: &str, name: &str) -> Container {
        Container {
            id: id.to_owned(),
            pod_sandbox_id: pod.to_owned(),
            metadata: Some(v1::ContainerMetadata {
                name: name.to_owned(),
                attempt: 0,
            }),
            ..Default::default()
        }
    }

    fn node() -> Snapshot {
        use PodSandboxState::{SandboxNotready as NotReady, SandboxReady as Ready};
        Snapshot {
            pods: vec![
                pod("aa01", "default", "web", Ready),
                pod("aa02", "shop", "web", Ready),
                pod("bb01", "default", "db", NotReady),
                pod("bb02", "default", "db", Ready),
            ],
            containers: vec![
                container("cc01", "aa01", "main"),
                container("cc02", "bb02", "db"),
                container("cc03", "bb02", "main"),
                container("dd01", "bb02", "side"),
            ],
        }
    }

    #[test]
    fn a_pod_is_found_by_name_full_name_or_the_beginning_of_its_id() {
        let node = node();
        let found = |name| {
            node.pod(name)
                .map(|pod| pod.id.as_str())
                .map_err(|e| e.to_string())
        };
        assert_eq!(found("shop/web").unwrap(), "aa02");
        assert_eq!(found("db").unwrap(), "bb02");
        assert_eq!(found("aa01").unwrap(), "aa01");
        assert_eq!(
            found("web").unwrap_err(),
            "\"web\" may be default/web, shop/web: say more of it"
        );
        assert!(found("x").unwrap_err().starts_with("there is no pod \"x\""));
        assert!(found("").is_err());
    }

    #[test]
    fn a_container_needs_a_name_only_beside_others() {
        let node = node();
        let found = |pod, name| {
            let container = node.container(node.pod(pod).unwrap(), name);
            container.map(|c| c.id.as_str()).map_err(|e| e.to_string())
        };
        assert_eq!(found("default/web", None).unwrap(), "cc01");
        assert_eq!(found("db", Some("side")).unwrap(), "dd01");
        assert_eq!(
            found("db", None).unwrap_err(),
            "pod default/db has the containers db, main, side: name one of them"
        );
        assert!(found("db", Some("x")).is_err());
        assert!(found("shop/web", None).is_err());
    }

    #[test]
    fn a_name_means_a_pod_before_a_container() {
        let node = node();
        let found = |name| {
            node.any(name)
                .map(|n| n.id().to_owned())
                .map_err(|e| e.to_string())
        };
        assert_eq!(found("db").unwrap(), "bb02");
        assert_eq!(found("side").unwrap(), "dd01");
        assert_eq!(found("default/web/main").unwrap(), "cc01");
        assert_eq!(found("db/main").unwrap(), "cc03");
        assert_eq!(found("dd").unwrap(), "dd01");
        assert_eq!(
            found("main").unwrap_err(),
            "\"main\" may be container default/web/main, container default/db/main: say more of it"
        );
        assert!(found("zz").is_err());
    }
}
