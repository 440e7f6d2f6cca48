//! A kubelet without an API server: what it is configured with, its process, and what it answers.

use crate::host::Host;
use crate::pod::StaticPod;
use anyhow::{Context, Result, anyhow, ensure};
use crisp_e2e::{Node, Output, fed, http_get, tools, until_within};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::process::{Child, Command};

/// Longer than anything a kubelet waits for: it looks for images to remove every five minutes.
const PATIENCE: Duration = Duration::from_secs(400);
const STEP: Duration = Duration::from_millis(200);
/// What it calls itself; the names of static pods end with it.
pub(crate) const NODE_NAME: &str = "e2e";
/// On the node before the kubelet is, and of no use to anybody.
pub(crate) const UNUSED_IMAGE: &str = "registry.k8s.io/e2e/user-uid:1";
/// `podPidsLimit`: of all processes of a pod.
pub(crate) const POD_PIDS_LIMIT: u32 = 64;

/// Where a kubelet has the figures of pods from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figures {
    /// The cAdvisor that is built in, which asks crisp whose cgroups it looks at.
    Cadvisor,
    /// The CRI: the feature `PodAndContainerStatsFromCRI`.
    Runtime,
}

/// A kubelet on a node. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Kubelet {
    pub(crate) node: Node,
    dir: PathBuf,
    logs: PathBuf,
    serving: SocketAddr,
    reading: SocketAddr,
    process: Mutex<Option<Child>>,
    figures: Mutex<Figures>,
    host: Host,
}

impl Kubelet {
    /// Starts it on a node, and waits until it answers.
    pub(crate) async fn start(node: Node) -> Result<Self> {
        let dir = node.scratch()?.join("kubelet");
        for name in ["pods", "manifests", "logs", "shared"] {
            fs::create_dir_all(dir.join(name))?;
        }
        let host = Host::prepare(dir.join("root"), &node.cgroup_parent())?;
        let logs = tools::program("tools").with_file_name("kubelet");
        fs::create_dir_all(&logs)?;
        File::create(logs.join("kubelet.log"))?;
        let kubelet = Self {
            dir,
            logs,
            serving: free_address()?,
            reading: free_address()?,
            process: Mutex::new(None),
            figures: Mutex::new(Figures::Cadvisor),
            host,
            node,
        };
        kubelet.node.pull(UNUSED_IMAGE).await?;
        kubelet.configure()?;
        kubelet.run().await?;
        Ok(kubelet)
    }

    /// Writes its configuration, which it reads when it starts.
    fn configure(&self) -> Result<()> {
        Ok(fs::write(self.config_path(), self.config().to_string())?)
    }

    /// Starts the process, and waits until it answers.
    pub(crate) async fn run(&self) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        let mut command = Command::new(tools::program("tools/kubernetes/kubelet"));
        if self.figures() == Figures::Cadvisor {
            command.arg("--containerd").arg(self.node.socket());
        }
        let child = command
            .arg("--config")
            .arg(self.config_path())
            .arg("--root-dir")
            .arg(self.dir.join("root"))
            .arg("--cert-dir")
            .arg(self.dir.join("pki"))
            .args(["--hostname-override", NODE_NAME, "--v=2"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("start of the kubelet")?;
        self.process().replace(child);
        let answer = self.until("the kubelet answers", async || {
            if let Ok(Some(status)) = self.process().as_mut()?.try_wait() {
                return Some(Err(anyhow!("the kubelet ended: {status}")));
            }
            http_get(self.reading, "/pods").await.ok().map(Ok)
        });
        let answer = answer.await.and_then(|answer| answer);
        let log = self.log_path();
        answer.map(drop).with_context(|| log.display().to_string())
    }

    /// Kills the process, as a crash would.
    pub(crate) async fn kill(&self) -> Result<()> {
        let child = self.process().take();
        let mut child = child.context("the kubelet does not run")?;
        Ok(child.kill().await?)
    }

    /// Starts it anew with its figures from elsewhere.
    pub(crate) async fn have_figures_from(&self, figures: Figures) -> Result<()> {
        self.kill().await?;
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner) = figures;
        self.configure()?;
        self.run().await
    }

