//! What a pod is wired with, as it is kept in the pod's record.

use crisp_network::Attachment;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;

/// A pod's place in a network: everything that whoever wired the pod needs to take it off again.
/// Variants are told apart by their fields, so that records from before there were several are read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Wiring {
    BuiltIn(Attachment),
    Plugins { cni: Arc<crisp_cni::Attachment> },
}

impl Wiring {
    /// The pod's own, the first one of the primary family.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let addresses = match self {
            Self::BuiltIn(attachment) => &attachment.addresses,
            Self::Plugins { cni } => &cni.addresses,
        };
        addresses.iter().map(IpNet::addr).collect()
    }

    /// The pod's interface, by its name in the pod.
    pub(crate) fn interface(&self) -> &str {
        match self {
            Self::BuiltIn(attachment) => &attachment.pod_interface,
            Self::Plugins { cni } => &cni.interface,
        }
    }

    pub(crate) fn built_in(&self) -> Option<&Attachment> {
        match self {
            Self::BuiltIn(attachment) => Some(attachment),
            Self::Plugins { .. } => None,
        }
    }

    pub(crate) fn plugins(&self) -> Option<&Arc<crisp_cni::Attachment>> {
        match self {
            Self::BuiltIn(_) => None,
            Self::Plugins { cni } => Some(cni),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crisp_model::PodId;

    #[test]
    fn records_from_before_there_were_plugins_are_read() {
        let pod = PodId::generate();
        let record = format!(
            r#"{{"pod": "{pod}", "host_interface": "crisp0123456789", "pod_interface": "eth0",
            "addresses": ["10.87.0.2/16", "fd00::2/64"], "gateways": ["10.87.0.1", "fd00::1"],
            "mac": "02:c5:0a:57:00:02", "mtu": 1500, "port_mappings": []}}"#
        );
        let wiring: Wiring = serde_json::from_str(&record).unwrap();
        assert_eq!(wiring.built_in().unwrap().pod, pod);
        let addresses = wiring.addresses();
        assert_eq!(addresses.len(), 2);
        assert_eq!(addresses[0].to_string(), "10.87.0.2");
    }
}
