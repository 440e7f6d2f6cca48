//! What the containers of a pod share with each other and with the host.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::{DnsConfig, NamespaceMode, NamespaceOption, PodSandboxConfig};
use crisp_e2e::{Container, Node, Process, own_users};
use std::collections::BTreeMap;
use std::path::PathBuf;

fn namespaces(
    network: NamespaceMode,
    pid: NamespaceMode,
    ipc: NamespaceMode,
) -> impl Fn(&mut PodSandboxConfig) {
    move |config| {
        let security = config
            .linux
            .get_or_insert_default()
            .security_context
            .get_or_insert_default();
        security.namespace_options = Some(NamespaceOption {
            network: network.into(),
            pid: pid.into(),
            ipc: ipc.into(),
            ..NamespaceOption::default()
        });
    }
}

fn host(kind: &str) -> Result<PathBuf> {
    Process(std::process::id().cast_signed()).namespace(kind)
}

async fn inside(container: &Container<'_>, kind: &str) -> Result<PathBuf> {
    container.process().await?.namespace(kind)
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pod_shares_network_ipc_and_uts_but_not_pids() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("shared", |_| ()).await?;
    let one = pod.start("one", |_| ()).await?;
    let two = pod.start("two", |_| ()).await?;
    for kind in ["net", "ipc", "uts"] {
        ensure!(
            inside(&one, kind).await? == inside(&two, kind).await?,
            "{kind}"
        );
        ensure!(inside(&one, kind).await? != host(kind)?, "{kind}");
    }
    for kind in ["pid", "mnt"] {
        ensure!(
            inside(&one, kind).await? != inside(&two, kind).await?,
            "{kind}"
        );
    }
    ensure!(one.sh("ps -o pid,args | grep -c 'sleep 1000000$'").await? == "1");
    one.sh("echo shared > /dev/shm/file").await?;
    ensure!(two.sh("cat /dev/shm/file").await? == "shared");
    ensure!(
        two.sh("df -k /dev/shm | tail -n 1 | awk '{print $2}'")
            .await?
            == "65536"
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pod_can_use_the_hosts_namespaces() -> Result<()> {
    let node = Node::start().await?;
    let all = namespaces(
        NamespaceMode::Node,
        NamespaceMode::Node,
        NamespaceMode::Node,
    );
    let pod = node.run_pod("host", |config| {
        all(config);
        config.hostname = String::new();
    });
    let pod = pod.await?;
    let container = pod.start("main", |_| ()).await?;
    for kind in ["net", "ipc", "pid", "uts"] {
        ensure!(inside(&container, kind).await? == host(kind)?, "{kind}");
    }
    let own = std::process::id();
    ensure!(
        container
            .sh(&format!("test -d /proc/{own} && echo seen"))
            .await?
            == "seen"
    );
    ensure!(
        pod.status()
            .await?
            .network
            .is_none_or(|network| network.ip.is_empty()),
        "a pod on the host's network has no address of its own"
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pod_with_own_users_can_use_the_hosts_network() -> Result<()> {
    let node = Node::start().await?;
    let host_network = namespaces(
        NamespaceMode::Node,
        NamespaceMode::Container,
        NamespaceMode::Pod,
    );
    let pod = node.run_pod("host", |config| {
        host_network(config);
        config.hostname = String::new();
        own_users(config);
    });
    let pod = pod.await?;
    let container = pod.start("main", |_| ()).await?;
    ensure!(inside(&container, "net").await? == host("net")?);
    let users = container.sh("cat /proc/self/uid_map").await?;
    ensure!(users.contains("1000000"), "{users}");
    // The sysfs of a network that the users do not own is the host's, and nothing in it can be written.
    ensure!(container.sh("ls /sys/class/net").await?.contains("lo"));
    let of_sysfs = "$2 ~ \"^/sys\" && $2 !~ \"^/sys/fs/cgroup\"";
    let writable = format!("awk '{of_sysfs} && $4 ~ /^rw/' /proc/mounts");
    let writable = container.sh(&writable).await?;
    ensure!(writable.is_empty(), "{writable}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_container_can_join_the_pids_of_another_one() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("target", |_| ()).await?;
    let target = pod.start("target", |_| ()).await?;
    let debugger = pod
        .start("debugger", |config| {
            crisp_e2e::security(config).namespace_options = Some(NamespaceOption {
                pid: NamespaceMode::Target.into(),
                target_id: target.id.clone(),
                ..NamespaceOption::default()
            });
        })
        .await?;
    ensure!(inside(&target, "pid").await? == inside(&debugger, "pid").await?);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_sysctls_are_set_in_the_pod_and_refused_where_they_reach_the_host() -> Result<()>
{
    let node = Node::start().await?;
    let sysctls = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|&(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    };
    let before = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let wanted: BTreeMap<String, String> = sysctls(&[
        ("net.ipv4.ip_local_port_range", "20000 30000"),
        ("kernel.shm_rmid_forced", "1"),
    ]);
    let pod = node
        .run_pod("sysctls", |config| {
            config.linux.get_or_insert_default().sysctls = wanted.clone();
        })
        .await?;
    let container = pod.start("main", |_| ()).await?;
    ensure!(
        container
            .sh("echo $(cat /proc/sys/net/ipv4/ip_local_port_range)")
            .await?
            == "20000 30000"
    );
    ensure!(container.sh("cat /proc/sys/kernel/shm_rmid_forced").await? == "1");
    ensure!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")? == before);
    // Not only root may serve on low ports in a pod of its own.
    ensure!(
        container
            .sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start")
            .await?
            == "0"
    );

    let host_network = namespaces(
        NamespaceMode::Node,
        NamespaceMode::Container,
        NamespaceMode::Pod,
    );
    let refused: [(&str, &str, bool); 4] = [
        ("net.ipv4.ip_local_port_range", "20000 30000", true),
        ("kernel.panic", "10", false),
        ("net/ipv4/../../kernel/panic", "10", false),
        ("vm.swappiness", "10", false),
    ];
    for (index, (key, value, on_host)) in refused.into_iter().enumerate() {
        let name = format!("refused-{index}");
        let result = node.run_pod(&name, |config| {
            if on_host {
                host_network(config);
            }
            config.linux.get_or_insert_default().sysctls = sysctls(&[(key, value)]);
        });
        let error = result
            .await
            .err()
            .with_context(|| format!("{key} was accepted"))?;
        ensure!(error.message().contains(key), "{error}");
    }
    ensure!(node.pods().await?.len() == 1, "a refused pod is listed");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_names_are_resolved_as_the_pods_dns_config_says() -> Result<()> {
    let node = Node::start().await?;
    let pod = node
        .run_pod("dns", |config| {
            config.hostname = "named".to_owned();
            config.dns_config = Some(DnsConfig {
                servers: vec!["10.96.0.10".to_owned()],
                searches: vec![
                    "default.svc.cluster.local".to_owned(),
                    "cluster.local".to_owned(),
                ],
                options: vec!["ndots:5".to_owned()],
            });
        })
        .await?;
    let container = pod.start("main", |_| ()).await?;
    let expected =
        "search default.svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5";
    ensure!(
        container.sh("cat /etc/resolv.conf").await? == expected,
        "{}",
        container.sh("cat /etc/resolv.conf").await?
    );
    ensure!(container.sh("hostname; cat /etc/hostname").await? == "named\nnamed");
    let hosts = container.sh("cat /etc/hosts").await?;
    ensure!(hosts.contains("localhost"), "{hosts}");

    let copied = node
        .run_pod("copied", |_| ())
        .await?
        .start("main", |_| ())
        .await?;
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    ensure!(copied.sh("cat /etc/resolv.conf").await? == host.trim_end());
    node.finish().await
}
