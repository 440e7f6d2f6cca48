//! The harness of the privileged tests: a daemon of its own for each test, with its own
//! directories, bridge, subnet, cgroup and socket, and real peers around it.
//!
//! * [`Node`] is a machine with a running daemon; [`Pod`] and [`Container`] are what runs on it.
//! * [`Registry`] serves [`Image`]s made of [`Layer`]s, under the public names that a mirror maps.
//! * [`Node::finish`] removes all there is and tells what is left behind: nothing may be.
//!
//! Tests need root and fail without it. `hack/test.sh --prepare` fetches the peers.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stderr,
    reason = "it is for whoever runs a driver, and cargo shows it for tests that fail"
)]

mod agnhost;
mod apart;
mod archive;
mod audit;
pub mod catalog;
pub mod checks;
mod child;
mod cni;
mod collector;
mod command;
mod containerd;
mod crash;
mod daemon;
mod disk;
mod driver;
mod figures;
mod front;
mod fuse;
pub mod ginkgo;
mod image;
mod kernel;
mod kubelet;
mod layer;
pub mod leftovers;
mod log;
pub mod manifest;
mod mirror;
mod net;
mod node;
mod pod;
mod reboot;
mod records;
mod registry;
mod scrape;
mod service;
mod slot;
mod terminal;
pub mod tools;
mod wait;
mod web;

pub use agnhost::{AGNHOST, agnhost};
pub use apart::{OWN_ADDRESS, OwnDirectories, make_network, run_apart};
pub use archive::{docker_archive, oci_archive};
pub use collector::{Collector, Span, attribute};
pub use command::{Forward, Output, fed};
pub use containerd::Containerd;
pub use daemon::oci_handlers;
pub use disk::{Filler, mount_disk};
pub use driver::exit_code;
pub use figures::Figures;
pub use front::{Answer, Front};
pub use fuse::Fuse;
pub use image::{Digest, Flavour, Image};
pub use kernel::{Cgroup, Process, cgroups_are_v2, systemd_makes_cgroups, xattr};
pub use kubelet::{FiguresFrom, HostSysctls, KubeletHost, KubeletProcess, kubelet_config};
pub use layer::{Entry, Layer, PackedLayer, Packing};
pub use log::{LogLine, parse_log};
pub use mirror::Mirror;
pub use net::{free_address, http_get, in_netns};
pub use node::{Node, image_spec};
pub use pod::{
    Container, Executed, Pod, allow_privileged, container_config, own_users, pid_mode, pod_config,
    resources, security, sh, with_host_port,
};
pub use reboot::allow_reboots;
pub use records::edit_record;
pub use registry::{MIRRORED, Registry};
pub use scrape::{Sample, Scrape};
pub use service::Service;
pub use slot::Slot;
pub use terminal::Terminal;
pub use wait::{eventually, unless_interrupted, until, until_within};
pub use web::{await_page, nginx};
