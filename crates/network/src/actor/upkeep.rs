//! The node's side is set up before the first pod needs it, and again when somebody else took it away.

use super::{Actor, lock};
use crate::attachment::Attachment;
use crate::ports::HostAddresses;
use crate::wire::Batch;
use crate::{Error, NotReady, forwarding, link};
use ipnet::IpNet;
use netlink_packet_core::NLM_F_ACK;
use nix::errno::Errno;

/// How many links are changed in one request: the answers to more might not fit the socket's queue.
const LINKS_AT_ONCE: usize = 64;

/// What is known to be set up in the kernel.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) bridge_index: u32,
    /// The pod CIDRs it was set up for.
    networks: Vec<IpNet>,
    loopback_routing: bool,
}

impl Actor {
    /// Brings the kernel's side in line with what is known after a restart.
    pub(super) fn restore(&mut self) -> Result<(), Error> {
        if lock(&self.allocations).bridged().count() > 0 {
            self.prepared = None;
            self.prepared().map(|_| ())
        } else if self.host.has_table(&self.ruleset) {
            self.host.remove_tables(&self.ruleset)
        } else {
            Ok(())
        }
    }

    /// The bridge's index, once everything that a pod needs of the node is there.
    pub(super) fn prepared(&mut self) -> Result<u32, Error> {
        let networks = lock(&self.allocations).networks().to_vec();
        if let Some(prepared) = &self.prepared
            && prepared.networks == networks
        {
            let index = prepared.bridge_index;
            self.ensure_table()?;
            return Ok(index);
        }
        let result = self.prepare(networks);
        // Pods to come need no bridge where they are on an uplink.
        if self.settings.uplink().is_none() {
            lock(&self.allocations).failure = result.as_ref().err().map(|error| NotReady {
                reason: chain(error),
            });
        }
        result
    }

    /// `nft flush ruleset`, as a firewall does it that is started again, takes foreign tables along.
    fn ensure_table(&mut self) -> Result<(), Error> {
        if self.host.has_table(&self.ruleset) {
            return Ok(());
        }
        tracing::warn!(table = %self.ruleset.table, "the packet table was taken away; making it again");
        self.rebuild_tables()
    }

    /// Restores what others took away, for the pods there are.
    pub(super) fn look_after(&mut self) {
        if self.settings.uplink().is_some()
            && let Err(error) = self.look_at_links()
        {
            tracing::warn!(error = chain(&error), "the uplink cannot be looked at");
        }
        let Some(prepared) = &self.prepared else {
            return;
        };
        let known = Some(prepared.bridge_index);
        let result = match self.host.bridge_index(&self.settings.bridge) {
            Ok(index) if index == known => self.ensure_table(),
            Ok(_) => self.prepare_again().map(|_| ()),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tracing::warn!(error = chain(&error), "the pod network is damaged");
        }
    }

    pub(super) fn prepare_again(&mut self) -> Result<u32, Error> {
        tracing::warn!(bridge = %self.settings.bridge, "the bridge was taken away; making it again");
        self.prepared = None;
        self.prepared()
    }

    fn prepare(&mut self, networks: Vec<IpNet>) -> Result<u32, Error> {
        self.refresh_mtu()?;
        let (mtu, gateways) = {
            let allocations = lock(&self.allocations);
            (allocations.mtu, allocations.gateways())
        };
        let bridge = &self.settings.bridge;
        let bridge_index = self.host.ensure_bridge(bridge, mtu, &gateways)?;
        self.host.enable_forwarding(&gateways)?;
        self.rebuild_tables()?;
        self.prepared = Some(Prepared {
            bridge_index,
            networks,
            loopback_routing: false,
        });
        let attachments: Vec<Attachment> = lock(&self.allocations).bridged().cloned().collect();
        for attachment in &attachments {
            self.enable_loopback_routing(attachment)?;
        }
        self.join_bridge(&attachments, bridge_index)?;
        Ok(bridge_index)
    }

    /// Connects the pods there are with a bridge that may have been made again.
    fn join_bridge(&mut self, attachments: &[Attachment], bridge: u32) -> Result<(), Error> {
        for some in attachments.chunks(LINKS_AT_ONCE) {
            let mut batch = Batch::default();
            for attachment in some {
                for message in [
                    link::join_bridge(&attachment.host_interface, bridge),
                    link::describe_port(attachment),
                ] {
                    batch.push_forgiving(
                        "connect a pod's interface with the bridge",
                        NLM_F_ACK,
                        message,
                        // It is not attached yet, or its namespace has gone.
                        &[Errno::ENODEV],
                    );
                }
            }
            self.host.route.transact(batch)?;
        }
        Ok(())
    }

    fn rebuild_tables(&mut self) -> Result<(), Error> {
        let allocations = lock(&self.allocations);
        let (networks, attachments) = (allocations.gateways(), allocations.bridged());
        self.host
            .rebuild_tables(&self.ruleset, &networks, attachments)
    }

    /// Only once the first host port needs it, and after the rule that makes it safe is in force.
    pub(super) fn enable_loopback_routing(&mut self, attachment: &Attachment) -> Result<(), Error> {
        let needed = self.settings.loopback_host_ports
            && attachment
                .port_mappings
                .iter()
                .any(|mapping| HostAddresses::of(mapping).has_ipv4());
        if let Some(prepared) = &mut self.prepared
            && needed
            && !prepared.loopback_routing
        {
            forwarding::enable_loopback_routing(&self.settings.bridge)?;
            prepared.loopback_routing = true;
        }
        Ok(())
    }
}

/// An error with all its causes.
pub(super) fn chain(error: &Error) -> String {
    use std::error::Error as _;
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
