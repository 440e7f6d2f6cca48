//! Generates the messages from `proto/shim.proto`; the parser is in Rust, so no protoc needs to be
//! installed.

use std::error::Error;

const PROTO_DIR: &str = "../../proto";
const PROTO_FILE: &str = "shim.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO_DIR}/{PROTO_FILE}");
    let descriptors = protox::compile([PROTO_FILE], [PROTO_DIR])?;
    prost_build::Config::new()
        // One encoding of one message, which the golden tests need.
        .btree_map(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
