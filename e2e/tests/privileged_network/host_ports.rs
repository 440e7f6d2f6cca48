//! Host ports: where they answer, of whom, and until when.

use crate::harness::{
    NODE_OUTSIDE, Node, OUTSIDE, PATIENCE, SILENCE, call_tcp, mapping, parse, reach, settings,
};
use crisp_model::Protocol;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;

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
