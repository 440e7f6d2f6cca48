//! What goes through a pod's interface. Containers share it and have none of these.

use super::Samples::Each;
use super::figures::Figures;
use super::{Labelled, Metric, counter};
use crisp_network::InterfaceStatistics;
use crisp_network::POD_INTERFACE;

const INTERFACE: &[&str] = &["interface"];

pub(super) const METRICS: &[Metric] = &[
    counter(
        "container_network_receive_bytes_total",
        "Received, in bytes.",
        Each(INTERFACE, |f| traffic(f, |interface| interface.rx_bytes)),
    ),
    counter(
        "container_network_receive_packets_total",
        "Packets received.",
        Each(INTERFACE, |f| traffic(f, |interface| interface.rx_packets)),
    ),
    counter(
        "container_network_receive_packets_dropped_total",
        "Packets that arrived and were dropped.",
        Each(INTERFACE, |f| traffic(f, |interface| interface.rx_dropped)),
    ),
    counter(
        "container_network_receive_errors_total",
        "Packets that arrived broken.",
        Each(INTERFACE, |f| traffic(f, |interface| interface.rx_errors)),
    ),
    counter(
        "container_network_transmit_bytes_total",
        "Sent, in bytes.",
        Each(INTERFACE, |f| traffic(f, |interface| interface.tx_bytes)),
    ),
    counter(
        "container_network_transmit_packets_total",
        "Packets sent.",
        Each(INTERFACE, |f| traffic(f, |interface| interface.tx_packets)),
    ),
    counter(
        "container_network_transmit_packets_dropped_total",
        "Packets that were dropped instead of sent.",
        Each(INTERFACE, |f| traffic(f, |interface| interface.tx_dropped)),
    ),
    counter(
        "container_network_transmit_errors_total",
        "Packets that could not be sent.",
        Each(INTERFACE, |f| traffic(f, |interface| interface.tx_errors)),
    ),
];

fn traffic(figures: &Figures<'_>, value: fn(&InterfaceStatistics) -> u64) -> Vec<Labelled> {
    let sample = |interface| (vec![POD_INTERFACE.to_owned()], value(interface));
    figures.network.map(sample).into_iter().collect()
}
