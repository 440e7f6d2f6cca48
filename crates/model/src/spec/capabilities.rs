//! Capabilities: the default set, and what a security context makes of it.

use super::SpecError;
use crate::ContainerSecurity;
use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};
use std::collections::HashSet;

/// A set of capabilities.
pub type CapabilitySet = HashSet<Capability>;

/// What a container has that asks for nothing: the set that docker, containerd and CRI-O agree on.
const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

const ALL: &str = "ALL";

/// A capability by name, with or without `CAP_`, in any case.
#[must_use]
pub fn capability(name: &str) -> Option<Capability> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    serde_json::from_value(serde_json::Value::String(format!("CAP_{bare}"))).ok()
}

/// The capabilities that a container has, of those that the daemon holds.
///
/// # Errors
/// If a name is unknown, or one is added that the daemon does not hold itself.
pub fn effective_capabilities(
    security: &ContainerSecurity,
    held: &CapabilitySet,
) -> Result<CapabilitySet, SpecError> {
    if security.privileged {
        return Ok(held.clone());
    }
    let has_all = |names: &[String]| names.iter().any(|n| n.eq_ignore_ascii_case(ALL));
    let mut set: CapabilitySet = DEFAULT.into_iter().filter(|c| held.contains(c)).collect();
    if has_all(&security.add_capabilities) {
        set.clone_from(held);
    }
    if has_all(&security.drop_capabilities) {
        set.clear();
    }
    for added in named(
        &security.add_capabilities,
        "linux.security_context.capabilities.add",
    )? {
        if !held.contains(&added) {
            return Err(SpecError::field(
                "linux.security_context.capabilities.add",
                format!("{added} cannot be given: this node's runtime does not hold it"),
            ));
        }
        set.insert(added);
    }
    for dropped in named(
        &security.drop_capabilities,
        "linux.security_context.capabilities.drop",
    )? {
        set.remove(&dropped);
    }
    Ok(set)
}

/// The sets of the container's first process. Inheritable stays empty but for ambient ones: what a
/// file's inheritable bits would add was never asked for.
pub(super) fn process_capabilities(
    security: &ContainerSecurity,
    held: &CapabilitySet,
) -> Result<LinuxCapabilities, SpecError> {
    let set = effective_capabilities(security, held)?;
    let field = "linux.security_context.capabilities.add_ambient_capabilities";
    let ambient: CapabilitySet = named(&security.add_ambient_capabilities, field)?.collect();
    if let Some(missing) = ambient.difference(&set).next() {
        return Err(SpecError::field(
            field,
            format!("{missing} is not among the container's capabilities: add it there too"),
        ));
    }
    Ok(LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .inheritable(ambient.clone())
        .ambient(ambient)
        .build()?)
}

fn named(
    names: &[String],
    field: &'static str,
) -> Result<impl Iterator<Item = Capability> + use<>, SpecError> {
    let names = names.iter().filter(|n| !n.eq_ignore_ascii_case(ALL));
    let parsed: Result<Vec<_>, _> = names
        .map(|name| {
            let unknown = || SpecError::field(field, format!("no capability is called {name:?}"));
            capability(name).ok_or_else(unknown)
        })
        .collect();
    Ok(parsed?.into_iter())
}
