//! A cluster of two nodes.

use crate::control::ControlPlane;
use crate::images;
use crate::kubectl::Kubectl;
use crate::names;
use crate::network::{self, CONTROL};
use crate::worker::Worker;
use anyhow::{Context, Result};
use crisp_e2e::{HostSysctls, Registry, tools, until_within};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Longer than anything that Kubernetes waits for here.
const PATIENCE: Duration = Duration::from_secs(300);
const STEP: Duration = Duration::from_millis(500);
const NODES: u8 = 2;

/// One that runs; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) workers: Vec<Worker>,
    pub(crate) kubectl: Kubectl,
    control: ControlPlane,
    // Put back when dropped: after the kubelets.
    _sysctls: HostSysctls,
}

impl Cluster {
    /// Starts it, and waits until its name server answers.
    pub(crate) async fn start() -> Result<Self> {
        let sysctls = HostSysctls::keep()?;
        network::make_bridge()?;
        images::publish(Registry::shared_at(CONTROL));
        let logs = tools::program("tools").with_file_name("cluster");
        fs::create_dir_all(&logs)?;
        let control = ControlPlane::start(&logs).await?;
        let kubectl = Kubectl::new(control.kubeconfig("admin"));
        let mut cluster = Self {
            workers: Vec::new(),
            kubectl,
            control,
            _sysctls: sysctls,
        };
        for number in 1..=NODES {
            cluster.add_worker(number, &logs).await?;
        }
        cluster.serve_names().await?;
        Ok(cluster)
    }

    async fn add_worker(&mut self, number: u8, logs: &Path) -> Result<()> {
        let worker = Worker::start(&self.control, number, logs).await?;
        let name = worker.name();
        let ready = format!("--for=condition=Ready node/{name}");
        until_within(PATIENCE, STEP, "the node is registered", async || {
            self.kubectl.wait(&ready).await.ok()
        })
        .await?;
        self.workers.push(worker);
        for worker in &self.workers {
            let others = self
                .workers
                .iter()
                .filter(|other| other.number != worker.number);
            let others: Vec<_> = others.map(|other| &other.node).collect();
            network::route(
                &others,
                worker.number,
                &self.pod_cidrs(&worker.name()).await?,
            )?;
        }
        Ok(())
    }

    /// What the pods of a node that is ready have their addresses from.
    async fn pod_cidrs(&self, node: &str) -> Result<Vec<String>> {
        let object = self.kubectl.get(&format!("node {node}")).await?;
        let cidrs = object["spec"]["podCIDRs"].clone();
        serde_json::from_value(cidrs).with_context(|| format!("{node} has no network for pods"))
    }

    async fn serve_names(&self) -> Result<()> {
        let kubectl = self.kubectl.within("kube-system");
        kubectl.apply(&names::manifests()).await?;
        kubectl.rolled_out("deployment/coredns").await
    }

    /// kubectl in a new namespace, which may be used as soon as it is returned.
    pub(crate) async fn namespace(&self, name: &str) -> Result<Kubectl> {
        let namespace = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {"e2e": "check"}},
        });
        self.kubectl.apply(&namespace).await?;
        let kubectl = self.kubectl.within(name);
        kubectl.wait("--for=create serviceaccount/default").await?;
        Ok(kubectl)
    }

    /// Removes all pods, ends all, and checks that nothing is left.
    pub(crate) async fn finish(self) -> Result<()> {
        // Those of checks that failed.
        self.kubectl.run("delete namespace -l e2e=check").await?;
        self.kubectl
            .run("delete deployment coredns -n kube-system")
            .await?;
        until_within(PATIENCE, STEP, "all pods are gone", async || {
            let pods = self.kubectl.get("pods -A").await.ok()?;
            pods["items"].as_array()?.is_empty().then_some(())
        })
        .await?;
        for worker in &self.workers {
            until_within(
                PATIENCE,
                STEP,
                "the kubelet has removed its pods",
                async || worker.node.pods().await.ok()?.is_empty().then_some(()),
            )
            .await?;
        }
        for worker in self.workers {
            worker.finish().await?;
        }
        Ok(())
    }

    /// Asks until there is an answer, as long as Kubernetes may take.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        ask: impl AsyncFnMut() -> Option<T>,
    ) -> Result<T> {
        until_within(PATIENCE, STEP, what, ask).await
    }
}
