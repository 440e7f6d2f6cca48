//! Links the binary so that it begins as the pause process may need it, and the static one at a fixed address.
//!
//! Two processes of it run for every pod. At an address of its own choice, each would have to adapt
//! all pointers in its data, and so have a copy of pages that all could share: some 100 KiB.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let cfg = |name| env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    let is_static = cfg("FEATURE")
        .split(',')
        .any(|feature| feature == "crt-static");
    println!("cargo::rustc-link-arg-bins=-Wl,--entry=crisp_start");
    // For musl, Rust brings start files of its own, which would not fit.
    if is_static && cfg("ENV") == "gnu" {
        println!("cargo::rustc-link-arg-bins=-no-pie");
        println!("cargo::rustc-link-arg-bins=-static");
    }
}
