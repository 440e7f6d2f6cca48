//! The built-in pod network against a real kernel: traffic between pods, node and an outside, host
//! ports, exhaustion, and that nothing stays behind.
//!
//! Each test has a node of its own: a network namespace in which a thread runs the network under
//! test, so that tests run side by side and leave the machine's own network alone. Pods and the
//! outside are namespaces too. The program `ip` (iproute2) makes and removes them.

#![allow(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

use crisp_model::{PodId, PortMapping, Protocol};
use crisp_network::{Attachment, Error, Network, Settings};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use std::collections::HashSet;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a packet may take on this machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait before concluding that nothing comes.
const SILENCE: Duration = Duration::from_millis(300);

const NODE_OUTSIDE: [&str; 2] = ["203.0.113.1", "2001:db8::1"];
const OUTSIDE: [&str; 2] = ["203.0.113.2", "2001:db8::2"];

fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("iproute2 is installed");
    assert!(
        output.status.success(),
        "ip {arguments}: {} (these tests need root)",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A network namespace, removed when the test ends in whatever way.
struct Namespace {
    name: String,
}

impl Namespace {
    fn new(role: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ce2e-{}-{count}-{role}", std::process::id());
        ip(&format!("netns add {name}"));
        let namespace = Self { name };
        namespace.ip("link set lo up");
        namespace
    }

    fn ip(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.name))
    }

    fn open(&self) -> File {
        File::open(format!("/run/netns/{}", self.name)).unwrap()
    }

    /// Runs something on a thread inside the namespace.
    fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let netns = self.open();
        std::thread::spawn(move || {
            setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(work).join().unwrap()
    }

    fn netlink_socket(&self) -> OwnedFd {
        self.run(|| {
            socket(
                AddressFamily::Netlink,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::NetlinkRoute,
            )
            .unwrap()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

/// A node with an outside behind its uplink, and the network under test.
struct Node {
    namespace: Namespace,
    outside: Namespace,
    network: Network,
    runtime: tokio::runtime::Runtime,
}

impl Node {
    fn new(settings: Settings) -> Self {
        let namespace = Namespace::new("node");
        let outside = Namespace::new("out");
        namespace.ip(&format!(
            "link add up0 mtu 1400 type veth peer name eth0 mtu 1400 netns {}",
            outside.name
        ));
        for (there, link, addresses) in [
            (&namespace, "up0", NODE_OUTSIDE),
            (&outside, "eth0", OUTSIDE),
        ] {
            there.ip(&format!("addr add {}/24 dev {link}", addresses[0]));
            there.ip(&format!("addr add {}/64 dev {link} nodad", addresses[1]));
            there.ip(&format!("link set {link} up"));
        }
        namespace.ip(&format!("route add default via {}", OUTSIDE[0]));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let network = open_network(&runtime, &namespace, settings);
        Self {
            namespace,
            outside,
            network,
            runtime,
        }
    }

    /// The daemon dies and is started again.
    fn restart(&mut self, settings: Settings) {
        self.network = open_network(&self.runtime, &self.namespace, settings);
    }

    fn allocate(&self, mappings: &[PortMapping]) -> Attachment {
        self.network.allocate(&PodId::generate(), mappings).unwrap()
    }

    fn start_pod(&self, mappings: &[PortMapping]) -> Pod {
        let pod = Pod {
            attachment: self.allocate(mappings),
            namespace: Namespace::new("pod"),
        };
        self.attach(&pod).unwrap();
        pod
    }

    fn attach(&self, pod: &Pod) -> Result<(), Error> {
        let netns = pod.namespace.open();
        let socket = pod.namespace.netlink_socket();
        self.block_on(self.network.attach(&pod.attachment, netns.as_fd(), socket))
    }

    fn detach(&self, pod: &Pod) {
        self.block_on(self.network.detach(&pod.attachment)).unwrap();
    }

    fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    fn links(&self) -> String {
        self.namespace.ip("-o link show")
    }

    /// Waits until the links of detached pods are gone.
    fn settle(&self) {
        self.block_on(self.network.settle()).unwrap();
    }
}

/// The network's sockets belong to the namespace of the thread that opens them.
fn open_network(
    runtime: &tokio::runtime::Runtime,
    namespace: &Namespace,
    settings: Settings,
) -> Network {
    let handle = runtime.handle().clone();
    namespace.run(move || handle.block_on(Network::open(settings, "e2e")).unwrap())
}

struct Pod {
    attachment: Attachment,
    namespace: Namespace,
}

impl Pod {
    fn address(&self, family: usize) -> IpAddr {
        self.attachment.addresses[family].addr()
    }
}

fn settings() -> Settings {
    Settings {
        pod_cidrs: ["10.77.0.0/24", "fd77::/64"]
            .map(|n| n.parse().unwrap())
            .to_vec(),
        ..Settings::default()
    }
}

fn mapping(protocol: Protocol, host_port: u16, host_ip: Option<&str>) -> PortMapping {
    PortMapping {
        protocol,
        container_port: 80,
        host_port,
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
    }
}

/// Listens on TCP port 80 in a namespace, and tells who came.
fn serve_tcp(namespace: &Namespace) -> JoinHandle<IpAddr> {
    let listener = namespace.run(listen);
    std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        stream.write_all(b"hello").unwrap();
        peer.ip().to_canonical()
    })
}

/// The listener that was there before lives on, for an instant, in whatever process another test is
/// just starting.
fn listen() -> TcpListener {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind("[::]:80") {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            listener => return listener.unwrap(),
        }
    }
}

fn call_tcp(from: &Namespace, to: SocketAddr) -> std::io::Result<String> {
    from.run(move || {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}

/// Connects from a namespace to an address whose TCP port leads to port 80 of `server`; returns whom
/// the server saw.
fn reach(from: &Namespace, to: IpAddr, port: u16, server: &Namespace) -> IpAddr {
    let peer = serve_tcp(server);
    let text = call_tcp(from, SocketAddr::new(to, port))
        .unwrap_or_else(|error| panic!("{to} port {port}: {error}"));
    assert_eq!(text, "hello");
    peer.join().unwrap()
}

fn parse(address: &str) -> IpAddr {
    address.parse().unwrap()
}

#[test]
fn privileged_pods_reach_each_other_the_node_and_the_outside() {
    let node = Node::new(settings());
    let (a, b) = (node.start_pod(&[]), node.start_pod(&[]));
    for family in [0, 1] {
        let seen = reach(&a.namespace, b.address(family), 80, &b.namespace);
        assert_eq!(seen, a.address(family), "pod to pod keeps the source");
        reach(&node.namespace, a.address(family), 80, &a.namespace);
        let seen = reach(
            &a.namespace,
            a.attachment.gateways[family],
            80,
            &node.namespace,
        );
        assert_eq!(seen, a.address(family), "pod to node keeps the source");
        let seen = reach(&a.namespace, parse(OUTSIDE[family]), 80, &node.outside);
        assert_eq!(seen, parse(NODE_OUTSIDE[family]), "masqueraded as the node");
    }
    assert_eq!(a.attachment.mtu, 1400, "that of the uplink");
    let inside = a.namespace.ip("-o addr show");
    assert!(!inside.contains("tentative"), "{inside}");
    assert!(inside.contains("127.0.0.1/8"), "{inside}");
    assert!(
        a.namespace
            .ip("-o link show eth0")
            .contains(&a.attachment.mac.to_string())
    );
    let alias = node
        .namespace
        .ip(&format!("link show {}", a.attachment.host_interface));
    assert!(alias.contains(a.attachment.pod.as_str()), "{alias}");
}

#[test]
fn privileged_masquerade_exempts_what_is_set() {
    let exempt = Settings {
        non_masquerade_cidrs: [OUTSIDE[0], OUTSIDE[1]].map(|a| parse(a).into()).to_vec(),
        ..settings()
    };
    let node = Node::new(exempt);
    for (network, via) in [
        ("10.77.0.0/24", NODE_OUTSIDE[0]),
        ("fd77::/64", NODE_OUTSIDE[1]),
    ] {
        node.outside.ip(&format!("route add {network} via {via}"));
    }
    let pod = node.start_pod(&[]);
    for family in [0, 1] {
        let seen = reach(&pod.namespace, parse(OUTSIDE[family]), 80, &node.outside);
        assert_eq!(seen, pod.address(family));
    }
}

#[test]
fn privileged_host_port_answers_from_everywhere_until_the_pod_goes() {
    host_port_answers_from_everywhere("0");
}

/// As on a node that kubeadm has prepared.
#[test]
fn privileged_host_port_answers_where_bridged_packets_are_filtered_too() {
    host_port_answers_from_everywhere("1");
}

fn host_port_answers_from_everywhere(filter_bridged: &'static str) {
    let node = Node::new(settings());
    node.namespace.run(move || {
        for file in ["iptables", "ip6tables"] {
            // Without the module, bridged packets are not filtered.
            let path = format!("/proc/sys/net/bridge/bridge-nf-call-{file}");
            let _ = std::fs::write(path, filter_bridged);
        }
    });
    let pod = node.start_pod(&[mapping(Protocol::Tcp, 8080, None)]);
    let other = node.start_pod(&[]);
    for family in [0, 1] {
        let host = parse(NODE_OUTSIDE[family]);
        let seen = reach(&node.outside, host, 8080, &pod.namespace);
        assert_eq!(seen, parse(OUTSIDE[family]), "the client's address is kept");
        reach(&node.namespace, host, 8080, &pod.namespace);
        reach(&other.namespace, host, 8080, &pod.namespace);
        reach(&pod.namespace, host, 8080, &pod.namespace);
        reach(
            &other.namespace,
            pod.attachment.gateways[family],
            8080,
            &pod.namespace,
        );
    }
    reach(&node.namespace, parse("127.0.0.1"), 8080, &pod.namespace);
    let refused = call_tcp(&node.namespace, "[::1]:8080".parse().unwrap());
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);

    node.detach(&pod);
    for family in [0, 1] {
        let address = SocketAddr::new(parse(NODE_OUTSIDE[family]), 8080);
        assert!(call_tcp(&node.outside, address).is_err());
    }
    node.allocate(&[mapping(Protocol::Tcp, 8080, None)]);
}

#[test]
fn privileged_host_port_of_one_address_answers_there_only() {
    let node = Node::new(settings());
    node.namespace.ip("addr add 203.0.113.9/24 dev up0");
    let pod = node.start_pod(&[
        mapping(Protocol::Tcp, 8080, Some("203.0.113.9")),
        mapping(Protocol::Tcp, 8080, Some(NODE_OUTSIDE[1])),
    ]);
    reach(&node.outside, parse("203.0.113.9"), 8080, &pod.namespace);
    reach(&node.outside, parse(NODE_OUTSIDE[1]), 8080, &pod.namespace);
    reach(&pod.namespace, parse("203.0.113.9"), 8080, &pod.namespace);
    let elsewhere = SocketAddr::new(parse(NODE_OUTSIDE[0]), 8080);
    assert!(call_tcp(&node.outside, elsewhere).is_err());
}

fn kernel_version() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// A client that never pauses keeps its place in the connection table, where it was entered before
/// there was a host port, or while there was another.
#[test]
fn privileged_udp_host_port_follows_the_pod_under_a_persistent_client() {
    if kernel_version() < (6, 9) {
        eprintln!("skipped: connections are forgotten by their port from Linux 6.9 on");
        return;
    }
    let node = Node::new(settings());
    for family in [0, 1] {
        let bind = ["0.0.0.0:0", "[::]:0"][family];
        let client = node.outside.run(move || UdpSocket::bind(bind).unwrap());
        client
            .connect(SocketAddr::new(parse(NODE_OUTSIDE[family]), 5353))
            .unwrap();
        client.set_read_timeout(Some(SILENCE)).unwrap();
        // The node answers "port unreachable".
        client.send(b"?").unwrap();
        assert!(client.recv(&mut [0; 8]).is_err());
        for _ in 0..2 {
            let pod = node.start_pod(&[mapping(Protocol::Udp, 5353, None)]);
            let server = pod.namespace.run(|| UdpSocket::bind("[::]:80").unwrap());
            server.set_read_timeout(Some(PATIENCE)).unwrap();
            client.send(b"hello").unwrap();
            let mut buffer = [0; 8];
            let (length, peer) = server.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"hello");
            server.send_to(b"yes", peer).unwrap();
            assert_eq!(client.recv(&mut buffer).unwrap(), 3);
            node.detach(&pod);
        }
    }
}

#[test]
fn privileged_sctp_host_port_reaches_the_pod() {
    let node = Node::new(settings());
    let pod = node.start_pod(&[mapping(Protocol::Sctp, 9090, None)]);
    // SCTP itself is a module that few kernels have loaded: a raw packet shows the translation. Its
    // first chunk is INIT, without which connection tracking does not follow it.
    let receive = |family: AddressFamily| pod.namespace.run(move || raw_sctp(family));
    let inside = receive(AddressFamily::Inet);
    let from = node.outside.run(|| raw_sctp(AddressFamily::Inet));
    send_raw(&from, NODE_OUTSIDE[0], &sctp_init(9090));
    let packet = receive_raw(&inside);
    let destination_port = u16::from_be_bytes([packet[22], packet[23]]);
    assert_eq!(destination_port, 80);
}

fn raw_sctp(family: AddressFamily) -> OwnedFd {
    use nix::sys::socket::{setsockopt, sockopt};
    let socket = socket(
        family,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Sctp,
    );
    let socket = socket.unwrap();
    let patience = nix::sys::time::TimeVal::new(5, 0);
    setsockopt(&socket, sockopt::ReceiveTimeout, &patience).unwrap();
    socket
}

fn send_raw(socket: &OwnedFd, to: &str, packet: &[u8]) {
    use nix::sys::socket::{MsgFlags, SockaddrIn, sendto};
    use std::os::fd::AsRawFd;
    let IpAddr::V4(to) = parse(to) else {
        panic!("not IPv4");
    };
    let to = SockaddrIn::from(std::net::SocketAddrV4::new(to, 0));
    sendto(socket.as_raw_fd(), packet, &to, MsgFlags::empty()).unwrap();
}

fn receive_raw(socket: &OwnedFd) -> Vec<u8> {
    use nix::sys::socket::{MsgFlags, recv};
    use std::os::fd::AsRawFd;
    let mut buffer = vec![0; 2048];
    let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
    buffer.truncate(length);
    buffer
}

/// An SCTP packet with an INIT chunk (RFC 9260, sections 3.1 and 3.3.2) from port 7777.
fn sctp_init(port: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(7777u16.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend([0; 8]);
    packet.extend([1, 0, 0, 20]);
    packet.extend([0, 0, 0, 1, 0, 0, 0x10, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let checksum = crc32c(&packet);
    packet[8..12].copy_from_slice(&checksum.to_le_bytes());
    packet
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| {
        if crc & 1 == 1 {
            crc >> 1 ^ 0x82f6_3b78
        } else {
            crc >> 1
        }
    };
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc))
    })
}

