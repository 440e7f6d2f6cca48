//! The switches under `/proc/sys/net` that forwarding needs. What is already as it should be is not
//! written: on a node where `/proc/sys` is read-only, an administrator can have set them.

use crate::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const ROOT: &str = "/proc/sys/net";

/// Whether the kernel has IPv6 at all.
pub(crate) fn has_ipv6() -> bool {
    Path::new(ROOT).join("ipv6/conf/all").exists()
}

/// Lets the node forward IPv4.
pub(crate) fn enable_ipv4() -> Result<(), Error> {
    set("ipv4/ip_forward", "1")
}

/// Lets the node forward IPv6.
///
/// A node that forwards no longer listens to router advertisements, and forgets the routes it has
/// from them, unless an interface's `accept_ra` is 2. The interfaces named are those with such
/// routes: they go on listening.
pub(crate) fn enable_ipv6(router_interfaces: &[String]) -> Result<(), Error> {
    const ALL: &str = "ipv6/conf/all/forwarding";
    if get(ALL)? == "1" {
        return Ok(());
    }
    for interface in router_interfaces {
        let accept_ra = format!("ipv6/conf/{interface}/accept_ra");
        if get(&accept_ra)? == "1" {
            set(&accept_ra, "2")?;
        }
    }
    set(ALL, "1")
}

/// The bridge is a router's interface: it has IPv6 even where new interfaces have none by default,
/// and what a pod advertises does not become a route of the node.
pub(crate) fn prepare_bridge_ipv6(bridge: &str) -> Result<(), Error> {
    set(&format!("ipv6/conf/{bridge}/disable_ipv6"), "0")?;
    set(&format!("ipv6/conf/{bridge}/accept_ra"), "0")
}

/// Lets packets from and to 127.0.0.0/8 pass the bridge.
pub(crate) fn enable_loopback_routing(bridge: &str) -> Result<(), Error> {
    set(&format!("ipv4/conf/{bridge}/route_localnet"), "1")
}

fn get(name: &str) -> Result<String, Error> {
    let path = Path::new(ROOT).join(name);
    fs::read_to_string(&path)
        .map(|text| text.trim().to_owned())
        .map_err(failed("read", path))
}

fn set(name: &str, value: &str) -> Result<(), Error> {
    if get(name)? == value {
        return Ok(());
    }
    let path = Path::new(ROOT).join(name);
    fs::write(&path, value).map_err(failed("write", path))
}

fn failed(op: &'static str, path: PathBuf) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { op, path, source }
}
