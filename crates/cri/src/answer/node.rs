//! The runtime itself: its version, its conditions, its abilities.

use crisp_cri_api::v1;
use crisp_engine::{CgroupDriver, CniStatus, Config, Handler, NodeStatus};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Of the kubelet's runtime API; it has never been another one.
const KUBELET_API_VERSION: &str = "0.1.0";
/// Of the CRI.
const CRI_VERSION: &str = "v1";
/// The runtime's name, in the kubelet's node object.
const NAME: &str = "crisp";

/// The reason that the kubelet and its tests know a missing network by.
const NETWORK_NOT_READY: &str = "NetworkPluginNotReady";

/// The longest line of a log before it is split, in bytes, which log collectors ask for.
const LOG_LINE_BYTES_MAX: u32 = 16 << 10;

/// The runtime's name and versions.
pub(crate) fn version() -> v1::VersionResponse {
    v1::VersionResponse {
        version: KUBELET_API_VERSION.to_owned(),
        runtime_name: NAME.to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: CRI_VERSION.to_owned(),
    }
}

/// Whether pods can be run and wired, by which handlers.
pub(crate) fn node_status(status: &NodeStatus) -> v1::StatusResponse {
    v1::StatusResponse {
        status: Some(v1::RuntimeStatus {
            conditions: vec![ready("RuntimeReady"), network(status)],
        }),
        info: BTreeMap::new(),
        runtime_handlers: status.handlers.iter().map(handler).collect(),
        features: Some(v1::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: true,
        }),
    }
}

fn ready(kind: &str) -> v1::RuntimeCondition {
    v1::RuntimeCondition {
        r#type: kind.to_owned(),
        status: true,
        ..Default::default()
    }
}

fn network(status: &NodeStatus) -> v1::RuntimeCondition {
    let condition = ready("NetworkReady");
    match &status.network_not_ready {
        None => condition,
        Some(why) => v1::RuntimeCondition {
            status: false,
            reason: NETWORK_NOT_READY.to_owned(),
            message: why.clone(),
            ..condition
        },
    }
}

fn handler(handler: &Handler) -> v1::RuntimeHandler {
    v1::RuntimeHandler {
        name: handler.name.clone(),
        features: Some(v1::RuntimeHandlerFeatures {
            recursive_read_only_mounts: handler.recursive_read_only_mounts,
            user_namespaces: handler.user_namespaces,
        }),
    }
}

/// What tools look for in a verbose status: kubeadm `sandboxImage`, critest `stateDir` (beside which
/// the root file systems of containers are), log collectors `maxContainerLogLineSize`; and what
/// `crictl info` shows of CNI, under containerd's names.
pub(crate) fn node_info(
    config: &Config,
    driver: CgroupDriver,
    cni: &CniStatus,
) -> BTreeMap<String, String> {
    let json = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cgroupDriver": match driver {
            CgroupDriver::Cgroupfs => "cgroupfs",
            CgroupDriver::Systemd => "systemd",
        },
        "sandboxImage": config.sandbox_image,
        "rootDir": config.root_dir,
        "runDir": config.run_dir,
        "stateDir": config.root_dir.join("containers"),
        "maxContainerLogLineSize": LOG_LINE_BYTES_MAX,
    });
    let mut info = BTreeMap::from([("config".to_owned(), json.to_string())]);
    info.extend(cni_info(config, cni).map(|(key, value)| (key.to_owned(), value)));
    info
}

