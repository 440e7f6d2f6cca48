//! Kernel parameters: only those that live in a namespace of the container.

use super::Namespaces;
use crate::error::StartError;
use crisp_sys::namespace::Kind;
use std::collections::HashMap;
use std::path::PathBuf;

/// A kernel parameter to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sysctl {
    /// Below `/proc/sys`.
    pub(crate) path: PathBuf,
    pub(crate) value: String,
    /// The kind of namespace that keeps it.
    pub(crate) namespace: Kind,
}

/// Parameters of an IPC namespace (ipc_namespaces(7)).
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

pub(super) fn from_spec(
    sysctls: Option<&HashMap<String, String>>,
    namespaces: &Namespaces,
) -> Result<Vec<Sysctl>, StartError> {
    let mut all: Vec<Sysctl> = sysctls
        .into_iter()
        .flatten()
        .map(|(name, value)| sysctl(name, value, namespaces))
        .collect::<Result<_, _>>()?;
    all.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(all)
}

fn sysctl(name: &str, value: &str, namespaces: &Namespaces) -> Result<Sysctl, StartError> {
    let refuse = |why: &str| Err(StartError::invalid(format!("linux.sysctl: {name:?} {why}")));
    let path = path(name);
    let well_formed = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.@:".contains(c);
        !part.is_empty() && part != "." && part != ".." && part.chars().all(allowed)
    };
    if !path.split('/').all(well_formed) {
        return refuse("is no name of a kernel parameter");
    }
    let dotted = path.replace('/', ".");
    let Some(namespace) = namespace_of(&dotted) else {
        return refuse("belongs to no namespace, so that it would change the host's");
    };
    if !namespaces.has(namespace) {
        return refuse("would change the host's, as the spec has no namespace that keeps it");
    }
    Ok(Sysctl {
        path: path.into(),
        value: value.to_owned(),
        namespace,
    })
}

/// Whichever of `.` and `/` comes first separates; the other one is then part of a name and is
/// written for it (sysctl.d(5)).
fn path(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('.') => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

fn namespace_of(dotted: &str) -> Option<Kind> {
    match dotted {
        "kernel.hostname" | "kernel.domainname" => Some(Kind::Uts),
        name if name.starts_with("net.") => Some(Kind::Network),
        name if IPC.contains(&name) || name.starts_with("fs.mqueue.") => Some(Kind::Ipc),
        _ => None,
    }
}
