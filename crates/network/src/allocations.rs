//! What every pod has: the one place that knows which addresses and host ports are in use.
//!
//! Memory only. The pods' records are what lasts; they are read back by [`Allocations::adopt`].

use crate::attachment::{self, Attachment, Bandwidth, Mac, POD_INTERFACE, Uplink};
use crate::pool::Pool;
use crate::ports::{HostAddresses, HostPorts};
use crate::{Error, NotReady, Settings};
use crisp_model::{PodId, PortMapping};
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::IpAddr;

/// The MTU of Ethernet (RFC 894), for nodes without a default route.
const DEFAULT_MTU: u32 = 1500;

#[derive(Debug)]
pub(crate) struct Allocations {
    pool: Pool,
    ports: HostPorts,
    attachments: HashMap<PodId, Attachment>,
    /// For attachments to come; none: they are on the bridge.
    uplink: Option<Uplink>,
    /// The routers beyond the uplink that are not at the first address of their network.
    routers: Vec<IpAddr>,
    /// For attachments to come.
    pub(crate) mtu: u32,
    /// Why the kernel's side could not be set up when it was tried last.
    pub(crate) failure: Option<NotReady>,
}

impl Allocations {
    pub(crate) fn new(settings: &Settings, networks: Vec<IpNet>) -> Result<Self, Error> {
        let uplink = settings.uplink();
        let routers = match &uplink {
            Some(_) => settings.gateways.clone(),
            None => Vec::new(),
        };
        Ok(Self {
            pool: pool(networks, &routers)?,
            uplink,
            routers,
            ports: HostPorts::default(),
            attachments: HashMap::new(),
            mtu: DEFAULT_MTU,
            failure: None,
        })
    }

    pub(crate) fn networks(&self) -> &[IpNet] {
        self.pool.networks()
    }

