//! Pods and containers through the CRI, with configurations that are usual unless a test says more.

use crate::catalog::BUSYBOX;
use crate::kernel::{Cgroup, Process};
use crate::log::{LogLine, parse_log};
use crate::node::{Node, image_spec};
use crate::wait::until;
use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::*;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use tonic::Status;

/// A pod of a node.
#[derive(Debug)]
pub struct Pod<'a> {
    node: &'a Node,
    pub id: String,
    pub config: PodSandboxConfig,
}

/// A container of a pod.
#[derive(Debug)]
pub struct Container<'a> {
    node: &'a Node,
    pub id: String,
    log_path: PathBuf,
}

/// What a command in a container printed and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

/// Makes a shell run a script as the container's command.
#[must_use]
pub fn sh(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}

/// What confines a container, to be changed.
pub fn security(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    config
        .linux
        .get_or_insert_default()
        .security_context
        .get_or_insert_default()
}

/// The limits of a container, to be changed.
pub fn resources(config: &mut ContainerConfig) -> &mut LinuxContainerResources {
    config
        .linux
        .get_or_insert_default()
        .resources
        .get_or_insert_default()
}

/// As the kubelet sends it for a pod without wishes.
#[must_use]
pub fn pod_config(name: &str, log_dir: &Path, cgroup_parent: &str) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: log_dir.join(name).display().to_string(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent.to_owned(),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces()),
                ..LinuxSandboxSecurityContext::default()
            }),
            ..LinuxPodSandboxConfig::default()
        }),
        ..PodSandboxConfig::default()
    }
}

/// Gives a pod a user namespace: users from 1,000,000 and groups from 2,000,000 of the host's.
pub fn own_users(config: &mut PodSandboxConfig) {
    let mapping = |host_id| IdMapping {
        container_id: 0,
        host_id,
        length: 65536,
    };
    let linux = config.linux.get_or_insert_default();
    let security = linux.security_context.get_or_insert_default();
    let namespaces = security.namespace_options.get_or_insert_default();
    namespaces.userns_options = Some(UserNamespace {
        mode: NamespaceMode::Pod.into(),
        uids: vec![mapping(1_000_000)],
        gids: vec![mapping(2_000_000)],
    });
}

/// Lets a pod have privileged containers.
pub fn allow_privileged(config: &mut PodSandboxConfig) {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().privileged = true;
}

/// Gives a pod the node's port of the host, for its port 80.
pub fn with_host_port(node: &Node) -> impl Fn(&mut PodSandboxConfig) + use<> {
    let host_port = node.host_port();
    move |config| {
        config.port_mappings.push(PortMapping {
            container_port: 80,
            host_port: host_port.into(),
            ..PortMapping::default()
        });
    }
}

/// Gives a pod's containers this pid namespace.
pub fn pid_mode(mode: NamespaceMode) -> impl Fn(&mut PodSandboxConfig) {
    move |config| {
        let linux = config.linux.get_or_insert_default();
        let security = linux.security_context.get_or_insert_default();
        security.namespace_options = Some(NamespaceOption {
            pid: mode.into(),
            ..NamespaceOption::default()
        });
    }
}

/// The kubelet's default: processes of one container do not see those of another.
fn namespaces() -> NamespaceOption {
    NamespaceOption {
        pid: NamespaceMode::Container.into(),
        ..NamespaceOption::default()
    }
}

/// As the kubelet sends it for a container without wishes, which sleeps.
#[must_use]
pub fn container_config(name: &str, pod: &PodSandboxConfig) -> ContainerConfig {
    // The same namespaces are sent for the pod and each of its containers.
    let pod_security = pod
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref());
    let namespace_options = pod_security.and_then(|security| security.namespace_options.clone());
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(image_spec(BUSYBOX)),
        command: ["sleep", "1000000"].map(str::to_owned).to_vec(),
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options,
                ..LinuxContainerSecurityContext::default()
            }),
            ..LinuxContainerConfig::default()
        }),
        ..ContainerConfig::default()
    }
}

impl<'a> Pod<'a> {
    /// A pod that is there already.
    #[must_use]
    pub fn new(node: &'a Node, id: String, config: PodSandboxConfig) -> Self {
        Self { node, id, config }
    }

