//! `crisp-shim shim DIR` is the shim of the pod with this runtime directory; `crisp-shim pause` is the
//! pause process, which does not come to the main function (`crisp_sys::pause`). The daemon and the shim start them;
//! nobody else has reason to.

#![no_main]
#![forbid(unsafe_code)]

use crisp_shim_api::PodPaths;
use nix::sys::prctl::set_name;
use std::ffi::OsStr;

crisp_sys::main!(run);

fn run(arguments: &[&OsStr]) -> u8 {
    match arguments {
        [_, command, dir] if *command == "shim" => {
            // For ps(1) and top(1), and no more than a name: what is executed by a descriptor has the name of that.
            let _ = set_name(c"crisp-shim");
            crisp_shim::main(PodPaths::new(dir))
        }
        _ => USAGE_ERROR,
    }
}

/// As shells have it.
const USAGE_ERROR: u8 = 2;
