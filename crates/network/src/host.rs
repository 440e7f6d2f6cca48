//! The node's side of the network in the kernel: bridge, packet table, switches. It is set up when it
//! is first needed, and again when somebody else took it away.

use crate::attachment::{Attachment, Mac, is_host_interface};
use crate::nft::Ruleset;
use crate::wire::{Batch, Wire};
use crate::{Error, Settings, forwarding, link};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};
use nix::errno::Errno;
use std::net::IpAddr;

/// The sockets to the kernel, in the daemon's own network namespace.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) route: Wire,
    pub(crate) netfilter: Wire,
}

impl Host {
    /// The index of the bridge, which is made if need be, with these addresses and no others but a link-local one.
    pub(crate) fn ensure_bridge(
        &mut self,
        name: &str,
        mtu: u32,
        gateways: &[IpNet],
    ) -> Result<u32, Error> {
        let bridge = match self.bridge(name)? {
            Some(bridge) => bridge,
            None => self.create_bridge(name, mtu, gateways)?,
        };
        let index = bridge.header.index;
        let mut batch = Batch::default();
        batch.push(
            "raise the bridge",
            NLM_F_ACK,
            link::raise_bridge(index, mtu),
        );
        self.route.transact(batch)?;
        let mut addresses = gateways.to_vec();
        if gateways.iter().any(|gateway| gateway.addr().is_ipv6()) {
            forwarding::prepare_bridge_ipv6(name)?;
            // Without it the node asks nobody for the neighbours of those for whom it forwards.
            addresses.extend(link::mac_of(&bridge).map(link::link_local));
        }
        self.set_addresses(index, &addresses)?;
        Ok(index)
    }

    /// The index of the bridge, if it is there.
    pub(crate) fn bridge_index(&mut self, name: &str) -> Result<Option<u32>, Error> {
        Ok(self.bridge(name)?.map(|bridge| bridge.header.index))
    }

    fn bridge(&mut self, name: &str) -> Result<Option<LinkMessage>, Error> {
        match self.link_by_name(name)? {
            Some(link) if !is_bridge(&link) => Err(Error::NotABridge {
                name: name.to_owned(),
            }),
            found => Ok(found),
        }
    }

    /// It is down yet.
    fn create_bridge(
        &mut self,
        name: &str,
        mtu: u32,
        gateways: &[IpNet],
    ) -> Result<LinkMessage, Error> {
        let mac = Mac::of(
            gateways
                .first()
                .map_or(IpAddr::from([0, 0, 0, 0]), IpNet::addr),
        );
        let mut batch = Batch::default();
        batch.push(
            "make the bridge",
            NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
            link::new_bridge(name, mac, mtu),
        );
        batch.push_forgiving(
            "set up the bridge",
            NLM_F_ACK,
            link::no_automatic_address(name),
            // The kernel has no IPv6.
            &[Errno::EAFNOSUPPORT],
        );
        self.route.transact(batch)?;
        self.bridge(name)?.ok_or_else(|| Error::Kernel {
            op: "find the bridge just made",
            source: Errno::ENODEV.into(),
        })
    }

    /// Link-local addresses stay: those of a bridge that others made may be the kernel's.
    fn set_addresses(&mut self, index: u32, wanted: &[IpNet]) -> Result<(), Error> {
        let present = self.addresses(index)?;
        let mut batch = Batch::default();
        for address in wanted {
            if !present
                .iter()
                .any(|message| address_of(message) == Some(*address))
            {
                batch.push_forgiving(
                    "give the bridge its address",
                    NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
                    Message::NewAddress(link::address(index, *address)),
                    &[Errno::EEXIST],
                );
            }
        }
        for message in present {
            let stale = address_of(&message).is_some_and(|address| !wanted.contains(&address));
            if stale && message.header.scope == AddressScope::Universe {
                batch.push_forgiving(
                    "take an old address off the bridge",
                    NLM_F_ACK,
                    Message::DelAddress(message),
                    &[Errno::EADDRNOTAVAIL],
                );
            }
        }
        Ok(self.route.transact(batch)?)
    }

