//! Pods on a link of the node's, as macvlan or ipvlan.

use crate::harness::{NODE_OUTSIDE, Namespace, Node, OUTSIDE, Pod, mapping, reach, settings};
use crisp_model::{PodId, Protocol};
use crisp_network::{Bandwidth, Error, IpvlanMode, Mode, Settings};
use std::net::IpAddr;

/// What the outside is called on the pods' network, as their router.
const ROUTER: [&str; 2] = ["10.77.0.1", "fd77::1"];
/// What is behind the router.
const BEYOND: [&str; 2] = ["198.51.100.1", "2001:db8:ffff::1"];

fn on_uplink(mode: Mode) -> Settings {
    Settings {
        mode,
        uplink: "up0".to_owned(),
        ..settings()
    }
}

/// A node whose uplink leads to a router of the pods' network.
fn node(settings: Settings) -> Node {
    let node = node_with_beyond(settings);
    let [ipv4, ipv6] = ROUTER;
    node.outside.ip(&format!("addr add {ipv4}/24 dev eth0"));
    node.outside
        .ip(&format!("addr add {ipv6}/64 dev eth0 nodad"));
    node
}

fn node_with_beyond(settings: Settings) -> Node {
    let node = Node::new(settings);
    for address in BEYOND {
        node.outside.ip(&format!("addr add {address} dev lo"));
    }
    node
}

fn kernel_has(node: &Node, kind: &str) -> bool {
    let made = std::process::Command::new("ip")
        .args(["-n", &node.namespace.name])
        .args(["link", "add", "link", "up0", "name", "probe", "type", kind])
        .output()
        .unwrap();
    if made.status.success() {
        node.namespace.ip("link del probe");
    }
    made.status.success()
}

fn reaches_pods_and_what_is_beyond(node: &Node, a: &Pod, b: &Pod) {
    for family in [0, 1] {
        let seen = reach(&a.namespace, b.address(family), 80, &b.namespace);
        assert_eq!(seen, a.address(family));
        for there in [ROUTER[family], BEYOND[family]] {
            let seen = reach(&a.namespace, there.parse().unwrap(), 80, &node.outside);
            assert_eq!(seen, a.address(family), "the source is kept");
        }
        reach(&node.outside, b.address(family), 80, &b.namespace);
    }
}

/// Pods come, talk, survive a restart of the daemon and go.
fn pods_live_on_the_uplink(settings: &Settings) {
    let mut node = node(settings.clone());
    let links = node.links();
    let (a, b) = (node.start_pod(&[]), node.start_pod(&[]));
    assert_eq!(a.attachment.mtu, 1400, "that of the uplink");
    reaches_pods_and_what_is_beyond(&node, &a, &b);

    node.restart(settings.clone());
    node.network.adopt(&a.attachment).unwrap();
    node.network.adopt(&b.attachment).unwrap();
    let keep = [&a, &b].map(|pod| pod.attachment.pod.clone()).into();
    node.block_on(node.network.collect_garbage(&keep)).unwrap();
    reaches_pods_and_what_is_beyond(&node, &a, &b);
    let c = node.start_pod(&[]);
    assert!(![a.address(0), b.address(0)].contains(&c.address(0)));

    // What a killed daemon has begun is made again.
    node.attach(&c).unwrap();
    reaches_pods_and_what_is_beyond(&node, &c, &a);

    for pod in [a, b, c] {
        node.detach(&pod);
        node.detach(&pod);
    }
    node.block_on(node.network.destroy()).unwrap();
    assert_eq!(node.links(), links, "nothing was made on the node");
}

#[test]
fn privileged_pods_are_on_their_uplink_as_macvlan() {
    pods_live_on_the_uplink(&on_uplink(Mode::Macvlan));
}

#[test]
fn privileged_pods_are_on_their_uplink_as_ipvlan() {
    if !kernel_has(&Node::new(settings()), "ipvlan") {
        eprintln!("skipped: this kernel has no ipvlan");
        return;
    }
    pods_live_on_the_uplink(&on_uplink(Mode::Ipvlan));
}