#[test]
fn privileged_pods_cannot_reach_the_nodes_loopback() {
    let node = Node::new(settings());
    let pod = node.start_pod(&[mapping(Protocol::Tcp, 8080, None)]);
    let on_loopback = node
        .namespace
        .run(|| UdpSocket::bind("127.0.0.1:4444").unwrap());
    on_loopback.set_read_timeout(Some(SILENCE)).unwrap();
    // The pod's administrator sends such packets to the bridge: a route, and leave to use it.
    pod.namespace
        .run(|| std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap());
    pod.namespace
        .ip("route del local 127.0.0.0/8 dev lo table local");
    pod.namespace
        .ip("route del local 127.0.0.1 dev lo table local");
    pod.namespace.ip(&format!(
        "route add 127.0.0.1 via {} dev eth0 src {}",
        pod.attachment.gateways[0],
        pod.address(0)
    ));
    let from = pod.namespace.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    from.send_to(b"in", "127.0.0.1:4444").unwrap();
    assert!(on_loopback.recv(&mut [0; 8]).is_err());
}

#[test]
fn privileged_exhaustion_names_the_network_and_ends_with_a_detach() {
    let small = Settings {
        pod_cidrs: vec!["10.77.0.0/29".parse().unwrap()],
        ..settings()
    };
    let node = Node::new(small);
    let pods: Vec<Pod> = (0..5).map(|_| node.start_pod(&[])).collect();
    let error = node.network.allocate(&PodId::generate(), &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no address is left in 10.77.0.0/29: all 5 are in use"
    );
    node.detach(&pods[3]);
    let next = node.start_pod(&[]);
    assert_eq!(next.address(0), pods[3].address(0));
    reach(&pods[0].namespace, next.address(0), 80, &next.namespace);
    reach(&node.namespace, next.address(0), 80, &next.namespace);
}

