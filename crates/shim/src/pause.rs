//! The pause process: it holds the namespaces of a pod and, as PID 1 of a shared pid namespace, reaps
//! the orphans in it. It ends on SIGTERM and SIGINT.

use crate::FAILURE;
use crisp_sys::idle;
use crisp_sys::security::set_dumpable;
use nix::sys::signal::{SigSet, Signal};

/// Pauses until a signal ends the process; returns only when it cannot, with the exit status.
#[must_use]
pub fn pause() -> u8 {
    // Nobody in the pod reaches its memory or its descriptors through /proc.
    let _ = set_dumpable(false);
    let mut signals = SigSet::empty();
    signals.extend([Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT]);
    // No others, whatever the shim blocks. A signal that is blocked is kept to be waited for even where its
    // default for PID 1 is to be ignored.
    if signals.thread_set_mask().is_err() {
        return FAILURE;
    }
    idle::reap_until_terminated()
}
