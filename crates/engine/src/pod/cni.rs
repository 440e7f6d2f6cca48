//! What CNI plugins are told of a pod.

use crate::error::{Error, Result};
use crisp_cni::{Attachment, Network, Request};
use crisp_model::{PodConfig, PodId, PortMapping, Quantity, StringMap};
use crisp_network::POD_INTERFACE;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::Arc;

/// The rates of a pod's traffic, in bits per second, as the kubelet's own plugin had them.
const INGRESS_BANDWIDTH: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS_BANDWIDTH: &str = "kubernetes.io/egress-bandwidth";

/// What may be asked for, as Kubernetes checks it: 1k to 1P.
const BITS_PER_S_MIN: u64 = 1_000;
const BITS_PER_S_MAX: u64 = 1_000_000_000_000_000;

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
    add("bandwidth", bandwidth(&config.annotations)?);
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

fn bandwidth(annotations: &StringMap) -> Result<Option<Value>> {
    let mut shape = Map::new();
    for (annotation, direction) in [(INGRESS_BANDWIDTH, "ingress"), (EGRESS_BANDWIDTH, "egress")] {
        if let Some(text) = annotations.get(annotation) {
            shape.insert(format!("{direction}Rate"), json!(rate(annotation, text)?));
            shape.insert(format!("{direction}Burst"), json!(BURST_BITS));
        }
    }
    Ok((!shape.is_empty()).then_some(Value::Object(shape)))
}

fn rate(annotation: &str, text: &str) -> Result<u64> {
    let field = || format!("annotations[{annotation}]");
    let rate: Quantity = text
        .parse()
        .map_err(|error: crisp_model::InvalidQuantity| {
            Error::invalid(field(), error.to_string())
        })?;
    match rate.whole() {
        bits if (BITS_PER_S_MIN..=BITS_PER_S_MAX).contains(&bits) => Ok(bits),
        _ => Err(Error::invalid(
            field(),
            format!("{text} is not within 1k to 1P bits per second"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crisp_model::{DnsConfig, Protocol};

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
                (INGRESS_BANDWIDTH.to_owned(), "10M".to_owned()),
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
                "io.kubernetes.cri.pod-annotations": {INGRESS_BANDWIDTH: "10M", "a": "b"},
            })
        );
        let least = capabilities(&PodConfig::default()).unwrap();
        assert_eq!(
            Value::Object(least),
            json!({"io.kubernetes.cri.pod-annotations": {}})
        );
    }

    #[test]
    fn bandwidths_that_make_no_sense_are_refused_by_their_annotation() {
        for bad in ["", "fast", "-1M", "1", "2P", "1M;x"] {
            let annotations = StringMap::from([(EGRESS_BANDWIDTH.to_owned(), bad.to_owned())]);
            let error = bandwidth(&annotations).unwrap_err().to_string();
            assert!(error.contains(EGRESS_BANDWIDTH), "{error}");
        }
    }
}
