//! What CNI plugins are told of a pod.

use super::bandwidth;
use crate::error::Result;
use crisp_cni::{Attachment, Network, Request};
use crisp_model::{PodConfig, PodId, PortMapping};
use crisp_network::{Bandwidth, POD_INTERFACE};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::Arc;

/// How many bits may go at once without regard to the rate: as many as the plugin takes, since nobody
/// says.
const BURST_BITS: u64 = u32::MAX as u64;

/// The pod's place in a network, not made yet.
pub(super) fn attachment(
    network: Arc<Network>,
    pod: &PodId,
    config: &PodConfig,
    netns: PathBuf,
) -> Result<Attachment> {
    Ok(Attachment::new(
        network,
        Request {
            container_id: pod.to_string(),
            netns,
            interface: POD_INTERFACE.to_owned(),
            args: args(pod, config),
            capabilities: capabilities(config)?,
        },
    )?)
}

/// By these names plugins have known pods since the kubelet ran them itself.
fn args(pod: &PodId, config: &PodConfig) -> Vec<(String, String)> {
    let metadata = &config.metadata;
    [
        // Without it some plugins refuse names that they do not know.
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", &metadata.namespace),
        ("K8S_POD_NAME", &metadata.name),
        ("K8S_POD_INFRA_CONTAINER_ID", pod.as_str()),
        ("K8S_POD_UID", &metadata.uid),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// By the names of the CNI conventions and of containerd.
fn capabilities(config: &PodConfig) -> Result<Map<String, Value>> {
    let mut capabilities = Map::new();
    let mut add = |name: &str, value: Option<Value>| {
        capabilities.extend(value.map(|value| (name.to_owned(), value)));
    };
    let ports: Vec<Value> = config.port_mappings.iter().map(port_mapping).collect();
    add("portMappings", (!ports.is_empty()).then(|| json!(ports)));
    add("bandwidth", shape(&bandwidth::asked(&config.annotations)?));
    let dns = config.dns.as_ref();
    add(
        "dns",
        dns.map(|dns| json!({ "servers": dns.servers, "searches": dns.searches, "options": dns.options })),
    );
    add(
        "cgroupPath",
        config.cgroup_parent.as_ref().map(|path| json!(path)),
    );
    add(
        "io.kubernetes.cri.pod-annotations",
        Some(json!(config.annotations)),
    );
    Ok(capabilities)
}

fn port_mapping(mapping: &PortMapping) -> Value {
    json!({
        "hostPort": mapping.host_port,
        "containerPort": mapping.container_port,
        "protocol": mapping.protocol,
        "hostIP": mapping.host_ip.map_or_else(String::new, |ip| ip.to_string()),
    })
}

/// None: there is no limit in either direction.
fn shape(limits: &Bandwidth) -> Option<Value> {
    let mut shape = Map::new();
    for (direction, rate) in [("ingress", limits.to_pod), ("egress", limits.from_pod)] {
        if let Some(rate) = rate {
            shape.insert(format!("{direction}Rate"), json!(rate));
            shape.insert(format!("{direction}Burst"), json!(BURST_BITS));
        }
    }
    (!shape.is_empty()).then_some(Value::Object(shape))
}

#[cfg(test)]
mod tests {
    use super::super::bandwidth::INGRESS;
    use super::*;
    use crisp_model::{DnsConfig, Protocol, StringMap};

    #[test]
    fn plugins_are_told_what_they_may_want_to_know() {
        let config = PodConfig {
            port_mappings: vec![PortMapping {
                protocol: Protocol::Sctp,
                container_port: 80,
                host_port: 8080,
                host_ip: Some([127, 0, 0, 1].into()),
            }],
            annotations: StringMap::from([
                (INGRESS.to_owned(), "10M".to_owned()),
                ("a".to_owned(), "b".to_owned()),
            ]),
            dns: Some(DnsConfig {
                servers: vec!["10.0.0.10".to_owned()],
                ..DnsConfig::default()
            }),
            cgroup_parent: Some("/kubepods/x".to_owned()),
            ..PodConfig::default()
        };
        assert_eq!(
            Value::Object(capabilities(&config).unwrap()),
            json!({
                "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "sctp", "hostIP": "127.0.0.1"}],
                "bandwidth": {"ingressRate": 10_000_000, "ingressBurst": 4_294_967_295_u64},
                "dns": {"servers": ["10.0.0.10"], "searches": [], "options": []},
                "cgroupPath": "/kubepods/x",
                "io.kubernetes.cri.pod-annotations": {INGRESS: "10M", "a": "b"},
            })
        );
        let least = capabilities(&PodConfig::default()).unwrap();
        assert_eq!(
            Value::Object(least),
            json!({"io.kubernetes.cri.pod-annotations": {}})
        );
    }
}
