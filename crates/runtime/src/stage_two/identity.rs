//! Giving up: limits, ids and capabilities of the process, and its seccomp filter.

use crate::error::{Context, StartError};
use crate::plan::SeccompFilter;
use crate::spec::ProcessPlan;
use crisp_sys::security::{
    CapabilitySets, capabilities, clear_ambient, limit_bounding, load_seccomp, raise_ambient,
    set_capabilities, set_identity, set_keep_capabilities, set_no_new_privs, set_personality,
};
use nix::sys::resource::{getrlimit, setrlimit};

/// Sets the limits, none above the hard limit that the first stage could get.
pub(super) fn limit_resources(process: &ProcessPlan) -> Result<(), StartError> {
    for limit in &process.rlimits {
        let (_, allowed) = getrlimit(limit.resource).step("read a resource limit", "")?;
        let hard = limit.hard.min(allowed);
        setrlimit(limit.resource, limit.soft.min(hard), hard)
            .step(format!("set {:?}", limit.resource), "")?;
    }
    Ok(())
}

/// Becomes the user, with the capabilities that the spec leaves.
///
/// The bounding set goes first, while that is permitted. Ids change with capabilities kept, as these
/// are only then cut down to what is wanted. no_new_privs is last: it changes nothing here, and a
/// security module's label was set before.
pub(super) fn assume(process: &ProcessPlan) -> Result<(), StartError> {
    let wanted = &process.capabilities;
    clear_ambient().step("clear the ambient capabilities", "")?;
    limit_bounding(wanted.bounding).step("limit the bounding capabilities", "")?;
    set_keep_capabilities(true).step("keep capabilities", "")?;
    set_identity(process.uid, process.gid, &process.groups).step(
        format!("become user {} and group {}", process.uid, process.gid),
        "",
    )?;
    let held = capabilities().step("read the capabilities", "")?.permitted;
    let permitted = wanted.permitted.intersection(held);
    let ambient = wanted.ambient.intersection(permitted);
    set_capabilities(&CapabilitySets {
        effective: wanted.effective.intersection(permitted),
        permitted,
        inheritable: ambient,
    })
    .step("set the capabilities", "")?;
    for number in ambient.numbers() {
        raise_ambient(number).step("set the ambient capabilities", "")?;
    }
    set_keep_capabilities(false).step("keep capabilities no longer", "")?;
    if let Some(domain) = process.personality {
        set_personality(domain).step("set the execution domain", "")?;
    }
    if process.no_new_privs {
        set_no_new_privs().step("forbid new privileges", "")?;
    }
    Ok(())
}

pub(super) fn filter(filter: SeccompFilter<'_>) -> Result<(), StartError> {
    if filter.program.is_empty() {
        return Ok(());
    }
    load_seccomp(filter.program, filter.flags).step("load the seccomp filter", "")
}
