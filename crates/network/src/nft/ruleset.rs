//! What the table holds, as transactions. Nothing here does I/O.

use super::encode::{Attribute, Family, Kind, Message, Transaction, bytes, nested, number, text};
use super::expression::{
    Comparison, Connection, Header, Meta, Register, Verdict, compare, destination_type, look_up,
    mask, masquerade, meta, original, payload, translate_destination, value, verdict,
};
use crate::attachment::Attachment;
use crate::ports::HostAddresses;
use crisp_model::{PodId, PortMapping, Protocol};
use ipnet::IpNet;
use netlink_packet_core::NLM_F_ACK;
use std::net::{IpAddr, Ipv6Addr};

/// `RTN_LOCAL`: an address of the node itself.
const LOCAL_ADDRESS: u32 = 2;
/// `IPS_DST_NAT`: the connection's destination was translated.
const DESTINATION_TRANSLATED: u32 = 1 << 5;
/// The first byte of 127.0.0.0/8.
const LOOPBACK_IPV4: [u8; 1] = [127];
/// Interface names are compared as a whole (`IFNAMSIZ`).
const INTERFACE_NAME_BYTES: usize = 16;

const GUARD: &str = "guard";
const PREROUTING: &str = "prerouting";
const OUTPUT: &str = "output";
const HOST_PORTS: &str = "host-ports";
const POSTROUTING: &str = "postrouting";
const HAIRPIN: &str = "hairpin";

/// What the rules depend on.
#[derive(Debug, Clone)]
pub(crate) struct Ruleset {
    pub(crate) table: String,
    pub(crate) bridge: String,
    pub(crate) masquerade: bool,
    pub(crate) non_masquerade_cidrs: Vec<IpNet>,
}

