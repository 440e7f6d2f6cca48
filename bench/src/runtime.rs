//! A runtime that is measured, and what is asked of it.

use crate::images::{BIG, WORK, WORKLOAD};
use crate::processes::{Tree, rss_bytes};
use anyhow::{Context, Result};
use crisp_cri_api::v1::image_service_client::ImageServiceClient;
use crisp_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use crisp_cri_api::v1::*;
use crisp_e2e::{Containerd, Node, container_config, image_spec, pod_config};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::net::UnixStream;
use tonic::transport::Channel;

/// What the kubelet gives a container to end by itself, in seconds.
const GRACE_S: i64 = 30;

/// Where `--endpoint` runtimes have their pods' cgroups and logs.
const FOREIGN_CGROUP: &str = "/crisp-bench";

/// The label of all pods, by which they are found again.
const LABEL: (&str, &str) = ("app", "crisp-bench");

#[derive(Debug)]
pub(crate) struct Runtime {
    pub(crate) name: String,
    pub(crate) version: String,
    /// The process that serves the CRI.
    pub(crate) daemon: i32,
    /// Its memory before it had any image or pod.
    pub(crate) rss_at_first_bytes: u64,
    channel: Channel,
    cgroup_parent: String,
    log_dir: PathBuf,
    pods: AtomicUsize,
    host: Host,
}

/// Who started it, and ends it.
#[derive(Debug)]
enum Host {
    Crisp(Node),
    Containerd(#[expect(dead_code, reason = "dropped in the end")] Containerd),
    Endpoint,
}

/// Whose network a pod has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    Own,
    Host,
}

/// A pod that runs.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) id: String,
    config: PodSandboxConfig,
}

/// A pod with a container that runs.
#[derive(Debug, Clone)]
pub(crate) struct Started {
    pub(crate) pod: Pod,
    pub(crate) container: String,
}

/// The answer, and the milliseconds that it took.
pub(crate) async fn timed<T>(work: impl Future<Output = Result<T>>) -> Result<(T, f64)> {
    let start = Instant::now();
    let answer = work.await?;
    Ok((answer, start.elapsed().as_secs_f64() * 1e3))
}

impl Runtime {
    /// A build of crisp, in directories of its own.
    pub(crate) async fn crisp(name: String, program: PathBuf) -> Result<Self> {
        let node = Node::start_wide(program).await?;
        let (socket, cgroup, logs) = (node.socket(), node.cgroup_parent(), node.log_dir());
        Self::connect(name, &socket, cgroup, logs, Host::Crisp(node)).await
    }

    pub(crate) async fn containerd() -> Result<Self> {
        let peer = Containerd::start().await?;
        let (socket, cgroup, logs) = (peer.socket(), peer.cgroup_parent(), peer.log_dir());
        let name = "containerd".to_owned();
        Self::connect(name, &socket, cgroup, logs, Host::Containerd(peer)).await
    }

    /// What listens at `[NAME=]unix:///PATH`.
    pub(crate) async fn endpoint(endpoint: &str) -> Result<Self> {
        let (name, address) = match endpoint.split_once("=unix://") {
            Some((name, path)) => (name.to_owned(), path),
            None => (String::new(), endpoint.trim_start_matches("unix://")),
        };
        let logs = std::env::temp_dir().join("crisp-bench-logs");
        let cgroup = FOREIGN_CGROUP.to_owned();
        Self::connect(name, Path::new(address), cgroup, logs, Host::Endpoint).await
    }

    async fn connect(
        name: String,
        socket: &Path,
        cgroup_parent: String,
        log_dir: PathBuf,
        host: Host,
    ) -> Result<Self> {
        let peer = UnixStream::connect(socket).await;
        let peer = peer
            .with_context(|| socket.display().to_string())?
            .peer_cred()?;
        let channel = crisp_cri_api::connect(socket).await?;
        let mut client = crisp_cri_api::runtime_client(channel.clone());
        let version = client
            .version(VersionRequest::default())
            .await?
            .into_inner();
        let daemon = peer.pid().context("a socket of another host")?;
        let own_name = version.runtime_name;
        let runtime = Self {
            version: format!("{own_name} {}", version.runtime_version),
            name: if name.is_empty() { own_name } else { name },
            daemon,
            rss_at_first_bytes: rss_bytes(daemon)?,
            channel,
            cgroup_parent,
            log_dir,
            pods: AtomicUsize::new(0),
            host,
        };
        runtime.pull(WORK).await.context(WORK)?;
        Ok(runtime)
    }

