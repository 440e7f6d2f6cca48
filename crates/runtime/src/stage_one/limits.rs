//! What takes the host's privileges to set for a process: done before they are given up, and by the
//! first stage because it is inherited.

use crate::error::{Context, StartError};
use crate::spec::ProcessPlan;
use nix::errno::Errno;
use nix::sys::resource::{getrlimit, setrlimit};
use std::fs;
use std::io;

pub(crate) const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";

pub(crate) fn prepare(process: &ProcessPlan) -> Result<(), StartError> {
    set_oom_score_adj(process.oom_score_adj)?;
    raise_hard_limits(process)
}

/// Without a value of its own a process does not inherit the protection that its caller may have. A
/// value lower than the kernel allows (it takes CAP_SYS_RESOURCE) leaves the caller's, the lowest to
/// be had.
fn set_oom_score_adj(wanted: Option<i32>) -> Result<(), StartError> {
    let text = fs::read_to_string(OOM_SCORE_ADJ).step("read", OOM_SCORE_ADJ)?;
    let current: i32 = text.trim().parse().unwrap_or(0);
    let wanted = wanted.unwrap_or(current.max(0));
    if wanted == current {
        return Ok(());
    }
    match fs::write(OOM_SCORE_ADJ, wanted.to_string()) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && wanted < current => Ok(()),
        done => done.step("write", OOM_SCORE_ADJ),
    }
}

/// Raises hard limits where the process is to have more than the caller. The limits themselves are
/// set at the very end, where lowering needs no privilege. What the kernel refuses (it takes
/// CAP_SYS_RESOURCE) is then clamped.
fn raise_hard_limits(process: &ProcessPlan) -> Result<(), StartError> {
    for limit in &process.rlimits {
        let (soft, hard) = getrlimit(limit.resource).step("read a resource limit", "")?;
        if limit.hard > hard {
            match setrlimit(limit.resource, soft, limit.hard) {
                Err(Errno::EPERM) => {}
                done => done.step(format!("raise {:?}", limit.resource), "")?,
            }
        }
    }
    Ok(())
}
