//! What kubelets have a node do, from beginning to end.

mod life;
mod lost;
mod refusals;
mod requests;
mod streams;
mod wrecks;

pub(crate) use requests::QUIET;

use crate::finding::Finding;
use crate::kubelet::Kubelet;
use anyhow::Result;
use crisp_cri_api::v1::PodSandboxConfig;
use crisp_e2e::{Node, allow_reboots, oci_handlers, own_users, tools};
use std::fmt;
use toml::Table;

/// Passes on what the plugin before it answered, and refuses ADD when it is told to.
const PLUGIN: &str = r#"
config=$(cat)
[ $CNI_COMMAND = ADD ] || exit 0
[ -e refuse ] && { echo '{"code": 11, "msg": "the agent is away"}'; exit 1; }
echo "$config" | sed 's/.*"prevResult":\(.*}\),"type".*/\1/'"#;

/// A story; each has what the ones before it have not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Story {
    /// A pod on the built-in bridge, with containers that run, end and are never started.
    Life,
    /// The same with a user namespace.
    Users,
    /// The same on a network of CNI plugins.
    Plugins,
    /// The same under another runtime.
    Command,
    /// Requests that are refused when something is made already.
    Refusals,
    /// What another death has left: half-made pods and containers, pods whose shim is gone, a host that
    /// was restarted.
    Wrecks,
}

impl Story {
    pub(crate) const ALL: [Self; 6] = [
        Self::Life,
        Self::Users,
        Self::Plugins,
        Self::Command,
        Self::Refusals,
        Self::Wrecks,
    ];

    /// Whether a step goes another way here than in the stories before, be it by the same points.
    pub(crate) fn is_about(self, step: &str) -> bool {
        let steps: &[&str] = match self {
            Self::Users => &["RunPodSandbox", "StartContainer"],
            Self::Plugins => &["RunPodSandbox", "StopPodSandbox"],
            Self::Command => &["StartContainer", "ExecSync", "StopContainer"],
            Self::Life | Self::Refusals | Self::Wrecks => &[],
        };
        steps.contains(&step)
    }

    pub(crate) fn configure(self, config: &mut Table) {
        match self {
            Self::Command => drop(config.insert("handlers".to_owned(), oci_handlers().into())),
            Self::Wrecks => allow_reboots(config),
            Self::Life => {
                let criu = tools::criu().display().to_string();
                config.insert("criu".to_owned(), criu.into());
            }
            Self::Users | Self::Plugins | Self::Refusals => {}
        }
    }

    /// Makes what a node needs beside its daemon.
    pub(crate) fn prepare(self, node: &Node) -> Result<()> {
        if self == Self::Plugins {
            node.cni_plugin("agent", PLUGIN)?;
            node.configure_cni(&node.cni_network(&[serde_json::json!({"type": "agent"})]))?;
        }
        Ok(())
    }

    fn handler(self) -> &'static str {
        match self {
            Self::Command => "runc",
            _ => "",
        }
    }

    fn edit_pod(self, config: &mut PodSandboxConfig) {
        if self == Self::Users {
            own_users(config);
        }
    }

    pub(crate) async fn play(self, kubelet: &mut Kubelet) -> Result<(), Finding> {
        match self {
            Self::Refusals => refusals::play(kubelet).await,
            Self::Wrecks => wrecks::play(kubelet).await,
            Self::Life | Self::Users | Self::Plugins | Self::Command => {
                life::play(self, kubelet).await
            }
        }?;
        kubelet.settle().await
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Life => "a pod's life",
            Self::Users => "a pod with a user namespace",
            Self::Plugins => "a pod of CNI plugins",
            Self::Command => "a pod under runc",
            Self::Refusals => "refusals",
            Self::Wrecks => "wrecks",
        })
    }
}