impl Ruleset {
    /// Replaces the table, whatever it holds now, by one with the host ports of all these pods, whose
    /// addresses are in `networks`.
    pub(crate) fn rebuild<'a>(
        &self,
        networks: &[IpNet],
        attachments: impl Iterator<Item = &'a Attachment>,
    ) -> Transaction {
        let mut changes = Transaction::default();
        self.clear(&mut changes);
        changes.create("make the packet table", self.table_message(Kind::NewTable));
        for (id, map) in (1..).zip(&MAPS) {
            changes.create("make a map of host ports", map.declaration(&self.table, id));
        }
        for chain in &CHAINS {
            changes.create("make a packet chain", chain.declaration(&self.table));
        }
        for (chain, expressions) in self.rules(networks) {
            changes.append("make a packet rule", self.rule(chain, &expressions));
        }
        for attachment in attachments {
            append_host_ports(&mut changes, &self.table, attachment, Change::Add);
        }
        changes
    }

    /// Removes the table, if it is there.
    pub(crate) fn remove(&self) -> Transaction {
        let mut changes = Transaction::default();
        self.clear(&mut changes);
        changes
    }

    /// Fails with `ENOENT` where the table is not there.
    pub(crate) fn probe(&self) -> crate::wire::Batch {
        let mut batch = crate::wire::Batch::default();
        batch.push(
            "find the packet table",
            NLM_F_ACK,
            self.table_message(Kind::GetTable),
        );
        batch
    }

    /// Deleting what is not there would fail, hence it is made first.
    fn clear(&self, changes: &mut Transaction) {
        changes.create("make the packet table", self.table_message(Kind::NewTable));
        changes.change(
            "clear the packet table",
            self.table_message(Kind::DeleteTable),
        );
    }

    fn table_message(&self, kind: Kind) -> Message {
        const NAME: u16 = 1;
        Message::new(kind, Family::Inet, vec![text(NAME, &self.table)])
    }

    fn rule(&self, chain: &str, expressions: &[Attribute]) -> Message {
        const TABLE: u16 = 1;
        const CHAIN: u16 = 2;
        const EXPRESSIONS: u16 = 4;
        Message::new(
            Kind::NewRule,
            Family::Inet,
            vec![
                text(TABLE, &self.table),
                text(CHAIN, chain),
                nested(EXPRESSIONS, expressions),
            ],
        )
    }

    /// All rules, in their chains' order.
    fn rules(&self, networks: &[IpNet]) -> Vec<(&'static str, Vec<Attribute>)> {
        let mut rules = vec![
            (GUARD, self.keep_from_loopback()),
            (PREROUTING, to_host_ports()),
            (OUTPUT, to_host_ports()),
        ];
        rules.extend(MAPS.iter().map(|map| (HOST_PORTS, map.translation())));
        rules.push((POSTROUTING, self.masquerade_loopback()));
        rules.extend(MAPS.iter().map(|map| (HAIRPIN, map.hairpin())));
        rules.extend(networks.iter().map(|n| (POSTROUTING, self.to_hairpin(n))));
        if self.masquerade {
            let exempt = self.non_masquerade_cidrs.iter();
            rules.extend(exempt.map(|cidr| (POSTROUTING, self.exempt(cidr))));
            rules.push((POSTROUTING, self.masquerade_outside()));
        }
        rules
    }

    /// `route_localnet`, which host ports on 127.0.0.1 need, would let pods reach what listens on
    /// the node's loopback addresses (CVE-2020-8558). Answers to such host ports carry the bridge's
    /// address on the wire.
    fn keep_from_loopback(&self) -> Vec<Attribute> {
        [
            self.interface(Meta::InputName, Comparison::Equal),
            of_family(Family::Ipv4),
            vec![
                payload(Header::Network, 16, 1, Register::FIRST),
                compare(Register::FIRST, Comparison::Equal, &LOOPBACK_IPV4),
                verdict(Verdict::Drop),
            ],
        ]
        .concat()
    }

    /// A pod cannot answer to a loopback address.
    fn masquerade_loopback(&self) -> Vec<Attribute> {
        [
            self.interface(Meta::OutputName, Comparison::Equal),
            of_family(Family::Ipv4),
            vec![
                payload(Header::Network, 12, 1, Register::FIRST),
                compare(Register::FIRST, Comparison::Equal, &LOOPBACK_IPV4),
                masquerade(),
            ],
        ]
        .concat()
    }

    /// From a pod through a host port to a pod, perhaps itself: the answer has to come back here,
    /// not straight over the bridge. Connections that others translated (services) are left alone.
    ///
    /// The pod is told by its address: a packet that was bridged instead of routed, because its
    /// destination was translated already on the bridge (br_netfilter), has come from no interface.
    fn to_hairpin(&self, network: &IpNet) -> Vec<Attribute> {
        [
            self.interface(Meta::OutputName, Comparison::Equal),
            within(network, Field::Source),
            vec![
                original(Connection::Status, Register::FIRST),
                mask(Register::FIRST, &DESTINATION_TRANSLATED.to_ne_bytes()),
                compare(Register::FIRST, Comparison::NotEqual, &0u32.to_ne_bytes()),
                verdict(Verdict::Jump(HAIRPIN)),
            ],
        ]
        .concat()
    }

    fn exempt(&self, cidr: &IpNet) -> Vec<Attribute> {
        [
            self.interface(Meta::InputName, Comparison::Equal),
            within(cidr, Field::Destination),
            vec![verdict(Verdict::Return)],
        ]
        .concat()
    }

    fn masquerade_outside(&self) -> Vec<Attribute> {
        [
            self.interface(Meta::InputName, Comparison::Equal),
            self.interface(Meta::OutputName, Comparison::NotEqual),
            vec![masquerade()],
        ]
        .concat()
    }

    /// Compares the interface that a packet came in or goes out by with the bridge.
    fn interface(&self, which: Meta, comparison: Comparison) -> Vec<Attribute> {
        let mut name = self.bridge.as_bytes().to_vec();
        name.resize(INTERFACE_NAME_BYTES, 0);
        vec![
            meta(which, Register::FIRST),
            compare(Register::FIRST, comparison, &name),
        ]
    }
}

fn of_family(family: Family) -> Vec<Attribute> {
    vec![
        meta(Meta::Family, Register::FIRST),
        compare(Register::FIRST, Comparison::Equal, &[family as u8]),
    ]
}

/// Packets for an address of the node may be for a host port.
fn to_host_ports() -> Vec<Attribute> {
    vec![
        destination_type(Register::FIRST),
        compare(
            Register::FIRST,
            Comparison::Equal,
            &LOCAL_ADDRESS.to_ne_bytes(),
        ),
        verdict(Verdict::Jump(HOST_PORTS)),
    ]
}

/// An address of a packet.
#[derive(Clone, Copy)]
enum Field {
    Source,
    Destination,
}

