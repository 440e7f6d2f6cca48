//! A node of a cluster: crisp, a kubelet and kube-proxy on a machine of their own.

use crate::control::ControlPlane;
use crate::network::{self, DNS, POD_CIDRS, SERVICE_CIDRS};
use anyhow::{Context, Result, ensure};
use crisp_e2e::{KubeletProcess, Node, Service, Slot, http_get, mount_disk, oci_handlers, tools};
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use toml::{Table, Value as Toml};

/// `podPidsLimit`: of all processes of a pod.
pub(crate) const POD_PIDS_LIMIT: u32 = 100;
/// Of the disk that images and the layers of containers are on: small enough to be filled soon.
const DISK_MIB: u32 = 2048;
/// `evictionHard`: the kubelet looks every ten seconds.
const DISK_LEAST: &str = "20%";
const KUBELET_HEALTH_PORT: u16 = 10248;
const PROXY_HEALTH_PORT: u16 = 10256;

/// One that runs. What its pods leave is swept when it is dropped.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) number: u8,
    proxy: Service,
    kubelet: KubeletProcess,
    pub(crate) node: Node,
    logs: PathBuf,
}

impl Worker {
    /// Starts it, with its logs in a directory.
    pub(crate) async fn start(control: &ControlPlane, number: u8, logs: &Path) -> Result<Self> {
        let machine = Slot::take_apart()?;
        network::plug(&machine, number)?;
        let mut mounted = Ok(());
        let node = Node::start_on(machine, |config| {
            mounted = mount_own_disk(config);
            configure_runtime(config);
        })
        .await?;
        mounted?;
        let dir = node.scratch()?.join("kubelet");
        let log = |program: &str| logs.join(format!("{program}-{}.log", name(number)));
        let arguments = kubelet_arguments(control, number);
        let config = kubelet_config(number);
        let kubelet = KubeletProcess::configure(&node, &dir, &arguments, log("kubelet"), config)?;
        let config = dir.join("proxy.json");
        fs::write(&config, proxy_config(control, number).to_string())?;
        let mut proxy = node.command(tools::program("tools/kubernetes/kube-proxy"));
        proxy.arg("--config").arg(config);
        let worker = Self {
            number,
            proxy: Service::new(&proxy, log("kube-proxy"))?,
            kubelet,
            node,
            logs: logs.to_owned(),
        };
        worker.run_kubelet().await?;
        let healthy = answers(number, PROXY_HEALTH_PORT);
        worker.proxy.start(healthy).await?;
        Ok(worker)
    }

    /// As the API server knows it.
    pub(crate) fn name(&self) -> String {
        name(self.number)
    }

    /// Starts the kubelet, which does not run, and waits until it answers.
    pub(crate) async fn run_kubelet(&self) -> Result<()> {
        let healthy = answers(self.number, KUBELET_HEALTH_PORT);
        self.kubelet.service.start(healthy).await
    }

    /// Kills the kubelet, as a crash would.
    pub(crate) fn kill_kubelet(&self) -> Result<()> {
        self.kubelet.service.kill()
    }

    /// The address by which others know it.
    pub(crate) fn address(&self) -> Result<SocketAddr> {
        address(self.number, 0)
    }

    /// Ends all, and checks that nothing is left; no pod may be.
    pub(crate) async fn finish(self) -> Result<()> {
        self.kill_kubelet()?;
        self.proxy.kill()?;
        let log = self.logs.join(format!("crisp-{}.log", self.name()));
        fs::copy(self.node.log_path(), log)?;
        let pods = self.node.pods().await?;
        ensure!(pods.is_empty(), "pods that nobody has removed: {pods:?}");
        drop(self.kubelet);
        self.node.finish().await
    }
}

fn name(number: u8) -> String {
    format!("node{number}")
}

fn address(number: u8, port: u16) -> Result<SocketAddr> {
    let [ipv4, _] = network::addresses(number);
    Ok(SocketAddr::new(ipv4.parse()?, port))
}

fn answers(number: u8, port: u16) -> impl AsyncFnMut() -> bool {
    async move || {
        let Ok(address) = address(number, port) else {
            return false;
        };
        let answer = http_get(address, "/healthz").await;
        answer.is_ok_and(|answer| answer.contains(" 200 "))
    }
}

fn mount_own_disk(config: &Table) -> Result<()> {
    let root = config["root_dir"]
        .as_str()
        .context("each node has its own")?;
    mount_disk(Path::new(root), DISK_MIB)
}

fn configure_runtime(config: &mut Table) {
    config.insert("handlers".to_owned(), oci_handlers().into());
    let network = config["network"].as_table_mut();
    let network = network.expect("each node has a network of its own");
    // None before the kubelet has said what is the node's own.
    network.insert("pod_cidrs".to_owned(), Toml::Array(Vec::new()));
    // Pods of other nodes and services see who it is.
    let cluster = [POD_CIDRS, SERVICE_CIDRS].concat();
    let cluster = cluster.into_iter().map(Toml::from).collect();
    network.insert("non_masquerade_cidrs".to_owned(), Toml::Array(cluster));
}

fn kubelet_arguments(control: &ControlPlane, number: u8) -> [String; 3] {
    let kubeconfig = control.kubeconfig(&format!("system:node:{}", name(number)));
    [
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--hostname-override={}", name(number)),
        format!("--node-ip={}", network::addresses(number).join(",")),
    ]
}

fn kubelet_config(number: u8) -> Value {
    json!({
        "clusterDNS": [DNS],
        "clusterDomain": "cluster.local",
        "healthzBindAddress": network::addresses(number)[0],
        "healthzPort": KUBELET_HEALTH_PORT,
        "podPidsLimit": POD_PIDS_LIMIT,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": DISK_LEAST},
        // How long a node is under pressure at least.
        "evictionPressureTransitionPeriod": "10s",
    })
}

fn proxy_config(control: &ControlPlane, number: u8) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": control.kubeconfig("system:kube-proxy")},
        "hostnameOverride": name(number),
        "clusterCIDR": POD_CIDRS.join(","),
        "healthzBindAddress": format!("0.0.0.0:{PROXY_HEALTH_PORT}"),
        // Of the whole machine, whichever namespace it is set from.
        "conntrack": {"maxPerCore": 0, "min": 0},
    })
}
