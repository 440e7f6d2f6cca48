//! The pod's side of the network: what is configured through a socket inside the pod's namespace.

use crate::attachment::Attachment;
use crate::wire::{Batch, Wire};
use crate::{Error, link, shape};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::route::RouteMessage;
use nix::errno::Errno;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

/// Raises loopback and the pod's interface, and gives it its addresses and default routes.
pub(crate) fn configure(attachment: &Attachment, pod_socket: OwnedFd) -> Result<(), Error> {
    let mut wire = Wire::over(pod_socket);
    let index = wire
        .index_of(&attachment.pod_interface)
        .map_err(Error::kernel("find the pod's interface"))?;
    let mut batch = Batch::default();
    push_raising(&mut batch, attachment);
    push_addresses(&mut batch, attachment, index);
    shape::push(&mut batch, index, attachment.bandwidth.from_pod);
    Ok(wire.transact(batch)?)
}

/// Raises the loopback interface of a namespace that has no other.
pub(crate) fn raise_loopback(pod_socket: OwnedFd) -> Result<(), Error> {
    let mut batch = Batch::default();
    push_loopback(&mut batch);
    Ok(Wire::over(pod_socket).transact(batch)?)
}

fn push_loopback(batch: &mut Batch) {
    batch.push(
        "raise the pod's loopback interface",
        NLM_F_ACK,
        link::raise_by_index(link::LOOPBACK_INDEX),
    );
}

fn push_raising(batch: &mut Batch, attachment: &Attachment) {
    push_loopback(batch);
    batch.push_forgiving(
        "set up the pod's interface",
        NLM_F_ACK,
        link::no_automatic_address(&attachment.pod_interface),
        // The kernel has no IPv6.
        &[Errno::EAFNOSUPPORT],
    );
    batch.push(
        "raise the pod's interface",
        NLM_F_ACK,
        link::raise_by_name(&attachment.pod_interface),
    );
}

fn push_addresses(batch: &mut Batch, attachment: &Attachment, index: u32) {
    let has_ipv6 = attachment.addresses.iter().any(|a| a.addr().is_ipv6());
    let link_local = has_ipv6.then(|| link::link_local(attachment.mac));
    for address in link_local.iter().chain(&attachment.addresses) {
        batch.push(
            "give the pod its address",
            NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
            Message::NewAddress(link::address(index, *address)),
        );
    }
    for route in default_routes(attachment, index) {
        batch.push(
            "give the pod its default route",
            NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
            Message::NewRoute(route),
        );
    }
}

fn default_routes(attachment: &Attachment, index: u32) -> Vec<RouteMessage> {
    let Attachment {
        gateways,
        addresses,
        uplink,
        ..
    } = attachment;
    if uplink.as_ref().is_some_and(|u| !u.kind.is_layer_2()) {
        let by_link = |address: &IpNet| link::default_route_by_link(index, address.addr());
        return addresses.iter().map(by_link).collect();
    }
    let by_gateway = |gateway: &IpAddr| match addresses.iter().any(|net| net.contains(gateway)) {
        true => link::default_route(index, *gateway),
        false => link::default_route_on_link(index, *gateway),
    };
    gateways.iter().map(by_gateway).collect()
}
