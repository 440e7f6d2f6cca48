//! Forgetting connections that were tracked before a host port was opened or closed.
//!
//! The translation of a connection is decided by its first packet. For UDP, a client that goes on
//! sending keeps its "connection" alive: without this it would never reach a pod that came later, or
//! go on reaching the address of one that has gone.
//!
//! Reference: the kernel's include/uapi/linux/netfilter/nfnetlink_conntrack.h. Deleting by a filter
//! needs Linux 6.9; older kernels refuse, and connections end by their timeout.

use super::encode::{Attribute, Family, Kind, Message, byte, bytes, nested};
use super::host_port::protocol_number;
use crate::attachment::Attachment;
use crate::wire::Batch;
use crisp_model::Protocol;
use netlink_packet_core::NLM_F_ACK;
use nix::errno::Errno;
use std::collections::BTreeSet;

/// Deletes the tracked UDP connections to a pod's host ports. Empty for a pod without such.
pub(crate) fn forget_udp(attachment: &Attachment) -> Batch {
    let ports: BTreeSet<u16> = attachment
        .port_mappings
        .iter()
        .filter(|mapping| mapping.protocol == Protocol::Udp)
        .map(|mapping| mapping.host_port)
        .collect();
    let mut batch = Batch::default();
    for port in ports {
        for address in &attachment.addresses {
            let family = if address.addr().is_ipv4() {
                AF_INET
            } else {
                AF_INET6
            };
            batch.push_forgiving(
                "forget connections to a host port",
                NLM_F_ACK,
                Message::new(Kind::DeleteConnections, family, to_port(port).to_vec()),
                // Nothing to forget; or not known to this kernel.
                &[Errno::ENOENT, Errno::EINVAL, Errno::EOPNOTSUPP],
            );
        }
    }
    batch
}

/// Connections whose first packet went to a UDP port.
fn to_port(port: u16) -> [Attribute; 2] {
    const TUPLE: u16 = 1;
    const TRANSPORT: u16 = 2;
    const NUMBER: u16 = 1;
    const DESTINATION_PORT: u16 = 3;
    const FILTER: u16 = 25;
    const FILTER_ORIGINAL: u16 = 1;
    const FILTER_REPLY: u16 = 2;
    /// `CTA_FILTER_F_CTA_PROTO_NUM` and `…_DST_PORT`, in the host's byte order.
    const FILTER_BITS: u32 = 1 << 3 | 1 << 5;
    [
        nested(
            TUPLE,
            &[nested(
                TRANSPORT,
                &[
                    byte(NUMBER, protocol_number(Protocol::Udp)),
                    bytes(DESTINATION_PORT, &port.to_be_bytes()),
                ],
            )],
        ),
        nested(
            FILTER,
            &[
                bytes(FILTER_ORIGINAL, &FILTER_BITS.to_ne_bytes()),
                bytes(FILTER_REPLY, &0u32.to_ne_bytes()),
            ],
        ),
    ]
}

/// Connection tracking takes address families (`AF_*`); these two have the numbers of netfilter's.
const AF_INET: Family = Family::Ipv4;
const AF_INET6: Family = Family::Ipv6;
