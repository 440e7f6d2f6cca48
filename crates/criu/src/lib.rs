//! A client of criu, which writes what a tree of processes is made of into files while the tree stands
//! still, and lets it go on.
//!
//! criu is a program of its own that is talked to over a socket (`criu swrk`), as runc does it; a runtime
//! that calls criu by itself is run here too. All calls block.
//!
//! # Why nothing here is killed in haste
//! criu holds processes by ptrace(2), which the kernel lets go of whatever becomes of criu. But it also
//! has them run code of its own, and one that loses criu at the wrong instruction ends by that. So a dump
//! that takes too long is refused at its next step, and killed only when it comes to none
//! ([`PATIENCE`]). A client that dies leaves a criu that undoes what it did.
#![forbid(unsafe_code)]

mod child;
mod dump;
mod error;
mod log;

pub use child::{PATIENCE, run};
pub use dump::{Connections, DUMP_LOG, Dump};
pub use error::Error;

mod message {
    //! The messages of `proto/criu.proto`.
    #![allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
    include!(concat!(env!("OUT_DIR"), "/crisp.criu.v1.rs"));
}