impl Field {
    /// Loads the address.
    fn load(self, family: Family, to: Register) -> Attribute {
        let offset = match (self, family) {
            (Self::Source, Family::Ipv6) => 8,
            (Self::Destination, Family::Ipv6) => 24,
            (Self::Source, _) => 12,
            (Self::Destination, _) => 16,
        };
        payload(Header::Network, offset, address_bytes(family), to)
    }
}

/// Whether an address of the packet belongs to a network.
fn within(network: &IpNet, field: Field) -> Vec<Attribute> {
    let family = match network {
        IpNet::V4(_) => Family::Ipv4,
        IpNet::V6(_) => Family::Ipv6,
    };
    let mut expressions = of_family(family);
    expressions.extend([
        field.load(family, Register::FIRST),
        mask(Register::FIRST, &octets(network.netmask())),
        compare(
            Register::FIRST,
            Comparison::Equal,
            &octets(network.network()),
        ),
    ]);
    expressions
}

fn address_bytes(family: Family) -> u32 {
    if family == Family::Ipv6 { 16 } else { 4 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A chain, with where it is hooked in (hook, priority, type).
struct Chain {
    name: &'static str,
    hook: Option<(u32, i32, &'static str)>,
}

/// `NF_INET_*` and the priorities of netfilter's `raw`, `dstnat` and `srcnat`.
const CHAINS: [Chain; 6] = [
    Chain {
        name: GUARD,
        hook: Some((0, -300, "filter")),
    },
    Chain {
        name: HOST_PORTS,
        hook: None,
    },
    Chain {
        name: HAIRPIN,
        hook: None,
    },
    Chain {
        name: PREROUTING,
        hook: Some((0, -100, "nat")),
    },
    Chain {
        name: OUTPUT,
        hook: Some((3, -100, "nat")),
    },
    Chain {
        name: POSTROUTING,
        hook: Some((4, 100, "nat")),
    },
];

impl Chain {
    fn declaration(&self, table: &str) -> Message {
        const TABLE: u16 = 1;
        const NAME: u16 = 3;
        const HOOK: u16 = 4;
        const TYPE: u16 = 7;
        const NUMBER: u16 = 1;
        const PRIORITY: u16 = 2;
        let mut attributes = vec![text(TABLE, table), text(NAME, self.name)];
        if let Some((hook, priority, kind)) = self.hook {
            let place = [
                number(NUMBER, hook),
                bytes(PRIORITY, &priority.to_be_bytes()),
            ];
            attributes.extend([nested(HOOK, &place), text(TYPE, kind)]);
        }
        Message::new(Kind::NewChain, Family::Inet, attributes)
    }
}

/// A map of host ports.
struct Map {
    name: &'static str,
    family: Family,
    /// Whether the host's address is part of the key.
    one_address: bool,
}

const MAPS: [Map; 4] = [
    Map {
        name: "any4",
        family: Family::Ipv4,
        one_address: false,
    },
    Map {
        name: "one4",
        family: Family::Ipv4,
        one_address: true,
    },
    Map {
        name: "any6",
        family: Family::Ipv6,
        one_address: false,
    },
    Map {
        name: "one6",
        family: Family::Ipv6,
        one_address: true,
    },
];

/// Where a key is read from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KeySource {
    Packet,
    /// The connection's first packet, before its translation.
    Original,
}

impl Map {
    /// A key is address (if any), protocol and port; a value is address and port. Each part takes
    /// whole registers.
    fn declaration(&self, table: &str, id: u32) -> Message {
        const TABLE: u16 = 1;
        const NAME: u16 = 2;
        const FLAGS: u16 = 3;
        const KEY_TYPE: u16 = 4;
        const KEY_LENGTH: u16 = 5;
        const DATA_TYPE: u16 = 6;
        const DATA_LENGTH: u16 = 7;
        const ID: u16 = 10;
        const IS_MAP: u32 = 8;
        let address = address_bytes(self.family);
        let key_length = if self.one_address { address + 8 } else { 8 };
        Message::new(
            Kind::NewSet,
            Family::Inet,
            vec![
                text(TABLE, table),
                text(NAME, self.name),
                number(FLAGS, IS_MAP),
                number(KEY_TYPE, self.key_type()),
                number(KEY_LENGTH, key_length),
                number(DATA_TYPE, self.data_type()),
                number(DATA_LENGTH, address + 4),
                number(ID, id),
            ],
        )
    }

    /// How `nft list` shows a key. The kernel does not look at it.
    fn key_type(&self) -> u32 {
        let port = concatenate(TYPE_PROTOCOL, TYPE_PORT);
        if self.one_address {
            concatenate(concatenate(self.address_type(), TYPE_PROTOCOL), TYPE_PORT)
        } else {
            port
        }
    }

    fn data_type(&self) -> u32 {
        concatenate(self.address_type(), TYPE_PORT)
    }

    fn address_type(&self) -> u32 {
        if self.family == Family::Ipv6 {
            TYPE_IPV6
        } else {
            TYPE_IPV4
        }
    }

    /// The rule that looks a packet up and translates it.
    fn translation(&self) -> Vec<Attribute> {
        let address = Register::FIRST;
        let port = address.after(address_bytes(self.family));
        [
            of_family(self.family),
            self.reachable(),
            self.load_key(KeySource::Packet),
            vec![
                look_up(self.name, Register::FIRST, address),
                translate_destination(self.family, address, port),
            ],
        ]
        .concat()
    }

    /// The rule that masquerades a connection that this map translated.
    fn hairpin(&self) -> Vec<Attribute> {
        [
            of_family(self.family),
            self.load_key(KeySource::Original),
            vec![
                look_up(self.name, Register::FIRST, Register::FIRST),
                masquerade(),
            ],
        ]
        .concat()
    }

    /// Nothing can be sent from ::1 to a pod: a connection there shall be refused, not lost.
    fn reachable(&self) -> Vec<Attribute> {
        if self.family == Family::Ipv4 {
            return Vec::new();
        }
        vec![
            Field::Destination.load(Family::Ipv6, Register::FIRST),
            compare(
                Register::FIRST,
                Comparison::NotEqual,
                &Ipv6Addr::LOCALHOST.octets(),
            ),
        ]
    }

    fn load_key(&self, source: KeySource) -> Vec<Attribute> {
        let mut key = Vec::new();
        let mut next = Register::FIRST;
        if self.one_address {
            key.push(self.load_address(source, next));
            next = next.after(address_bytes(self.family));
        }
        key.push(meta(Meta::Transport, next));
        next = next.after(1);
        key.push(match source {
            KeySource::Packet => payload(Header::Transport, 2, 2, next),
            KeySource::Original => original(Connection::DestinationPort, next),
        });
        key
    }

    fn load_address(&self, source: KeySource, to: Register) -> Attribute {
        match (source, self.family) {
            (KeySource::Packet, family) => Field::Destination.load(family, to),
            (KeySource::Original, Family::Ipv6) => original(Connection::DestinationIpv6, to),
            (KeySource::Original, _) => original(Connection::DestinationIpv4, to),
        }
    }
}

/// The types of the program `nft` (its `enum datatypes`).
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;

/// The type of two values after one another, in `nft`'s numbering.
const fn concatenate(first: u32, second: u32) -> u32 {
    const TYPE_BITS: u32 = 6;
    first << TYPE_BITS | second
}

#[derive(Clone, Copy)]
enum Change {
    Add,
    Remove,
}

/// Opens a pod's host ports. Empty if it has none.
pub(crate) fn add_host_ports(table: &str, attachment: &Attachment) -> Transaction {
    let mut changes = Transaction::default();
    append_host_ports(&mut changes, table, attachment, Change::Add);
    changes
}

/// Closes a pod's host ports. Empty if it has none.
pub(crate) fn remove_host_ports(table: &str, attachment: &Attachment) -> Transaction {
    let mut changes = Transaction::default();
    append_host_ports(&mut changes, table, attachment, Change::Remove);
    changes
}

fn append_host_ports(
    changes: &mut Transaction,
    table: &str,
    attachment: &Attachment,
    change: Change,
) {
    let mappings = &attachment.port_mappings;
    for (position, mapping) in mappings.iter().enumerate() {
        if mappings[..position].contains(mapping) {
            continue;
        }
        for address in &attachment.addresses {
            if let Some(element) = Element::of(mapping, address.addr()) {
                let message = element.message(table, &attachment.pod, change);
                match change {
                    Change::Add => changes.create("open a host port", message),
                    Change::Remove => changes.change("close a host port", message),
                }
            }
        }
    }
}

/// An element of one of the maps.
struct Element {
    map: &'static str,
    key: Vec<u8>,
    data: Vec<u8>,
}

impl Element {
    /// What leads from a host port to a pod's address; none if the host port is not for the address's
    /// family.
    fn of(mapping: &PortMapping, pod: IpAddr) -> Option<Self> {
        let wanted = HostAddresses::of(mapping);
        let host = match wanted {
            HostAddresses::One(address) => Some(address),
            _ => None,
        };
        let (map, wanted_here) = match (pod, host) {
            (IpAddr::V4(_), None) => ("any4", wanted.has_ipv4()),
            (IpAddr::V4(_), Some(_)) => ("one4", wanted.has_ipv4()),
            (IpAddr::V6(_), None) => ("any6", wanted.has_ipv6()),
            (IpAddr::V6(_), Some(_)) => ("one6", wanted.has_ipv6()),
        };
        if !wanted_here {
            return None;
        }
        let mut key = host.map(octets).unwrap_or_default();
        key.extend([protocol_number(mapping.protocol), 0, 0, 0]);
        key.extend(port_register(mapping.host_port));
        let mut data = octets(pod);
        data.extend(port_register(mapping.container_port));
        Some(Self { map, key, data })
    }

    fn message(&self, table: &str, pod: &PodId, change: Change) -> Message {
        const TABLE: u16 = 1;
        const SET: u16 = 2;
        const ELEMENTS: u16 = 3;
        const ELEMENT: u16 = 1;
        const KEY: u16 = 1;
        const DATA: u16 = 2;
        const USER_DATA: u16 = 6;
        let mut attributes = vec![value(KEY, &self.key)];
        let kind = match change {
            Change::Add => {
                attributes.push(value(DATA, &self.data));
                attributes.push(bytes(USER_DATA, &comment(pod)));
                Kind::NewElement
            }
            Change::Remove => Kind::DeleteElement,
        };
        Message::new(
            kind,
            Family::Inet,
            vec![
                text(TABLE, table),
                text(SET, self.map),
                nested(ELEMENTS, &[nested(ELEMENT, &attributes)]),
            ],
        )
    }
}

/// The pod's id in the form in which `nft` keeps comments: kind 0, length, zero-terminated text.
fn comment(pod: &PodId) -> Vec<u8> {
    let text = pod.as_str().as_bytes();
    let length = u8::try_from(text.len() + 1).expect("an id has 64 digits");
    [&[0, length], text, &[0]].concat()
}

pub(super) fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// A port as it lies in a register: big-endian, then zeroes.
fn port_register(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(host_ip: Option<&str>) -> PortMapping {
        PortMapping {
            protocol: Protocol::Udp,
            container_port: 53,
            host_port: 5353,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        }
    }

    fn map_of(host_ip: Option<&str>, pod: &str) -> Option<&'static str> {
        Element::of(&mapping(host_ip), pod.parse().unwrap()).map(|e| e.map)
    }

    #[test]
    fn a_host_port_is_in_the_map_of_its_addresses() {
        assert_eq!(map_of(None, "10.1.0.2"), Some("any4"));
        assert_eq!(map_of(None, "fd00::2"), Some("any6"));
        assert_eq!(map_of(Some("0.0.0.0"), "10.1.0.2"), Some("any4"));
        assert_eq!(map_of(Some("0.0.0.0"), "fd00::2"), None);
        assert_eq!(map_of(Some("192.0.2.1"), "10.1.0.2"), Some("one4"));
        assert_eq!(map_of(Some("192.0.2.1"), "fd00::2"), None);
        assert_eq!(map_of(Some("::"), "fd00::2"), Some("any6"));
        assert_eq!(map_of(Some("fd00::9"), "fd00::2"), Some("one6"));
    }

    #[test]
    fn keys_and_values_take_whole_registers() {
        let element = Element::of(&mapping(Some("192.0.2.1")), "10.1.0.2".parse().unwrap());
        let element = element.unwrap();
        assert_eq!(element.key, [192, 0, 2, 1, 17, 0, 0, 0, 0x14, 0xe9, 0, 0]);
        assert_eq!(element.data, [10, 1, 0, 2, 0, 53, 0, 0]);
    }
}
