//! A kubelet without an API server: what it is configured with, its process, and what it answers.

use crate::pod::StaticPod;
use anyhow::{Context, Result, ensure};
use crisp_e2e::{
    FiguresFrom, HostSysctls, KubeletProcess, Node, Output, fed, free_address, http_get, tools,
    until_within,
};
use serde_json::{Value, json};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Longer than anything a kubelet waits for: it looks for images to remove every five minutes.
const PATIENCE: Duration = Duration::from_secs(400);
const STEP: Duration = Duration::from_millis(200);
/// What it calls itself; the names of static pods end with it.
pub(crate) const NODE_NAME: &str = "e2e";
/// On the node before the kubelet is, and of no use to anybody.
pub(crate) const UNUSED_IMAGE: &str = "registry.k8s.io/e2e/user-uid:1";
/// `podPidsLimit`: of all processes of a pod.
pub(crate) const POD_PIDS_LIMIT: u32 = 64;

/// A kubelet on a node. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Kubelet {
    process: KubeletProcess,
    pub(crate) node: Node,
    dir: PathBuf,
    logs: PathBuf,
    serving: SocketAddr,
    reading: SocketAddr,
    // Put back when dropped: after the process.
    _sysctls: HostSysctls,
}

impl Kubelet {
    /// Starts it on a node, and waits until it answers.
    pub(crate) async fn start(node: Node) -> Result<Self> {
        let dir = node.scratch()?.join("kubelet");
        for name in ["manifests", "shared"] {
            fs::create_dir_all(dir.join(name))?;
        }
        let logs = tools::program("tools").with_file_name("kubelet");
        fs::create_dir_all(&logs)?;
        let sysctls = HostSysctls::keep()?;
        let free_address = || free_address(Ipv4Addr::LOCALHOST);
        let (serving, reading) = (free_address()?, free_address()?);
        let arguments = ["--hostname-override", NODE_NAME].map(str::to_owned);
        let log = logs.join("kubelet.log");
        let config = config(&dir.join("manifests"), serving, reading);
        let process = KubeletProcess::configure(&node, &dir, &arguments, log, config)?;
        let kubelet = Self {
            process,
            node,
            dir,
            logs,
            serving,
            reading,
            _sysctls: sysctls,
        };
        kubelet.node.pull(UNUSED_IMAGE).await?;
        kubelet.run().await?;
        Ok(kubelet)
    }

    /// Starts the process, and waits until it answers.
    pub(crate) async fn run(&self) -> Result<()> {
        let answers = async || http_get(self.reading, "/pods").await.is_ok();
        self.process.service.start(answers).await
    }

    /// Kills the process, as a crash would.
    pub(crate) fn kill(&self) -> Result<()> {
        self.process.service.kill()
    }

    /// Starts it anew with its figures from elsewhere.
    pub(crate) async fn have_figures_from(&self, figures: FiguresFrom) -> Result<()> {
        self.kill()?;
        self.process.have_figures_from(&self.node, figures)?;
        self.run().await
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
        self.kill()?;
        fs::copy(self.node.log_path(), self.logs.join("crisp.log"))?;
        self.node.remove_pods().await?;
        drop(self.process);
        self.node.finish().await
    }
}

/// What it is told beside what every kubelet is.
fn config(manifests: &Path, serving: SocketAddr, reading: SocketAddr) -> Value {
    json!({
        "staticPodPath": manifests,
        "address": serving.ip(),
        "port": serving.port(),
        "readOnlyPort": reading.port(),
        "podPidsLimit": POD_PIDS_LIMIT,
        "fileCheckFrequency": "1s",
        "containerLogMaxSize": "64Ki",
        "containerLogMaxFiles": 3,
        "containerLogMonitorInterval": "3s",
        // Images nobody uses are collected whenever the disk is fuller than that.
        "imageGCHighThresholdPercent": 1,
        "imageGCLowThresholdPercent": 0,
        "imageMinimumGCAge": "1s",
    })
}
