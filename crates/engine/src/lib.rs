//! What pods are over time: records, orchestration, recovery and figures.
//!
//! The engine knows neither protobuf nor HTTP. Its state-changing calls go on when their caller stops
//! waiting; what it tells of pods and containers comes from memory and waits for nothing.

#![forbid(unsafe_code)]

mod apparmor;
mod checkpoint;
pub mod config;
mod container;
mod counts;
mod details;
mod engine;
mod error;
mod events;
mod files;
mod gauge;
mod handlers;
mod host;
mod info;
mod making;
mod plugins;
mod pod;
mod processes;
mod reaper;
mod record;
mod recover;
mod reload;
mod seccomp;
mod selinux;
mod shim;
mod stats;
mod store;
mod stream;
mod users;
mod view;
mod wiring;

pub use apparmor::{AppArmorPresence, apparmor_parser};
pub use config::Config;
pub use details::{Details, FileSystem, PodMetrics};
pub use engine::Engine;
pub use error::{Error, Kind, Result, chain};
pub use events::{Event, EventKind, Listening};
pub use processes::{Processes, TaskStates};
pub use reload::{Difference, Reload};
pub use stream::{StreamControl, Streams, Wanted};
pub use view::{
    CgroupDriver, CniStatus, ContainerStats, ContainerView, DiskUsage, ExecOutput, Handler,
    NodeStatus, PodStats, PodView,
};
