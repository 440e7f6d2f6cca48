//! What reaches what: pods, services by kube-proxy, and their names.

use super::{agnhost, pod, service, text, web, workload};
use crate::cluster::Cluster;
use crate::kubectl::Kubectl;
use anyhow::{Context, Result, ensure};
use crisp_e2e::http_get;
use crisp_e2e::manifest::pause;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Spread evenly over the nodes.
fn spread(name: &str, container: Value) -> Value {
    json!({
        "containers": [container],
        "terminationGracePeriodSeconds": 2,
        "topologySpreadConstraints": [{
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": name}},
        }],
    })
}

/// A service of two pods on each node, all ready, and a pod with a shell on each node: their names.
async fn web_and_clients(
    cluster: &Cluster,
    kubectl: &Kubectl,
    more: Value,
) -> Result<(BTreeSet<String>, Vec<String>)> {
    let replicas = json!({"replicas": 2 * cluster.workers.len()});
    kubectl
        .apply(&json!([
            workload("Deployment", "web", spread("web", web()), replicas),
            workload(
                "DaemonSet",
                "client",
                json!({"containers": [pause("main")], "terminationGracePeriodSeconds": 2}),
                json!({})
            ),
            service("web", more),
        ]))
        .await?;
    kubectl.rolled_out("deployment/web").await?;
    kubectl.rolled_out("daemonset/client").await?;
    let names = async |label: &str| {
        let pods = kubectl.get(&format!("pods -l app={label}")).await?;
        let pods = pods["items"].as_array().context("no list")?.iter();
        pods.map(|pod| text(pod, "/metadata/name").map(str::to_owned))
            .collect::<Result<Vec<_>>>()
    };
    let servers = names("web").await?.into_iter().collect();
    Ok((servers, names("client").await?))
}

pub(super) async fn service_reaches_the_pods_of_both_nodes_by_name(
    cluster: &Cluster,
) -> Result<()> {
    let kubectl = cluster.namespace("service").await?;
    let both = json!({"ipFamilyPolicy": "RequireDualStack"});
    let (servers, clients) = web_and_clients(cluster, &kubectl, both).await?;
    let object = kubectl.get("service web").await?;
    let ips: Vec<String> = serde_json::from_value(object["spec"]["clusterIPs"].clone())?;
    ensure!(ips.len() == 2, "{ips:?}");
    let by_ip = ips.iter().map(|ip| {
        if ip.contains(':') {
            format!("[{ip}]")
        } else {
            ip.clone()
        }
    });
    let names = ["web", "web.service.svc.cluster.local"].map(str::to_owned);
    for host in names.into_iter().chain(by_ip) {
        for client in &clients {
            // kube-proxy takes one of four at random: that one is missed in 60 happens once in ten million.
            let script = format!(
                "for i in $(seq 60); do wget -q -O - http://{host}/hostname || exit 1; echo; done"
            );
            let said = kubectl
                .exec(client, &script)
                .await
                .with_context(|| host.clone())?;
            let said: BTreeSet<String> = said.lines().map(str::to_owned).collect();
            ensure!(said == servers, "{host}: {said:?} instead of {servers:?}");
        }
    }
    kubectl.delete_namespace().await
}

pub(super) async fn pod_reaches_itself_by_its_service(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("hairpin").await?;
    kubectl
        .apply(&json!([
            pod("web", json!({"containers": [web()]})),
            service("web", json!({}))
        ]))
        .await?;
    kubectl.ready("web").await?;
    // By its short name it is itself without a service.
    let name = "web.hairpin.svc.cluster.local";
    let asks = format!("until wget -q -O - http://{name}/hostname; do sleep 1; done");
    let said = kubectl.exec("web", &asks).await?;
    ensure!(said == "web", "{said}");
    kubectl.delete_namespace().await
}

pub(super) async fn node_port_answers_at_every_node(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("nodeport").await?;
    kubectl
        .apply(&json!([
            pod("web", json!({"containers": [web()]})),
            service("web", json!({"type": "NodePort"})),
        ]))
        .await?;
    kubectl.ready("web").await?;
    let object = kubectl.get("service web").await?;
    let port = object["spec"]["ports"][0]["nodePort"]
        .as_u64()
        .context("no port")?;
    for worker in &cluster.workers {
        let node = SocketAddr::new(worker.address()?.ip(), port.try_into()?);
        let answer = cluster
            .until("the node answers", async || {
                http_get(node, "/hostname").await.ok()
            })
            .await?;
        ensure!(answer.ends_with("\r\n\r\nweb"), "{answer}");
    }
    kubectl.delete_namespace().await
}

pub(super) async fn pods_of_both_nodes_reach_each_other_and_see_who_it_is(
    cluster: &Cluster,
) -> Result<()> {
    let kubectl = cluster.namespace("podnet").await?;
    kubectl
        .apply(&workload(
            "DaemonSet",
            "web",
            json!({"containers": [web()]}),
            json!({}),
        ))
        .await?;
    kubectl.rolled_out("daemonset/web").await?;
    let pods = kubectl.get("pods").await?;
    let pods = pods["items"].as_array().context("no list")?;
    ensure!(pods.len() == cluster.workers.len());
    for from in pods {
        for to in pods {
            for family in 0..2 {
                let ip = |pod: &'_ Value| {
                    let ip = text(pod, &format!("/status/podIPs/{family}/ip"))?;
                    anyhow::Ok(if ip.contains(':') {
                        format!("[{ip}]")
                    } else {
                        ip.to_owned()
                    })
                };
                let asks = format!("wget -q -O - http://{}:8080/clientip", ip(to)?);
                let said = kubectl.exec(text(from, "/metadata/name")?, &asks).await?;
                ensure!(
                    said.starts_with(&format!("{}:", ip(from)?)),
                    "{said} instead of {}",
                    ip(from)?
                );
            }
        }
    }
    kubectl.delete_namespace().await
}

pub(super) async fn pod_reaches_the_api_by_its_account(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("account").await?;
    let main = agnhost(&["inclusterclient", "--poll-interval=1"], json!({}));
    kubectl
        .apply(&pod("client", json!({"containers": [main]})))
        .await?;
    let said = cluster
        .until("it has asked twice", async || {
            let said = kubectl.run("logs client").await.ok()?;
            (said.matches("calling /healthz").count() > 2).then_some(said)
        })
        .await?;
    ensure!(
        said.contains("authz_header=") && !said.contains("failed") && !said.contains("empty"),
        "{said}"
    );
    kubectl.delete_namespace().await
}