#[test]
fn privileged_detach_leaves_nothing_and_may_be_repeated() {
    let node = Node::new(settings());
    let before = node.namespace.ip("-o link show up0");
    let pod = node.start_pod(&[mapping(Protocol::Tcp, 8080, None)]);
    let other = node.start_pod(&[]);
    // The neighbours know each other, so that a packet would find its way.
    reach(&other.namespace, pod.address(0), 80, &pod.namespace);
    let inside = pod.namespace.run(|| UdpSocket::bind("[::]:9").unwrap());
    inside.set_read_timeout(Some(SILENCE)).unwrap();
    let from = other
        .namespace
        .run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    from.send_to(b"?", (pod.address(0), 9)).unwrap();
    assert_eq!(inside.recv(&mut [0; 8]).unwrap(), 1);
    node.detach(&pod);
    from.send_to(b"?", (pod.address(0), 9)).unwrap();
    assert!(
        inside.recv(&mut [0; 8]).is_err(),
        "no packet reaches a detached pod"
    );
    node.detach(&pod);
    node.detach(&other);
    let never = node.allocate(&[]);
    node.block_on(node.network.detach(&never)).unwrap();
    node.settle();
    let links = node.links();
    assert!(!links.contains(&pod.attachment.host_interface), "{links}");
    assert!(!links.contains(&other.attachment.host_interface), "{links}");
    node.block_on(node.network.destroy()).unwrap();
    let links = node.links();
    assert!(!links.contains("crisp"), "{links}");
    assert_eq!(node.namespace.ip("-o link show up0"), before);
    if let Some(rules) = nft(&node.namespace, "list ruleset") {
        assert_eq!(rules, "");
    }
}

