//! OCI runtime spec to process: the embedded low-level runtime, and others by their command line
//! ([`CommandLine`]).
//!
//! It runs inside a process that has one thread and must never wait (the shim of a pod), so all work
//! is done by children of it, in two stages:
//!
//! ```text
//!  caller ── start ──▶ stage one                    child of the caller, in the host's namespaces
//!    │                   reads config.json; opens namespaces and cgroups; makes the root file system
//!    │                   and clones what is bind-mounted, as detached mounts; enters the user and pid
//!    │                   namespaces; then spawns
//!    │                 stage two                    child of the *caller*, the container's init
//!    │                   joins its cgroups; enters or makes the other namespaces; attaches the mounts
//!    │                   inside its root; gives up what the spec does not leave it; executes
//!    ◀── report ──────── (either) what went wrong; else nothing is left that could
//! ```
//!
//! Nothing is made that anybody else could see: mounts are detached until they are attached in the
//! container's own mount namespace. A start that fails or is abandoned leaves nothing to undo.
//!
//! Hooks of the spec are run where the spec wants them: those that see the container from outside by an
//! attendant, a child of stage one in the caller's namespaces, the others by stage two. Without hooks
//! there is no attendant, and nothing but the container's program is executed.
//!
//! In a new pid namespace, without a user namespace and hooks, nobody sees stage one either: it is born there
//! and becomes stage two, without a fork between them ([`ContainerPlan::alone`]).
//!
//! Where processes of others are in sight of stage two from its first instruction, in a pid namespace that is
//! joined, stage one enters the other namespaces and the root for it. Executing one more process in a container
//! ([`exec`]) is such a case, without mounts.
//!
//! Every path inside the container's root is resolved by descriptor, within that root
//! ([`crisp_sys::path`]); from pivot_root(2) on, no path leads to the host at all.

#![forbid(unsafe_code)]

mod command;
mod error;
mod hooks;
mod plan;
mod report;
mod spec;
mod stage_one;
mod stage_two;
mod starting;

pub use command::CommandLine;
pub use error::{Reason, StartError};
pub use hooks::poststop;
pub use plan::{ContainerPlan, ExecPlan, Overlay, Rootfs, SeccompFilter, Stdio, WindowSize};
pub use starting::{Error, Started, Starting, exec, start};
