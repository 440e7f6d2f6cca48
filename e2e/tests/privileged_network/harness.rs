//! A node in a network namespace of its own, its pods and its outside.

use crisp_model::{PodId, PortMapping, Protocol};
use crisp_network::{Attachment, Bandwidth, Error, Network, Settings};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a packet may take on this machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait before concluding that nothing comes.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

pub(crate) const NODE_OUTSIDE: [&str; 2] = ["203.0.113.1", "2001:db8::1"];
pub(crate) const OUTSIDE: [&str; 2] = ["203.0.113.2", "2001:db8::2"];

pub(crate) fn ip(arguments: &str) -> String {
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
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    pub(crate) fn new(role: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ce2e-{}-{count}-{role}", std::process::id());
        ip(&format!("netns add {name}"));
        let namespace = Self { name };
        namespace.ip("link set lo up");
        namespace
    }

    pub(crate) fn ip(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.name))
    }

    pub(crate) fn open(&self) -> File {
        File::open(format!("/run/netns/{}", self.name)).unwrap()
    }

    /// Runs something on a thread inside the namespace.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let netns = self.open();
        std::thread::spawn(move || {
            setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(work).join().unwrap()
    }

    pub(crate) fn netlink_socket(&self) -> OwnedFd {
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
pub(crate) struct Node {
    pub(crate) namespace: Namespace,
    pub(crate) outside: Namespace,
    pub(crate) network: Network,
    pub(crate) runtime: tokio::runtime::Runtime,
}

impl Node {
    pub(crate) fn new(settings: Settings) -> Self {
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
    pub(crate) fn restart(&mut self, settings: Settings) {
        self.network = open_network(&self.runtime, &self.namespace, settings);
    }

    pub(crate) fn allocate(&self, mappings: &[PortMapping]) -> Attachment {
        let limits = Bandwidth::default();
        self.network
            .allocate(&PodId::generate(), mappings, limits)
            .unwrap()
    }

    pub(crate) fn start_pod(&self, mappings: &[PortMapping]) -> Pod {
        let pod = Pod {
            attachment: self.allocate(mappings),
            namespace: Namespace::new("pod"),
        };
        self.attach(&pod).unwrap();
        pod
    }

    pub(crate) fn attach(&self, pod: &Pod) -> Result<(), Error> {
        let netns = pod.namespace.open();
        let socket = pod.namespace.netlink_socket();
        self.block_on(self.network.attach(&pod.attachment, netns.as_fd(), socket))
    }

    pub(crate) fn detach(&self, pod: &Pod) {
        self.block_on(self.network.detach(&pod.attachment)).unwrap();
    }

    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub(crate) fn links(&self) -> String {
        self.namespace.ip("-o link show")
    }

    /// Waits until the links of detached pods are gone.
    pub(crate) fn settle(&self) {
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

pub(crate) struct Pod {
    pub(crate) attachment: Attachment,
    pub(crate) namespace: Namespace,
}

impl Pod {
    pub(crate) fn address(&self, family: usize) -> IpAddr {
        self.attachment.addresses[family].addr()
    }
}

pub(crate) fn settings() -> Settings {
    Settings {
        pod_cidrs: ["10.77.0.0/24", "fd77::/64"]
            .map(|n| n.parse().unwrap())
            .to_vec(),
        ..Settings::default()
    }
}

pub(crate) fn mapping(protocol: Protocol, host_port: u16, host_ip: Option<&str>) -> PortMapping {
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

pub(crate) fn call_tcp(from: &Namespace, to: SocketAddr) -> std::io::Result<String> {
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
pub(crate) fn reach(from: &Namespace, to: IpAddr, port: u16, server: &Namespace) -> IpAddr {
    let peer = serve_tcp(server);
    let text = call_tcp(from, SocketAddr::new(to, port))
        .unwrap_or_else(|error| panic!("{to} port {port}: {error}"));
    assert_eq!(text, "hello");
    peer.join().unwrap()
}

pub(crate) fn parse(address: &str) -> IpAddr {
    address.parse().unwrap()
}

/// What the program `nft` says; none where it is not installed.
pub(crate) fn nft(namespace: &Namespace, arguments: &str) -> Option<String> {
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
