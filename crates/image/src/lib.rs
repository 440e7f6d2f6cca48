//! Images: references, registries, content as an OCI image layout, unpacking, overlay snapshots, garbage
//! collection.
//!
//! ```text
//!  Images ── pull ──▶ registry (hosts.toml, tokens, transfers)      archive (OCI layout, docker save)
//!    │                     └──────────────▶ install ◀───────────────────┘
//!    │                                         ▼
//!    │                  stream: digest, decompress, diff id ─▶ tar ─▶ unpack
//!    ▼                                         ▼
//!  catalogue (memory) ◀── store ──▶ content (index, blobs)   layers   snapshots
//! ```
//!
//! - One pass: a layer's bytes are hashed, decompressed, hashed again and unpacked as they arrive. No
//!   compressed layer touches the disk, unless it is to be kept; memory is bounded whatever the image's
//!   size; all layers of an image are worked on at once.
//! - Layers are unpacked each alone and shared by diff id. That is what overlayfs wants, but for what
//!   `fixup.rs` puts right.
//! - Crash-only: whatever appears under its name is complete, and [`Images::open`] removes the rest. A
//!   power cut leaves an image whole or not at all (`content.rs`).
//! - Images, archives, registries and what containers wrote are hostile: everything that is kept of them
//!   is bounded, and no path of theirs is resolved by string.
//!
//! Nothing here mounts anything or knows what a container is beyond its id.

#![forbid(unsafe_code)]

mod archive;
mod attributes;
mod auth;
mod catalogue;
mod changes;
mod check;
mod config;
mod content;
mod copy_up;
mod digest;
mod empty;
mod error;
mod export;
mod fixup;
#[doc(hidden)]
pub mod fuzz;
mod image;
mod images;
mod install;
mod layers;
mod locks;
mod manifest;
mod mount_points;
mod names;
mod pack;
mod platform;
mod progress;
mod pull;
mod quota;
mod reference;
mod registry;
mod snapshot;
mod stack;
mod store;
mod stream;
mod sums;
mod tar;
#[cfg(test)]
mod testing;
mod tree;
mod unpack;
mod verify;

pub use auth::Auth;
pub use check::{Fault, Outcome, Owner, Repair, Report};
pub use config::{Config, Settings};
pub use digest::{Digest, InvalidDigest};
pub use error::Error;
pub use image::{Image, ImageConfig, ImageId};
pub use images::{Images, Usage};
pub use names::Naming;
pub use pack::{Bounds, Timely};
pub use progress::{LayerSize, Progress, ProgressSink};
pub use reference::{Reference, Version};
pub use snapshot::Snapshot;
