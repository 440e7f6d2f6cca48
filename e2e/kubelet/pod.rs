//! A static pod: its manifest in the kubelet's directory, and its status as the kubelet tells it.

use crate::kubelet::{Kubelet, NODE_NAME};
use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::PodSandboxState;
use crisp_e2e::Output;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

/// A pod of a kubelet, which is to end it when this is dropped.
#[derive(Debug)]
pub(crate) struct StaticPod<'a> {
    kubelet: &'a Kubelet,
    /// As the kubelet calls it.
    name: String,
    manifest: PathBuf,
}

impl<'a> StaticPod<'a> {
    pub(crate) fn write(kubelet: &'a Kubelet, name: &str, manifest: &Value) -> Result<Self> {
        let path = kubelet.manifest_path(name);
        // Complete when the kubelet first sees it; it does not read names that begin with a dot.
        let beside = kubelet.manifest_path(&format!(".{name}"));
        fs::write(&beside, manifest.to_string())?;
        fs::rename(&beside, &path)?;
        Ok(Self {
            kubelet,
            name: format!("{name}-{NODE_NAME}"),
            manifest: path,
        })
    }

    /// As the kubelet calls it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// All that the kubelet tells of it; nothing when it does not know it, or no longer.
    pub(crate) async fn object(&self) -> Result<Option<Value>> {
        let pods = self.kubelet.get_json("/pods").await?;
        let items = pods["items"].as_array().cloned().unwrap_or_default();
        Ok(items
            .into_iter()
            .find(|pod| pod["metadata"]["name"] == self.name))
    }

    /// Waits until something can be said of it.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        mut ask: impl FnMut(&Value) -> Option<T>,
    ) -> Result<T> {
        let mut last = Value::Null;
        let answer = self
            .kubelet
            .until(what, async || {
                last = self.object().await.ok().flatten()?;
                ask(&last)
            })
            .await;
        answer.with_context(|| format!("{}: {}", self.name, last["status"]))
    }

    /// Waits until all containers are ready.
    pub(crate) async fn ready(&self) -> Result<Value> {
        self.until("the pod is ready", |pod| {
            condition(pod, "Ready").then(|| pod.clone())
        })
        .await
    }

    /// Waits until it has come to an end, well or not.
    pub(crate) async fn ended(&self) -> Result<Value> {
        self.until("the pod ends", |pod| {
            let phase = pod["status"]["phase"].as_str()?;
            ["Succeeded", "Failed"]
                .contains(&phase)
                .then(|| pod.clone())
        })
        .await
    }

    /// Runs a command in a container, over SPDY as the API server does; it has to succeed.
    pub(crate) async fn exec(&self, container: &str, script: &str) -> Result<String> {
        let output = self.try_exec(container, script).await?;
        ensure!(output.code == Some(0), "{script}: {output:?}");
        Ok(output.stdout)
    }

    /// The same, whatever comes of it.
    pub(crate) async fn try_exec(&self, container: &str, script: &str) -> Result<Output> {
        let arguments = ["exec", &self.name, container, "sh", "-c", script];
        self.kubelet.client(&arguments, "").await
    }

    /// What a container has logged so far.
    pub(crate) async fn logs(&self, container: &str) -> Result<String> {
        let path = format!("/containerLogs/default/{}/{container}", self.name);
        let output = self.kubelet.client(&["get", &path], "").await?;
        ensure!(output.code == Some(0), "{output:?}");
        Ok(output.stdout)
    }

    /// Takes the manifest away, and waits until the kubelet has ended the pod.
    pub(crate) async fn remove(self) -> Result<()> {
        fs::remove_file(&self.manifest)?;
        self.kubelet
            .until("the pod has ended", async || {
                let runs = self.runs().await.ok()?;
                (!runs).then_some(())
            })
            .await
            .with_context(|| self.name.clone())
    }

    /// Whether the runtime has it ready: the kubelet forgets a static pod before it ends it.
    async fn runs(&self) -> Result<bool> {
        let pods = self.kubelet.node.pods().await?;
        Ok(pods.iter().any(|pod| {
            let name = pod.metadata.as_ref().map(|metadata| &metadata.name);
            name == Some(&self.name) && pod.state() == PodSandboxState::SandboxReady
        }))
    }
}

impl Drop for StaticPod<'_> {
    fn drop(&mut self) {
        // Removed already at best.
        let _ = fs::remove_file(&self.manifest);
    }
}

/// Whether a condition of a pod is true.
pub(crate) fn condition(pod: &Value, kind: &str) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|condition| condition["type"] == kind && condition["status"] == "True")
    })
}

/// What the status of a pod says of one of its containers, of whatever kind.
pub(crate) fn container<'p>(pod: &'p Value, name: &str) -> Result<&'p Value> {
    let lists = ["containerStatuses", "initContainerStatuses"];
    lists
        .iter()
        .filter_map(|list| pod["status"][list].as_array())
        .flatten()
        .find(|status| status["name"] == name)
        .with_context(|| format!("no status of {name}: {}", pod["status"]))
}
