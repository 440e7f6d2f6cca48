//! SIGHUP: a changed configuration takes effect where it can, and is refused by name where not.

use anyhow::{Context, Result, ensure};
use crisp_e2e::catalog::BUSYBOX;
use crisp_e2e::{Node, Pod, sh};
use toml::{Table, toml};

/// The pid limit of a new container in the pod.
async fn container_limit(pod: &Pod<'_>, name: &str) -> Result<String> {
    let container = pod.start(name, |_| ()).await?;
    let pids = container.cgroup("pids").await?;
    pids.read("pids.max")
}

fn limit_handler(config: &mut Table, limit: i64) {
    let handlers = toml! { batch = { container_pids_limit = limit } };
    config.insert("handlers".to_owned(), handlers.into());
}

fn section<'a>(config: &'a mut Table, name: &str) -> &'a mut Table {
    config[name].as_table_mut().expect("it is a section")
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_reload_takes_up_limits_and_pins_while_pods_run() -> Result<()> {
    let node = Node::start_with(|config| limit_handler(config, 16)).await?;
    let pod = node.run_pod_with_handler("pod", "batch", |_| ()).await?;
    let old = pod
        .start("old", |config| {
            config.command = sh("trap 'echo hup' HUP; while :; do sleep 0.1; done")
        })
        .await?;
    let (process, daemon) = (old.process().await?, node.daemon_pid());
    let pinned =
        async || -> Result<bool> { Ok(node.image(BUSYBOX).await?.context("no image")?.pinned) };
    ensure!(!pinned().await?);

    let log = node
        .reload(|config| {
            limit_handler(config, 24);
            section(config, "image").insert("pinned".to_owned(), vec![BUSYBOX].into());
        })
        .await?;
    for setting in ["handlers.batch.container_pids_limit", "image.pinned"] {
        ensure!(log.contains(&format!("{setting} has changed")), "{log}");
    }
    ensure!(container_limit(&pod, "new").await? == "24");
    ensure!(pinned().await?);

    // What ran goes on as it was, under the same daemon.
    ensure!(node.daemon_pid() == daemon && old.process().await? == process);
    ensure!(process.cgroup("pids")?.read("pids.max")? == "16");
    ensure!(old.sh("echo alive").await? == "alive");
    ensure!(old.log()?.is_empty());

    // A handler that is gone takes no new pods; those that it has go on.
    node.reload(|config| drop(config.remove("handlers")))
        .await?;
    let refused = node.run_pod_with_handler("late", "batch", |_| ()).await;
    ensure!(refused.is_err_and(|status| status.message().contains("batch")));
    ensure!(container_limit(&pod, "later").await? == "max");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_reload_names_what_needs_a_restart_and_survives_a_broken_file() -> Result<()> {
    let node = Node::start_with(|config| limit_handler(config, 16)).await?;
    let pod = node.run_pod_with_handler("pod", "batch", |_| ()).await?;
    let bridge = node.bridge();

    let log = node
        .reload(|config| {
            section(config, "network").insert("bridge".to_owned(), "other0".into());
            limit_handler(config, 24);
        })
        .await?;
    let named = log.lines().any(|line| {
        line.contains("network.bridge stays as it was: restart crisp to change it")
            && line.contains(&bridge)
            && line.contains("other0")
    });
    ensure!(named, "{log}");
    ensure!(container_limit(&pod, "other").await? == "24");

    let broken = [
        ("container_pids_limit = ", "line 1"),
        ("run_dir = 'here'", "run_dir"),
        (
            "[handlers.batch]\ncontainer_pids_limit = 4\n[nosuch]\n",
            "nosuch",
        ),
        (
            "[handlers.batch]\ncontainer_pids_limit = 4\n[streaming]\ncertificate = '/nowhere'\nkey = '/nowhere'\n",
            "/nowhere",
        ),
    ];
    for (index, (text, why)) in broken.into_iter().enumerate() {
        let log = node.reload_text(text).await?;
        ensure!(log.contains("the configuration stays as it was"), "{log}");
        ensure!(log.contains(why), "{log}");
        ensure!(container_limit(&pod, &format!("broken-{index}")).await? == "24");
    }
    node.finish().await
}
