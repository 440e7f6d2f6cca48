//! The pod network: who reaches whom, under which address.

use anyhow::{Context, Result, anyhow, ensure};
use crisp_cri_api::v1::{
    NetworkConfig, PortMapping, Protocol, RuntimeConfig, UpdateRuntimeConfigRequest,
};
use crisp_e2e::catalog::{NGINX, NGINX_PAGE};
use crisp_e2e::{Node, await_page, free_address, http_get, in_netns, nginx};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use tonic::Code;

/// For a connection to come.
const BOUND: Duration = Duration::from_secs(30);

/// Runs ip(8).
fn ip(arguments: &str) -> Result<String> {
    let output = Command::new("ip").args(arguments.split(' ')).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {arguments}: {error}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pods_and_host_reach_a_pod_over_both_families() -> Result<()> {
    let node = Node::start().await?;
    node.pull(NGINX).await?;
    let server = node.run_pod("server", |_| ()).await?;
    server.start("nginx", nginx).await?;
    let client = node
        .run_pod("client", |_| ())
        .await?
        .start("main", |_| ())
        .await?;
    let addresses = server.addresses().await?;
    ensure!(
        addresses.len() == 2 && addresses[0].is_ipv4() && addresses[1].is_ipv6(),
        "{addresses:?}"
    );
    for address in addresses {
        await_page((address, 80)).await?;
        let url = format!("http://{}/", SocketAddr::new(address, 80));
        ensure!(
            client.sh(&format!("wget -q -O - {url}")).await? == NGINX_PAGE.trim_end(),
            "{url}"
        );
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pod_has_loopback_and_default_routes() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("routes", |_| ()).await?;
    let container = pod.start("main", |_| ()).await?;
    let address = pod.address(IpAddr::is_ipv4).await?;
    ensure!(container.sh("ip -o link show lo").await?.contains("UP"));
    ensure!(
        container
            .sh("ip -4 -o addr show eth0")
            .await?
            .contains(&address.to_string())
    );
    ensure!(
        container
            .sh("ip -4 route")
            .await?
            .starts_with("default via ")
    );
    ensure!(container.sh("ip -6 route").await?.contains("default via "));
    ensure!(
        container
            .sh("ping -c 1 -W 5 127.0.0.1 | grep -c ' 1 packets received'")
            .await?
            == "1"
    );
    let mac = container.sh("cat /sys/class/net/eth0/address").await?;
    ensure!(mac.len() == 17, "{mac}");
    node.finish().await
}

/// How long so many bytes take from one end of a connection to the other.
fn transfer(bytes: usize, mut from: TcpStream, mut to: TcpStream) -> Result<Duration> {
    let began = Instant::now();
    let sender = thread::spawn(move || from.write_all(&vec![0; bytes]));
    let received = io::copy(&mut to, &mut io::sink())?;
    sender
        .join()
        .map_err(|_| anyhow!("the sender panicked"))??;
    ensure!(received == bytes as u64, "{received} of {bytes}");
    Ok(began.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_bandwidth_of_a_pod_is_limited_in_both_directions() -> Result<()> {
    const MIB: usize = 1 << 20;
    let node = Node::start().await?;
    let pod = node.run_pod("shaped", |config| {
        let rates = [("ingress", "16M"), ("egress", "8M")];
        let rates = rates.map(|(direction, rate)| {
            let annotation = format!("kubernetes.io/{direction}-bandwidth");
            (annotation, rate.to_owned())
        });
        config.annotations.extend(rates);
    });
    let pod = pod.await?;
    let listener = in_netns(&pod.netns(), || TcpListener::bind("0.0.0.0:0"))?;
    let address = pod.address(IpAddr::is_ipv4).await?;
    let connect = || {
        let outer = TcpStream::connect((address, listener.local_addr()?.port()))?;
        anyhow::Ok((outer, listener.accept()?.0))
    };
    // 4 MiB at 2 MB/s and at 1 MB/s, but for what goes at once.
    let (outer, inner) = connect()?;
    let to_pod = transfer(4 * MIB, outer, inner)?;
    ensure!(to_pod > Duration::from_millis(1_900), "{to_pod:?}");
    let (outer, inner) = connect()?;
    let from_pod = transfer(4 * MIB, inner, outer)?;
    ensure!(from_pod > Duration::from_millis(3_900), "{from_pod:?}");

    let bad = node.run_pod("bad", |config| {
        let rate = (
            "kubernetes.io/egress-bandwidth".to_owned(),
            "fast".to_owned(),
        );
        config.annotations.extend([rate]);
    });
    let refused = bad.await.err().context("it started")?;
    ensure!(refused.code() == Code::InvalidArgument, "{refused}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_host_ports_lead_to_the_pod() -> Result<()> {
    let node = Node::start().await?;
    node.pull(NGINX).await?;
    let free_port = || anyhow::Ok(free_address(Ipv4Addr::UNSPECIFIED)?.port());
    let (tcp, udp) = (free_port()?, free_port()?);
    let mapping = |protocol: Protocol, container_port, host_port: u16, host_ip: &str| PortMapping {
        protocol: protocol.into(),
        container_port,
        host_port: host_port.into(),
        host_ip: host_ip.to_owned(),
    };
    let ports = vec![
        mapping(Protocol::Tcp, 80, tcp, ""),
        mapping(Protocol::Udp, 9999, udp, ""),
    ];
    let pod = node
        .run_pod("ports", |config| config.port_mappings.clone_from(&ports))
        .await?;
    pod.start("nginx", nginx).await?;
    let bridge = node_address(&node, "-4")?;
    await_page((bridge, tcp)).await?;
    await_page((node_address(&node, "-6")?, tcp)).await?;
    await_page(([127, 0, 0, 1], tcp)).await?;
    let server = in_netns(&pod.netns(), || UdpSocket::bind("0.0.0.0:9999"))?;
    let client = UdpSocket::bind("0.0.0.0:0")?;
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    }
    client.send_to(b"question", (bridge, udp))?;
    let mut datagram = [0; 16];
    let (length, caller) = server.recv_from(&mut datagram)?;
    ensure!(&datagram[..length] == b"question");
    server.send_to(b"answer", caller)?;
    let (length, answerer) = client.recv_from(&mut datagram)?;
    ensure!(&datagram[..length] == b"answer" && answerer == (bridge, udp).into());
    // A pod reaches it too, even the one that serves it.
    let client = node
        .run_pod("client", |_| ())
        .await?
        .start("main", |_| ())
        .await?;
    ensure!(
        client
            .sh(&format!("wget -q -O - http://{bridge}:{tcp}/"))
            .await?
            == NGINX_PAGE.trim_end()
    );

    let taken = node
        .run_pod("taken", |config| config.port_mappings.clone_from(&ports))
        .await;
    let error = taken.err().context("a host port was given twice")?;
    ensure!(
        error.message().contains(&tcp.to_string()) || error.message().contains(&udp.to_string()),
        "{error}"
    );
    pod.stop().await?;
    ensure!(
        http_get((bridge, tcp).into(), "/").await.is_err(),
        "the port outlived its pod"
    );
    node.run_pod("next", |config| config.port_mappings.clone_from(&ports))
        .await?;
    node.finish().await
}

/// The address of one family that the node's bridge has.
fn node_address(node: &Node, family: &str) -> Result<IpAddr> {
    let listing = ip(&format!(
        "{family} -o addr show scope global dev {}",
        node.bridge()
    ))?;
    let network = listing
        .split_whitespace()
        .nth(3)
        .context("the bridge has no address")?;
    Ok(network.split('/').next().unwrap_or(network).parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_ip_netns_shows_the_pod_until_it_stops() -> Result<()> {
    let node =
        Node::start_with(|config| drop(config.insert("netns_dir".to_owned(), "/run/netns".into())))
            .await?;
    let pod = node.run_pod("shown", |_| ()).await?;
    let name = format!("crisp-{}", pod.id);
    ensure!(ip("netns list")?.contains(&name));
    let address = pod.address(IpAddr::is_ipv4).await?;
    ensure!(ip(&format!("netns exec {name} ip addr"))?.contains(&address.to_string()));
    pod.stop().await?;
    ensure!(!ip("netns list")?.contains(&name));
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pod_reaches_the_outside_under_the_nodes_address() -> Result<()> {
    let node = Node::start().await?;
    let outside = Outside::new(node.number())?;
    let container = node
        .run_pod("out", |_| ())
        .await?
        .start("main", |_| ())
        .await?;
    // The peer knows only its own network: without masquerade there is no way back.
    let listen = format!("{}:9000", outside.address);
    let listener = in_netns(&outside.path(), || TcpListener::bind(listen))?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    // The connection is closed at once, which ends the caller.
    let accept = async { anyhow::Ok(listener.accept().await?.1.ip().to_string()) };
    let call = format!("nc -w 20 {} 9000 < /dev/null", outside.address);
    let (caller, called) = tokio::join!(tokio::time::timeout(BOUND, accept), container.sh(&call));
    let caller = caller??;
    ensure!(caller == outside.node_address, "{caller}");
    called?;
    node.finish().await
}

/// A network behind the node, with a namespace for a peer.
struct Outside {
    namespace: String,
    address: String,
    node_address: String,
}

impl Outside {
    fn new(number: u8) -> Result<Self> {
        let outside = Self {
            namespace: format!("out-{number}"),
            address: format!("10.214.{number}.2"),
            node_address: format!("10.214.{number}.1"),
        };
        outside.connect(&format!("e2eo{number}"), &format!("e2ep{number}"))?;
        Ok(outside)
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace)
    }

    fn connect(&self, link: &str, peer: &str) -> Result<()> {
        let Self {
            namespace,
            address,
            node_address,
            ..
        } = self;
        ip(&format!("netns add {namespace}"))?;
        ip(&format!(
            "link add {link} type veth peer name {peer} netns {namespace}"
        ))?;
        ip(&format!("addr add {node_address}/24 dev {link}"))?;
        ip(&format!("link set {link} up"))?;
        ip(&format!("-n {namespace} addr add {address}/24 dev {peer}"))?;
        ip(&format!("-n {namespace} link set {peer} up"))?;
        Ok(())
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = ip(&format!("netns delete {}", self.namespace));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_address_range_that_is_full_is_a_clear_error() -> Result<()> {
    let node = Node::start_with(|config| {
        if let Some(cidrs) = config["network"]["pod_cidrs"].as_array_mut() {
            let first = cidrs[0].as_str().unwrap_or_default().replace("/24", "/29");
            *cidrs = vec![first.into()];
        }
    })
    .await?;
    let mut made = Vec::new();
    let error = loop {
        ensure!(
            made.len() < 8,
            "{} pods in a network of eight addresses",
            made.len()
        );
        match node.run_pod(&format!("pod-{}", made.len()), |_| ()).await {
            Ok(pod) => made.push(pod),
            Err(error) => break error,
        }
    };
    ensure!(error.message().contains("address"), "{error}");
    ensure!(
        node.pods().await?.len() == made.len(),
        "the pod that failed is listed"
    );
    // One address is free again when its pod stops.
    made.pop().context("no pod fitted")?.stop().await?;
    node.run_pod("fits", |_| ()).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pod_network_can_come_from_the_kubelet() -> Result<()> {
    let node = Node::start().await?;
    let ranges = "10.215.77.0/24,fd00:c415:ffff::/64";
    let update = UpdateRuntimeConfigRequest {
        runtime_config: Some(RuntimeConfig {
            network_config: Some(NetworkConfig {
                pod_cidr: ranges.to_owned(),
            }),
        }),
    };
    node.runtime().update_runtime_config(update).await?;
    let addresses = node.run_pod("pod", |_| ()).await?.addresses().await?;
    ensure!(
        addresses[0].to_string().starts_with("10.215.77."),
        "{addresses:?}"
    );
    ensure!(
        addresses[1].to_string().starts_with("fd00:c415:ffff:"),
        "{addresses:?}"
    );
    node.finish().await
}
