//! Pods and containers in crictl's lists, and several of them removed at once.

use super::{container_json, json, line, pod_json, write};
use anyhow::{Context, Result, ensure};
use crisp_e2e::catalog::BUSYBOX;
use crisp_e2e::{Node, sh};
use std::collections::BTreeSet;

/// The ids that a list prints.
async fn ids(node: &Node, arguments: &[&str]) -> Result<BTreeSet<String>> {
    let printed = node.crictl(arguments).await?.stdout;
    Ok(printed.split_whitespace().map(str::to_owned).collect())
}

fn set<const N: usize>(ids: [&str; N]) -> BTreeSet<String> {
    ids.map(str::to_owned).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_crictl_lists_pods_and_containers_by_every_filter() -> Result<()> {
    let node = Node::start().await?;
    let one = node
        .run_pod("one", |config| {
            config.labels.insert("tier".to_owned(), "front".to_owned());
        })
        .await?;
    let two = node
        .run_pod("two", |config| {
            config.metadata.get_or_insert_default().namespace = "other".to_owned();
        })
        .await?;
    two.stop().await?;
    for (filter, expected) in [
        (&["--name=^one$"][..], &one),
        (&["--namespace=other"], &two),
        (&["--label=tier=front"], &one),
        (&["--state=notready"], &two),
        (&["--id", &two.id[..20]], &two),
        (&["--latest"], &two),
        (&["--last=1"], &two),
    ] {
        let listed = ids(&node, &[&["pods", "-q"], filter].concat()).await?;
        ensure!(listed == set([&expected.id]), "{filter:?}: {listed:?}");
    }
    let all = ids(&node, &["pods", "-q"]).await?;
    ensure!(all == set([&one.id, &two.id]));
    let verbose = node.crictl(&["pods", "-v", "--no-trunc"]).await?.stdout;
    ensure!(verbose.contains("Status: Ready"), "{verbose}");

    let runs = one
        .start("runs", |config| {
            config.labels.insert("role".to_owned(), "web".to_owned());
        })
        .await?;
    let ended = one
        .start("ended", |config| config.command = sh("exit 3"))
        .await?;
    ended.wait_exit().await?;
    let created = one.create("created", |_| ()).await?;
    for (filter, expected) in [
        (&["--name=run"][..], &runs.id),
        (&["--label=role=web"], &runs.id),
        (&["-a", "--state=exited"], &ended.id),
        (&["-a", "--state=created"], &created.id),
        (&["-a", "--id", &ended.id[..20]], &ended.id),
        (&["-a", "--latest"], &created.id),
        (&["--image", BUSYBOX], &runs.id),
    ] {
        let listed = ids(&node, &[&["ps", "-q"], filter].concat()).await?;
        ensure!(listed == set([expected]), "{filter:?}: {listed:?}");
    }
    let of_pod = ids(&node, &["ps", "-a", "-q", "--pod", &one.id]).await?;
    ensure!(of_pod == set([&runs.id, &ended.id, &created.id]));
    let table = node.crictl(&["ps", "-a"]).await?.stdout;
    for text in ["CONTAINER", "Running", "Exited", "Created", "ended"] {
        ensure!(table.contains(text), "no {text}: {table}");
    }
    let inspected = json(&node, &["inspect", &ended.id]).await?;
    ensure!(inspected["status"]["exitCode"] == 3, "{inspected}");
    ensure!(
        inspected["info"]["runtimeSpec"]["process"].is_object(),
        "{inspected}"
    );
    let inspected = json(&node, &["inspectp", &one.id]).await?;
    ensure!(inspected["status"]["labels"]["tier"] == "front");
    ensure!(
        inspected["info"]["pid"].as_u64().is_some_and(|pid| pid > 1),
        "{inspected}"
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_crictl_run_pulls_creates_and_starts_in_one() -> Result<()> {
    let node = Node::start_empty(|config| {
        let handlers = toml::toml! { batch = { container_pids_limit = 16 } };
        config.insert("handlers".to_owned(), handlers.into());
    })
    .await?;
    let dir = node.scratch()?;
    let pod = write(&dir, "pod.json", &pod_json(&node, "run"))?;
    let container = container_json("main", BUSYBOX, &["sleep", "1000000"]);
    let container = write(&dir, "main.json", &container)?;
    let absent = node
        .try_crictl(&["run", "--no-pull", &container, &pod])
        .await?;
    ensure!(absent.code != Some(0), "an image that is not there ran");
    // What it made before it failed is its user's to remove.
    node.crictl(&["rmp", "-a", "-f"]).await?;

    let run = ["run", "--with-pull", "--runtime=batch", &container, &pod];
    let id = line(&node, &run).await?;
    let inspected = json(&node, &["inspect", &id]).await?;
    ensure!(inspected["status"]["state"] == "CONTAINER_RUNNING");
    let pods = json(&node, &["pods", "-o", "json"]).await?;
    ensure!(pods["items"][0]["runtimeHandler"] == "batch", "{pods}");
    let unknown = node
        .try_crictl(&["runp", "--runtime=no-such-handler", &pod])
        .await?;
    ensure!(unknown.code != Some(0) && unknown.stderr.contains("no-such-handler"));
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_crictl_stops_and_removes_several_at_once() -> Result<()> {
    let node = Node::start().await?;
    let (one, two) = (
        node.run_pod("one", |_| ()).await?,
        node.run_pod("two", |_| ()).await?,
    );
    let (a, b) = (one.start("a", |_| ()).await?, two.start("b", |_| ()).await?);
    two.create("c", |_| ()).await?;
    let refused = node.try_crictl(&["rm", &a.id]).await?;
    ensure!(
        refused.code != Some(0),
        "crictl removes what runs only by force"
    );
    node.crictl(&["stop", "--timeout=0", &a.id, &b.id]).await?;
    ensure!(a.status().await?.exit_code == 137 && b.status().await?.exit_code == 137);
    node.crictl(&["rm", "--all", "--force"]).await?;
    ensure!(ids(&node, &["ps", "-a", "-q"]).await?.is_empty());
    node.crictl(&["stopp", &one.id, &two.id]).await?;
    ensure!(
        ids(&node, &["pods", "-q", "--state=ready"])
            .await?
            .is_empty()
    );
    node.crictl(&["rmp", &one.id, &two.id]).await?;
    let third = node.run_pod("third", |_| ()).await?;
    third.start("d", |_| ()).await?;
    node.crictl(&["rmp", "--all", "--force"]).await?;
    ensure!(ids(&node, &["pods", "-q"]).await?.is_empty());
    // Starting and stopping what is not there.
    for command in ["start", "inspect", "inspectp"] {
        let refused = node.try_crictl(&[command, "no-such"]).await?;
        ensure!(refused.code != Some(0), "{command}: {refused:?}");
    }
    node.crictl(&["stop", "no-such"])
        .await
        .context("what is gone is stopped")?;
    node.finish().await
}