    /// A container of it that is there already, which logs to a file of its name.
    #[must_use]
    pub fn container(&self, name: &str, id: String) -> Container<'a> {
        let log_path = Path::new(&self.config.log_directory).join(format!("{name}.log"));
        Container {
            node: self.node,
            id,
            log_path,
        }
    }

    /// Creates a container. Its configuration is a usual one, as `edit` changes it.
    ///
    /// # Errors
    /// CreateContainer's.
    pub async fn create(
        &self,
        name: &str,
        edit: impl FnOnce(&mut ContainerConfig),
    ) -> Result<Container<'a>, Status> {
        let mut config = container_config(name, &self.config);
        edit(&mut config);
        let log_path = Path::new(&self.config.log_directory).join(&config.log_path);
        let request = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let id = self
            .node
            .runtime()
            .create_container(request)
            .await?
            .into_inner()
            .container_id;
        Ok(Container {
            node: self.node,
            id,
            log_path,
        })
    }

    /// Creates a container and starts it.
    ///
    /// # Errors
    /// CreateContainer's or StartContainer's.
    pub async fn start(
        &self,
        name: &str,
        edit: impl FnOnce(&mut ContainerConfig),
    ) -> Result<Container<'a>, Status> {
        let container = self.create(name, edit).await?;
        container.start().await?;
        Ok(container)
    }

    /// # Errors
    /// PodSandboxStatus's.
    pub async fn status(&self) -> Result<PodSandboxStatus> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: self.id.clone(),
            verbose: false,
        };
        let answer = self.node.runtime().pod_sandbox_status(request).await?;
        answer
            .into_inner()
            .status
            .context("PodSandboxStatus without a status")
    }

    /// The pod's addresses, the first one first.
    ///
    /// # Errors
    /// PodSandboxStatus's, or an address is none.
    pub async fn addresses(&self) -> Result<Vec<IpAddr>> {
        let network = self.status().await?.network.unwrap_or_default();
        let others = network.additional_ips.into_iter().map(|other| other.ip);
        let addresses = [network.ip]
            .into_iter()
            .filter(|ip| !ip.is_empty())
            .chain(others);
        addresses.map(|address| Ok(address.parse()?)).collect()
    }

    /// The first address of one family.
    ///
    /// # Errors
    /// The pod has none.
    pub async fn address(&self, wanted: impl Fn(&IpAddr) -> bool) -> Result<IpAddr> {
        let addresses = self.addresses().await?;
        addresses
            .iter()
            .copied()
            .find(wanted)
            .with_context(|| format!("pod has only {addresses:?}"))
    }

    /// Its figures.
    ///
    /// # Errors
    /// PodSandboxStats's.
    pub async fn stats(&self) -> Result<PodSandboxStats> {
        let request = PodSandboxStatsRequest {
            pod_sandbox_id: self.id.clone(),
        };
        let answer = self.node.runtime().pod_sandbox_stats(request).await?;
        answer.into_inner().stats.context("no figures of the pod")
    }

    /// Its network namespace, unless the daemon was told another place.
    #[must_use]
    pub fn netns(&self) -> PathBuf {
        self.node.netns_dir().join(format!("crisp-{}", self.id))
    }

    /// # Errors
    /// StopPodSandbox's.
    pub async fn stop(&self) -> Result<(), Status> {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: self.id.clone(),
        };
        self.node
            .runtime()
            .stop_pod_sandbox(request)
            .await
            .map(drop)
    }

    /// # Errors
    /// RemovePodSandbox's.
    pub async fn remove(&self) -> Result<(), Status> {
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: self.id.clone(),
        };
        self.node
            .runtime()
            .remove_pod_sandbox(request)
            .await
            .map(drop)
    }
}

