//! What a cluster tells of what its pods use.

use super::pod;
use crate::cluster::Cluster;
use crate::kubectl::Kubectl;
use crate::metrics;
use anyhow::Result;
use crisp_e2e::manifest::sh;
use serde_json::json;

const NAMESPACE: &str = "top";

pub(super) async fn top_tells_of_nodes_and_pods(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace(NAMESPACE).await?;
    let system = cluster.kubectl.within("kube-system");
    system.apply(&metrics::reader(NAMESPACE)).await?;
    kubectl.apply(&metrics::manifests(NAMESPACE)).await?;
    kubectl.rolled_out("deployment/metrics-server").await?;
    kubectl.apply(&metrics::api_service(NAMESPACE)).await?;
    let told = top_tells(cluster, &kubectl).await;
    // Nobody can know what is in a namespace, to empty it, while a part of the API does not answer.
    let delete = format!("delete apiservice {}", metrics::API);
    kubectl.run(&delete).await?;
    told?;
    kubectl.delete_namespace().await
}

async fn top_tells(cluster: &Cluster, kubectl: &Kubectl) -> Result<()> {
    let busy = sh("main", "trap 'exit 0' TERM; while :; do :; done");
    let spec = json!({"containers": [busy], "terminationGracePeriodSeconds": 1});
    kubectl.apply(&pod("busy", spec)).await?;
    kubectl.ready("busy").await?;
    cluster
        .until("top tells of each node", async || {
            let said = kubectl.run("top node --no-headers").await.ok()?;
            let told = |name: &str| {
                let line = said.lines().find(|line| line.starts_with(name));
                line.is_some_and(|line| !line.contains("unknown"))
            };
            let mut workers = cluster.workers.iter();
            workers.all(|worker| told(&worker.name())).then_some(())
        })
        .await?;
    cluster
        .until("top tells of a pod that is busy", async || {
            let said = kubectl
                .run("top pod busy --containers --no-headers")
                .await
                .ok()?;
            // The pod, the container, thousandths of a processor, mebibytes of memory.
            let [_, "main", cpu, memory] = said.split_ascii_whitespace().collect::<Vec<_>>()[..]
            else {
                return None;
            };
            let cpu: u32 = cpu.strip_suffix('m')?.parse().ok()?;
            (cpu > 0 && memory.ends_with("Mi")).then_some(())
        })
        .await
}
