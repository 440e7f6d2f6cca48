//! The Linux kernel, typed: the only crate with unsafe code.

#![allow(unsafe_code)]
