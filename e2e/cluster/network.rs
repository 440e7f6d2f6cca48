//! The wires of a cluster: a bridge in the network namespace of this program, where the control plane is,
//! and the nodes' namespaces plugged into it. Nobody outside sees any of it, so all addresses are fixed.

use anyhow::{Result, ensure};
use crisp_e2e::{Node, Slot};
use std::net::Ipv4Addr;
use std::process::Command;

/// Where the control plane and the registry listen.
pub(crate) const CONTROL: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 1);
const CONTROL_IPV6: &str = "fd00:10:10::1";
/// What the nodes' own networks of pods are taken from.
pub(crate) const POD_CIDRS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/56"];
/// What services get their addresses from.
pub(crate) const SERVICE_CIDRS: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];
/// The service of the name server.
pub(crate) const DNS: &str = "10.96.0.10";
const BRIDGE: &str = "cluster0";

/// The addresses of a node.
pub(crate) fn addresses(number: u8) -> [String; 2] {
    [
        format!("10.10.0.{}", 10 + number),
        format!("fd00:10:10::{}", 10 + number),
    ]
}

/// Makes the bridge, with the control plane's addresses.
pub(crate) fn make_bridge() -> Result<()> {
    run(
        Command::new,
        &format!(
            "link set lo up
            link add {BRIDGE} type bridge
            address add {CONTROL}/24 dev {BRIDGE}
            address add {CONTROL_IPV6}/64 dev {BRIDGE} nodad
            link set {BRIDGE} up"
        ),
    )
}

/// Plugs a node into the bridge. All that is not on the bridge it looks for at the control plane.
pub(crate) fn plug(machine: &Slot, number: u8) -> Result<()> {
    let [ipv4, ipv6] = addresses(number);
    let port = format!("node{number}");
    run(
        |ip| machine.command(ip),
        &format!(
            "link add eth0 type veth peer name {port} netns {own}
            address add {ipv4}/24 dev eth0
            address add {ipv6}/64 dev eth0 nodad
            link set eth0 up
            route add default via {CONTROL}
            route add default via {CONTROL_IPV6}",
            own = std::process::id(),
        ),
    )?;
    run(Command::new, &format!("link set {port} master {BRIDGE} up"))
}

/// Has everybody look for the pods of a node there.
pub(crate) fn route(others: &[&Node], number: u8, pod_cidrs: &[String]) -> Result<()> {
    let addresses = addresses(number);
    let routes = pod_cidrs.iter().filter_map(|cidr| {
        let via = addresses
            .iter()
            .find(|address| address.contains(':') == cidr.contains(':'))?;
        Some(format!("route replace {cidr} via {via}\n"))
    });
    let routes: String = routes.collect();
    run(Command::new, &routes)?;
    others
        .iter()
        .try_for_each(|node| run(|ip| node.command(ip), &routes))
}

/// Runs ip(8) for each line.
fn run(command: impl Fn(&'static str) -> Command, lines: &str) -> Result<()> {
    for line in lines.lines().map(str::trim) {
        let output = command("ip").args(line.split(' ')).output()?;
        ensure!(
            output.status.success(),
            "ip {line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
