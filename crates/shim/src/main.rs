//! The shim of one pod, and the pause process.

#![forbid(unsafe_code)]

fn main() {}
