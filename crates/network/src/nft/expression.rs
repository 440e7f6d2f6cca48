//! The expressions that rules are made of: each loads, compares, looks up or acts on registers.

use super::encode::{Attribute, Family, byte, bytes, nested, number, text};

/// A 32-bit register (`NFT_REG32_*`), by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Register(pub(super) u32);

/// `NFT_REG32_00`.
const FIRST_REGISTER: u32 = 8;
/// `NFT_REG_VERDICT`.
const VERDICT_REGISTER: u32 = 0;

impl Register {
    pub(super) const FIRST: Self = Self(0);

    fn number(self) -> u32 {
        FIRST_REGISTER + self.0
    }

    /// The register after a value of `length_bytes` that begins here.
    pub(super) fn after(self, length_bytes: u32) -> Self {
        Self(self.0 + length_bytes.div_ceil(4))
    }
}

/// What is known about a packet beside its bytes (`NFT_META_*`).
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(super) enum Meta {
    Protocol = 1,
    InputName = 6,
    OutputName = 7,
    Family = 15,
    Transport = 16,
}

/// What is known about a packet's connection (`NFT_CT_*`).
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(super) enum Connection {
    Status = 2,
    DestinationPort = 12,
    DestinationIpv4 = 20,
    DestinationIpv6 = 22,
}

/// The headers of a packet (`NFT_PAYLOAD_*`).
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(super) enum Header {
    Network = 1,
    Transport = 2,
}

#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(super) enum Comparison {
    Equal = 0,
    NotEqual = 1,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Verdict<'a> {
    Drop,
    Return,
    Jump(&'a str),
}

/// An expression: its name and its attributes.
fn expression(name: &str, attributes: &[Attribute]) -> Attribute {
    const LIST_ELEMENT: u16 = 1;
    const NAME: u16 = 1;
    const DATA: u16 = 2;
    nested(LIST_ELEMENT, &[text(NAME, name), nested(DATA, attributes)])
}

/// A value in `struct nft_data`'s form.
pub(super) fn value(kind: u16, data: &[u8]) -> Attribute {
    const VALUE: u16 = 1;
    nested(kind, &[bytes(VALUE, data)])
}

pub(super) fn meta(key: Meta, to: Register) -> Attribute {
    const TO: u16 = 1;
    const KEY: u16 = 2;
    expression("meta", &[number(TO, to.number()), number(KEY, key as u32)])
}

/// What the connection's first packet had, before any translation.
pub(super) fn original(key: Connection, to: Register) -> Attribute {
    const TO: u16 = 1;
    const KEY: u16 = 2;
    const DIRECTION: u16 = 3;
    const ORIGINAL: u8 = 0;
    let mut attributes = vec![number(TO, to.number()), number(KEY, key as u32)];
    if !matches!(key, Connection::Status) {
        attributes.push(byte(DIRECTION, ORIGINAL));
    }
    expression("ct", &attributes)
}

pub(super) fn payload(header: Header, offset: u32, length_bytes: u32, to: Register) -> Attribute {
    const TO: u16 = 1;
    const BASE: u16 = 2;
    const OFFSET: u16 = 3;
    const LENGTH: u16 = 4;
    expression(
        "payload",
        &[
            number(TO, to.number()),
            number(BASE, header as u32),
            number(OFFSET, offset),
            number(LENGTH, length_bytes),
        ],
    )
}

pub(super) fn compare(register: Register, comparison: Comparison, data: &[u8]) -> Attribute {
    const FROM: u16 = 1;
    const OPERATION: u16 = 2;
    const DATA: u16 = 3;
    expression(
        "cmp",
        &[
            number(FROM, register.number()),
            number(OPERATION, comparison as u32),
            value(DATA, data),
        ],
    )
}

/// Keeps the bits of a register that are set in `mask`.
pub(super) fn mask(register: Register, mask: &[u8]) -> Attribute {
    const FROM: u16 = 1;
    const TO: u16 = 2;
    const LENGTH: u16 = 3;
    const MASK: u16 = 4;
    const XOR: u16 = 5;
    let length_bytes = u32::try_from(mask.len()).expect("a mask fits into registers");
    expression(
        "bitwise",
        &[
            number(FROM, register.number()),
            number(TO, register.number()),
            number(LENGTH, length_bytes),
            value(MASK, mask),
            value(XOR, &vec![0; mask.len()]),
        ],
    )
}

/// Loads what kind of address the packet is for (`RTN_*`, in the host's byte order).
pub(super) fn destination_type(to: Register) -> Attribute {
    const TO: u16 = 1;
    const RESULT: u16 = 2;
    const FLAGS: u16 = 3;
    const ADDRESS_TYPE: u32 = 3;
    const DESTINATION: u32 = 2;
    expression(
        "fib",
        &[
            number(TO, to.number()),
            number(RESULT, ADDRESS_TYPE),
            number(FLAGS, DESTINATION),
        ],
    )
}

/// Looks a key up in a map; the rule ends here for a packet whose key is not in it.
pub(super) fn look_up(map: &str, key: Register, to: Register) -> Attribute {
    const SET: u16 = 1;
    const FROM: u16 = 2;
    const TO: u16 = 3;
    expression(
        "lookup",
        &[
            text(SET, map),
            number(FROM, key.number()),
            number(TO, to.number()),
        ],
    )
}

/// Translates the destination to the address and port in registers.
pub(super) fn translate_destination(
    family: Family,
    address: Register,
    port: Register,
) -> Attribute {
    const KIND: u16 = 1;
    const FAMILY: u16 = 2;
    const ADDRESS: u16 = 3;
    const PORT: u16 = 5;
    const DESTINATION: u32 = 1;
    expression(
        "nat",
        &[
            number(KIND, DESTINATION),
            number(FAMILY, family as u32),
            number(ADDRESS, address.number()),
            number(PORT, port.number()),
        ],
    )
}

/// Translates the source to the address of the interface that the packet leaves by, with a source
/// port chosen at random: choosing in sequence loses packets when two connections begin at once.
pub(super) fn masquerade() -> Attribute {
    const FLAGS: u16 = 1;
    /// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`
    const FULLY_RANDOM: u32 = 1 << 4;
    expression("masq", &[number(FLAGS, FULLY_RANDOM)])
}

pub(super) fn verdict(verdict: Verdict<'_>) -> Attribute {
    const TO: u16 = 1;
    const DATA: u16 = 2;
    const VERDICT: u16 = 2;
    const CODE: u16 = 1;
    const CHAIN: u16 = 2;
    /// `NF_DROP`, `NFT_JUMP` (-3) and `NFT_RETURN` (-5).
    const DROP: u32 = 0;
    const JUMP: u32 = 3u32.wrapping_neg();
    const RETURN: u32 = 5u32.wrapping_neg();
    let attributes = match verdict {
        Verdict::Drop => vec![number(CODE, DROP)],
        Verdict::Return => vec![number(CODE, RETURN)],
        Verdict::Jump(chain) => vec![number(CODE, JUMP), text(CHAIN, chain)],
    };
    expression(
        "immediate",
        &[
            number(TO, VERDICT_REGISTER),
            nested(DATA, &[nested(VERDICT, &attributes)]),
        ],
    )
}