/// What the program `nft` says; none where it is not installed.
fn nft(namespace: &Namespace, arguments: &str) -> Option<String> {
    let output = Command::new("ip")
        .args(["netns", "exec", &namespace.name, "nft"])
        .args(arguments.split_whitespace())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8(output.stdout).unwrap())
}

#[test]
fn privileged_a_late_detach_does_not_close_anothers_host_port() {
    let node = Node::new(settings());
    let ports = [mapping(Protocol::Tcp, 8080, None)];
    let first = node.start_pod(&ports);
    node.detach(&first);
    let second = node.start_pod(&ports);
    node.detach(&first);
    reach(
        &node.outside,
        parse(NODE_OUTSIDE[0]),
        8080,
        &second.namespace,
    );
}

#[test]
fn privileged_restart_keeps_what_is_adopted_and_removes_orphans() {
    let mut node = Node::new(settings());
    let kept = node.start_pod(&[mapping(Protocol::Tcp, 8080, None)]);
    let orphan = node.start_pod(&[mapping(Protocol::Tcp, 8081, None)]);
    node.restart(settings());
    node.network.adopt(&kept.attachment).unwrap();
    let keep = HashSet::from([kept.attachment.pod.clone()]);
    node.block_on(node.network.collect_garbage(&keep)).unwrap();
    node.settle();
    let links = node.links();
    assert!(links.contains(&kept.attachment.host_interface), "{links}");
    assert!(
        !links.contains(&orphan.attachment.host_interface),
        "{links}"
    );
    reach(&node.outside, parse(NODE_OUTSIDE[0]), 8080, &kept.namespace);
    let orphaned = SocketAddr::new(parse(NODE_OUTSIDE[0]), 8081);
    assert!(call_tcp(&node.outside, orphaned).is_err());
    assert_ne!(node.start_pod(&[]).address(0), kept.address(0));
    node.detach(&kept);
}

