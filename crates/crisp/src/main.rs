//! The daemon and its command line.

#![forbid(unsafe_code)]

fn main() {}
