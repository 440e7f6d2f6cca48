//! The rtnetlink messages: what is asked of the kernel about links, addresses and routes. Nothing
//! here does I/O.

use crate::IpvlanMode;
use crate::attachment::{Attachment, ChildKind, Mac};
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgePortState, In6AddrGenMode, InfoBridge, InfoBridgePort,
    InfoData, InfoIpVlan, InfoKind, InfoMacVlan, InfoPortData, InfoPortKind, InfoVeth, IpVlanMode,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// The loopback interface is the first one of every network namespace (`LOOPBACK_IFINDEX`).
pub(crate) const LOOPBACK_INDEX: u32 = 1;

/// Links that are about to be deleted are put into this group (the letters "crsp"), so that many go
/// in one request.
pub(crate) const DOOMED_GROUP: u32 = 0x6372_7370;

fn named(name: &str) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    link
}

fn raise(link: &mut LinkMessage) {
    link.header.flags |= LinkFlags::Up;
    link.header.change_mask |= LinkFlags::Up;
}

/// Makes the bridge, down. Its hardware address is set, because it would follow its ports' otherwise,
/// and every pod's idea of its gateway's with it.
pub(crate) fn new_bridge(name: &str, mac: Mac, mtu: u32) -> Message {
    let mut link = named(name);
    link.attributes.extend([
        LinkAttribute::Address(mac.0.to_vec()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![
                // A port forwards as soon as it is there: there is no spanning tree to find out.
                InfoBridge::ForwardDelay(0),
                // Neighbour discovery is multicast; nobody on this bridge queries for listeners, so
                // that snooping could only lose it.
                InfoBridge::MulticastSnooping(false),
            ])),
        ]),
    ]);
    Message::NewLink(link)
}

/// Raises an existing bridge and sets its MTU.
pub(crate) fn raise_bridge(index: u32, mtu: u32) -> Message {
    let mut link = LinkMessage::default();
    link.header.index = index;
    raise(&mut link);
    link.attributes.push(LinkAttribute::Mtu(mtu));
    Message::SetLink(link)
}

/// Makes the pod's veth pair: the host's end up and on the bridge, the pod's end born inside the
/// pod's namespace, down.
pub(crate) fn new_pair(attachment: &Attachment, bridge: u32, netns: BorrowedFd<'_>) -> Message {
    let mut peer = named(&attachment.pod_interface);
    peer.attributes.extend([
        LinkAttribute::Mtu(attachment.mtu),
        LinkAttribute::Address(attachment.mac.0.to_vec()),
        LinkAttribute::NetNsFd(netns.as_raw_fd()),
    ]);
    let mut link = named(&attachment.host_interface);
    raise(&mut link);
    link.attributes.extend([
        LinkAttribute::Mtu(attachment.mtu),
        LinkAttribute::Controller(bridge),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ]);
    Message::NewLink(link)
}

/// Makes a pod's link on an uplink, born inside the pod's namespace, down. Pods on one uplink reach
/// each other (for macvlan: mode "bridge").
pub(crate) fn new_child(
    attachment: &Attachment,
    kind: ChildKind,
    uplink: u32,
    netns: BorrowedFd<'_>,
) -> Message {
    let mut link = named(&attachment.pod_interface);
    link.attributes.extend([
        LinkAttribute::Mtu(attachment.mtu),
        LinkAttribute::NetNsFd(netns.as_raw_fd()),
        LinkAttribute::Link(uplink),
    ]);
    let (kind, data) = match kind {
        ChildKind::Macvlan => {
            let address = LinkAttribute::Address(attachment.mac.0.to_vec());
            link.attributes.push(address);
            let mode = InfoMacVlan::Mode(MacVlanMode::Bridge);
            (InfoKind::MacVlan, InfoData::MacVlan(vec![mode]))
        }
        ChildKind::Ipvlan(mode) => {
            let mode = match mode {
                IpvlanMode::L2 => IpVlanMode::L2,
                IpvlanMode::L3 => IpVlanMode::L3,
                IpvlanMode::L3s => IpVlanMode::L3S,
            };
            let data = InfoData::IpVlan(vec![InfoIpVlan::Mode(mode)]);
            (InfoKind::IpVlan, data)
        }
    };
    let info = vec![LinkInfo::Kind(kind), LinkInfo::Data(data)];
    link.attributes.push(LinkAttribute::LinkInfo(info));
    Message::NewLink(link)
}

