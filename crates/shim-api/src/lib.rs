//! What the daemon and the shim of a pod say to each other, and what the shim leaves on disk.
//!
//! The messages and the descriptors that travel with them are specified in `proto/shim.proto`. A shim
//! outlives the daemon that started it and meets newer ones, so both the packets and the exit record
//! are append-only; golden tests hold their bytes.

#![forbid(unsafe_code)]

mod exit_record;
mod packet;
mod paths;
mod pid_file;
mod socket;
mod spawn;
pub mod timestamp;

pub mod message {
    //! The messages of `proto/shim.proto`.
    #![allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
    include!(concat!(env!("OUT_DIR"), "/crisp.shim.v1.rs"));
}

pub use crisp_sys::socket::MAX_FDS;
pub use exit_record::{ExitRecord, RecordError};
pub use packet::{
    MAX_PACKET_BYTES, PacketError, decode, encode, event, negotiate, recv, reply, request, send,
    try_recv, try_send,
};
pub use paths::{PodPaths, is_valid_id};
pub use pid_file::ShimPid;
pub use socket::{ConnectError, accept, connect};
pub use spawn::{LISTENER_FD, Listener, SpawnError, listen};

/// The version of the protocol that this build speaks. Since 2 a container's root file system may come with
/// the request to start it.
pub const VERSION: u32 = 2;
