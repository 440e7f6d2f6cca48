//! Keeps pods from telling each other which multicast groups they listen to.
//!
//! ```text
//! table bridge crisp {
//!   chain reports { prerouting }    drop what pods send to ff02::16
//! }
//! ```
//! Each pod reports its groups several times when it starts (MLDv2, RFC 9777), to all routers that forward
//! multicast. There is none, and the bridge does not listen to reports either (it does no snooping): they only went
//! through the network stack of every other pod, so that a start took the node longer with each pod that it had.

use super::encode::{Family, Transaction};
use super::expression::{
    Comparison, Header, Meta, Register, Verdict, compare, meta, payload, verdict,
};
use super::table::{Chain, Table};
use crate::attachment::HOST_INTERFACE_PREFIX;
use std::net::Ipv6Addr;

/// `NF_BR_PRE_ROUTING`, before br_netfilter has the packet (`NF_BR_PRI_FILTER_BRIDGED`).
const REPORTS: Chain = Chain {
    name: "reports",
    hook: Some((0, -200, "filter")),
};

/// Where reports go: "all MLDv2-capable routers".
const ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
/// `ETH_P_IPV6`.
const IPV6: [u8; 2] = [0x86, 0xdd];
/// Of the destination in an IPv6 header, in bytes.
const DESTINATION_OFFSET: u32 = 24;

/// Replaces the table, whatever it holds now.
pub(super) fn rebuild(name: &str) -> Transaction {
    let table = of(name);
    let mut changes = Transaction::default();
    table.make_anew(&mut changes);
    REPORTS.make(&mut changes, table);
    let from_pod_to_routers = [
        meta(Meta::Protocol, Register::FIRST),
        compare(Register::FIRST, Comparison::Equal, &IPV6),
        payload(Header::Network, DESTINATION_OFFSET, 16, Register::FIRST),
        compare(Register::FIRST, Comparison::Equal, &ROUTERS.octets()),
        meta(Meta::InputName, Register::FIRST),
        compare(
            Register::FIRST,
            Comparison::Equal,
            HOST_INTERFACE_PREFIX.as_bytes(),
        ),
        verdict(Verdict::Drop),
    ];
    table.append_rule(&mut changes, REPORTS.name, &from_pod_to_routers);
    changes
}

/// Removes the table, if it is there.
pub(super) fn remove(name: &str) -> Transaction {
    let mut changes = Transaction::default();
    of(name).remove(&mut changes);
    changes
}

fn of(name: &str) -> Table<'_> {
    Table {
        family: Family::Bridge,
        name,
    }
}