/// What the kernel does not take when it makes the host's end.
///
/// The pod's id as alias; no IPv6 address of its own for a mere bridge port; and hairpin mode: where
/// bridged packets pass the packet filter too (br_netfilter), a pod reaches itself through a service
/// address only over a port that sends frames back to where they came from.
pub(crate) fn describe_port(attachment: &Attachment) -> Message {
    let mut link = named(&attachment.host_interface);
    link.attributes.extend([
        LinkAttribute::IfAlias(attachment.pod.to_string()),
        no_address_of_its_own(),
        port(vec![InfoBridgePort::HairpinMode(true)]),
    ]);
    Message::NewLink(link)
}

/// Puts an existing interface onto the bridge.
pub(crate) fn join_bridge(host_interface: &str, bridge: u32) -> Message {
    let mut link = named(host_interface);
    link.attributes.push(LinkAttribute::Controller(bridge));
    Message::SetLink(link)
}

/// Keeps all frames from a port, and forgets who was behind it. Unlike taking the port off the bridge
/// or down, neither this nor [`block_port`] waits for other processors.
pub(crate) fn silence_port(host_interface: &str) -> Message {
    let mut link = named(host_interface);
    link.attributes.push(port(vec![
        InfoBridgePort::Learning(false),
        InfoBridgePort::UnicastFlood(false),
        InfoBridgePort::MulticastFlood(false),
        InfoBridgePort::BroadcastFlood(false),
        InfoBridgePort::Flush,
    ]));
    Message::NewLink(link)
}

/// Stops all traffic of a port that has a carrier. (A port that is disabled instead is enabled again
/// with the next event about its link.)
pub(crate) fn block_port(host_interface: &str) -> Message {
    let mut link = named(host_interface);
    link.attributes
        .push(port(vec![InfoBridgePort::State(BridgePortState::Blocking)]));
    Message::NewLink(link)
}

fn port(settings: Vec<InfoBridgePort>) -> LinkAttribute {
    LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(settings)),
    ])
}

fn no_address_of_its_own() -> LinkAttribute {
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
        In6AddrGenMode::None,
    )])])
}

/// Keeps the kernel from giving an interface a link-local address by itself: it would be probed for a second
/// or two before it works.
pub(crate) fn no_automatic_address(name: &str) -> Message {
    let mut link = named(name);
    link.attributes.push(no_address_of_its_own());
    Message::SetLink(link)
}

pub(crate) fn raise_by_name(name: &str) -> Message {
    let mut link = named(name);
    raise(&mut link);
    Message::SetLink(link)
}

pub(crate) fn raise_by_index(index: u32) -> Message {
    let mut link = LinkMessage::default();
    link.header.index = index;
    raise(&mut link);
    Message::SetLink(link)
}

pub(crate) fn delete_by_name(name: &str) -> Message {
    Message::DelLink(named(name))
}

pub(crate) fn doom(name: &str) -> Message {
    let mut link = named(name);
    link.attributes.push(LinkAttribute::Group(DOOMED_GROUP));
    Message::SetLink(link)
}

/// Deletes every link that was doomed.
pub(crate) fn delete_doomed() -> Message {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::Group(DOOMED_GROUP));
    Message::DelLink(link)
}

pub(crate) fn get_by_name(name: &str) -> Message {
    Message::GetLink(named(name))
}

