//! What a pod has of the network, as it is kept in the pod's record.

use crate::IpvlanMode;
use crisp_model::{PodId, PortMapping};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::str::FromStr;

/// The name of the pod's interface inside its namespace.
pub const POD_INTERFACE: &str = "eth0";

/// What the names of the host's ends begin with. Ten digits of the pod's id follow, which fills an
/// interface name.
pub(crate) const HOST_INTERFACE_PREFIX: &str = "crisp";

/// A pod's place in the network. Everything that is made for the pod follows from it, so that it is
/// written down before [`attach`](crate::Network::attach) and is enough to take the pod off again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub pod: PodId,
    /// The host's end of the veth pair; its `ifalias` is the pod's id. Empty on an uplink: such a link
    /// is in the pod's namespace alone.
    pub host_interface: String,
    /// The pod's end, inside its namespace.
    pub pod_interface: String,
    /// One address for each family, IPv4 first, with the prefix length of the pod CIDR.
    pub addresses: Vec<IpNet>,
    /// The bridge's address, or a router's, for each of `addresses`, in the same order. None where
    /// the node routes by itself.
    pub gateways: Vec<IpAddr>,
    /// The hardware address of the pod's end.
    pub mac: Mac,
    pub mtu: u32,
    pub port_mappings: Vec<PortMapping>,
    /// What the pod's interface is a child of; none: the pod is on the bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<Uplink>,
    #[serde(default, skip_serializing_if = "Bandwidth::is_unlimited")]
    pub bandwidth: Bandwidth,
}

/// How fast a pod may be sent to and send, in bits per second. None: as fast as it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bandwidth {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_pod: Option<NonZeroU64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_pod: Option<NonZeroU64>,
}

impl Bandwidth {
    /// Whether there is no limit in either direction.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

/// A link of the node's that shares its network with pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    pub name: String,
    pub kind: ChildKind,
}

/// How a pod's link is one with its uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChildKind {
    Macvlan,
    Ipvlan(IpvlanMode),
}

impl ChildKind {
    /// Whether pods find their neighbours and routers themselves.
    pub(crate) fn is_layer_2(self) -> bool {
        matches!(self, Self::Macvlan | Self::Ipvlan(IpvlanMode::L2))
    }
}

/// The name of the host's end of a pod's veth pair.
pub(crate) fn host_interface(pod: &PodId) -> String {
    let digits = crate::settings::INTERFACE_NAME_MAX - HOST_INTERFACE_PREFIX.len();
    format!("{HOST_INTERFACE_PREFIX}{}", &pod.as_str()[..digits])
}

/// Whether an interface's name can be one that [`host_interface`] gave.
pub(crate) fn is_host_interface(name: &str) -> bool {
    name.len() == crate::settings::INTERFACE_NAME_MAX
        && name
            .strip_prefix(HOST_INTERFACE_PREFIX)
            .is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// A hardware address, written as six pairs of hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The hardware address that belongs to an address. It is a function of the address, so that
    /// whoever gets an address after another pod is found under it at once: no neighbour's cache
    /// goes stale.
    pub(crate) fn of(address: IpAddr) -> Self {
        let [a, b, c, d] = match address {
            IpAddr::V4(v4) => v4.octets(),
            IpAddr::V6(v6) => {
                let octets = v6.octets();
                [octets[12], octets[13], octets[14], octets[15]]
            }
        };
        // The second lowest bit of the first byte marks a locally administered address.
        Self([0x02, 0xc5, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A text that is not six pairs of hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a hardware address")]
pub struct InvalidMac(String);

impl FromStr for Mac {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let invalid = || InvalidMac(text.chars().take(40).collect());
        let mut bytes = [0; 6];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            let pair = pairs.next().filter(|p| p.len() == 2).ok_or_else(invalid)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| invalid())?;
        }
        pairs
            .next()
            .is_none()
            .then_some(Self(bytes))
            .ok_or_else(invalid)
    }
}

impl TryFrom<String> for Mac {
    type Error = InvalidMac;
    fn try_from(text: String) -> Result<Self, InvalidMac> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// What went through a pod's interface since it was made, as the pod sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InterfaceStatistics {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_interface_fills_an_interface_name_and_is_recognised() {
        let name = host_interface(&PodId::generate());
        assert_eq!(name.len(), 15);
        assert!(is_host_interface(&name));
        assert!(!is_host_interface("crisp0"));
        assert!(!is_host_interface("crisp0123456xyz"));
    }

    #[test]
    fn a_mac_is_local_unicast_and_survives_text() {
        let mac = Mac::of("10.87.3.4".parse().unwrap());
        assert_eq!(mac.to_string(), "02:c5:0a:57:03:04");
        assert_eq!(mac.to_string().parse::<Mac>().unwrap(), mac);
        for bad in [
            "",
            "02:c5:0a:57:03",
            "02:c5:0a:57:03:04:05",
            "2:c5:0a:57:03:04",
            "02:c5:0a:57:03:zz",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
