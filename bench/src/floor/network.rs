//! A pod's interface: a veth pair on a bridge, with an address and a route, in three messages' time.

use anyhow::{Result, ensure};
use crisp_sys::namespace::{Kind, setns};
use crisp_sys::process::SingleThreaded;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::net::if_::if_nametoindex;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 239, 255, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 239, 255, 1);
const PREFIX: u8 = 24;

const LOOPBACK: u32 = 1;
/// The index of the first link that is made in a namespace.
const POD_INTERFACE: u32 = 2;

pub(super) struct Network {
    bridge: String,
    socket: Socket,
    own: File,
    pods: u32,
}

impl Network {
    pub(super) fn prepare(bridge: &str) -> Result<Self> {
        let socket = Socket::new(NETLINK_ROUTE)?;
        let mut link = named(bridge);
        raise(&mut link);
        link.attributes
            .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(
                InfoKind::Bridge,
            )]));
        let network = Self {
            bridge: bridge.to_owned(),
            socket,
            own: File::open("/proc/self/ns/net")?,
            pods: 0,
        };
        send(&network.socket, [Message::NewLink(link)])?;
        Ok(network)
    }

    /// Wires the namespace that a file names.
    pub(super) fn connect(&mut self, netns: &Path, witness: &SingleThreaded) -> Result<()> {
        let netns = File::open(netns)?;
        setns(&netns, Kind::Network.flag(), witness)?;
        let inside = Socket::new(NETLINK_ROUTE);
        setns(&self.own, Kind::Network.flag(), witness)?;
        let inside = inside?;
        self.pods += 1;
        let bridge = if_nametoindex(self.bridge.as_str())?;
        let pair = pair(
            &format!("{}-{}", self.bridge, self.pods),
            bridge,
            netns.as_fd(),
        );
        send(&self.socket, [pair])?;
        send(
            &inside,
            [up(LOOPBACK), up(POD_INTERFACE), address(), route()],
        )
    }

    pub(super) fn remove(&self) -> Result<()> {
        send(&self.socket, [Message::DelLink(named(&self.bridge))])
    }
}

fn named(name: &str) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    link
}

fn raise(link: &mut LinkMessage) {
    link.header.flags |= LinkFlags::Up;
    link.header.change_mask |= LinkFlags::Up;
}

fn pair(name: &str, bridge: u32, netns: BorrowedFd<'_>) -> Message {
    let mut peer = named("eth0");
    peer.attributes
        .push(LinkAttribute::NetNsFd(netns.as_raw_fd()));
    let mut link = named(name);
    raise(&mut link);
    link.attributes.extend([
        LinkAttribute::Controller(bridge),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ]);
    Message::NewLink(link)
}

fn up(index: u32) -> Message {
    let mut link = LinkMessage::default();
    link.header.index = index;
    raise(&mut link);
    Message::SetLink(link)
}

fn address() -> Message {
    let mut message = AddressMessage::default();
    message.header.index = POD_INTERFACE;
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = PREFIX;
    let address = IpAddr::V4(ADDRESS);
    message.attributes.extend([
        AddressAttribute::Address(address),
        AddressAttribute::Local(address),
    ]);
    Message::NewAddress(message)
}

fn route() -> Message {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Boot;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Unicast;
    route.attributes.extend([
        RouteAttribute::Oif(POD_INTERFACE),
        RouteAttribute::Gateway(RouteAddress::Inet(GATEWAY)),
    ]);
    Message::NewRoute(route)
}

/// All in one datagram: the kernel has worked on it when it is sent, and has answered each.
fn send<const N: usize>(socket: &Socket, messages: [Message; N]) -> Result<()> {
    let mut bytes = Vec::new();
    for message in messages {
        let create = matches!(
            message,
            Message::NewLink(_) | Message::NewAddress(_) | Message::NewRoute(_)
        );
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        if create {
            message.header.flags |= NLM_F_CREATE | NLM_F_EXCL;
        }
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len(), 0);
        message.serialize(&mut bytes[start..]);
    }
    socket.send(&bytes, 0)?;
    for _ in 0..N {
        let (answer, _) = socket.recv_from_full()?;
        let answer = NetlinkMessage::<Message>::deserialize(&answer)?;
        let NetlinkPayload::Error(error) = answer.payload else {
            continue;
        };
        ensure!(error.code.is_none(), "{}", error.to_io());
    }
    Ok(())
}
