//! Which kernel parameters a pod may set, and where they are.

use std::path::PathBuf;

/// A parameter that belongs to one of the pod's own namespaces, and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sysctl {
    /// Below /proc/sys.
    pub(crate) path: PathBuf,
    pub(crate) value: String,
}

/// Which namespaces with parameters are the pod's own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnNamespaces {
    pub(crate) network: bool,
    pub(crate) ipc: bool,
    pub(crate) uts: bool,
}

/// A parameter cannot be set for a pod.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SysctlError {
    #[error("sysctl {0:?} is not a name of letters, digits, '_' and '-' with dots between")]
    Malformed(String),
    #[error("sysctl {0:?} would reach beyond the pod")]
    NotOfThePod(String),
    #[error("the value of sysctl {0:?} is longer than {MAX_VALUE_BYTES} bytes or has a zero in it")]
    Value(String),
}

const MAX_VALUE_BYTES: usize = 4096;

/// The most components of a name, such as `net.ipv4.conf.all.rp_filter`.
const MAX_COMPONENTS: usize = 16;

impl Sysctl {
    /// Checks name and value. As for sysctl(8), a name whose first separator is a slash keeps its
    /// dots, which names of network interfaces may have.
    pub(crate) fn parse(name: &str, value: &str, own: OwnNamespaces) -> Result<Self, SysctlError> {
        let components = components(name).ok_or_else(|| SysctlError::Malformed(name.to_owned()))?;
        if !belongs_to_pod(&components, own) {
            return Err(SysctlError::NotOfThePod(name.to_owned()));
        }
        if value.len() > MAX_VALUE_BYTES || value.contains('\0') {
            return Err(SysctlError::Value(name.to_owned()));
        }
        let mut path = PathBuf::from("/proc/sys");
        path.extend(components);
        Ok(Self {
            path,
            value: value.to_owned(),
        })
    }
}

fn components(name: &str) -> Option<Vec<&str>> {
    let separator = name.chars().find(|c| matches!(c, '.' | '/'))?;
    let components: Vec<&str> = name.split(separator).collect();
    let valid = components.len() <= MAX_COMPONENTS && components.iter().all(|c| is_component(c));
    valid.then_some(components)
}

fn is_component(text: &str) -> bool {
    !matches!(text, "" | "." | "..")
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// The parameters of namespaces, as the kernel has them (and Kubernetes' list of those it allows).
fn belongs_to_pod(components: &[&str], own: OwnNamespaces) -> bool {
    match components {
        ["net", ..] => own.network,
        ["fs", "mqueue", _] => own.ipc,
        ["kernel", "sem"] => own.ipc,
        ["kernel", name] if name.starts_with("shm") || name.starts_with("msg") => own.ipc,
        ["kernel", "domainname" | "hostname"] => own.uts,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: OwnNamespaces = OwnNamespaces {
        network: true,
        ipc: true,
        uts: true,
    };
    const NONE: OwnNamespaces = OwnNamespaces {
        network: false,
        ipc: false,
        uts: false,
    };

    #[test]
    fn a_name_becomes_a_path() {
        let path = |name| Sysctl::parse(name, "1", ALL).unwrap().path;
        assert_eq!(
            path("net.ipv4.ping_group_range"),
            PathBuf::from("/proc/sys/net/ipv4/ping_group_range")
        );
        assert_eq!(
            path("net/ipv4/conf/eth0.100/rp_filter"),
            PathBuf::from("/proc/sys/net/ipv4/conf/eth0.100/rp_filter")
        );
    }

    #[test]
    fn a_name_that_leaves_its_directory_is_malformed() {
        for name in [
            "",
            "net",
            "net..ipv4",
            "net/../kernel/shmmax",
            "net/./x",
            "net.ipv4/../../kernel",
            "net.ipv4.",
            ".net.x",
            "/net/x",
            "net.ipv4.a b",
            "net.ipv4.a+b",
            "net.x\n",
            "net.x\0",
            "net.\u{e4}",
        ] {
            let refused = Sysctl::parse(name, "1", ALL);
            assert!(
                matches!(refused, Err(SysctlError::Malformed(_))),
                "{name:?}: {refused:?}"
            );
        }
    }

    #[test]
    fn parameters_of_the_host_are_refused() {
        for name in [
            "kernel.core_pattern",
            "kernel.modprobe",
            "vm.swappiness",
            "fs.file-max",
            "kernel.shm.x",
            "abi.x",
        ] {
            let refused = Sysctl::parse(name, "1", ALL);
            assert!(
                matches!(refused, Err(SysctlError::NotOfThePod(_))),
                "{name}"
            );
        }
    }

    #[test]
    fn parameters_of_a_shared_namespace_are_refused() {
        for name in [
            "net.ipv4.ip_forward",
            "kernel.shmmax",
            "kernel.sem",
            "fs.mqueue.msg_max",
        ] {
            assert!(Sysctl::parse(name, "1", ALL).is_ok(), "{name}");
            assert!(Sysctl::parse(name, "1", NONE).is_err(), "{name}");
        }
    }

    #[test]
    fn a_value_is_bounded() {
        assert!(Sysctl::parse("kernel.sem", &"1".repeat(MAX_VALUE_BYTES + 1), ALL).is_err());
        assert!(Sysctl::parse("kernel.sem", "1\0", ALL).is_err());
    }
}
