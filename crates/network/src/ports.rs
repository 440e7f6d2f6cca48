//! Which host ports are in use, and by whom.

use crate::Error;
use crisp_model::{PodId, PortMapping, Protocol};
use std::collections::HashMap;
use std::net::IpAddr;

/// The addresses of the host that a port mapping answers on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum HostAddresses {
    /// Every address of both families.
    All,
    /// Every address of one family: the unspecified address was asked for.
    AllIpv4,
    AllIpv6,
    One(IpAddr),
}

impl HostAddresses {
    pub(crate) fn of(mapping: &PortMapping) -> Self {
        match mapping.host_ip {
            None => Self::All,
            Some(IpAddr::V4(ip)) if ip.is_unspecified() => Self::AllIpv4,
            Some(IpAddr::V6(ip)) if ip.is_unspecified() => Self::AllIpv6,
            Some(ip) => Self::One(ip.to_canonical()),
        }
    }

    pub(crate) fn has_ipv4(self) -> bool {
        !matches!(self, Self::AllIpv6 | Self::One(IpAddr::V6(_)))
    }

    pub(crate) fn has_ipv6(self) -> bool {
        !matches!(self, Self::AllIpv4 | Self::One(IpAddr::V4(_)))
    }

    fn overlaps(self, other: Self) -> bool {
        match (self, other) {
            (Self::One(a), Self::One(b)) => a == b,
            _ => (self.has_ipv4() && other.has_ipv4()) || (self.has_ipv6() && other.has_ipv6()),
        }
    }
}

/// The host ports of all pods.
#[derive(Debug, Default)]
pub(crate) struct HostPorts {
    taken: HashMap<(Protocol, u16), Vec<(HostAddresses, PodId)>>,
}

impl HostPorts {
    /// Takes all of a pod's host ports, or none. A mapping that is given twice counts once.
    pub(crate) fn take(&mut self, pod: &PodId, mappings: &[PortMapping]) -> Result<(), Error> {
        for (position, mapping) in mappings.iter().enumerate() {
            let conflict = |holder: &PodId| Error::PortConflict {
                mapping: mapping.clone(),
                holder: holder.clone(),
            };
            if let Some(holder) = self.holder(mapping) {
                return Err(conflict(holder));
            }
            if mappings[..position]
                .iter()
                .any(|earlier| clash(earlier, mapping))
            {
                return Err(conflict(pod));
            }
        }
        for mapping in mappings {
            self.taken
                .entry((mapping.protocol, mapping.host_port))
                .or_default()
                .push((HostAddresses::of(mapping), pod.clone()));
        }
        Ok(())
    }

    pub(crate) fn release(&mut self, pod: &PodId, mappings: &[PortMapping]) {
        for mapping in mappings {
            let key = (mapping.protocol, mapping.host_port);
            if let Some(holders) = self.taken.get_mut(&key) {
                holders.retain(|(_, holder)| holder != pod);
                if holders.is_empty() {
                    self.taken.remove(&key);
                }
            }
        }
    }

    fn holder(&self, mapping: &PortMapping) -> Option<&PodId> {
        let wanted = HostAddresses::of(mapping);
        self.taken
            .get(&(mapping.protocol, mapping.host_port))?
            .iter()
            .find(|(addresses, _)| addresses.overlaps(wanted))
            .map(|(_, holder)| holder)
    }
}

/// Whether two mappings of one pod contradict each other.
fn clash(a: &PortMapping, b: &PortMapping) -> bool {
    a != b
        && (a.protocol, a.host_port) == (b.protocol, b.host_port)
        && HostAddresses::of(a).overlaps(HostAddresses::of(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(protocol: Protocol, host_port: u16, host_ip: Option<&str>) -> PortMapping {
        PortMapping {
            protocol,
            container_port: 80,
            host_port,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        }
    }

    #[test]
    fn overlapping_addresses_of_the_same_port_conflict() {
        let cases = [
            (None, None, true),
            (None, Some("127.0.0.1"), true),
            (Some("0.0.0.0"), Some("192.0.2.1"), true),
            (Some("0.0.0.0"), Some("::"), false),
            (Some("::"), Some("::ffff:192.0.2.1"), false),
            (Some("192.0.2.1"), Some("192.0.2.2"), false),
            (Some("192.0.2.1"), Some("192.0.2.1"), true),
            (Some("fd00::1"), None, true),
        ];
        for (first, second, conflicts) in cases {
            let mut ports = HostPorts::default();
            let first = [mapping(Protocol::Tcp, 80, first)];
            let second = [mapping(Protocol::Tcp, 80, second)];
            ports.take(&PodId::generate(), &first).unwrap();
            let result = ports.take(&PodId::generate(), &second);
            assert_eq!(result.is_err(), conflicts, "{first:?} {second:?}");
        }
    }

    #[test]
    fn another_protocol_or_port_does_not_conflict() {
        let mut ports = HostPorts::default();
        for taken in [
            mapping(Protocol::Tcp, 80, None),
            mapping(Protocol::Udp, 80, None),
            mapping(Protocol::Tcp, 81, None),
        ] {
            ports.take(&PodId::generate(), &[taken]).unwrap();
        }
    }

    #[test]
    fn a_conflict_names_the_holder_and_takes_nothing() {
        let mut ports = HostPorts::default();
        let holder = PodId::generate();
        ports
            .take(&holder, &[mapping(Protocol::Tcp, 80, None)])
            .unwrap();
        let both = [
            mapping(Protocol::Tcp, 79, None),
            mapping(Protocol::Tcp, 80, None),
        ];
        let error = ports.take(&PodId::generate(), &both).unwrap_err();
        assert!(error.to_string().contains(holder.as_str()));
        ports.take(&PodId::generate(), &both[..1]).unwrap();
    }

    #[test]
    fn a_pod_may_repeat_a_mapping_but_not_contradict_itself() {
        let mut ports = HostPorts::default();
        let pod = PodId::generate();
        let same = mapping(Protocol::Tcp, 80, None);
        let other = PortMapping {
            container_port: 81,
            ..same.clone()
        };
        assert!(ports.take(&pod, &[same.clone(), other]).is_err());
        let twice = [same.clone(), same.clone()];
        ports.take(&pod, &twice).unwrap();
        ports.release(&pod, &twice);
        ports.take(&PodId::generate(), &[same]).unwrap();
    }
}
