//! What reaches a pod, and what a pod reaches.

use crate::kubelet::Kubelet;
use anyhow::{Context, Result, ensure};
use crisp_e2e::catalog::{NGINX, NGINX_PAGE};
use crisp_e2e::http_get;
use crisp_e2e::manifest::{pause, sh_with};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

pub(super) fn web(ports: Value) -> Value {
    json!({
        "name": "web",
        "image": NGINX,
        "imagePullPolicy": "IfNotPresent",
        "ports": ports,
        "readinessProbe": {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 1},
    })
}

pub(super) async fn host_port_reaches_the_pod(kubelet: &Kubelet) -> Result<()> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port();
    let ports = json!([{"containerPort": 80, "hostPort": port}]);
    let pod = kubelet.add("hostport", json!({"containers": [web(ports)]}))?;
    pod.ready().await?;
    let page = http_get((Ipv4Addr::LOCALHOST, port).into(), "/").await?;
    ensure!(page.ends_with(NGINX_PAGE), "{page}");
    pod.remove().await
}

pub(super) async fn host_network_shows_the_hosts_interfaces(kubelet: &Kubelet) -> Result<()> {
    let pod = kubelet.add(
        "hostnet",
        json!({"hostNetwork": true, "containers": [pause("main")]}),
    )?;
    let object = pod.ready().await?;
    ensure!(
        object["status"]["podIP"] == object["status"]["hostIP"],
        "{}",
        object["status"]
    );
    let bridge = kubelet.node.bridge();
    ensure!(
        pod.exec("main", "ls /sys/class/net")
            .await?
            .contains(&bridge)
    );
    pod.remove().await
}

pub(super) async fn pods_reach_each_other_by_address(kubelet: &Kubelet) -> Result<()> {
    let server = kubelet.add("server", json!({"containers": [web(json!([]))]}))?;
    let object = server.ready().await?;
    let address = object["status"]["podIP"].as_str().context("no address")?;
    let families = object["status"]["podIPs"].as_array().map(Vec::len);
    ensure!(families == Some(2), "{}", object["status"]);
    let script = format!("until wget -q -O - http://{address}/; do sleep 0.2; done");
    let client = kubelet.add(
        "client",
        json!({"restartPolicy": "Never", "containers": [sh_with("main", &script, json!({}))]}),
    )?;
    client.ended().await?;
    ensure!(client.logs("main").await? == NGINX_PAGE);
    // As a kubelet's own probes do.
    let page = http_get(SocketAddr::new(address.parse()?, 80), "/").await?;
    ensure!(page.ends_with(NGINX_PAGE), "{page}");
    for pod in [server, client] {
        pod.remove().await?;
    }
    Ok(())
}
