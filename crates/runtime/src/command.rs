//! Another OCI runtime in place of the embedded one, by its command line: runc, crun, runsc.
//!
//! The caller never waits for it: a helper does, a child of the caller with one thread.
//!
//! ```text
//!  caller ── start ──▶ helper                     child of the caller, with a mount table of its own
//!    │                   makes the root file system, the pod's /dev/shm, and the mounts that not every
//!    │                   runtime can make, on top of the bundle; writes the spec anew beside them
//!    │                 COMMAND create             child of the helper
//!    │                   leaves the container's init, an orphan, which the helper adopts
//!    │                 COMMAND start              child of the helper
//!    ◀── report ──────── pidfd, terminal, or what went wrong
//!                      the helper ends, and the init becomes the caller's child
//! ```
//!
//! What the helper mounts, the host's mount table never shows. An init that ends at once is there to be
//! reaped, as its pidfd was opened by its parent. A start that fails is undone (`COMMAND delete`).
//!
//! What is asked of the command line is that of runc, which others follow: global options `--root`,
//! `--log` and `--log-format json`; `create`, `start`, `delete --force`; `exec` with `--process` and
//! `--detach`; with `create` and `exec` `--pid-file` and `--console-socket`.

mod complaint;
mod console;
mod create;
mod exec;
mod program;
mod translate;
mod workspace;

use crate::error::{Context, StartError};
use crate::plan::{ContainerPlan, ExecPlan};
use crate::stage_one::isolate;
use crate::starting::{Error, Starting, begin};
use crisp_sys::process::{self, Child, SingleThreaded, Spawn, Spawned, set_child_subreaper};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use std::path::PathBuf;

/// A container of a runtime that is driven by its command line.
#[derive(Debug, Clone)]
pub struct CommandLine {
    /// Absolute.
    pub program: PathBuf,
    /// Global options, which stand before those that are given here.
    pub arguments: Vec<String>,
    /// Where the runtime keeps what it knows of its containers.
    pub state_dir: PathBuf,
    /// The container's name there.
    pub id: String,
    /// As in [`ContainerPlan`].
    pub bundle: PathBuf,
}

impl CommandLine {
    /// Begins to start the container, like [`start`](crate::start). The spec's cgroup must be the one that
    /// the plan names; its `linux.seccomp` holds.
    ///
    /// # Errors
    /// When no child can be made.
    pub fn start(
        &self,
        plan: ContainerPlan<'_>,
        witness: &SingleThreaded,
    ) -> Result<Starting, Error> {
        begin(witness, |reporter, child| {
            become_guardian()?;
            create::create(self, plan, reporter, child)
        })
    }

    /// Begins to execute one more process in the container, like [`exec`](crate::exec).
    ///
    /// # Errors
    /// When no child can be made.
    pub fn exec(&self, plan: ExecPlan<'_>, witness: &SingleThreaded) -> Result<Starting, Error> {
        begin(witness, |reporter, child| {
            become_guardian()?;
            exec::exec(self, plan, reporter, child)
        })
    }

    /// Has the runtime forget the container, whose processes have ended, and run its last hooks. Returns
    /// the helper, which always ends soon; what the runtime complains of goes to standard error.
    ///
    /// # Errors
    /// When no child can be made.
    pub fn delete(&self, witness: &SingleThreaded) -> Result<Spawned, Error> {
        process::spawn(&Spawn::default(), witness, |child| {
            let deleted = become_guardian()
                .and_then(|()| isolate(child, &[]))
                .and_then(|()| program::delete(self, child));
            u8::from(deleted.is_err())
        })
        .map_err(Error::Spawn)
    }
}

/// Orphans of the runtime come to the helper, which ends with its parent.
fn become_guardian() -> Result<(), StartError> {
    set_pdeathsig(Signal::SIGKILL).step("bind the helper to its parent", "")?;
    set_child_subreaper().step("become a subreaper", "")
}

/// Ends the container's traces in the runtime when what follows its creation fails.
fn or_delete<T>(
    line: &CommandLine,
    child: &Child,
    result: Result<T, StartError>,
) -> Result<T, StartError> {
    if result.is_err() {
        // The first error is the one that tells.
        let _ = program::delete(line, child);
    }
    result
}
