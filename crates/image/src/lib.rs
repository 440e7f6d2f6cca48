//! Images.
#![forbid(unsafe_code)]
mod auth;
mod config;
mod digest;
mod error;
mod image;
mod progress;
mod reference;
mod tar;
mod tree;
mod unpack;

pub use auth::Auth;
pub use config::{Config, Settings};
pub use digest::{Digest, InvalidDigest};
pub use error::Error;
pub use image::{Image, ImageConfig, ImageId};
pub use progress::{LayerSize, Progress, ProgressSink};
pub use reference::{Reference, Version};
