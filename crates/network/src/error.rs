//! What can go wrong, by what the caller does next.

use crisp_model::{PodId, PortMapping};
use ipnet::IpNet;
use nix::errno::Errno;
use std::io;
use std::path::PathBuf;

/// Why something about the pod network did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is to be corrected.
    #[error("setting {name}: {reason}")]
    InvalidSetting { name: &'static str, reason: String },
    /// The configuration, or what the kubelet sent, is to be corrected.
    #[error("{cidr} cannot be a pod CIDR: {reason}")]
    InvalidCidr { cidr: IpNet, reason: &'static str },
    /// The pod's configuration is to be corrected.
    #[error("host port {} of {host_ip}: {reason}", mapping.host_port)]
    InvalidHostIp {
        mapping: PortMapping,
        host_ip: std::net::IpAddr,
        reason: &'static str,
    },
    /// The pod's configuration is to be corrected, or the node's.
    #[error(
        "host port {}: a pod that is on {uplink} itself has none: clients reach it under its own address. Leave the host port out, or set network.mode to \"bridge\"",
        mapping.host_port
    )]
    NoHostPorts {
        mapping: PortMapping,
        uplink: String,
    },
    /// The pod's configuration is to be corrected, or the node's.
    #[error(
        "a pod that is on {uplink} itself cannot have its bandwidth limited: leave the annotation out, or set network.mode to \"bridge\""
    )]
    NoBandwidth { uplink: String },
    /// The pod has to wait until another one has gone.
    #[error("no address is left in {cidr}: all {usable} are in use")]
    Exhausted { cidr: IpNet, usable: u64 },
    /// The pod has to wait until another one has gone.
    #[error("host port {} ({:?}) is in use by pod {holder}", mapping.host_port, mapping.protocol)]
    PortConflict { mapping: PortMapping, holder: PodId },
    /// A record names an address or a host port that another pod has.
    #[error("{what} of pod {pod} is already in use by pod {holder}")]
    AlreadyInUse {
        what: String,
        pod: PodId,
        holder: PodId,
    },
    /// Retried once the reason is gone.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// The network is only removed when no pod needs it.
    #[error("{pods} pods are still attached")]
    InUse { pods: usize },
    /// The kernel refused; a retry may help.
    #[error("cannot {op}")]
    Kernel {
        op: &'static str,
        source: KernelError,
    },
    /// An interface of the bridge's name exists and is something else.
    #[error("interface {name} exists and is not a bridge")]
    NotABridge { name: String },
    /// The configuration is to be corrected, or the interface made.
    #[error("there is no interface {name}, on which pods are to be (network.uplink)")]
    NoUplink { name: String },
    /// A file of `/proc/sys` could not be read or written.
    #[error("cannot {op} {path}")]
    Io {
        op: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The thread that talks to the kernel has ended, which happens only when the daemon does.
    #[error("the pod network is shut down")]
    ShutDown,
}

/// A refusal by the kernel, with its own words where it gave any.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}", errno.desc(), if explanation.is_empty() { String::new() } else { format!(": {explanation}") })]
pub struct KernelError {
    pub errno: Errno,
    /// The extended acknowledgement's message, or empty.
    pub explanation: String,
}

impl From<Errno> for KernelError {
    fn from(errno: Errno) -> Self {
        Self {
            errno,
            explanation: String::new(),
        }
    }
}

/// Why pods cannot be attached now; the reason reaches the CRI's `NetworkReady` condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pod network is not ready: {reason}")]
pub struct NotReady {
    pub reason: String,
}

impl Error {
    /// For `map_err`: what was being done when the kernel refused.
    pub(crate) fn kernel<E: Into<KernelError>>(op: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Kernel {
            op,
            source: source.into(),
        }
    }

    /// The kernel's error number, when that is what the error is about.
    pub(crate) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel { source, .. } => Some(source.errno),
            _ => None,
        }
    }
}