    pub(crate) fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.attachments.values()
    }

    pub(crate) fn contains(&self, pod: &PodId) -> bool {
        self.attachments.contains_key(pod)
    }

    pub(crate) fn len(&self) -> usize {
        self.attachments.len()
    }

    /// The attachments of pods on the bridge.
    pub(crate) fn bridged(&self) -> impl Iterator<Item = &Attachment> {
        self.attachments().filter(|a| a.uplink.is_none())
    }

    /// Whether a host's interface belongs to a pod that is known.
    pub(crate) fn knows_interface(&self, name: &str) -> bool {
        self.bridged().any(|a| a.host_interface == name)
    }

    /// The addresses that the bridge needs: those of the pod CIDRs, and those that pods from before
    /// the last change of the pod CIDRs still use.
    pub(crate) fn gateways(&self) -> Vec<IpNet> {
        let mut gateways = match self.uplink {
            None => self.pool.gateways(),
            Some(_) => Vec::new(),
        };
        for attachment in self.bridged() {
            for (address, gateway) in attachment.addresses.iter().zip(&attachment.gateways) {
                let known = gateways.iter().any(|g| g.addr() == *gateway);
                if !known && let Ok(net) = IpNet::new(*gateway, address.prefix_len()) {
                    gateways.push(net);
                }
            }
        }
        gateways
    }

    /// Takes addresses and host ports for a new pod.
    pub(crate) fn allocate(
        &mut self,
        pod: &PodId,
        mappings: &[PortMapping],
        bandwidth: Bandwidth,
    ) -> Result<Attachment, Error> {
        if let Some(known) = self.attachments.get(pod) {
            return Ok(known.clone());
        }
        self.check_uplink(mappings, bandwidth)?;
        self.check_families(mappings)?;
        self.ports.take(pod, mappings)?;
        let addresses = self.pool.take().inspect_err(|_| {
            self.ports.release(pod, mappings);
        })?;
        let attachment = Attachment {
            pod: pod.clone(),
            host_interface: match self.uplink {
                None => attachment::host_interface(pod),
                Some(_) => String::new(),
            },
            pod_interface: POD_INTERFACE.to_owned(),
            mac: Mac::of(addresses[0].addr()),
            addresses,
            gateways: self.routers(),
            mtu: self.mtu,
            port_mappings: mappings.to_vec(),
            uplink: self.uplink.clone(),
            bandwidth,
        };
        self.attachments.insert(pod.clone(), attachment.clone());
        Ok(attachment)
    }

    /// Marks as in use what a pod's record says.
    pub(crate) fn adopt(&mut self, attachment: &Attachment) -> Result<(), Error> {
        if self.contains(&attachment.pod) {
            return Ok(());
        }
        let in_use = |what: String, holder: &PodId| Error::AlreadyInUse {
            what,
            pod: attachment.pod.clone(),
            holder: holder.clone(),
        };
        for address in &attachment.addresses {
            if let Some(holder) = self.holder(address.addr()) {
                return Err(in_use(format!("address {}", address.addr()), holder));
            }
        }
        if let Err(error) = self.ports.take(&attachment.pod, &attachment.port_mappings) {
            return Err(match error {
                Error::PortConflict { mapping, holder } => {
                    in_use(format!("host port {}", mapping.host_port), &holder)
                }
                other => other,
            });
        }
        self.pool.mark(&attachment.addresses);
        self.attachments
            .insert(attachment.pod.clone(), attachment.clone());
        Ok(())
    }

    /// Gives back what a pod has. Nothing happens for a pod that is not known.
    pub(crate) fn release(&mut self, pod: &PodId) {
        if let Some(attachment) = self.attachments.remove(pod) {
            self.pool.release(&attachment.addresses);
            self.ports.release(pod, &attachment.port_mappings);
        }
    }

    /// Changes where pods to come get their addresses from; pods that have one keep it. Says whether
    /// anything changed.
    pub(crate) fn set_networks(&mut self, networks: Vec<IpNet>) -> Result<bool, Error> {
        let mut pool = pool(networks, &self.routers)?;
        if pool.networks() == self.pool.networks() {
            return Ok(false);
        }
        for attachment in self.attachments.values() {
            pool.mark(&attachment.addresses);
        }
        self.pool = pool;
        Ok(true)
    }

    /// Where pods to come send what is not for their own network.
    fn routers(&self) -> Vec<IpAddr> {
        if self.uplink.as_ref().is_some_and(|u| !u.kind.is_layer_2()) {
            return Vec::new();
        }
        let first = self.pool.gateways().into_iter().map(|net| net.addr());
        let router = |first: IpAddr| {
            let mut named = self.routers.iter();
            let named = named.find(|router| router.is_ipv6() == first.is_ipv6());
            named.copied().unwrap_or(first)
        };
        first.map(router).collect()
    }

    /// Nothing of the node's stands between a pod on an uplink and its clients.
    fn check_uplink(&self, mappings: &[PortMapping], bandwidth: Bandwidth) -> Result<(), Error> {
        match (&self.uplink, mappings) {
            (Some(uplink), [mapping, ..]) => Err(Error::NoHostPorts {
                mapping: mapping.clone(),
                uplink: uplink.name.clone(),
            }),
            (Some(uplink), []) if !bandwidth.is_unlimited() => Err(Error::NoBandwidth {
                uplink: uplink.name.clone(),
            }),
            _ => Ok(()),
        }
    }

    fn holder(&self, address: IpAddr) -> Option<&PodId> {
        self.attachments()
            .find(|a| a.addresses.iter().any(|net| net.addr() == address))
            .map(|a| &a.pod)
    }

    /// A host address of a family that pods have no address of can lead nowhere.
    fn check_families(&self, mappings: &[PortMapping]) -> Result<(), Error> {
        let has_ipv4 = self.networks().iter().any(|n| n.addr().is_ipv4());
        let has_ipv6 = self.networks().iter().any(|n| n.addr().is_ipv6());
        for mapping in mappings {
            let wanted = HostAddresses::of(mapping);
            let reachable = (wanted.has_ipv4() && has_ipv4) || (wanted.has_ipv6() && has_ipv6);
            if let Some(host_ip) = mapping.host_ip
                && !reachable
            {
                return Err(Error::InvalidHostIp {
                    mapping: mapping.clone(),
                    host_ip,
                    reason: "pods have no address of that family",
                });
            }
        }
        Ok(())
    }
}

