//! Actions as the values that a filter returns; see seccomp(2).

use crate::Error;
use oci_spec::runtime::LinuxSeccompAction;

pub(crate) const KILL_PROCESS: u32 = libc::SECCOMP_RET_KILL_PROCESS;

/// Upper bound of what SECCOMP_RET_ERRNO makes a syscall return (the kernel's MAX_ERRNO).
const MAX_ERRNO: u32 = 4095;

/// Upper bound of what the tracer gets to read.
const MAX_TRACE: u32 = libc::SECCOMP_RET_DATA;

/// What is left of a value without the part that is passed on.
const ACTION_MASK: u32 = libc::SECCOMP_RET_ACTION_FULL;

/// The syscall fails with this errno.
pub(crate) fn errno(number: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | number.unsigned_abs()
}

/// The value that a filter returns for an action. `data` is the profile's errnoRet, EPERM when it
/// has none; actions that pass nothing on have no use for it.
pub(crate) fn value(
    action: LinuxSeccompAction,
    data: Option<u32>,
    syscalls: impl FnOnce() -> String,
) -> Result<u32, Error> {
    use LinuxSeccompAction as Action;
    Ok(match action {
        Action::ScmpActKill | Action::ScmpActKillThread => libc::SECCOMP_RET_KILL_THREAD,
        Action::ScmpActKillProcess => KILL_PROCESS,
        Action::ScmpActTrap => libc::SECCOMP_RET_TRAP,
        Action::ScmpActErrno => libc::SECCOMP_RET_ERRNO | bounded(data, MAX_ERRNO, syscalls)?,
        Action::ScmpActTrace => libc::SECCOMP_RET_TRACE | bounded(data, MAX_TRACE, syscalls)?,
        Action::ScmpActLog => libc::SECCOMP_RET_LOG,
        Action::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
        Action::ScmpActNotify => {
            return Err(Error::NeedsListener {
                syscalls: syscalls(),
            });
        }
    })
}

fn bounded(data: Option<u32>, max: u32, syscalls: impl FnOnce() -> String) -> Result<u32, Error> {
    let value = data.unwrap_or(libc::EPERM.unsigned_abs());
    if value <= max {
        return Ok(value);
    }
    Err(Error::ReturnValue {
        syscalls: syscalls(),
        value,
        max,
    })
}

/// Whether a syscall goes on: executed, or left to a tracer, who sees new ones himself.
pub(crate) fn lets_pass(value: u32) -> bool {
    matches!(
        value & ACTION_MASK,
        libc::SECCOMP_RET_ALLOW | libc::SECCOMP_RET_LOG | libc::SECCOMP_RET_TRACE
    )
}

/// Whether one action denies more than another, in the order in which the kernel lets the verdicts
/// of several filters win.
pub(crate) fn is_stricter(value: u32, than: u32) -> bool {
    let rank = |value: u32| (value & ACTION_MASK).cast_signed();
    rank(value) < rank(than)
}
