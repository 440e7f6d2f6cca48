//! What comes, stays and goes: with pods, with the daemon, and when others take things away.

use crate::harness::{
    NODE_OUTSIDE, Node, Pod, SILENCE, call_tcp, mapping, nft, parse, reach, settings,
};
use crisp_model::{PodId, Protocol};
use crisp_network::{Bandwidth, Settings};
use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};

#[test]
fn privileged_exhaustion_names_the_network_and_ends_with_a_detach() {
    let small = Settings {
        pod_cidrs: vec!["10.77.0.0/29".parse().unwrap()],
        ..settings()
    };
    let node = Node::new(small);
    let pods: Vec<Pod> = (0..5).map(|_| node.start_pod(&[])).collect();
    let error = node
        .network
        .allocate(&PodId::generate(), &[], Bandwidth::default())
        .unwrap_err();
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
fn privileged_a_pod_that_leaves_after_such_a_flush_leaves_all_tables_behind() {
    let node = Node::new(settings());
    let pod = node.start_pod(&[mapping(Protocol::Tcp, 8080, None)]);
    let Some(before) = nft(&node.namespace, "list tables") else {
        eprintln!("skipped: the program nft is not installed");
        return;
    };
    nft(&node.namespace, "flush ruleset").expect("the rules are flushed");
    node.detach(&pod);
    assert_eq!(nft(&node.namespace, "list tables"), Some(before));
}