    fn figures(&self) -> Figures {
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands it a static pod: what a manifest says under `spec`.
    pub(crate) fn add(&self, name: &str, spec: Value) -> Result<StaticPod<'_>> {
        self.add_with(name, json!({}), spec)
    }

    /// The same with annotations.
    pub(crate) fn add_with(
        &self,
        name: &str,
        annotations: Value,
        spec: Value,
    ) -> Result<StaticPod<'_>> {
        let manifest = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "annotations": annotations},
            "spec": spec,
        });
        StaticPod::write(self, name, &manifest)
    }

    pub(crate) fn manifest_path(&self, name: &str) -> PathBuf {
        self.dir.join("manifests").join(format!("{name}.json"))
    }

    /// A directory of the host that pods mount.
    pub(crate) fn shared(&self) -> PathBuf {
        self.dir.join("shared")
    }

    /// Where the log files of containers are.
    pub(crate) fn pod_logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// Where the kubelet's log stays, for a person to look into.
    fn log_path(&self) -> PathBuf {
        self.logs.join("kubelet.log")
    }

    /// What it answers on its port for everybody.
    pub(crate) async fn get(&self, path: &str) -> Result<String> {
        let answer = http_get(self.reading, path).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no body")?;
        ensure!(head.contains(" 200 "), "{path}: {head}");
        Ok(body.to_owned())
    }

    /// The same as JSON.
    pub(crate) async fn get_json(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.get(path).await?)?)
    }

    /// Asks it as the API server would.
    pub(crate) async fn client(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let client = Command::new(tools::program("tools/kubernetes/kubelet-client"))
            .args(["-kubelet", &format!("https://{}", self.serving)])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        tokio::time::timeout(PATIENCE, fed(client, input)).await?
    }

    /// Asks until there is an answer, as long as a kubelet may take.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        ask: impl AsyncFnMut() -> Option<T>,
    ) -> Result<T> {
        until_within(PATIENCE, STEP, what, ask).await
    }

    /// Removes everything of the kubelet's and of its pods, and checks that nothing is left.
    pub(crate) async fn finish(self) -> Result<()> {
        self.kill().await?;
        fs::copy(self.node.log_path(), self.logs.join("crisp.log"))?;
        self.node.remove_pods().await?;
        self.host.remove_leftovers();
        self.node.finish().await
    }

    fn process(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn config_path(&self) -> PathBuf {
        self.dir.join("config.json")
    }

    fn config(&self) -> Value {
        let path = |name: &str| self.dir.join(name);
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": endpoint(&self.node.socket()),
            "featureGates": {"PodAndContainerStatsFromCRI": self.figures() == Figures::Runtime},
            "staticPodPath": path("manifests"),
            "podLogsDir": path("logs"),
            "volumePluginDir": path("plugins"),
            "address": "127.0.0.1",
            "port": self.serving.port(),
            "readOnlyPort": self.reading.port(),
            "healthzPort": 0,
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.node.cgroup_parent(),
            "enforceNodeAllocatable": ["pods"],
            "failCgroupV1": false,
            "failSwapOn": false,
            "makeIPTablesUtilChains": false,
            "podPidsLimit": POD_PIDS_LIMIT,
            "fileCheckFrequency": "1s",
            "syncFrequency": "5s",
            "containerLogMaxSize": "64Ki",
            "containerLogMaxFiles": 3,
            "containerLogMonitorInterval": "3s",
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%"},
            // Images nobody uses are collected whenever the disk is fuller than that.
            "imageGCHighThresholdPercent": 1,
            "imageGCLowThresholdPercent": 0,
            "imageMinimumGCAge": "1s",
            "serializeImagePulls": false,
            "maxParallelImagePulls": 4,
        })
    }
}

fn endpoint(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

/// Free at the moment.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
