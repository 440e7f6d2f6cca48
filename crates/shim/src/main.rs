//! `crisp-shim shim DIR` is the shim of the pod with this runtime directory; `crisp-shim pause` is the
//! pause process. The daemon and the shim start them; nobody else has reason to.

#![forbid(unsafe_code)]

use crisp_shim_api::PodPaths;
use nix::sys::prctl::set_name;
use std::ffi::CStr;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let command = arguments.next();
    match (
        command.as_deref().and_then(|c| c.to_str()),
        arguments.next(),
        arguments.next(),
    ) {
        (Some("pause"), None, None) => {
            be_named(c"pause");
            crisp_shim::pause()
        }
        (Some("shim"), Some(dir), None) => {
            be_named(c"crisp-shim");
            crisp_shim::main(PodPaths::new(dir))
        }
        _ => ExitCode::from(USAGE_ERROR),
    }
}

/// For ps(1) and top(1). What is executed by a descriptor has the name of that without.
fn be_named(name: &CStr) {
    // It is no more than a name.
    let _ = set_name(name);
}

/// As shells have it.
const USAGE_ERROR: u8 = 2;
