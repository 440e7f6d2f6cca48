//! The Linux kernel, typed: the only crate with unsafe code.
//!
//! Every `unsafe` block says why it is sound; everything exported is safe to call and works on owned
//! or borrowed file descriptors. What nix already offers safely is used from nix, not wrapped again.

#![allow(unsafe_code)]

pub mod bpf;
pub mod cgroup;
pub mod directory;
pub mod file;
pub mod interface;
pub mod kernfs;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod path;
mod pause;
pub mod process;
pub mod program;
pub mod quota;
pub mod sealed;
pub mod security;
mod segments;
pub mod socket;
pub mod stat;
pub mod terminal;
pub mod wait;
pub mod xattr;
