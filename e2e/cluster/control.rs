//! The control plane: etcd, the API server, the controllers and the scheduler, in the network namespace
//! of this program.

use crate::kubectl::Kubectl;
use crate::network::{CONTROL, POD_CIDRS, SERVICE_CIDRS};
use anyhow::Result;
use crisp_e2e::{Service, Slot, http_get, tools};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use serde_json::{Value, json};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio::net::TcpStream;

/// Who speaks to the API server: the user, and the groups of it (Kubernetes, "RBAC Authorization").
const USERS: [(&str, &str); 6] = [
    ("admin", "system:masters"),
    ("system:kube-controller-manager", ""),
    ("system:kube-scheduler", ""),
    ("system:kube-proxy", ""),
    ("system:node:node1", "system:nodes"),
    ("system:node:node2", "system:nodes"),
];
const ETCD: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 2379);
/// Where the controllers and the scheduler say how they are.
const HEALTH_PORTS: [(&str, u16); 2] = [
    ("kube-controller-manager", 10257),
    ("kube-scheduler", 10259),
];

/// A control plane that runs. Killed when dropped, those who ask before those who answer.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    _services: [Service; 4],
    // Sweeps when dropped: after the services.
    slot: Slot,
}

impl ControlPlane {
    /// Starts it, with its logs in a directory.
    pub(crate) async fn start(logs: &Path) -> Result<Self> {
        let slot = Slot::take();
        let dir = slot.dir();
        write_credentials(dir)?;
        let service = |name: &str, arguments: Vec<String>| {
            let mut command = Command::new(tools::program(&format!("tools/kubernetes/{name}")));
            command.args(arguments);
            Service::new(&command, logs.join(format!("{name}.log")))
        };
        let etcd = service("etcd", etcd_arguments(dir))?;
        etcd.start(async || {
            let answer = http_get(ETCD, "/health").await;
            answer.is_ok_and(|answer| answer.contains("\"true\""))
        })
        .await?;
        let api_server = service("kube-apiserver", api_server_arguments(dir))?;
        let kubectl = Kubectl::new(kubeconfig_path(dir, "admin"));
        api_server
            .start(async || kubectl.run("get --raw /readyz").await.is_ok())
            .await?;
        let [(controllers, controllers_port), (scheduler, scheduler_port)] = HEALTH_PORTS;
        let controllers = service(controllers, controllers_arguments(dir))?;
        controllers.start(listens(controllers_port)).await?;
        let scheduler = service(scheduler, client_arguments(dir, "system:kube-scheduler"))?;
        scheduler.start(listens(scheduler_port)).await?;
        Ok(Self {
            _services: [scheduler, controllers, api_server, etcd],
            slot,
        })
    }

    /// How a user reaches the API server.
    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        kubeconfig_path(self.slot.dir(), user)
    }
}

fn listens(port: u16) -> impl AsyncFnMut() -> bool {
    async move || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .is_ok()
    }
}

/// Tokens and configurations of clients, and the key by which tokens of service accounts are signed.
fn write_credentials(dir: &Path) -> Result<()> {
    let tokens = USERS.map(|(user, groups)| format!("{},{user},{user},{groups}\n", token(user)));
    fs::write(dir.join("tokens.csv"), tokens.concat())?;
    for (user, _) in USERS {
        fs::write(
            kubeconfig_path(dir, user),
            kubeconfig(dir, user).to_string(),
        )?;
    }
    let key = KeyPair::generate()?;
    fs::write(dir.join("accounts.key"), key.serialize_pem())?;
    fs::write(dir.join("accounts.pub"), key.public_key_pem())?;
    write_front_credentials(dir)
}

/// By what the API server is known to servers of other parts of the API: a certificate that is its own
/// authority (Kubernetes, "Configure the Aggregation Layer").
fn write_front_credentials(dir: &Path) -> Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "front");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.self_signed(&key)?;
    fs::write(dir.join("front.key"), key.serialize_pem())?;
    fs::write(dir.join("front.crt"), certificate.pem())?;
    Ok(())
}

/// No secret: nobody else is in the namespace.
fn token(user: &str) -> String {
    format!("token-of-{}", user.replace(':', "-"))
}

fn kubeconfig_path(dir: &Path, user: &str) -> PathBuf {
    dir.join(format!("{}.kubeconfig", user.replace(':', "-")))
}

fn kubeconfig(dir: &Path, user: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "e2e", "cluster": {
            "server": format!("https://{CONTROL}:6443"),
            "certificate-authority": authority(dir),
        }}],
        "users": [{"name": user, "user": {"token": token(user)}}],
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": user}}],
        "current-context": "e2e",
    })
}

/// The certificate that the API server makes for itself, with that of its authority behind it.
fn authority(dir: &Path) -> PathBuf {
    dir.join("pki/apiserver.crt")
}

fn etcd_arguments(dir: &Path) -> Vec<String> {
    let data = dir.join("etcd");
    vec![
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls=http://{ETCD}"),
        format!("--advertise-client-urls=http://{ETCD}"),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        // Nothing of it is to survive.
        "--unsafe-no-fsync".to_owned(),
    ]
}

fn api_server_arguments(dir: &Path) -> Vec<String> {
    let path = |name: &str| dir.join(name).display().to_string();
    vec![
        format!("--etcd-servers=http://{ETCD}"),
        format!("--advertise-address={CONTROL}"),
        format!("--cert-dir={}", path("pki")),
        format!("--token-auth-file={}", path("tokens.csv")),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!(
            "--service-account-signing-key-file={}",
            path("accounts.key")
        ),
        format!("--service-account-key-file={}", path("accounts.pub")),
        format!("--service-cluster-ip-range={}", SERVICE_CIDRS.join(",")),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        format!("--requestheader-client-ca-file={}", path("front.crt")),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        format!("--proxy-client-cert-file={}", path("front.crt")),
        format!("--proxy-client-key-file={}", path("front.key")),
        // There is no kube-proxy where it is: it asks the pods behind a service.
        "--enable-aggregator-routing".to_owned(),
    ]
}

fn controllers_arguments(dir: &Path) -> Vec<String> {
    let mut arguments = client_arguments(dir, "system:kube-controller-manager");
    let path = |name: &str| dir.join(name).display().to_string();
    arguments.extend([
        "--use-service-account-credentials".to_owned(),
        format!(
            "--service-account-private-key-file={}",
            path("accounts.key")
        ),
        format!("--root-ca-file={}", authority(dir).display()),
        "--allocate-node-cidrs".to_owned(),
        format!("--cluster-cidr={}", POD_CIDRS.join(",")),
        format!("--service-cluster-ip-range={}", SERVICE_CIDRS.join(",")),
    ]);
    arguments
}

/// Of one that is a client of the API server, and the only one of its kind.
fn client_arguments(dir: &Path, user: &str) -> Vec<String> {
    let kubeconfig = kubeconfig_path(dir, user).display().to_string();
    [
        "kubeconfig",
        "authentication-kubeconfig",
        "authorization-kubeconfig",
    ]
    .map(|flag| format!("--{flag}={kubeconfig}"))
    .into_iter()
    .chain(["--leader-elect=false", "--bind-address=127.0.0.1"].map(str::to_owned))
    .collect()
}
