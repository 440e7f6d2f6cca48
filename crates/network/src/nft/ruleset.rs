//! What the table holds, as transactions. Nothing here does I/O.

use super::address::{Field, of_family, within};
use super::encode::{Attribute, Family, Kind, Transaction};
use super::expression::{
    Comparison, Connection, Header, Meta, Register, Verdict, compare, destination_type, mask,
    masquerade, meta, original, payload, verdict,
};
use super::host_port::{Change, append_host_ports};
use super::map::MAPS;
use super::reports;
use super::table::{Chain, Table};
use crate::attachment::Attachment;
use ipnet::IpNet;
use netlink_packet_core::NLM_F_ACK;

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
        let table = self.table();
        let mut changes = Transaction::default();
        table.make_anew(&mut changes);
        for (id, map) in (1..).zip(&MAPS) {
            changes.create("make a map of host ports", map.declaration(&self.table, id));
        }
        for chain in &CHAINS {
            chain.make(&mut changes, table);
        }
        for (chain, expressions) in self.rules(networks) {
            table.append_rule(&mut changes, chain, &expressions);
        }
        for attachment in attachments {
            append_host_ports(&mut changes, &self.table, attachment, Change::Add);
        }
        changes
    }

    /// Removes the table, if it is there.
    pub(crate) fn remove(&self) -> Transaction {
        let mut changes = Transaction::default();
        self.table().remove(&mut changes);
        changes
    }

    /// The same table of the bridge family: see [`reports`].
    pub(crate) fn rebuild_bridged(&self) -> Transaction {
        reports::rebuild(&self.table)
    }

    /// Removes that one, if it is there.
    pub(crate) fn remove_bridged(&self) -> Transaction {
        reports::remove(&self.table)
    }

    /// Fails with `ENOENT` where the table is not there.
    pub(crate) fn probe(&self) -> crate::wire::Batch {
        let mut batch = crate::wire::Batch::default();
        batch.push(
            "find the packet table",
            NLM_F_ACK,
            self.table().message(Kind::GetTable),
        );
        batch
    }

    fn table(&self) -> Table<'_> {
        Table {
            family: Family::Inet,
            name: &self.table,
        }
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
