//! A machine that is to be a node of a cluster that kubeadm makes: crisp, and a kubelet that waits until
//! kubeadm has configured it, as its unit does.

use anyhow::{Context, Result, ensure};
use crisp_e2e::manifest::merged;
use crisp_e2e::{
    HostSysctls, KubeletHost, Node, OWN_ADDRESS, Output, OwnDirectories, Service, kubelet_config,
    make_network, tools,
};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tokio::process::Command;

/// Longer than anything that kubeadm and Kubernetes wait for here.
const PATIENCE: Duration = Duration::from_secs(300);
/// What it is called in its cluster.
pub(crate) const NODE_NAME: &str = "node";
/// Where kubeadm writes, and kubelets.
const DIRECTORIES: [&str; 3] = ["/etc/kubernetes", "/var/lib/kubelet", "/var/log"];
/// What becomes of the kubelet's unit, which starts again until there is a configuration (kubeadm, "The
/// kubelet drop-in file for systemd").
const UNIT: &str = "until [ -e /var/lib/kubelet/config.yaml ]; do sleep 0.2; done
    . /var/lib/kubelet/kubeadm-flags.env
    exec \"$0\" --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \
        --kubeconfig=/etc/kubernetes/kubelet.conf --config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS";

/// One that runs.
#[derive(Debug)]
pub(crate) struct Machine {
    kubelet: Service,
    pub(crate) node: Node,
    logs: PathBuf,
    // Gone when dropped, and put back: after the kubelet.
    directories: OwnDirectories,
    host: KubeletHost,
    sysctls: HostSysctls,
}

impl Machine {
    pub(crate) async fn start() -> Result<Self> {
        let sysctls = HostSysctls::keep()?;
        make_network()?;
        let logs = tools::program("tools").with_file_name("kubeadm");
        fs::create_dir_all(&logs)?;
        let node = Node::start().await?;
        let dir = node.scratch()?;
        let host = KubeletHost::prepare(&node)?;
        let directories = OwnDirectories::show(&dir, &DIRECTORIES)?;
        let mut unit = node.command("sh");
        unit.args(["-c", UNIT])
            .arg(tools::program("tools/kubernetes/kubelet"));
        let machine = Self {
            kubelet: Service::new(&unit, logs.join("kubelet.log"))?,
            node,
            logs,
            directories,
            host,
            sysctls,
        };
        machine.kubelet.start(async || true).await?;
        Ok(machine)
    }

    /// Kills the kubelet, and all that its unit is.
    pub(crate) fn kill_kubelet(&self) -> Result<()> {
        self.kubelet.kill()
    }

    /// The CRI's socket as kubeadm is told it.
    pub(crate) fn cri_socket(&self) -> String {
        format!("unix://{}", self.node.socket().display())
    }

    /// Writes kubeadm's configuration for a release of Kubernetes: all that it would look for elsewhere.
    pub(crate) fn configure(&self, version: &str) -> Result<PathBuf> {
        let dir = self.node.scratch()?;
        let plugins = dir.join("plugins");
        let documents = [
            kubeadm_kind(
                "InitConfiguration",
                json!({
                    // Before each static pod, the kubelet waits ten seconds for an API server.
                    "timeouts": {"kubernetesAPICall": "4m"},
                    "localAPIEndpoint": {"advertiseAddress": OWN_ADDRESS},
                    "nodeRegistration": {"name": NODE_NAME, "criSocket": self.cri_socket(), "taints": []},
                }),
            ),
            kubeadm_kind(
                "ClusterConfiguration",
                json!({
                    "kubernetesVersion": version,
                    "controllerManager": {"extraArgs": [{"name": "flex-volume-plugin-dir", "value": plugins}]},
                    "etcd": {"local": {"dataDir": dir.join("etcd")}},
                }),
            ),
            merged(
                kubelet_config(&self.node, &dir),
                json!({"podLogsDir": dir.join("pods")}),
            ),
        ];
        let text = documents.map(|document| document.to_string());
        let path = dir.join("kubeadm.yaml");
        fs::write(&path, text.join("\n---\n"))?;
        Ok(path)
    }

    /// Runs kubeadm, where it finds no systemd whose units it would start and stop; it has to succeed.
    pub(crate) async fn kubeadm(&self, arguments: &[&str]) -> Result<Output> {
        let mut kubeadm = Command::new(tools::program("tools/kubernetes/kubeadm"));
        done(kubeadm.env("PATH", "").args(arguments)).await
    }

    /// Runs kubectl as the administrator; it has to succeed.
    pub(crate) async fn kubectl(&self, line: &str) -> Result<String> {
        let mut kubectl = Command::new(tools::program("tools/kubernetes/kubectl"));
        let cache = self.node.scratch()?.join("cache");
        kubectl
            .arg("--kubeconfig=/etc/kubernetes/admin.conf")
            .arg("--cache-dir")
            .arg(cache);
        let output = done(kubectl.args(line.split_ascii_whitespace())).await?;
        Ok(output.stdout)
    }

    /// Ends all, and checks that nothing is left.
    pub(crate) async fn finish(self) -> Result<()> {
        // It has been, when all went well.
        let _ = self.kill_kubelet();
        fs::copy(self.node.log_path(), self.logs.join("crisp.log"))?;
        self.node.remove_pods().await?;
        let Self {
            kubelet,
            node,
            directories,
            host,
            sysctls,
            ..
        } = self;
        drop((kubelet, directories, host, sysctls));
        node.finish().await
    }
}

fn kubeadm_kind(kind: &str, more: Value) -> Value {
    merged(
        json!({"apiVersion": "kubeadm.k8s.io/v1beta4", "kind": kind}),
        more,
    )
}

async fn done(command: &mut Command) -> Result<Output> {
    let output = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output());
    let output = output.await.with_context(|| format!("{command:?}"))??;
    let output = Output::from(output);
    ensure!(
        output.code == Some(0),
        "{command:?}: {}{}",
        output.stdout,
        output.stderr
    );
    Ok(output)
}
