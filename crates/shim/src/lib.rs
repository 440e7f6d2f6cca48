//! The shim of one pod: stdio, logs, exits and exec of its containers.
//!
//! It is the parent of all processes of the pod and outlives the daemon. It has one thread, waits for
//! one closed enum of events ([`poller::Event`]) and never for a child, a client, a daemon or a log.
//! What the daemon asks of it is specified in `proto/shim.proto`.
//!
//! | module | what it is |
//! |---|---|
//! | `shim`, `poller` | the event loop |
//! | `connection`, `requests`, `failure` | daemons, what they ask for and are told |
//! | `pod`, `pause_setup`, `sysctl` | the pause process and the namespaces that it holds |
//! | `container`, `exec`, `starts` | processes of containers, and their starts |
//! | `stdio`, `output`, `stdin`, `client` | streams of a container |
//! | `log`, `lines` | its log |
//! | `reap`, `cgroup`, `descendants`, `shutdown` | the end of processes |
//! | `journal`, `scratch` | the shim's own log and memory |
//! | `bench` | ways in for benchmarks |

#![forbid(unsafe_code)]

pub mod bench;
mod cgroup;
mod client;
mod connection;
mod container;
mod descendants;
mod exec;
mod failure;
mod journal;
mod lines;
mod log;
mod output;
mod pause_setup;
mod pod;
mod poller;
mod poststop;
mod reap;
mod requests;
mod scratch;
mod shim;
mod shm;
mod shutdown;
mod starts;
mod stdin;
mod stdio;
mod sysctl;

pub use shim::{ShimError, run};

use crisp_shim_api::PodPaths;
use journal::{Chain, journal};

/// The exit status of a shim that could not do its work.
const FAILURE: u8 = 1;

/// The command `crisp-shim shim`: [`run`], with what went wrong in the shim's log. Gives the exit status.
#[must_use]
pub fn main(paths: PodPaths) -> u8 {
    match run(paths) {
        Ok(()) => 0,
        Err(error) => {
            journal!("shim failed: {}", Chain(&error));
            FAILURE
        }
    }
}