    fn addresses(&mut self, index: u32) -> Result<Vec<AddressMessage>, Error> {
        let answers = self
            .route
            .dump(link::addresses_of(index))
            .map_err(Error::kernel("list the bridge's addresses"))?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                Message::NewAddress(message) if message.header.index == index => Some(message),
                _ => None,
            })
            .collect())
    }

    /// Lets the node forward what the pods send and get.
    pub(crate) fn enable_forwarding(&mut self, networks: &[IpNet]) -> Result<(), Error> {
        if networks.iter().any(|network| network.addr().is_ipv4()) {
            forwarding::enable_ipv4()?;
        }
        if networks.iter().any(|network| network.addr().is_ipv6()) {
            let interfaces = self.router_interfaces()?;
            forwarding::enable_ipv6(&interfaces)?;
        }
        Ok(())
    }

    /// The interfaces over which a router advertised itself.
    fn router_interfaces(&mut self) -> Result<Vec<String>, Error> {
        let routes = self.routes(AddressFamily::Inet6, RouteProtocol::Ra)?;
        let mut names = Vec::new();
        for index in routes.iter().filter_map(output_of) {
            if let Some(name) = self.link_by_index(index)?.as_ref().and_then(name_of) {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// The MTU of the link of the default route, if there is one.
    pub(crate) fn uplink_mtu(&mut self) -> Result<Option<u32>, Error> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let routes = self.routes(family, RouteProtocol::Unspec)?;
            let best = routes
                .iter()
                .filter(|route| route.header.destination_prefix_length == 0)
                .min_by_key(|route| metric_of(route))
                .and_then(output_of);
            if let Some(index) = best
                && let Some(link) = self.link_by_index(index)?
            {
                return Ok(mtu_of(&link));
            }
        }
        Ok(None)
    }

    /// The MTU of an interface, if it is there.
    pub(crate) fn mtu_by_name(&mut self, name: &str) -> Result<Option<u32>, Error> {
        Ok(self.link_by_name(name)?.as_ref().and_then(mtu_of))
    }

    /// The index of an interface, if it is there.
    pub(crate) fn index_by_name(&mut self, name: &str) -> Result<Option<u32>, Error> {
        Ok(self.link_by_name(name)?.map(|link| link.header.index))
    }

    fn routes(
        &mut self,
        family: AddressFamily,
        protocol: RouteProtocol,
    ) -> Result<Vec<RouteMessage>, Error> {
        match self.route.dump(link::routes(family, protocol)) {
            Ok(answers) => Ok(answers
                .into_iter()
                .filter_map(|answer| match answer {
                    Message::NewRoute(route) => Some(route),
                    _ => None,
                })
                .collect()),
            // There is no such table, or no such family.
            Err(error) if matches!(error.errno, Errno::ENOENT | Errno::EAFNOSUPPORT) => {
                Ok(Vec::new())
            }
            Err(error) => Err(Error::kernel("list routes")(error)),
        }
    }

    /// Makes the packet tables what they should be, with the host ports of these pods, whose addresses are in
    /// `networks`.
    pub(crate) fn rebuild_tables<'a>(
        &mut self,
        ruleset: &Ruleset,
        networks: &[IpNet],
        attachments: impl Iterator<Item = &'a Attachment>,
    ) -> Result<(), Error> {
        let changes = ruleset.rebuild(networks, attachments);
        self.netfilter.transact(changes.into_batch())?;
        let bridged = ruleset.rebuild_bridged().into_batch();
        if let Err(refusal) = self.netfilter.transact(bridged) {
            tracing::info!(
                error = %refusal.source,
                "nftables has no rules for bridges here: pods hear of each other's multicast groups, which takes their time"
            );
        }
        Ok(())
    }

    pub(crate) fn remove_tables(&mut self, ruleset: &Ruleset) -> Result<(), Error> {
        self.netfilter.transact(ruleset.remove().into_batch())?;
        // Where nftables has none for bridges, there is none to remove.
        let _ = self
            .netfilter
            .transact(ruleset.remove_bridged().into_batch());
        Ok(())
    }

    /// Whether nobody took the packet table away.
    pub(crate) fn has_table(&mut self, ruleset: &Ruleset) -> bool {
        self.netfilter.transact(ruleset.probe()).is_ok()
    }

    /// The names of the pods' interfaces on the bridge.
    pub(crate) fn pod_ports(&mut self, bridge: u32) -> Result<Vec<String>, Error> {
        let ports = self.ports(bridge)?;
        let names = ports.iter().filter_map(name_of);
        Ok(names
            .filter(|name| is_host_interface(name))
            .map(str::to_owned)
            .collect())
    }

    fn ports(&mut self, bridge: u32) -> Result<Vec<LinkMessage>, Error> {
        let answers = self
            .route
            .dump(link::ports_of(bridge))
            .map_err(Error::kernel("list the bridge's ports"))?;
        Ok(answers.into_iter().filter_map(into_link).collect())
    }

    fn link_by_name(&mut self, name: &str) -> Result<Option<LinkMessage>, Error> {
        find_link(&mut self.route, link::get_by_name(name))
    }

    fn link_by_index(&mut self, index: u32) -> Result<Option<LinkMessage>, Error> {
        find_link(&mut self.route, link::get_by_index(index))
    }
}

/// Asks for one link; none if it is not there.
pub(crate) fn find_link(wire: &mut Wire, request: Message) -> Result<Option<LinkMessage>, Error> {
    match wire.get(request) {
        Ok(answer) => Ok(answer.and_then(into_link)),
        Err(error) if error.errno == Errno::ENODEV => Ok(None),
        Err(error) => Err(Error::kernel("find an interface")(error)),
    }
}

/// The settings that the packet rules depend on, and the table's name.
pub(crate) fn ruleset(settings: &Settings, instance: &str) -> Ruleset {
    Ruleset {
        table: if instance.is_empty() {
            "crisp".to_owned()
        } else {
            format!("crisp-{instance}")
        },
        bridge: settings.bridge.clone(),
        masquerade: settings.masquerade,
        non_masquerade_cidrs: settings.non_masquerade_cidrs.clone(),
    }
}

fn into_link(message: Message) -> Option<LinkMessage> {
    match message {
        Message::NewLink(link) => Some(link),
        _ => None,
    }
}

fn is_bridge(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| {
        matches!(attribute, LinkAttribute::LinkInfo(info)
            if info.contains(&LinkInfo::Kind(InfoKind::Bridge)))
    })
}

fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.as_str()),
            _ => None,
        })
}

fn mtu_of(link: &LinkMessage) -> Option<u32> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        })
}

fn output_of(route: &RouteMessage) -> Option<u32> {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        })
}

/// The lower, the better.
fn metric_of(route: &RouteMessage) -> u32 {
    let metric = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Priority(metric) => Some(*metric),
            _ => None,
        });
    metric.unwrap_or(0)
}

fn address_of(message: &AddressMessage) -> Option<IpNet> {
    let address = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })?;
    IpNet::new(address, message.header.prefix_len).ok()
}