pub(crate) fn get_by_index(index: u32) -> Message {
    let mut link = LinkMessage::default();
    link.header.index = index;
    Message::GetLink(link)
}

/// All ports of a bridge.
pub(crate) fn ports_of(bridge: u32) -> Message {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::Controller(bridge));
    Message::GetLink(link)
}

/// An address that works at once: an IPv6 address is not probed first, because the pool knows that
/// nobody else has it.
pub(crate) fn address(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.attributes.extend([
        AddressAttribute::Address(address.addr()),
        AddressAttribute::Local(address.addr()),
    ]);
    match address {
        IpNet::V4(v4) => message
            .attributes
            .push(AddressAttribute::Broadcast(v4.broadcast())),
        IpNet::V6(v6) => {
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
            if v6.addr().is_unicast_link_local() {
                message.header.scope = AddressScope::Link;
            }
        }
    }
    message
}

/// The link-local address that follows from a hardware address (RFC 4291, appendix A).
pub(crate) fn link_local(mac: Mac) -> IpNet {
    let [a, b, c, d, e, f] = mac.0;
    let word = |high, low| u16::from_be_bytes([high, low]);
    let address = Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        word(a ^ 2, b),
        word(c, 0xff),
        word(0xfe, d),
        word(e, f),
    );
    IpNet::new(address.into(), 64).expect("64 is a prefix length of IPv6")
}

/// The hardware address of a link.
pub(crate) fn mac_of(link: &LinkMessage) -> Option<Mac> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Address(bytes) => Some(Mac(bytes.as_slice().try_into().ok()?)),
            _ => None,
        })
}

/// All addresses of a link.
pub(crate) fn addresses_of(index: u32) -> Message {
    let mut message = AddressMessage::default();
    message.header.index = index;
    Message::GetAddress(message)
}

/// The route to everything else.
pub(crate) fn default_route(index: u32, gateway: IpAddr) -> RouteMessage {
    let mut route = default_route_of(family(gateway), index, RouteScope::Universe);
    let gateway = RouteAttribute::Gateway(route_address(gateway));
    route.attributes.push(gateway);
    route
}

/// The route to everything else, by a gateway of which no address of the link says that it is there.
pub(crate) fn default_route_on_link(index: u32, gateway: IpAddr) -> RouteMessage {
    let mut route = default_route(index, gateway);
    route.header.flags |= RouteFlags::Onlink;
    route
}

/// The route to everything else where whoever is behind the link routes without being asked to.
pub(crate) fn default_route_by_link(index: u32, of: IpAddr) -> RouteMessage {
    // The kernel has no such scope for IPv6, and does not look at it.
    default_route_of(family(of), index, RouteScope::Link)
}

fn default_route_of(family: AddressFamily, index: u32, scope: RouteScope) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = family;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Boot;
    route.header.scope = scope;
    route.header.kind = RouteType::Unicast;
    route.attributes.push(RouteAttribute::Oif(index));
    route
}

/// The routes of the main table; of those only the ones that `protocol` made, if given.
pub(crate) fn routes(family: AddressFamily, protocol: RouteProtocol) -> Message {
    let mut route = RouteMessage::default();
    route.header.address_family = family;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = protocol;
    Message::GetRoute(route)
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_local_address_follows_from_the_mac() {
        let mac = "02:c5:0a:57:00:02".parse().unwrap();
        assert_eq!(link_local(mac).to_string(), "fe80::c5:aff:fe57:2/64");
    }

    #[test]
    fn only_ipv6_addresses_skip_their_probing() {
        let flags = |net: &str| {
            address(1, net.parse().unwrap())
                .attributes
                .iter()
                .any(|a| matches!(a, AddressAttribute::Flags(f) if f.contains(AddressFlags::Nodad)))
        };
        assert!(flags("fd00::2/64"));
        assert!(!flags("10.1.0.2/24"));
    }
}
