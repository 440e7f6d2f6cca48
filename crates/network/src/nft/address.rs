//! The addresses of a packet, in rules.

use super::encode::{Attribute, Family};
use super::expression::{Comparison, Header, Meta, Register, compare, mask, meta, payload};
use ipnet::IpNet;
use std::net::IpAddr;

/// Whether a packet is of a family.
pub(super) fn of_family(family: Family) -> Vec<Attribute> {
    vec![
        meta(Meta::Family, Register::FIRST),
        compare(Register::FIRST, Comparison::Equal, &[family as u8]),
    ]
}

/// An address of a packet.
#[derive(Clone, Copy)]
pub(super) enum Field {
    Source,
    Destination,
}

impl Field {
    /// Loads the address.
    pub(super) fn load(self, family: Family, to: Register) -> Attribute {
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
pub(super) fn within(network: &IpNet, field: Field) -> Vec<Attribute> {
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

pub(super) fn address_bytes(family: Family) -> u32 {
    if family == Family::Ipv6 { 16 } else { 4 }
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