#[test]
fn privileged_a_half_made_attachment_is_made_again() {
    let mut node = Node::new(settings());
    let pod = node.start_pod(&[mapping(Protocol::Tcp, 8080, None)]);
    node.restart(settings());
    node.attach(&pod).unwrap();
    reach(&node.outside, parse(NODE_OUTSIDE[0]), 8080, &pod.namespace);
}

#[test]
fn privileged_a_bridge_that_others_removed_comes_back_with_its_pods() {
    let node = Node::new(settings());
    let first = node.start_pod(&[]);
    node.namespace.ip("link del crisp0");
    let second = node.start_pod(&[mapping(Protocol::Tcp, 8081, None)]);
    let host = parse(NODE_OUTSIDE[0]);
    reach(&node.outside, host, 8081, &second.namespace);
    reach(&second.namespace, first.address(0), 80, &first.namespace);
    node.detach(&first);
}

#[test]
fn privileged_a_firewall_that_flushes_all_rules_does_not_close_host_ports_for_long() {
    let node = Node::new(settings());
    let pod = node.start_pod(&[mapping(Protocol::Tcp, 8080, None)]);
    if nft(&node.namespace, "flush ruleset").is_none() {
        eprintln!("skipped: the program nft is not installed");
        return;
    }
    node.start_pod(&[]);
    reach(&node.outside, parse(NODE_OUTSIDE[0]), 8080, &pod.namespace);
}

