//! The traffic of interfaces, as /proc tells it (proc_pid_net(5)). Netlink has the same counters, among forty
//! other attributes of each interface, and under the lock for which the start of a pod waits.

use crate::attachment::InterfaceStatistics;
use std::collections::HashMap;
use std::{fs, io};

/// What went through all interfaces of a network namespace until a moment.
#[derive(Debug, Default)]
pub struct Traffic {
    by_interface: HashMap<String, InterfaceStatistics>,
}

impl Traffic {
    /// In the caller's namespace.
    ///
    /// # Errors
    /// There is no /proc.
    pub fn here() -> io::Result<Self> {
        Self::read("thread-self")
    }

    /// In the namespace of a process.
    ///
    /// # Errors
    /// It is gone.
    pub fn around(pid: u32) -> io::Result<Self> {
        Self::read(&pid.to_string())
    }

    fn read(process: &str) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{process}/net/dev"))?;
        Ok(Self {
            by_interface: text.lines().filter_map(counters).collect(),
        })
    }

    /// Of an interface; none: there is none of that name.
    #[must_use]
    pub fn of(&self, interface: &str) -> Option<InterfaceStatistics> {
        self.by_interface.get(interface).copied()
    }

    /// Of the other end of a veth pair: what this end sent is what that one received.
    #[must_use]
    pub fn of_peer(&self, interface: &str) -> Option<InterfaceStatistics> {
        let ours = self.of(interface)?;
        Some(InterfaceStatistics {
            rx_bytes: ours.tx_bytes,
            rx_packets: ours.tx_packets,
            rx_errors: ours.tx_errors,
            rx_dropped: ours.tx_dropped,
            tx_bytes: ours.rx_bytes,
            tx_packets: ours.rx_packets,
            tx_errors: ours.rx_errors,
            tx_dropped: ours.rx_dropped,
        })
    }
}

/// Eight counters of what came in, then eight of what went out; the first four of each are told. The two lines
/// above the interfaces have none.
fn counters(line: &str) -> Option<(String, InterfaceStatistics)> {
    let (name, counters) = line.split_once(':')?;
    let mut counters = counters.split_ascii_whitespace();
    let mut next = |skipped| counters.nth(skipped)?.parse().ok();
    let statistics = InterfaceStatistics {
        rx_bytes: next(0)?,
        rx_packets: next(0)?,
        rx_errors: next(0)?,
        rx_dropped: next(0)?,
        tx_bytes: next(4)?,
        tx_packets: next(0)?,
        tx_errors: next(0)?,
        tx_dropped: next(0)?,
    };
    Some((name.trim_start().to_owned(), statistics))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_the_interface() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n\
                    \x20   lo:     100       2    0    0    0     0          0         0      100       2    0    0    0     0       0          0\n\
                    \x20 eth0:123456789 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n\
                    short: 1 2\n";
        let traffic = Traffic {
            by_interface: text.lines().filter_map(counters).collect(),
        };
        let of_eth0 = InterfaceStatistics {
            rx_bytes: 123_456_789,
            rx_packets: 2,
            rx_errors: 3,
            rx_dropped: 4,
            tx_bytes: 9,
            tx_packets: 10,
            tx_errors: 11,
            tx_dropped: 12,
        };
        assert_eq!(traffic.of("eth0"), Some(of_eth0));
        let peer = traffic.of_peer("eth0").unwrap();
        assert_eq!((peer.rx_bytes, peer.tx_dropped), (9, 4));
        assert_eq!(traffic.by_interface.len(), 2);
    }

    #[test]
    fn a_namespace_has_a_loopback_interface() {
        assert!(Traffic::here().unwrap().of("lo").is_some());
        let own = Traffic::around(std::process::id()).unwrap();
        assert!(own.of("lo").is_some());
        assert!(Traffic::around(u32::MAX).is_err());
    }
}
