//! Host ports as elements of the maps. Nothing here does I/O.

use super::address::octets;
use super::encode::{Family, Kind, Message, Transaction, bytes, nested, text};
use super::expression::value;
use crate::attachment::Attachment;
use crate::ports::HostAddresses;
use crisp_model::{PodId, PortMapping, Protocol};
use std::net::IpAddr;

/// What becomes of a pod's host ports.
#[derive(Clone, Copy)]
pub(super) enum Change {
    Add,
    Remove,
}

/// Opens a pod's host ports. Empty if it has none.
pub(crate) fn add_host_ports(table: &str, attachment: &Attachment) -> Transaction {
    let mut changes = Transaction::default();
    append_host_ports(&mut changes, table, attachment, Change::Add);
    changes
}

/// Closes a pod's host ports. Empty if it has none.
pub(crate) fn remove_host_ports(table: &str, attachment: &Attachment) -> Transaction {
    let mut changes = Transaction::default();
    append_host_ports(&mut changes, table, attachment, Change::Remove);
    changes
}

pub(super) fn append_host_ports(
    changes: &mut Transaction,
    table: &str,
    attachment: &Attachment,
    change: Change,
) {
    let mappings = &attachment.port_mappings;
    for (position, mapping) in mappings.iter().enumerate() {
        if mappings[..position].contains(mapping) {
            continue;
        }
        for address in &attachment.addresses {
            if let Some(element) = Element::of(mapping, address.addr()) {
                let message = element.message(table, &attachment.pod, change);
                match change {
                    Change::Add => changes.create("open a host port", message),
                    Change::Remove => changes.change("close a host port", message),
                }
            }
        }
    }
}

/// An element of one of the maps.
struct Element {
    map: &'static str,
    key: Vec<u8>,
    data: Vec<u8>,
}

impl Element {
    /// What leads from a host port to a pod's address; none if the host port is not for the address's
    /// family.
    fn of(mapping: &PortMapping, pod: IpAddr) -> Option<Self> {
        let wanted = HostAddresses::of(mapping);
        let host = match wanted {
            HostAddresses::One(address) => Some(address),
            _ => None,
        };
        let (map, wanted_here) = match (pod, host) {
            (IpAddr::V4(_), None) => ("any4", wanted.has_ipv4()),
            (IpAddr::V4(_), Some(_)) => ("one4", wanted.has_ipv4()),
            (IpAddr::V6(_), None) => ("any6", wanted.has_ipv6()),
            (IpAddr::V6(_), Some(_)) => ("one6", wanted.has_ipv6()),
        };
        if !wanted_here {
            return None;
        }
        let mut key = host.map(octets).unwrap_or_default();
        key.extend([protocol_number(mapping.protocol), 0, 0, 0]);
        key.extend(port_register(mapping.host_port));
        let mut data = octets(pod);
        data.extend(port_register(mapping.container_port));
        Some(Self { map, key, data })
    }

    fn message(&self, table: &str, pod: &PodId, change: Change) -> Message {
        const TABLE: u16 = 1;
        const SET: u16 = 2;
        const ELEMENTS: u16 = 3;
        const ELEMENT: u16 = 1;
        const KEY: u16 = 1;
        const DATA: u16 = 2;
        const USER_DATA: u16 = 6;
        let mut attributes = vec![value(KEY, &self.key)];
        let kind = match change {
            Change::Add => {
                attributes.push(value(DATA, &self.data));
                attributes.push(bytes(USER_DATA, &comment(pod)));
                Kind::NewElement
            }
            Change::Remove => Kind::DeleteElement,
        };
        Message::new(
            kind,
            Family::Inet,
            vec![
                text(TABLE, table),
                text(SET, self.map),
                nested(ELEMENTS, &[nested(ELEMENT, &attributes)]),
            ],
        )
    }
}

/// The pod's id in the form in which `nft` keeps comments: kind 0, length, zero-terminated text.
fn comment(pod: &PodId) -> Vec<u8> {
    let text = pod.as_str().as_bytes();
    let length = u8::try_from(text.len() + 1).expect("an id has 64 digits");
    [&[0, length], text, &[0]].concat()
}

pub(super) fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// A port as it lies in a register: big-endian, then zeroes.
fn port_register(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(host_ip: Option<&str>) -> PortMapping {
        PortMapping {
            protocol: Protocol::Udp,
            container_port: 53,
            host_port: 5353,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        }
    }

    fn map_of(host_ip: Option<&str>, pod: &str) -> Option<&'static str> {
        Element::of(&mapping(host_ip), pod.parse().unwrap()).map(|e| e.map)
    }

    #[test]
    fn a_host_port_is_in_the_map_of_its_addresses() {
        assert_eq!(map_of(None, "10.1.0.2"), Some("any4"));
        assert_eq!(map_of(None, "fd00::2"), Some("any6"));
        assert_eq!(map_of(Some("0.0.0.0"), "10.1.0.2"), Some("any4"));
        assert_eq!(map_of(Some("0.0.0.0"), "fd00::2"), None);
        assert_eq!(map_of(Some("192.0.2.1"), "10.1.0.2"), Some("one4"));
        assert_eq!(map_of(Some("192.0.2.1"), "fd00::2"), None);
        assert_eq!(map_of(Some("::"), "fd00::2"), Some("any6"));
        assert_eq!(map_of(Some("fd00::9"), "fd00::2"), Some("one6"));
    }

    #[test]
    fn keys_and_values_take_whole_registers() {
        let element = Element::of(&mapping(Some("192.0.2.1")), "10.1.0.2".parse().unwrap());
        let element = element.unwrap();
        assert_eq!(element.key, [192, 0, 2, 1, 17, 0, 0, 0, 0x14, 0xe9, 0, 0]);
        assert_eq!(element.data, [10, 1, 0, 2, 0, 53, 0, 0]);
    }
}