#[test]
fn privileged_new_pod_cidrs_leave_older_pods_connected() {
    let node = Node::new(settings());
    let old = node.start_pod(&[]);
    let cidrs = ["10.78.0.0/24", "fd78::/64"]
        .map(|n| n.parse().unwrap())
        .to_vec();
    node.network.set_pod_cidrs(cidrs).unwrap();
    let new = node.start_pod(&[]);
    for family in [0, 1] {
        reach(&old.namespace, new.address(family), 80, &new.namespace);
        reach(&new.namespace, old.address(family), 80, &old.namespace);
        reach(&old.namespace, parse(OUTSIDE[family]), 80, &node.outside);
    }
}

#[test]
fn privileged_statistics_are_the_pods_own_view() {
    let node = Node::new(settings());
    let (a, b) = (node.start_pod(&[]), node.start_pod(&[]));
    // Once they know each other, no packet waits for an address to be resolved.
    reach(&a.namespace, b.address(0), 80, &b.namespace);
    let to = SocketAddr::new(b.address(0), 9);
    a.namespace.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..100 {
            socket.send_to(&[0; 1000], to).unwrap();
        }
    });
    let pods = [a.attachment.clone(), b.attachment.clone()];
    let statistics = node.block_on(node.network.statistics(&pods)).unwrap();
    let (of_a, of_b) = (
        &statistics[&a.attachment.pod],
        &statistics[&b.attachment.pod],
    );
    assert!(
        of_a.tx_bytes > 100_000 && of_a.tx_packets >= 100,
        "{of_a:?}"
    );
    assert!(
        of_b.rx_bytes > 100_000 && of_b.rx_packets >= 100,
        "{of_b:?}"
    );
    assert!(of_a.rx_bytes < 50_000, "{of_a:?}");
}

#[test]
fn privileged_forwarding_keeps_routes_from_router_advertisements() {
    let node = Node::new(settings());
    node.namespace.ip(&format!(
        "-6 route add default via {} proto ra dev up0",
        OUTSIDE[1]
    ));
    node.start_pod(&[]);
    let accept_ra = node
        .namespace
        .run(|| std::fs::read_to_string("/proc/sys/net/ipv6/conf/up0/accept_ra").unwrap());
    assert_eq!(accept_ra.trim(), "2");
}
