//! Generates messages, clients and server traits from `proto/cri.proto`; the parser is in Rust, so
//! no protoc needs to be installed.

use std::error::Error;

const PROTO_DIR: &str = "../../proto";
const PROTO_FILE: &str = "cri.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO_DIR}/{PROTO_FILE}");
    let descriptors = protox::compile([PROTO_FILE], [PROTO_DIR])?;
    tonic_prost_build::configure()
        // The order of labels and annotations is the same in every answer.
        .btree_map(".")
        // Written by hand, so that no log shows a password.
        .skip_debug(["runtime.v1.AuthConfig"])
        .compile_fds(descriptors)?;
    Ok(())
}
