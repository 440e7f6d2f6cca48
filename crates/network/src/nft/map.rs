//! The maps of host ports, and the rules that look them up.

use super::address::{Field, address_bytes, of_family};
use super::encode::{Attribute, Family, Kind, Message, number, text};
use super::expression::{
    Comparison, Connection, Header, Meta, Register, compare, look_up, masquerade, meta, original,
    payload, translate_destination,
};
use std::net::Ipv6Addr;

/// A map of host ports.
pub(super) struct Map {
    pub(super) name: &'static str,
    family: Family,
    /// Whether the host's address is part of the key.
    one_address: bool,
}

pub(super) const MAPS: [Map; 4] = [
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
    pub(super) fn declaration(&self, table: &str, id: u32) -> Message {
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
    pub(super) fn translation(&self) -> Vec<Attribute> {
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
    pub(super) fn hairpin(&self) -> Vec<Attribute> {
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