impl Container<'_> {
    /// # Errors
    /// StartContainer's.
    pub async fn start(&self) -> Result<(), Status> {
        let request = StartContainerRequest {
            container_id: self.id.clone(),
        };
        self.node.runtime().start_container(request).await.map(drop)
    }

    /// # Errors
    /// StopContainer's.
    pub async fn stop(&self, timeout_s: i64) -> Result<(), Status> {
        let request = StopContainerRequest {
            container_id: self.id.clone(),
            timeout: timeout_s,
        };
        self.node.runtime().stop_container(request).await.map(drop)
    }

    /// # Errors
    /// RemoveContainer's.
    pub async fn remove(&self) -> Result<(), Status> {
        let request = RemoveContainerRequest {
            container_id: self.id.clone(),
        };
        self.node
            .runtime()
            .remove_container(request)
            .await
            .map(drop)
    }

    /// # Errors
    /// ContainerStatus's.
    pub async fn status(&self) -> Result<ContainerStatus> {
        let request = ContainerStatusRequest {
            container_id: self.id.clone(),
            verbose: false,
        };
        let answer = self.node.runtime().container_status(request).await?;
        answer
            .into_inner()
            .status
            .context("ContainerStatus without a status")
    }

    /// Its first process, as the host sees it.
    ///
    /// # Errors
    /// It does not run.
    pub async fn process(&self) -> Result<Process> {
        self.node.process_of(&self.id).await
    }

    /// Its cgroup in the hierarchy of a controller, or in the one hierarchy of version 2.
    ///
    /// # Errors
    /// It does not run.
    pub async fn cgroup(&self, controller: &str) -> Result<Cgroup> {
        self.process().await?.cgroup(controller)
    }

    /// Its figures.
    ///
    /// # Errors
    /// ContainerStats's.
    pub async fn stats(&self) -> Result<ContainerStats> {
        let request = ContainerStatsRequest {
            container_id: self.id.clone(),
        };
        let answer = self.node.runtime().container_stats(request).await?;
        let stats = answer.into_inner().stats;
        stats.context("no figures of the container")
    }

    /// Changes its limits in place; what `edit` does not set stays as it is.
    ///
    /// # Errors
    /// UpdateContainerResources's.
    pub async fn update(
        &self,
        edit: impl FnOnce(&mut LinuxContainerResources),
    ) -> Result<(), Status> {
        let mut update = LinuxContainerResources::default();
        edit(&mut update);
        let request = UpdateContainerResourcesRequest {
            container_id: self.id.clone(),
            linux: Some(update),
            ..UpdateContainerResourcesRequest::default()
        };
        self.node
            .runtime()
            .update_container_resources(request)
            .await
            .map(drop)
    }

    /// The limits that its status tells.
    ///
    /// # Errors
    /// ContainerStatus's.
    pub async fn limits(&self) -> Result<LinuxContainerResources> {
        let resources = self.status().await?.resources;
        resources
            .and_then(|resources| resources.linux)
            .context("a status without limits")
    }

    /// Waits until its first process has ended.
    ///
    /// # Errors
    /// It goes on running.
    pub async fn wait_exit(&self) -> Result<ContainerStatus> {
        let exited = async || {
            self.status()
                .await
                .ok()
                .filter(|status| status.state() == ContainerState::ContainerExited)
        };
        until("the container exits", exited).await
    }

    /// Runs a command in it, with 30 seconds to end.
    ///
    /// # Errors
    /// ExecSync's.
    pub async fn exec(&self, command: &[&str]) -> Result<Executed, Status> {
        self.exec_for(30, command).await
    }

    /// Runs a command in it; zero seconds are without end.
    ///
    /// # Errors
    /// ExecSync's.
    pub async fn exec_for(&self, timeout_s: i64, command: &[&str]) -> Result<Executed, Status> {
        let request = ExecSyncRequest {
            container_id: self.id.clone(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout: timeout_s,
        };
        let answer = self.node.runtime().exec_sync(request).await?.into_inner();
        Ok(Executed {
            stdout: String::from_utf8_lossy(&answer.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&answer.stderr).into_owned(),
            code: answer.exit_code,
        })
    }

    /// What a shell script prints in it, without the last line's end.
    ///
    /// # Errors
    /// ExecSync's, or the script fails.
    pub async fn sh(&self, script: &str) -> Result<String> {
        let done = self
            .exec(&["sh", "-c", script])
            .await
            .with_context(|| format!("exec of {script:?}"))?;
        ensure!(done.code == 0, "{script:?}: {done:?}");
        Ok(done.stdout.trim_end().to_owned())
    }

    /// Makes an empty file in it, which its first process waits for. It is the host that does: a command
    /// in the container might be ended by what its file sets off, before it has ended by itself.
    ///
    /// # Errors
    /// It does not run, or its root does not take the file.
    pub async fn let_go(&self, path: &str) -> Result<()> {
        let file = format!("/proc/{}/root{path}", self.process().await?.0);
        fs::write(&file, "").context(file)
    }

    /// Where its log is.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log_path
    }

    /// All lines of its log so far.
    ///
    /// # Errors
    /// There is no log.
    pub fn log(&self) -> Result<Vec<LogLine>> {
        let log = fs::read_to_string(&self.log_path)
            .with_context(|| self.log_path.display().to_string())?;
        Ok(parse_log(&log))
    }

    /// Waits until a line of its log has a text in it.
    ///
    /// # Errors
    /// No line has.
    pub async fn wait_log(&self, text: &str) -> Result<LogLine> {
        let written = async || {
            self.log()
                .ok()?
                .into_iter()
                .find(|line| line.text.contains(text))
        };
        until(&format!("{text:?} in the log"), written).await
    }
}
