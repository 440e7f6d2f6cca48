//! Control groups: limits, membership and figures, version 1 and 2.
//!
//! [`Hierarchies`] is what a host has, [`CgroupPath`] names a cgroup in all of them at once, and [`Cgroup`]
//! makes, limits, measures, freezes, kills and removes it. What decides is pure and tested with tables: a
//! path from a `cgroup_parent`, the settings that limits come to and their order (`plan`), the filter that
//! device rules come to (`devices`), what a figure means (`stats`, `parse`, `pressure`). The rest reads and
//! writes small files, so that a temporary directory can stand in for `/sys/fs/cgroup`.
//!
//! All calls block. None starts a process or a thread, and none talks to systemd.
//!
//! # Layout
//! ```text
//! <cgroup_parent>/crisp-<short pod id>                limits of the pod; no processes (version 2 demands it)
//! <cgroup_parent>/crisp-<short pod id>/<pod id>       pause
//! <cgroup_parent>/crisp-<short pod id>/<container id>
//! ```
//! On a hybrid host (controllers on version 1) cgroups are made in the empty version 2 hierarchy as well:
//! it kills a whole cgroup with one write, and it alone has pressure figures. They are made in the hierarchy
//! that systemd tracks units in, too, or stopping crisp's unit would stop the containers.
//!
//! # Why not cgroups-rs
//! It covers the same ground, and version 0.5.1 was looked at part by part:
//!
//! * zbus is a dependency that cannot be left out. It brings an asynchronous D-Bus client and some fifty
//!   crates that nothing else here uses, for a driver that is not used on cgroupfs.
//! * Hierarchies: version 2 is a constant path, and on a hybrid host the version 2 hierarchy is not seen,
//!   so that `cgroup.kill` and pressure are out of reach. Its types take no other root, so no directory can
//!   stand in. Controllers mounted together are made, read and removed once per controller.
//! * Limits: `Cgroup::apply` drops every error of the memory controller. `FsManager` reports errors, but an
//!   unfit memory limit as "invalid resource" without the value; writes quota and period in one fixed order,
//!   which the kernel refuses for some changes below a limited parent; reads an omitted device number as 0
//!   instead of any; ignores `unified`; and fails on device rules on version 2, for which it has no BPF. Its
//!   weights are those of a conversion that runc, crun and the kubelet have left.
//! * Figures: what cannot be read is reported as zero, a cgroup that is gone included. On version 2 there
//!   is no count of OOM kills, the time of throttling is always zero, and pressure is not read.
//! * Files are opened to be created and truncated, so a missing file is a refusal (EACCES) instead of a
//!   missing file.
//! * Killing is left to the caller, freezing does not wait for its effect, and removing pauses 10 ms at
//!   least when a process has yet to die.
#![forbid(unsafe_code)]

mod apply;
mod cgroup;
mod controller;
mod create;
mod devices;
mod error;
mod file;
mod file_ids;
mod hierarchies;
mod limits;
mod mountinfo;
mod parse;
mod path;
mod plan;
mod pressure;
mod processes;
mod refusal;
mod remove;
mod stats;
mod top;

pub use cgroup::Cgroup;
pub use controller::{Controller, Version};
pub use error::Error;
pub use hierarchies::Hierarchies;
pub use limits::Limits;
pub use mountinfo::MountInfo;
pub use path::CgroupPath;
pub use plan::v2::shares_of_weight;
pub use pressure::{Pressure, Stall};
pub use stats::{
    CpuStats, Extent, HugetlbStats, IoStats, IoTimes, MemoryStats, PidsStats, PressureStats, Stats,
};