    /// Removes what measurements left, images for one; of crisp, nothing may be left.
    pub(crate) async fn finish(self) -> Result<()> {
        self.remove_images().await?;
        match self.host {
            Host::Crisp(node) => node.finish().await,
            Host::Containerd(_) => Ok(()),
            Host::Endpoint => Ok(fs::remove_dir_all(&self.log_dir)?),
        }
    }

    /// Removes what a measurement that failed has left to a runtime that goes on. Those that were started
    /// here end with all that they have.
    pub(crate) async fn abandon(self) {
        if matches!(self.host, Host::Endpoint)
            && let Err(error) = self.sweep().await
        {
            eprintln!("{}: something is left: {error:#}", self.name);
        }
    }

    async fn sweep(&self) -> Result<()> {
        let (label, value) = LABEL;
        let request = ListPodSandboxRequest {
            filter: Some(PodSandboxFilter {
                label_selector: [(label.to_owned(), value.to_owned())].into(),
                ..PodSandboxFilter::default()
            }),
        };
        let pods = self.client().list_pod_sandbox(request).await?.into_inner();
        for pod in pods.items {
            // Its containers go with it.
            self.stop_pod(&pod.id).await?;
            self.remove_pod(&pod.id).await?;
        }
        self.remove_images().await?;
        Ok(fs::remove_dir_all(&self.log_dir)?)
    }

    async fn remove_images(&self) -> Result<()> {
        for image in [WORK, BIG] {
            self.remove_image(image).await?;
        }
        Ok(())
    }

    pub(crate) fn client(&self) -> RuntimeServiceClient<Channel> {
        crisp_cri_api::runtime_client(self.channel.clone())
    }

    fn images(&self) -> ImageServiceClient<Channel> {
        crisp_cri_api::image_client(self.channel.clone())
    }

    pub(crate) async fn pull(&self, image: &str) -> Result<()> {
        let request = PullImageRequest {
            image: Some(image_spec(image)),
            ..PullImageRequest::default()
        };
        self.images().pull_image(request).await?;
        Ok(())
    }

    pub(crate) async fn remove_image(&self, image: &str) -> Result<()> {
        let request = RemoveImageRequest {
            image: Some(image_spec(image)),
        };
        self.images().remove_image(request).await?;
        Ok(())
    }

    /// The configuration of a pod that there is not yet. As the kubelet does, it makes the directory
    /// for its logs.
    pub(crate) fn new_pod(&self, network: Network) -> Result<PodSandboxConfig> {
        let number = self.pods.fetch_add(1, Ordering::Relaxed);
        let mut config = pod_config(
            &format!("bench-{number}"),
            &self.log_dir,
            &self.cgroup_parent,
        );
        let (label, value) = LABEL;
        config.labels.insert(label.to_owned(), value.to_owned());
        if network == Network::Host {
            config.hostname.clear();
            let linux = config.linux.get_or_insert_default();
            let security = linux.security_context.get_or_insert_default();
            security.namespace_options.get_or_insert_default().network = NamespaceMode::Node.into();
        }
        fs::create_dir_all(&config.log_directory)?;
        Ok(config)
    }

