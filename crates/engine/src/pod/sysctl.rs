//! Kernel parameters of a pod: only those that a namespace of its own keeps from the host.

use crate::error::{Error, Result};
use crisp_model::{NamespaceMode, PodConfig, StringMap};
use std::path::Path;
use std::sync::OnceLock;

/// Parameters of the IPC namespace (Documentation/admin-guide/sysctl/kernel.rst, fs.rst).
const IPC: [&str; 10] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.msg_next_id",
    "kernel.shm_next_id",
];

/// What pods have unless they say otherwise, as under containerd: an unprivileged process may listen
/// on every port and send ICMP echo requests, for both only reach the pod's own network.
const NETWORK_DEFAULTS: [(&str, &str); 2] = [
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("net.ipv4.ping_group_range", "0 2147483647"),
];

/// Keeps a pod from being led astray by router advertisements that its neighbour sends
/// (CVE-2020-10749). Its routes come from the node.
const NO_ROUTER_ADVERTISEMENTS: (&str, &str) = ("net.ipv6.conf.default.accept_ra", "0");

/// Whether the kernel has IPv6, which stays once it is loaded. The look is not repeated: the kernel goes
/// through the directories of this name of all network namespaces for it.
fn has_ipv6() -> bool {
    static SEEN: OnceLock<()> = OnceLock::new();
    if SEEN.get().is_none() && Path::new("/proc/sys/net/ipv6").exists() {
        let _ = SEEN.set(());
    }
    SEEN.get().is_some()
}

/// The parameters to set in the pod's namespaces.
///
/// # Errors
/// If one would reach the host.
pub(super) fn of_pod(config: &PodConfig) -> Result<StringMap> {
    let modes = &config.security.namespaces;
    let own_network = modes.network != NamespaceMode::Node;
    let own_ipc = modes.ipc != NamespaceMode::Node;
    let mut all = StringMap::new();
    let mut default = |(name, value): (&str, &str)| all.insert(name.to_owned(), value.to_owned());
    if own_network && modes.user.is_none() {
        for parameter in NETWORK_DEFAULTS {
            default(parameter);
        }
    }
    if own_network && has_ipv6() {
        default(NO_ROUTER_ADVERTISEMENTS);
    }
    for (name, value) in &config.sysctls {
        let plain = name.replace('/', ".");
        check(&plain, own_network, own_ipc)?;
        all.insert(plain, value.clone());
    }
    Ok(all)
}

fn check(name: &str, own_network: bool, own_ipc: bool) -> Result<()> {
    let refuse = |reason: &str| {
        Err(Error::invalid(
            "linux.sysctls",
            format!("{name:?} {reason}"),
        ))
    };
    let component = |c: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
        !c.is_empty() && c.bytes().all(allowed)
    };
    if !name.split('.').all(component) {
        return refuse("is not the name of a kernel parameter");
    }
    let of_network = name.starts_with("net.");
    let of_ipc = IPC.contains(&name) || name.starts_with("fs.mqueue.");
    match (of_network, of_ipc) {
        (true, _) if own_network => Ok(()),
        (true, _) => refuse("would change the host: the pod uses the host's network namespace"),
        (_, true) if own_ipc => Ok(()),
        (_, true) => refuse("would change the host: the pod uses the host's IPC namespace"),
        _ => refuse("belongs to no namespace and would change the host"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sysctls(names: &[&str], network: NamespaceMode, ipc: NamespaceMode) -> Result<StringMap> {
        let mut config = PodConfig::default();
        config.security.namespaces.network = network;
        config.security.namespaces.ipc = ipc;
        config.sysctls = names
            .iter()
            .map(|n| ((*n).to_owned(), "1".to_owned()))
            .collect();
        of_pod(&config)
    }

    #[test]
    fn what_a_namespace_keeps_is_allowed() {
        let names = [
            "net.ipv4.ip_forward",
            "kernel.shmmax",
            "fs.mqueue.msg_max",
            "net/core/somaxconn",
        ];
        let all = sysctls(&names, NamespaceMode::Pod, NamespaceMode::Pod).unwrap();
        assert_eq!(all["net.core.somaxconn"], "1");
        assert_eq!(all["net.ipv4.ip_unprivileged_port_start"], "0");
    }

    #[test]
    fn what_reaches_the_host_is_refused_with_its_name() {
        use NamespaceMode::{Node, Pod};
        for (name, network, ipc) in [
            ("vm.swappiness", Pod, Pod),
            ("kernel.hostname", Pod, Pod),
            ("net.ipv4.ip_forward", Node, Pod),
            ("kernel.shmmax", Pod, Node),
            ("net.ipv4..x", Pod, Pod),
            ("net.+kernel.core_pattern", Pod, Pod),
            ("", Pod, Pod),
        ] {
            let error = sysctls(&[name], network, ipc).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
