//! What the kubelet's cAdvisor asks about the cgroups that it finds: whose they are, and which process
//! has the pod's network. It knows how to ask containerd and CRI-O only, so crisp answers the three
//! calls that it makes of containerd's, on the socket of the CRI: a kubelet that is started with
//! `--containerd=<that socket>` tells of pods' networks and labels its metrics. Nothing can be changed
//! by these calls.
//!
//! A pod is told as its pause, whose cgroup has the pod's id for a name.

use crate::error::of_engine;
use crate::{Reply, reply};
use crisp_cri_api::containerd::containers::containers_server::Containers;
use crisp_cri_api::containerd::containers::{
    Container, GetContainerRequest, GetContainerResponse, Spec,
};
use crisp_cri_api::containerd::tasks::tasks_server::Tasks;
use crisp_cri_api::containerd::tasks::{GetRequest, GetResponse, Process, Status as TaskStatus};
use crisp_cri_api::containerd::version::version_server::Version;
use crisp_cri_api::containerd::version::{VersionRequest, VersionResponse};
use crisp_engine::{ContainerView, Engine, Error, Kind, PodView};
use crisp_model::{ContainerState, PodState, StringMap};
use std::sync::Arc;
use tonic::{Request, Status};

/// Tells cAdvisor the pause of a pod, which alone counts for the network, from other containers.
const KIND_LABEL: &str = "io.cri-containerd.kind";
/// cAdvisor looks for environment variables in it; there are none to show.
const SPEC: &[u8] = br#"{"process":{"env":[]}}"#;

/// Serves cAdvisor from an engine.
#[derive(Debug, Clone)]
pub(crate) struct Cadvisor {
    engine: Arc<Engine>,
}

/// What is told of a container, or of a pod as its pause.
struct Facts {
    kind: &'static str,
    labels: StringMap,
    image: String,
    /// None: not started yet.
    process: Option<Process>,
}

impl Cadvisor {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    /// By the whole id: cgroups are not named by less.
    fn find(&self, id: &str) -> Result<Facts, Status> {
        if let Ok(container) = self.engine.container(id)
            && container.id.as_str() == id
        {
            return Ok(of_container(&container));
        }
        match self.engine.pod(id) {
            Ok(pod) if pod.id.as_str() == id => Ok(self.of_pod(&pod)),
            _ => Err(not_found(id)),
        }
    }

    fn of_pod(&self, pod: &PodView) -> Facts {
        let id = pod.id.to_string();
        let process = match (pod.state, pod.pause_pid) {
            (_, Some(pid)) => Some(running(id, pid)),
            // cAdvisor asks again: it sees the cgroup before there is a process.
            (PodState::Starting, None) => None,
            (PodState::Ready | PodState::NotReady, None) => Some(stopped(id, 0)),
        };
        Facts {
            kind: "sandbox",
            labels: pod.config.labels.clone(),
            image: self.engine.config().sandbox_image.clone(),
            process,
        }
    }
}

fn of_container(container: &ContainerView) -> Facts {
    let id = container.id.to_string();
    Facts {
        kind: "container",
        labels: container.config.labels.clone(),
        image: container.config.image.name().to_owned(),
        process: match &container.state {
            ContainerState::Created => None,
            ContainerState::Running(facts) => Some(running(id, facts.pid)),
            ContainerState::Exited(facts) => Some(stopped(id, facts.reason.exit_code())),
        },
    }
}

fn running(id: String, pid: u32) -> Process {
    Process {
        id,
        pid,
        status: TaskStatus::Running.into(),
        exit_status: 0,
    }
}

fn stopped(id: String, exit_code: i32) -> Process {
    Process {
        id,
        pid: 0,
        status: TaskStatus::Stopped.into(),
        exit_status: exit_code.cast_unsigned(),
    }
}

fn not_found(id: &str) -> Status {
    of_engine(Error::NotFound {
        kind: Kind::Container,
        id: id.to_owned(),
    })
}

#[tonic::async_trait]
impl Containers for Cadvisor {
    async fn get(&self, request: Request<GetContainerRequest>) -> Reply<GetContainerResponse> {
        let id = request.into_inner().id;
        let facts = self.find(&id)?;
        let kind = (KIND_LABEL.to_owned(), facts.kind.to_owned());
        reply(GetContainerResponse {
            container: Some(Container {
                id,
                labels: facts.labels.into_iter().chain([kind]).collect(),
                image: facts.image,
                spec: Some(Spec {
                    type_url: String::new(),
                    value: SPEC.to_vec(),
                }),
            }),
        })
    }
}

#[tonic::async_trait]
impl Tasks for Cadvisor {
    async fn get(&self, request: Request<GetRequest>) -> Reply<GetResponse> {
        let id = request.into_inner().container_id;
        let process = self.find(&id)?.process;
        let process = process.ok_or_else(|| not_found(&id))?;
        reply(GetResponse {
            process: Some(process),
        })
    }
}

#[tonic::async_trait]
impl Version for Cadvisor {
    async fn version(&self, _: Request<VersionRequest>) -> Reply<VersionResponse> {
        reply(VersionResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: String::new(),
        })
    }
}