    pub(crate) async fn run_pod(&self, config: PodSandboxConfig) -> Result<Pod> {
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: String::new(),
        };
        let answer = self.client().run_pod_sandbox(request).await?.into_inner();
        let id = answer.pod_sandbox_id;
        Ok(Pod { id, config })
    }

    /// Creates a container that waits.
    pub(crate) async fn create(&self, pod: &Pod) -> Result<String> {
        self.create_with(pod, &WORKLOAD).await
    }

    pub(crate) async fn create_with(&self, pod: &Pod, command: &[&str]) -> Result<String> {
        let mut config = container_config("work", &pod.config);
        config.image = Some(image_spec(WORK));
        config.command = command.iter().map(|&word| word.to_owned()).collect();
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let answer = self.client().create_container(request).await?;
        Ok(answer.into_inner().container_id)
    }

    pub(crate) async fn start(&self, container: &str) -> Result<()> {
        let request = StartContainerRequest {
            container_id: container.to_owned(),
        };
        self.client().start_container(request).await?;
        Ok(())
    }

    /// All of the above.
    pub(crate) async fn start_pod(&self) -> Result<Started> {
        let pod = self.run_pod(self.new_pod(Network::Own)?).await?;
        let container = self.create(&pod).await?;
        self.start(&container).await?;
        Ok(Started { pod, container })
    }

    pub(crate) async fn stop(&self, container: &str) -> Result<()> {
        let request = StopContainerRequest {
            container_id: container.to_owned(),
            timeout: GRACE_S,
        };
        self.client().stop_container(request).await?;
        Ok(())
    }

    pub(crate) async fn stop_pod(&self, pod: &str) -> Result<()> {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: pod.to_owned(),
        };
        self.client().stop_pod_sandbox(request).await?;
        Ok(())
    }

    pub(crate) async fn remove(&self, container: &str) -> Result<()> {
        let request = RemoveContainerRequest {
            container_id: container.to_owned(),
        };
        self.client().remove_container(request).await?;
        Ok(())
    }

    pub(crate) async fn remove_pod(&self, pod: &str) -> Result<()> {
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: pod.to_owned(),
        };
        self.client().remove_pod_sandbox(request).await?;
        Ok(())
    }

    /// Stops and removes a pod and its container, as the kubelet does.
    pub(crate) async fn end_pod(&self, started: &Started) -> Result<()> {
        self.stop(&started.container).await?;
        self.stop_pod(&started.pod.id).await?;
        self.remove(&started.container).await?;
        self.remove_pod(&started.pod.id).await
    }

    pub(crate) async fn list_pods(&self) -> Result<()> {
        let request = ListPodSandboxRequest::default();
        self.client().list_pod_sandbox(request).await?;
        Ok(())
    }

    pub(crate) async fn list_containers(&self) -> Result<()> {
        let request = ListContainersRequest::default();
        self.client().list_containers(request).await?;
        Ok(())
    }

    pub(crate) async fn pod_status(&self, pod: &str) -> Result<()> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: pod.to_owned(),
            verbose: false,
        };
        self.client().pod_sandbox_status(request).await?;
        Ok(())
    }

    pub(crate) async fn container_status(&self, container: &str) -> Result<ContainerStatus> {
        let request = ContainerStatusRequest {
            container_id: container.to_owned(),
            verbose: false,
        };
        let answer = self.client().container_status(request).await?.into_inner();
        answer.status.context("an answer without a status")
    }

    /// Its processes for these pods, without its daemon and what runs in containers.
    pub(crate) async fn overhead(&self, pods: &[Started]) -> Result<Vec<i32>> {
        let (mut held, mut containers) = (Vec::new(), Vec::new());
        for started in pods {
            containers.push(self.container_pid(&started.container).await?);
            held.push(self.pod_pid(&started.pod).await?);
        }
        held.extend(&containers);
        Ok(Tree::now()?.overhead(self.daemon, &held, &containers))
    }

    async fn container_pid(&self, container: &str) -> Result<i32> {
        let request = ContainerStatusRequest {
            container_id: container.to_owned(),
            verbose: true,
        };
        pid(&self
            .client()
            .container_status(request)
            .await?
            .into_inner()
            .info)
    }

    async fn pod_pid(&self, pod: &Pod) -> Result<i32> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: pod.id.clone(),
            verbose: true,
        };
        pid(&self
            .client()
            .pod_sandbox_status(request)
            .await?
            .into_inner()
            .info)
    }

    /// The container's log.
    pub(crate) fn log_path(&self, pod: &Pod) -> PathBuf {
        Path::new(&pod.config.log_directory).join("work.log")
    }
}

/// What containerd, CRI-O and crisp all tell in verbose statuses.
fn pid(info: &BTreeMap<String, String>) -> Result<i32> {
    let info = info.get("info").context("a verbose status without info")?;
    let info: serde_json::Value = serde_json::from_str(info)?;
    let pid = info["pid"].as_i64().context("info without a pid")?;
    Ok(i32::try_from(pid)?)
}
