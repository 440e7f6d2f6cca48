//! Control groups: limits, membership and figures, version 1 and 2.
#![forbid(unsafe_code)]

mod cgroup;
mod controller;
mod create;
mod devices;
mod error;
mod file;
mod hierarchies;
mod mountinfo;
mod parse;
mod path;
mod plan;
mod pressure;
mod processes;
mod refusal;
mod remove;
mod stats;

pub use cgroup::{Cgroup, Limits};
pub use controller::{Controller, Version};
pub use error::Error;
pub use hierarchies::Hierarchies;
pub use path::CgroupPath;
pub use pressure::{Pressure, Stall};
pub use stats::{CpuStats, HugetlbStats, IoStats, MemoryStats, PidsStats, PressureStats, Stats};