/// A pool that never gives a router's address to a pod.
fn pool(networks: Vec<IpNet>, routers: &[IpAddr]) -> Result<Pool, Error> {
    let mut pool = Pool::new(networks)?;
    let routers: Vec<IpNet> = routers.iter().map(|router| IpNet::from(*router)).collect();
    pool.mark(&routers);
    Ok(pool)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{IpvlanMode, Mode};
    use crisp_model::Protocol;

    fn allocations(networks: &[&str]) -> Allocations {
        allocations_by(&Settings::default(), networks)
    }

    fn allocations_by(settings: &Settings, networks: &[&str]) -> Allocations {
        let networks = networks.iter().map(|n| n.parse().unwrap()).collect();
        Allocations::new(settings, networks).unwrap()
    }

    fn tcp(host_port: u16) -> PortMapping {
        PortMapping {
            protocol: Protocol::Tcp,
            container_port: 80,
            host_port,
            host_ip: None,
        }
    }

    #[test]
    fn allocating_twice_for_a_pod_gives_the_same() {
        let mut allocations = allocations(&["10.1.0.0/24"]);
        let pod = PodId::generate();
        let first = allocations
            .allocate(&pod, &[tcp(80)], Bandwidth::default())
            .unwrap();
        assert_eq!(
            allocations
                .allocate(&pod, &[tcp(80)], Bandwidth::default())
                .unwrap(),
            first
        );
    }

    #[test]
    fn exhaustion_leaves_no_host_port_behind() {
        let mut allocations = allocations(&["10.1.0.0/30"]);
        let pod = PodId::generate();
        allocations
            .allocate(&pod, &[], Bandwidth::default())
            .unwrap();
        assert!(
            allocations
                .allocate(&PodId::generate(), &[tcp(80)], Bandwidth::default())
                .is_err()
        );
        allocations.release(&pod);
        allocations
            .allocate(&PodId::generate(), &[tcp(80)], Bandwidth::default())
            .unwrap();
    }

    #[test]
    fn an_adopted_attachment_keeps_its_address_and_ports() {
        let mut before = allocations(&["10.1.0.0/29"]);
        let attachment = before
            .allocate(&PodId::generate(), &[tcp(80)], Bandwidth::default())
            .unwrap();
        let text = serde_json::to_string(&attachment).unwrap();

        let mut after = allocations(&["10.1.0.0/29"]);
        after.adopt(&serde_json::from_str(&text).unwrap()).unwrap();
        after.adopt(&attachment).unwrap();
        let other = after
            .allocate(&PodId::generate(), &[], Bandwidth::default())
            .unwrap();
        assert_ne!(other.addresses, attachment.addresses);
        assert!(matches!(
            after.allocate(&PodId::generate(), &[tcp(80)], Bandwidth::default()),
            Err(Error::PortConflict { holder, .. }) if holder == attachment.pod
        ));
    }

    #[test]
    fn two_records_with_one_address_are_refused() {
        let mut allocations = allocations(&["10.1.0.0/29"]);
        let first = allocations
            .allocate(&PodId::generate(), &[], Bandwidth::default())
            .unwrap();
        let second = Attachment {
            pod: PodId::generate(),
            ..first
        };
        assert!(matches!(
            allocations.adopt(&second),
            Err(Error::AlreadyInUse { .. })
        ));
    }

    #[test]
    fn a_change_of_networks_keeps_old_addresses_and_their_gateway() {
        let mut allocations = allocations(&["10.1.0.0/24"]);
        let old = allocations
            .allocate(&PodId::generate(), &[], Bandwidth::default())
            .unwrap();
        let networks = vec!["10.2.0.0/24".parse().unwrap()];
        assert!(allocations.set_networks(networks.clone()).unwrap());
        assert!(!allocations.set_networks(networks).unwrap());
        let new = allocations
            .allocate(&PodId::generate(), &[], Bandwidth::default())
            .unwrap();
        assert_eq!(new.addresses[0].to_string(), "10.2.0.2/24");
        assert_eq!(allocations.gateways().len(), 2);
        allocations.release(&old.pod);
        assert_eq!(allocations.gateways().len(), 1);
    }

    #[test]
    fn a_host_ip_of_a_family_without_pod_addresses_is_refused() {
        let mut allocations = allocations(&["10.1.0.0/24"]);
        let mapping = PortMapping {
            host_ip: Some("fd00::1".parse().unwrap()),
            ..tcp(80)
        };
        assert!(matches!(
            allocations.allocate(&PodId::generate(), &[mapping], Bandwidth::default()),
            Err(Error::InvalidHostIp { .. })
        ));
    }

    #[test]
    fn a_pod_on_an_uplink_has_the_networks_router_and_no_host_ports() {
        let settings = Settings {
            mode: Mode::Macvlan,
            uplink: "eth7".to_owned(),
            gateways: vec!["10.1.0.2".parse().unwrap()],
            ..Settings::default()
        };
        let mut allocations = allocations_by(&settings, &["10.1.0.0/24", "fd00::/64"]);
        let refused = allocations.allocate(&PodId::generate(), &[tcp(80)], Bandwidth::default());
        let text = refused.unwrap_err().to_string();
        assert!(
            text.contains("host port 80") && text.contains("eth7"),
            "{text}"
        );
        let pod = allocations
            .allocate(&PodId::generate(), &[], Bandwidth::default())
            .unwrap();
        assert_eq!(
            pod.addresses[0].to_string(),
            "10.1.0.3/24",
            "not the router's"
        );
        let routers = ["10.1.0.2", "fd00::1"].map(|r| r.parse::<IpAddr>().unwrap());
        assert_eq!(pod.gateways, routers);
        assert_eq!(
            (pod.host_interface.as_str(), pod.uplink.is_some()),
            ("", true)
        );
        assert!(
            allocations.gateways().is_empty(),
            "the bridge needs no address"
        );

        let settings = Settings {
            mode: Mode::Ipvlan,
            ipvlan_mode: IpvlanMode::L3,
            ..settings
        };
        let mut allocations = allocations_by(&settings, &["10.1.0.0/24"]);
        let pod = allocations
            .allocate(&PodId::generate(), &[], Bandwidth::default())
            .unwrap();
        assert!(pod.gateways.is_empty(), "the node routes");
    }

    #[test]
    fn without_networks_the_reason_is_said() {
        let mut allocations = allocations(&[]);
        assert!(matches!(
            allocations.allocate(&PodId::generate(), &[], Bandwidth::default()),
            Err(Error::NotReady(_))
        ));
    }
}
