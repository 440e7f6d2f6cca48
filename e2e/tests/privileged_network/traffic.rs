//! Who reaches whom, under which address, and what is counted.

use crate::harness::{
    NODE_OUTSIDE, Namespace, Node, OUTSIDE, PATIENCE, SILENCE, mapping, parse, reach, settings,
};
use crisp_model::Protocol;
use crisp_network::{Settings, Traffic};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

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

/// The kernel asks for the neighbours of those for whom it forwards by a link-local address that is not being
/// probed, or not at all.
#[test]
fn privileged_bridge_asks_for_its_neighbours_from_the_first_pod_on() {
    let node = Node::new(settings());
    let pod = node.start_pod(&[mapping(Protocol::Tcp, 8080, None)]);
    let link_local = node
        .namespace
        .ip("-6 -oneline addr show dev crisp0 scope link");
    assert!(link_local.contains("fe80::"), "{link_local}");
    assert!(!link_local.contains("tentative"), "{link_local}");
    reach(&node.outside, parse(NODE_OUTSIDE[1]), 8080, &pod.namespace);
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
    let traffic = node.namespace.run(|| Traffic::here().unwrap());
    let [of_a, of_b] = [&a, &b].map(|pod| {
        let host_interface = &pod.attachment.host_interface;
        traffic.of_peer(host_interface).expect("it has its pair")
    });
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

/// Every frame that comes to a namespace from now on.
struct Ears(OwnedFd);

impl Ears {
    fn open(namespace: &Namespace) -> Self {
        let open = || {
            let flags = SockFlag::SOCK_CLOEXEC;
            socket(
                AddressFamily::Packet,
                SockType::Raw,
                flags,
                SockProtocol::EthAll,
            )
            .unwrap()
        };
        let socket = namespace.run(open);
        let patience = TimeVal::milliseconds(i64::try_from(PATIENCE.as_millis()).unwrap());
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience).unwrap();
        Self(socket)
    }

    /// Where the next frame from this hardware address goes.
    fn next_from(&self, source: [u8; 6]) -> [u8; 6] {
        let mut frame = [0; 2048];
        loop {
            recv(self.0.as_raw_fd(), &mut frame, MsgFlags::empty()).expect("a frame comes");
            if frame[6..12] == source {
                return frame[..6].try_into().unwrap();
            }
        }
    }
}

/// The hardware address for packets to ff02::<group>.
fn to_group(group: u8) -> [u8; 6] {
    [0x33, 0x33, 0, 0, 0, group]
}

/// How many reports of its multicast groups a namespace has sent (MLDv2).
fn reports_of(namespace: &Namespace) -> u64 {
    let counters = || std::fs::read_to_string("/proc/thread-self/net/snmp6").unwrap();
    let counters = namespace.run(counters);
    let line = counters
        .lines()
        .find(|line| line.starts_with("Icmp6OutMLDv2Reports"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0)
}

#[test]
fn privileged_pods_hear_multicast_of_each_other_but_no_reports_of_groups() {
    let node = Node::new(settings());
    let listener = node.start_pod(&[]);
    let ears = Ears::open(&listener.namespace);
    let speaker = node.start_pod(&[]);
    let begin = Instant::now();
    while reports_of(&speaker.namespace) < 2 {
        assert!(
            begin.elapsed() < PATIENCE,
            "the pod does not report its groups"
        );
        std::thread::sleep(SILENCE);
    }
    speaker.namespace.run(|| {
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let of_eth0 = nix::net::if_::if_nametoindex("eth0").unwrap();
        let socket = UdpSocket::bind("[::]:0").unwrap();
        socket
            .send_to(b"hear", SocketAddrV6::new(all_nodes, 9, 0, of_eth0))
            .unwrap();
    });
    let mut heard = Vec::new();
    while heard.last() != Some(&to_group(1)) {
        heard.push(ears.next_from(speaker.attachment.mac.0));
    }
    assert!(!heard.contains(&to_group(0x16)), "{heard:x?}");
}
