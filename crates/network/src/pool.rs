//! Which addresses are in use, as slots: slot *n* is the *n*-th address of every pod CIDR, so that the
//! addresses of a pod of both families, and the hardware address that follows from them, are taken
//! and given back together.
//!
//! Slot 0 is the network itself, slot 1 the bridge's; the last address of an IPv4 network is its
//! broadcast address. A slot that was never used comes first, then the one that was released longest
//! ago: whoever still talks to an address that has gone has the longest time to notice.

use crate::Error;
use ipnet::IpNet;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The bridge's own slot.
const GATEWAY: u32 = 1;
/// The first slot a pod can have.
const FIRST: u32 = 2;

/// What has become of a slot that is not fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Used,
    Released,
}

/// The addresses of the pod CIDRs.
#[derive(Debug)]
pub(crate) struct Pool {
    networks: Vec<IpNet>,
    /// Slots from here on are fresh unless `slots` knows better.
    next_fresh: u32,
    slots: HashMap<u32, Slot>,
    /// In the order of their release. An entry whose slot is in use again is skipped.
    released: VecDeque<u32>,
}

impl Pool {
    /// A pool in which every address is free. IPv4 comes first, whatever the order given.
    pub(crate) fn new(mut networks: Vec<IpNet>) -> Result<Self, Error> {
        validate_networks(&networks)?;
        networks.sort_by_key(|network| network.addr().is_ipv6());
        Ok(Self {
            networks: networks.iter().map(IpNet::trunc).collect(),
            next_fresh: FIRST,
            slots: HashMap::new(),
            released: VecDeque::new(),
        })
    }

    pub(crate) fn networks(&self) -> &[IpNet] {
        &self.networks
    }

    /// The bridge's addresses, one for each network.
    pub(crate) fn gateways(&self) -> Vec<IpNet> {
        self.addresses(GATEWAY)
    }

    /// Takes one address of each network.
    pub(crate) fn take(&mut self) -> Result<Vec<IpNet>, Error> {
        let slot = self.next_unused().ok_or_else(|| self.exhausted())?;
        self.slots.insert(slot, Slot::Used);
        Ok(self.addresses(slot))
    }

    /// Marks addresses as in use; those outside the networks are nobody's business here.
    pub(crate) fn mark(&mut self, addresses: &[IpNet]) {
        for slot in self.slots_of(addresses) {
            self.slots.insert(slot, Slot::Used);
        }
    }

    /// Gives addresses back.
    pub(crate) fn release(&mut self, addresses: &[IpNet]) {
        for slot in self.slots_of(addresses) {
            if self.slots.insert(slot, Slot::Released) == Some(Slot::Used) {
                self.released.push_back(slot);
            }
        }
    }

    fn next_unused(&mut self) -> Option<u32> {
        let last = self.last_slot();
        while self.next_fresh <= last {
            let slot = self.next_fresh;
            self.next_fresh += 1;
            if !self.slots.contains_key(&slot) {
                return Some(slot);
            }
        }
        while let Some(slot) = self.released.pop_front() {
            if self.slots.get(&slot) == Some(&Slot::Released) {
                return Some(slot);
            }
        }
        None
    }

    /// The last slot that every network has; smaller than [`FIRST`] without networks.
    fn last_slot(&self) -> u32 {
        self.networks.iter().map(last_slot).min().unwrap_or(0)
    }

    fn exhausted(&self) -> Error {
        let tightest = self
            .networks
            .iter()
            .min_by_key(|network| last_slot(network));
        match tightest {
            Some(network) => Error::Exhausted {
                cidr: *network,
                usable: u64::from(last_slot(network) - GATEWAY),
            },
            None => crate::network::no_cidr().into(),
        }
    }

    fn addresses(&self, slot: u32) -> Vec<IpNet> {
        self.networks
            .iter()
            .map(|network| {
                IpNet::new(nth(network.network(), slot), network.prefix_len())
                    .expect("the prefix length is that of a network of the same family")
            })
            .collect()
    }

    fn slots_of(&self, addresses: &[IpNet]) -> Vec<u32> {
        addresses
            .iter()
            .filter_map(|address| {
                let network = self.networks.iter().find(|n| n.contains(&address.addr()))?;
                index(network.network(), address.addr())
            })
            .collect()
    }
}

/// Refuses networks that pods cannot get addresses from.
pub(crate) fn validate_networks(networks: &[IpNet]) -> Result<(), Error> {
    for (position, network) in networks.iter().enumerate() {
        let refuse = |reason| {
            Err(Error::InvalidCidr {
                cidr: *network,
                reason,
            })
        };
        let address = network.network();
        let same_family = |other: &IpNet| other.addr().is_ipv4() == address.is_ipv4();
        if networks[..position].iter().any(same_family) {
            return refuse("there is another one of the same family");
        }
        if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
            return refuse("it is not a range of unicast addresses");
        }
        if last_slot(network) < FIRST {
            return refuse("it has no room for a pod beside the bridge");
        }
    }
    Ok(())
}

