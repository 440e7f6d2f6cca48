//! What crictl changes while containers run, and its own settings.

use super::json;
use anyhow::{Result, ensure};
use crisp_e2e::{Node, tools};
use std::fs;

#[tokio::test(flavor = "multi_thread")]
async fn privileged_crictl_update_changes_limits_of_several_containers() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("update", |_| ()).await?;
    let (one, two) = (
        pod.start("one", |_| ()).await?,
        pod.start("two", |_| ()).await?,
    );
    let arguments = [
        "--cpu-period=100000",
        "--cpu-quota=30000",
        "--cpu-share=256",
        "--cpuset-cpus=0",
        "--memory=50331648",
        "--oom-score-adj=321",
    ];
    let mut update = vec!["update"];
    update.extend(arguments);
    update.extend([one.id.as_str(), two.id.as_str()]);
    node.crictl(&update).await?;
    for container in [one, two] {
        let inspected = json(&node, &["inspect", &container.id]).await?;
        let limits = &inspected["status"]["resources"]["linux"];
        for (name, value) in [
            ("cpuPeriod", "100000"),
            ("cpuQuota", "30000"),
            ("cpuShares", "256"),
            ("cpusetCpus", "0"),
            ("memoryLimitInBytes", "50331648"),
            ("oomScoreAdj", "321"),
        ] {
            ensure!(limits[name] == value, "{name}: {limits}");
        }
        let memory = container.cgroup("memory").await?;
        let in_force = memory
            .read("memory.limit_in_bytes")
            .or_else(|_| memory.read("memory.max"))?;
        ensure!(in_force == "50331648", "{in_force}");
        ensure!(container.sh("cat /proc/1/oom_score_adj").await? == "321");
    }
    let refused = node
        .try_crictl(&["update", "--memory=1", "no-such"])
        .await?;
    ensure!(
        refused.code != Some(0) && refused.stderr.contains("no-such"),
        "{refused:?}"
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_crictl_update_runtime_config_moves_later_pods() -> Result<()> {
    let node = Node::start().await?;
    let range = format!("10.213.{}.128/25", node.number());
    node.crictl(&["update-runtime-config", "--pod-cidr", &range])
        .await?;
    let pod = node.run_pod("moved", |_| ()).await?;
    let address = pod.address(std::net::IpAddr::is_ipv4).await?;
    let last: u8 = address
        .to_string()
        .rsplit('.')
        .next()
        .unwrap_or_default()
        .parse()?;
    ensure!(last > 128, "{address} is not in {range}");
    let refused = node
        .try_crictl(&["update-runtime-config", "--pod-cidr", "10.0.0.0/40"])
        .await?;
    ensure!(
        refused.code != Some(0) && refused.stderr.contains("10.0.0.0/40"),
        "{refused:?}"
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_crictl_checkpoint_exports_a_running_container() -> Result<()> {
    let criu = tools::criu().display().to_string();
    let node =
        Node::start_with(|config| drop(config.insert("criu".to_owned(), criu.into()))).await?;
    let pod = node.run_pod("checkpoint", |_| ()).await?;
    let container = pod.start("main", |_| ()).await?;
    let export = node.scratch()?.join("checkpoint.tar");
    let argument = format!("--export={}", export.display());
    node.crictl(&["checkpoint", &argument, &container.id])
        .await?;
    ensure!(fs::metadata(&export)?.len() > 0);
    ensure!(container.sh("echo alive").await? == "alive");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_crictl_takes_the_socket_from_its_own_config() -> Result<()> {
    let node = Node::start_empty(|_| ()).await?;
    let config = node.scratch()?.join("crictl.yaml");
    fs::write(&config, "")?;
    let config = config.display().to_string();
    let endpoint = format!("unix://{}", node.socket().display());
    let set = format!("runtime-endpoint={endpoint}");
    node.crictl(&["--config", &config, "config", "--set", &set])
        .await?;
    let get = ["--config", &config, "config", "--get", "runtime-endpoint"];
    ensure!(node.crictl(&get).await?.stdout.trim() == endpoint);
    let listed = node
        .crictl(&["--config", &config, "config", "--list"])
        .await?;
    ensure!(listed.stdout.contains(&endpoint), "{listed:?}");
    for shell in ["bash", "zsh", "fish"] {
        let completion = node.crictl(&["completion", shell]).await?.stdout;
        ensure!(completion.contains("crictl"), "{shell}: {completion}");
    }
    let version = node.crictl(&["version"]).await?.stdout;
    ensure!(version.contains("RuntimeVersion:"), "{version}");
    node.finish().await
}
