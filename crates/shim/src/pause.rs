//! The pause process: it holds the namespaces of a pod and, as PID 1 of a shared pid namespace, reaps
//! the orphans in it. It ends on SIGTERM and SIGINT.

use crisp_sys::idle;
use crisp_sys::process::reset_signals;
use crisp_sys::security::set_dumpable;
use nix::sys::signal::{SigSet, Signal};
use std::process::ExitCode;

/// Pauses until a signal ends the process; returns only when it cannot.
#[must_use]
pub fn pause() -> ExitCode {
    // Nobody in the pod reaches its memory or its descriptors through /proc.
    let _ = set_dumpable(false);
    reset_signals();
    let mut signals = SigSet::empty();
    signals.extend([Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT]);
    // A signal that is blocked is kept to be waited for even where its default for PID 1 is to be ignored.
    if signals.thread_block().is_err() {
        return ExitCode::FAILURE;
    }
    idle::reap_until_terminated()
}