#[test]
fn privileged_node_routes_for_pods_with_ipvlan_of_layer_3() {
    for ipvlan_mode in [IpvlanMode::L3, IpvlanMode::L3s] {
        let node = node_with_beyond(Settings {
            ipvlan_mode,
            ..on_uplink(Mode::Ipvlan)
        });
        if !kernel_has(&node, "ipvlan") {
            eprintln!("skipped: this kernel has no ipvlan");
            return;
        }
        // Nobody answers for the pods' addresses: the router knows that the node has them.
        for (network, via) in [
            ("10.77.0.0/24", NODE_OUTSIDE[0]),
            ("fd77::/64", NODE_OUTSIDE[1]),
        ] {
            node.outside.ip(&format!("route add {network} via {via}"));
        }
        for (network, via) in BEYOND.iter().zip(OUTSIDE) {
            node.namespace.ip(&format!("route add {network} via {via}"));
        }
        let (a, b) = (node.start_pod(&[]), node.start_pod(&[]));
        for family in [0, 1] {
            reach(&a.namespace, b.address(family), 80, &b.namespace);
            let beyond = BEYOND[family].parse().unwrap();
            let seen = reach(&a.namespace, beyond, 80, &node.outside);
            assert_eq!(seen, a.address(family));
        }
    }
}

#[test]
fn privileged_router_beside_the_pods_range_is_reached() {
    let node = node(Settings {
        pod_cidrs: ["10.77.0.128/25", "fd77:0:0:0:1::/80"]
            .map(|n| n.parse().unwrap())
            .to_vec(),
        gateways: ROUTER.map(|r| r.parse().unwrap()).to_vec(),
        ..on_uplink(Mode::Macvlan)
    });
    let (a, b) = (node.start_pod(&[]), node.start_pod(&[]));
    assert_eq!(a.address(0), "10.77.0.130".parse::<IpAddr>().unwrap());
    reaches_pods_and_what_is_beyond(&node, &a, &b);
}

/// Pods come and go where there is one address only.
fn address_is_had_again(mode: Mode) {
    let node = node(Settings {
        pod_cidrs: vec!["10.77.0.0/30".parse().unwrap()],
        ..on_uplink(mode)
    });
    for _ in 0..5 {
        let pod = node.start_pod(&[]);
        let router = ROUTER[0].parse().unwrap();
        let seen = reach(&pod.namespace, router, 80, &node.outside);
        assert_eq!(seen, pod.address(0));
        node.detach(&pod);
    }
}

#[test]
fn privileged_address_is_had_again_as_soon_as_its_macvlan_pod_has_gone() {
    address_is_had_again(Mode::Macvlan);
}

#[test]
fn privileged_address_is_had_again_as_soon_as_its_ipvlan_pod_has_gone() {
    if !kernel_has(&Node::new(settings()), "ipvlan") {
        eprintln!("skipped: this kernel has no ipvlan");
        return;
    }
    address_is_had_again(Mode::Ipvlan);
}

#[test]
fn privileged_host_ports_and_a_missing_uplink_are_refused_with_a_reason() {
    let mut node = node(on_uplink(Mode::Macvlan));
    let ports = [mapping(Protocol::Tcp, 8080, None)];
    let refused = node
        .network
        .allocate(&PodId::generate(), &ports, Bandwidth::default());
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("8080") && text.contains("up0"), "{text}");
    node.network.ready().unwrap();

    node.restart(Settings {
        uplink: "nosuch0".to_owned(),
        ..on_uplink(Mode::Macvlan)
    });
    let why = node.network.ready().unwrap_err().reason;
    assert!(why.contains("nosuch0"), "{why}");
    let pod = Pod {
        attachment: node.allocate(&[]),
        namespace: Namespace::new("pod"),
    };
    let refused = node.attach(&pod).unwrap_err();
    assert!(matches!(refused, Error::NoUplink { .. }), "{refused}");
    node.detach(&pod);
}