/// What wires pods: a network of CNI plugins, or none.
fn cni_info(config: &Config, status: &CniStatus) -> [(&'static str, String); 2] {
    let (networks, load_status) = match status {
        CniStatus::Unused => (
            Vec::new(),
            "not used: the built-in network wires pods".to_owned(),
        ),
        CniStatus::Used { network, failure } => (
            vec![cni_network(network)],
            failure.clone().unwrap_or_else(|| "OK".to_owned()),
        ),
        CniStatus::Unknown | CniStatus::Unusable(_) => {
            (Vec::new(), status.not_ready().unwrap_or_default())
        }
    };
    let settings = &config.network;
    let json = json!({
        "Mode": settings.mode,
        "PluginDirs": settings.cni.bin_dirs,
        "PluginConfDir": settings.cni.conf_dir,
        "PluginMaxConfNum": 1,
        "Networks": networks,
    });
    [
        ("cniconfig", json.to_string()),
        ("lastCNILoadStatus", load_status),
    ]
}

fn cni_network(network: &crisp_cni::Network) -> Value {
    let plugins = network.plugins().iter();
    let plugins: Vec<Value> = plugins.map(|plugin| json!({ "Network": plugin })).collect();
    json!({
        "Config": {
            "Name": network.name,
            "CNIVersion": network.version,
            "Plugins": plugins,
            "Source": network.source,
        },
        "IFName": crisp_network::POD_INTERFACE,
    })
}

/// Who makes the cgroups above a pod's.
pub(crate) fn cgroup_driver(driver: CgroupDriver) -> v1::RuntimeConfigResponse {
    let driver = match driver {
        CgroupDriver::Cgroupfs => v1::CgroupDriver::Cgroupfs,
        CgroupDriver::Systemd => v1::CgroupDriver::Systemd,
    };
    v1::RuntimeConfigResponse {
        linux: Some(v1::LinuxRuntimeConfiguration {
            cgroup_driver: driver.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn status(network_not_ready: Option<String>) -> v1::StatusResponse {
        let handler = |name: &str| Handler {
            name: name.to_owned(),
            recursive_read_only_mounts: true,
            user_namespaces: false,
        };
        node_status(&NodeStatus {
            network_not_ready,
            cni: Arc::new(CniStatus::Unused),
            handlers: vec![handler(""), handler("batch")],
        })
    }

    #[test]
    fn the_kubelet_gets_its_two_conditions() {
        let ready = status(None).status.unwrap().conditions;
        let kinds: Vec<_> = ready
            .iter()
            .map(|c| (c.r#type.as_str(), c.status))
            .collect();
        assert_eq!(kinds, [("RuntimeReady", true), ("NetworkReady", true)]);

        let waiting = status(Some("no pod CIDR".to_owned())).status.unwrap();
        let network = &waiting.conditions[1];
        assert!(waiting.conditions[0].status && !network.status);
        assert_eq!(network.reason, "NetworkPluginNotReady");
        assert_eq!(network.message, "no pod CIDR");
    }

    #[test]
    fn handlers_and_features_are_told() {
        let status = status(None);
        let names: Vec<_> = status.runtime_handlers.iter().map(|h| &h.name).collect();
        assert_eq!(names, ["", "batch"]);
        let features = status.runtime_handlers[0].features.unwrap();
        assert!(features.recursive_read_only_mounts && !features.user_namespaces);
        let features = status.features.unwrap();
        assert!(features.supplemental_groups_policy && features.user_namespaces_host_network);
    }

    #[test]
    fn a_verbose_status_has_what_kubeadm_looks_for() {
        let info = node_info(
            &Config::default(),
            CgroupDriver::Systemd,
            &CniStatus::Unused,
        );
        let config: serde_json::Value = serde_json::from_str(&info["config"]).unwrap();
        assert_eq!(config["sandboxImage"], Config::default().sandbox_image);
        assert_eq!(config["cgroupDriver"], "systemd");
        assert_eq!(config["maxContainerLogLineSize"], 16384);
        assert_eq!(config["stateDir"], "/var/lib/crisp/containers");
    }

    #[test]
    fn a_verbose_status_tells_what_wires_pods_and_why_it_does_not() {
        let told = |status: CniStatus| {
            let info = node_info(&Config::default(), CgroupDriver::Systemd, &status);
            let config: Value = serde_json::from_str(&info["cniconfig"]).unwrap();
            (config, info["lastCNILoadStatus"].clone())
        };
        let (config, status) = told(CniStatus::Unused);
        assert_eq!(
            (&config["Mode"], &config["Networks"]),
            (&json!("auto"), &json!([]))
        );
        assert!(status.contains("built-in"), "{status}");
        let (_, status) = told(CniStatus::Unusable("no network".to_owned()));
        assert_eq!(status, "no network");
    }

    #[test]
    fn a_version_is_semantic_and_never_empty() {
        let version = version();
        assert_eq!(version.runtime_version.split('.').count(), 3);
        assert_eq!(version.runtime_name, "crisp");
        assert_eq!(version.runtime_api_version, "v1");
    }
}