/// The last slot of a network that a pod can have; at most 2³² slots are counted.
fn last_slot(network: &IpNet) -> u32 {
    let host_bits = u32::from(network.max_prefix_len() - network.prefix_len());
    let last = u32::MAX.checked_shr(32 - host_bits.min(32)).unwrap_or(0);
    match network {
        IpNet::V4(_) => last.saturating_sub(1),
        IpNet::V6(_) => last,
    }
}

/// The address `slot` places after `base`.
fn nth(base: IpAddr, slot: u32) -> IpAddr {
    match base {
        IpAddr::V4(base) => Ipv4Addr::from_bits(base.to_bits().wrapping_add(slot)).into(),
        IpAddr::V6(base) => Ipv6Addr::from_bits(base.to_bits().wrapping_add(slot.into())).into(),
    }
}

/// How many places `address` is after `base`; none if that is more than a slot can count.
fn index(base: IpAddr, address: IpAddr) -> Option<u32> {
    match (base, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => address.to_bits().checked_sub(base.to_bits()),
        (IpAddr::V6(base), IpAddr::V6(address)) => {
            u32::try_from(address.to_bits().checked_sub(base.to_bits())?).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(networks: &[&str]) -> Pool {
        Pool::new(networks.iter().map(|n| n.parse().unwrap()).collect()).unwrap()
    }

    fn first_of(addresses: &[IpNet]) -> String {
        addresses[0].to_string()
    }

    #[test]
    fn both_families_get_the_same_place_and_ipv4_comes_first() {
        let mut pool = pool(&["fd00:1::/64", "10.1.0.0/24"]);
        assert_eq!(
            pool.gateways(),
            ["10.1.0.1/24", "fd00:1::1/64"].map(|a| a.parse().unwrap())
        );
        let taken = pool.take().unwrap();
        assert_eq!(
            taken,
            ["10.1.0.2/24", "fd00:1::2/64"].map(|a| a.parse().unwrap())
        );
    }

    #[test]
    fn network_gateway_and_broadcast_are_never_given_away() {
        let mut pool = pool(&["10.1.0.0/29"]);
        let taken: Vec<String> = (0..5).map(|_| first_of(&pool.take().unwrap())).collect();
        assert_eq!(taken.first().unwrap(), "10.1.0.2/29");
        assert_eq!(taken.last().unwrap(), "10.1.0.6/29");
        let error = pool.take().unwrap_err().to_string();
        assert_eq!(error, "no address is left in 10.1.0.0/29: all 5 are in use");
    }

    #[test]
    fn what_was_released_last_is_used_last() {
        let mut pool = pool(&["10.1.0.0/29"]);
        let taken: Vec<_> = (0..4).map(|_| pool.take().unwrap()).collect();
        pool.release(&taken[2]);
        pool.release(&taken[0]);
        assert_eq!(first_of(&pool.take().unwrap()), "10.1.0.6/29");
        assert_eq!(pool.take().unwrap(), taken[2]);
        assert_eq!(pool.take().unwrap(), taken[0]);
        assert!(pool.take().is_err());
    }

    #[test]
    fn releasing_twice_gives_one_address_back() {
        let mut pool = pool(&["10.1.0.0/30"]);
        let taken = pool.take().unwrap();
        pool.release(&taken);
        pool.release(&taken);
        pool.take().unwrap();
        assert!(pool.take().is_err());
    }

    #[test]
    fn a_marked_address_is_not_given_away_and_comes_back() {
        let mut pool = pool(&["10.1.0.0/30"]);
        let mine = [
            "10.1.0.2/30".parse().unwrap(),
            "fd00::7/64".parse().unwrap(),
        ];
        pool.mark(&mine);
        assert!(pool.take().is_err());
        pool.release(&mine);
        assert_eq!(first_of(&pool.take().unwrap()), "10.1.0.2/30");
    }

    #[test]
    fn a_huge_network_is_counted_without_overflow() {
        let pool = pool(&["fd00::/8"]);
        assert_eq!(pool.last_slot(), u32::MAX);
    }

    #[test]
    fn unusable_networks_are_refused() {
        for bad in [
            "10.1.0.0/31",
            "127.0.0.0/8",
            "224.0.0.0/4",
            "fd00::/127",
            "0.0.0.0/0",
        ] {
            assert!(validate_networks(&[bad.parse().unwrap()]).is_err(), "{bad}");
        }
        let twice = ["10.1.0.0/24", "10.2.0.0/24"].map(|n| n.parse().unwrap());
        assert!(validate_networks(&twice).is_err());
    }
}
