//! A manifest's pod as the CRI has it.

use super::schema::{Metadata, Pod, Port, Protocol, Spec};
use super::{Host, RUN_ANNOTATION, label, resolver, resources, security};
use crisp_cri_api::v1;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The longest host name that the kubelet gives, in letters.
const HOSTNAME_MAX: usize = 63;

/// The pod's configuration.
pub(crate) fn pod_config(pod: &Pod, host: &Host) -> v1::PodSandboxConfig {
    let Metadata {
        name,
        namespace,
        uid,
        ..
    } = &pod.metadata;
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.clone(),
            uid: uid.clone(),
            namespace: namespace.clone(),
            attempt: 0,
        }),
        hostname: hostname(pod),
        log_directory: log_directory(pod, host).display().to_string(),
        dns_config: resolver::dns_config(&pod.spec, &host.resolv_conf),
        port_mappings: port_mappings(&pod.spec),
        labels: labels(&pod.metadata),
        annotations: annotations(&pod.metadata),
        linux: Some(v1::LinuxPodSandboxConfig {
            security_context: Some(security::of_pod(&pod.spec)),
            sysctls: sysctls(&pod.spec),
            resources: Some(resources::of_pod(pod)),
            ..Default::default()
        }),
        windows: None,
    }
}

/// Where the logs of the pod's containers are, as the kubelet names it.
pub(crate) fn log_directory(pod: &Pod, host: &Host) -> PathBuf {
    let Metadata {
        name,
        namespace,
        uid,
        ..
    } = &pod.metadata;
    host.log_dir.join(format!("{namespace}_{name}_{uid}"))
}

fn hostname(pod: &Pod) -> String {
    if pod.spec.host_network {
        return String::new();
    }
    let name = match pod.spec.hostname.as_str() {
        "" => &pod.metadata.name,
        given => given,
    };
    let name: String = name.chars().take(HOSTNAME_MAX).collect();
    name.trim_end_matches(['-', '.']).to_owned()
}

pub(super) fn labels(metadata: &Metadata) -> BTreeMap<String, String> {
    let mut labels = metadata.labels.clone();
    for (key, value) in [
        (label::POD_NAME, &metadata.name),
        (label::POD_NAMESPACE, &metadata.namespace),
        (label::POD_UID, &metadata.uid),
    ] {
        labels.insert(key.to_owned(), value.clone());
    }
    labels
}

fn annotations(metadata: &Metadata) -> BTreeMap<String, String> {
    let mut annotations = metadata.annotations.clone();
    annotations.insert(RUN_ANNOTATION.to_owned(), "true".to_owned());
    annotations
}

fn port_mappings(spec: &Spec) -> Vec<v1::PortMapping> {
    // On the host's network a port of the pod is a port of the host already.
    if spec.host_network {
        return Vec::new();
    }
    let ports = spec
        .containers
        .iter()
        .flat_map(|container| &container.ports);
    ports
        .filter(|port| port.host_port != 0)
        .map(port_mapping)
        .collect()
}

fn port_mapping(port: &Port) -> v1::PortMapping {
    let protocol = match port.protocol {
        Protocol::Tcp => v1::Protocol::Tcp,
        Protocol::Udp => v1::Protocol::Udp,
        Protocol::Sctp => v1::Protocol::Sctp,
    };
    v1::PortMapping {
        protocol: protocol.into(),
        container_port: port.container_port.into(),
        host_port: port.host_port.into(),
        host_ip: port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
    }
}

fn sysctls(spec: &Spec) -> BTreeMap<String, String> {
    let asked = spec.security_context.sysctls.iter();
    asked
        .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{host, sample};
    use super::*;

    #[test]
    fn a_pod_is_named_and_placed_as_the_kubelet_does_it() {
        let config = pod_config(&sample(), &host());
        assert_eq!(config.hostname, "web-0");
        assert_eq!(config.log_directory, "/logs/shop_web-0_u-1");
        assert_eq!(config.labels["app"], "web");
        assert_eq!(config.labels["io.kubernetes.pod.namespace"], "shop");
        assert_eq!(config.annotations[RUN_ANNOTATION], "true");
        let linux = config.linux.unwrap();
        assert_eq!(linux.sysctls["net.core.somaxconn"], "512");
        assert_eq!(linux.resources.unwrap().memory_limit_in_bytes, 64 << 20);
    }

    #[test]
    fn only_ports_of_the_host_are_mapped() {
        let mut pod = sample();
        let expected = v1::PortMapping {
            protocol: v1::Protocol::Udp.into(),
            container_port: 53,
            host_port: 5353,
            host_ip: "127.0.0.1".to_owned(),
        };
        assert_eq!(pod_config(&pod, &host()).port_mappings, [expected]);
        pod.spec.host_network = true;
        let config = pod_config(&pod, &host());
        assert!(config.port_mappings.is_empty() && config.hostname.is_empty());
    }
}
