//! The traffic of an interface inside a pod's network namespace, as /proc tells it (proc_pid_net(5)).

use crisp_network::InterfaceStatistics;
use std::fs;

/// The counters of an interface in a process's network namespace; none: there is none such, or the
/// process is gone.
pub(crate) fn statistics(pid: u32, interface: &str) -> Option<InterfaceStatistics> {
    parse(
        &fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?,
        interface,
    )
}

/// Eight counters of what came in, then eight of what went out; the first four of each are told.
fn parse(text: &str, interface: &str) -> Option<InterfaceStatistics> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, counters) = lines.find(|(name, _)| name.trim() == interface)?;
    let counters: Option<Vec<u64>> = counters
        .split_whitespace()
        .map(|c| c.parse().ok())
        .collect();
    let counters = counters?;
    let count = |index: usize| counters.get(index).copied();
    Some(InterfaceStatistics {
        rx_bytes: count(0)?,
        rx_packets: count(1)?,
        rx_errors: count(2)?,
        rx_dropped: count(3)?,
        tx_bytes: count(8)?,
        tx_packets: count(9)?,
        tx_errors: count(10)?,
        tx_dropped: count(11)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_the_interface() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n\
                    \x20   lo:     100       2    0    0    0     0          0         0      100       2    0    0    0     0       0          0\n\
                    \x20 eth0:123456789 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        let seen = parse(text, "eth0").unwrap();
        assert_eq!(
            (
                seen.rx_bytes,
                seen.rx_packets,
                seen.rx_errors,
                seen.rx_dropped
            ),
            (123_456_789, 2, 3, 4)
        );
        assert_eq!(
            (
                seen.tx_bytes,
                seen.tx_packets,
                seen.tx_errors,
                seen.tx_dropped
            ),
            (9, 10, 11, 12)
        );
        assert_eq!(parse(text, "eth1"), None);
        assert_eq!(parse("eth0: 1 2\n", "eth0"), None);
    }
}
