//! The packet rules: one nftables table per daemon, made and changed over nfnetlink, and one of the same name for
//! what is bridged ([`reports`]).
//!
//! ```text
//! table inet crisp {
//!   map any4 { proto . port : address . port }               host ports of every IPv4 address
//!   map one4 { address . proto . port : address . port }     … of one address
//!   map any6, map one6                                       the same for IPv6
//!
//!   chain guard       { prerouting, raw }     pods do not reach 127.0.0.0/8 of the node
//!   chain prerouting  { prerouting, dstnat }  to an address of the node? ─▶ host-ports
//!   chain output      { output, dstnat }      the same for the node's own processes
//!   chain host-ports  { }                     look up in the maps, translate
//!   chain postrouting { postrouting, srcnat } masquerade what leaves, and what comes from 127.0.0.0/8;
//!                                             from pod to pod over a host port? ─▶ hairpin
//!   chain hairpin     { }                     look up in the maps, masquerade
//! }
//! ```
//! A host port is an element of a map, with its pod's id as comment: a pod comes and goes by changing
//! elements, never rules. The table is rebuilt in one transaction with everything that is known, so
//! that no packet ever sees it incomplete.
//!
//! Reference: the kernel's include/uapi/linux/netfilter/nf_tables.h.

mod address;
mod conntrack;
mod encode;
mod expression;
mod host_port;
mod map;
mod reports;
mod ruleset;
mod table;

pub(crate) use conntrack::forget_udp;
pub(crate) use host_port::{add_host_ports, remove_host_ports};
pub(crate) use ruleset::Ruleset;
