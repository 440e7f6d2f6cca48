//! Attributes and messages of nfnetlink.
//!
//! Numbers are big-endian throughout, except those the kernel's header calls otherwise.

use netlink_packet_core::{
    DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NetlinkPayload,
    NetlinkSerializable,
};

/// An attribute: its number and its value.
pub(super) type Attribute = DefaultNla;

/// `NFPROTO_*`, the families of netfilter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Family {
    Unspec = 0,
    Inet = 1,
    Ipv4 = 2,
    Bridge = 7,
    Ipv6 = 10,
}

const SUBSYSTEM_CONNTRACK: u8 = 1;
const SUBSYSTEM_NFTABLES: u8 = 10;
const BATCH_BEGIN: u8 = 0x10;
const BATCH_END: u8 = 0x11;
/// `struct nfgenmsg`.
const HEADER_BYTES: usize = 4;

/// The messages that are used, with their numbers (`NFT_MSG_*`, `IPCTNL_MSG_CT_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    BatchBegin,
    BatchEnd,
    NewTable,
    GetTable,
    DeleteTable,
    NewChain,
    NewRule,
    NewSet,
    NewElement,
    DeleteElement,
    DeleteConnections,
}

impl Kind {
    fn number(self) -> u16 {
        let (subsystem, message) = match self {
            Self::BatchBegin => (0, BATCH_BEGIN),
            Self::BatchEnd => (0, BATCH_END),
            Self::NewTable => (SUBSYSTEM_NFTABLES, 0),
            Self::GetTable => (SUBSYSTEM_NFTABLES, 1),
            Self::DeleteTable => (SUBSYSTEM_NFTABLES, 2),
            Self::NewChain => (SUBSYSTEM_NFTABLES, 3),
            Self::NewRule => (SUBSYSTEM_NFTABLES, 6),
            Self::NewSet => (SUBSYSTEM_NFTABLES, 9),
            Self::NewElement => (SUBSYSTEM_NFTABLES, 12),
            Self::DeleteElement => (SUBSYSTEM_NFTABLES, 14),
            Self::DeleteConnections => (SUBSYSTEM_CONNTRACK, 2),
        };
        u16::from_be_bytes([subsystem, message])
    }
}

/// A message of nfnetlink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    kind: Kind,
    family: Family,
    attributes: Vec<Attribute>,
}

impl Message {
    pub(super) fn new(kind: Kind, family: Family, attributes: Vec<Attribute>) -> Self {
        Self {
            kind,
            family,
            attributes,
        }
    }

    /// The subsystem that a batch's limits are for.
    fn resource(&self) -> u16 {
        match self.kind {
            Kind::BatchBegin | Kind::BatchEnd => u16::from(SUBSYSTEM_NFTABLES),
            _ => 0,
        }
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind.number()
    }

    fn buffer_len(&self) -> usize {
        HEADER_BYTES + self.attributes.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (header, attributes) = buffer.split_at_mut(HEADER_BYTES);
        let [high, low] = self.resource().to_be_bytes();
        // family, version 0, resource
        header.copy_from_slice(&[self.family as u8, 0, high, low]);
        self.attributes.as_slice().emit(attributes);
    }
}

impl From<Message> for NetlinkPayload<Message> {
    fn from(message: Message) -> Self {
        Self::InnerMessage(message)
    }
}

/// Changes of tables that come into force together, or not at all.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    messages: Vec<(&'static str, u16, Message)>,
}

impl Transaction {
    pub(super) fn create(&mut self, op: &'static str, message: Message) {
        self.messages.push((op, NLM_F_CREATE, message));
    }

    /// Appends a rule to its chain; without the flag it would come first.
    pub(super) fn append(&mut self, op: &'static str, message: Message) {
        self.messages
            .push((op, NLM_F_CREATE | NLM_F_APPEND, message));
    }

    pub(super) fn change(&mut self, op: &'static str, message: Message) {
        self.messages.push((op, 0, message));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// As requests. Every message that fails is answered anyway; an acknowledgement is asked of the
    /// last one only, and comes once the transaction is done.
    pub(crate) fn into_batch(self) -> crate::wire::Batch {
        let mut batch = crate::wire::Batch::default();
        let end = |kind| Message::new(kind, Family::Unspec, Vec::new());
        let last = self.messages.len().saturating_sub(1);
        batch.push(
            "begin a transaction of packet rules",
            0,
            end(Kind::BatchBegin),
        );
        for (position, (op, flags, message)) in self.messages.into_iter().enumerate() {
            let acknowledge = if position == last { NLM_F_ACK } else { 0 };
            batch.push(op, flags | acknowledge, message);
        }
        batch.push("end a transaction of packet rules", 0, end(Kind::BatchEnd));
        batch
    }
}

pub(super) fn bytes(kind: u16, value: &[u8]) -> Attribute {
    Attribute::new(kind, value.to_vec())
}

pub(super) fn byte(kind: u16, value: u8) -> Attribute {
    bytes(kind, &[value])
}

pub(super) fn number(kind: u16, value: u32) -> Attribute {
    bytes(kind, &value.to_be_bytes())
}

/// A zero-terminated string.
pub(super) fn text(kind: u16, value: &str) -> Attribute {
    let mut terminated = value.as_bytes().to_vec();
    terminated.push(0);
    Attribute::new(kind, terminated)
}

pub(super) fn nested(kind: u16, attributes: &[Attribute]) -> Attribute {
    let mut value = vec![0; attributes.buffer_len()];
    attributes.emit(&mut value);
    Attribute::new(kind | NLA_F_NESTED, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_its_header_and_padded_attributes() {
        let message = Message::new(
            Kind::NewTable,
            Family::Inet,
            vec![text(1, "crisp"), nested(2, &[number(3, 7)])],
        );
        let mut buffer = vec![0xff; message.buffer_len()];
        message.serialize(&mut buffer);
        assert_eq!(message.message_type(), 0x0a00);
        assert_eq!(buffer[..4], [1, 0, 0, 0]);
        assert_eq!(buffer[4..6], 10u16.to_ne_bytes());
        assert_eq!(buffer[6..8], 1u16.to_ne_bytes());
        assert_eq!(&buffer[8..16], b"crisp\0\0\0");
        assert_eq!(buffer[16..18], 12u16.to_ne_bytes());
        assert_eq!(buffer[18..20], (2 | NLA_F_NESTED).to_ne_bytes());
        assert_eq!(buffer[24..], [0, 0, 0, 7]);
    }
}
