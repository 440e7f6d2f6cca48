//! `crisp-shim shim DIR` is the shim of the pod with this runtime directory; `crisp-shim pause` is the
//! pause process. The daemon and the shim start them; nobody else has reason to.

#![no_main]
#![forbid(unsafe_code)]

use crisp_shim_api::PodPaths;
use nix::sys::prctl::set_name;
use std::ffi::{CStr, OsStr};

crisp_sys::main!(run);

fn run(arguments: &[&OsStr]) -> u8 {
    match arguments {
        [_, command] if *command == "pause" => {
            be_named(c"pause");
            crisp_shim::pause()
        }
        [_, command, dir] if *command == "shim" => {
            be_named(c"crisp-shim");
            crisp_shim::main(PodPaths::new(dir))
        }
        _ => USAGE_ERROR,
    }
}

/// For ps(1) and top(1). What is executed by a descriptor has the name of that without.
fn be_named(name: &CStr) {
    // It is no more than a name.
    let _ = set_name(name);
}

/// As shells have it.
const USAGE_ERROR: u8 = 2;
