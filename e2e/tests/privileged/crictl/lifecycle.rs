//! Pods and containers from the first pull to the last removal, against a real registry and server.

use super::{container_json, json, line, pod_json, write};
use anyhow::{Context, Result, ensure};
use crisp_e2e::catalog::{BUSYBOX, NGINX, NGINX_PAGE};
use crisp_e2e::{Node, http_get, until};
use std::net::IpAddr;

#[tokio::test(flavor = "multi_thread")]
async fn privileged_crictl_full_lifecycle() -> Result<()> {
    let node = Node::start_empty(|_| ()).await?;
    let dir = node.scratch()?;

    node.crictl(&["pull", NGINX]).await?;
    node.crictl(&["pull", BUSYBOX]).await?;
    let images = json(&node, &["images", "-o", "json"]).await?;
    ensure!(
        images["images"]
            .as_array()
            .is_some_and(|images| images.len() == 2),
        "{images}"
    );

    let web_pod_json = write(&dir, "web-pod.json", &pod_json(&node, "web"))?;
    let web_pod = line(&node, &["runp", &web_pod_json]).await?;
    // No command: the image's own.
    let web_json = write(&dir, "web.json", &container_json("nginx", NGINX, &[]))?;
    let web = line(&node, &["create", &web_pod, &web_json, &web_pod_json]).await?;
    let created = json(&node, &["inspect", &web]).await?;
    ensure!(
        created["status"]["state"] == "CONTAINER_CREATED",
        "{created}"
    );
    node.crictl(&["start", &web]).await?;
    ensure!(line(&node, &["ps", "-q"]).await? == web);
    ensure!(line(&node, &["pods", "-q", "--state", "ready"]).await? == web_pod);

    let inspected = json(&node, &["inspectp", &web_pod]).await?;
    let address: IpAddr = inspected["status"]["network"]["ip"]
        .as_str()
        .context("no address")?
        .parse()?;
    let page = until("nginx answers the host", async || {
        http_get((address, 80).into(), "/").await.ok()
    })
    .await?;
    ensure!(
        page.starts_with("HTTP/1.1 200") && page.ends_with(NGINX_PAGE),
        "{page}"
    );

    let client_pod_json = write(&dir, "client-pod.json", &pod_json(&node, "client"))?;
    let client_json = write(
        &dir,
        "client.json",
        &container_json("client", BUSYBOX, &["sleep", "1000000"]),
    )?;
    let client_pod = line(&node, &["runp", &client_pod_json]).await?;
    let client = line(
        &node,
        &["create", &client_pod, &client_json, &client_pod_json],
    )
    .await?;
    node.crictl(&["start", &client]).await?;
    let fetched = node
        .crictl(&[
            "exec",
            "-s",
            &client,
            "wget",
            "-q",
            "-O",
            "-",
            &format!("http://{address}/"),
        ])
        .await?;
    ensure!(
        fetched.stdout.contains(NGINX_PAGE.trim_end()),
        "{fetched:?}"
    );

    until("both requests are in the log", async || {
        let log = node.crictl(&["logs", &web]).await.ok()?;
        (log.stdout.matches("GET / HTTP").count() == 2).then_some(())
    })
    .await?;

    let stats = json(&node, &["stats", "-o", "json", "--id", &web]).await?;
    let memory = &stats["stats"][0]["memory"]["workingSetBytes"]["value"];
    ensure!(
        memory
            .as_str()
            .and_then(|bytes| bytes.parse().ok())
            .is_some_and(|bytes: u64| bytes > 0),
        "{stats}"
    );

    let running = json(&node, &["inspect", &web]).await?;
    ensure!(
        running["status"]["state"] == "CONTAINER_RUNNING",
        "{running}"
    );
    ensure!(
        running["info"]["pid"].as_u64().is_some_and(|pid| pid > 1),
        "{running}"
    );

    node.crictl(&["stop", "--timeout", "30", &web]).await?;
    let stopped = json(&node, &["inspect", &web]).await?;
    ensure!(
        stopped["status"]["state"] == "CONTAINER_EXITED",
        "{stopped}"
    );
    // nginx ends well on SIGQUIT, its image's stop signal; SIGKILL would be 137.
    ensure!(stopped["status"]["exitCode"] == 0, "{stopped}");
    ensure!(stopped["status"]["reason"] == "Completed", "{stopped}");
    node.crictl(&["rm", &web]).await?;
    node.crictl(&["rm", "-f", &client]).await?;
    ensure!(line(&node, &["ps", "-a", "-q"]).await?.is_empty());
    for pod in [&web_pod, &client_pod] {
        node.crictl(&["stopp", pod]).await?;
        node.crictl(&["rmp", pod]).await?;
    }
    ensure!(line(&node, &["pods", "-q"]).await?.is_empty());
    node.crictl(&["rmi", NGINX]).await?;
    node.crictl(&["rmi", BUSYBOX]).await?;
    ensure!(line(&node, &["images", "-q"]).await?.is_empty());
    node.audit().await?;
    node.finish().await
}
