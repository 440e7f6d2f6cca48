//! Generates the messages from `proto/criu.proto`; the parser is in Rust, so no protoc needs to be
//! installed.

use std::error::Error;

const PROTO_DIR: &str = "../../proto";
const PROTO_FILE: &str = "criu.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO_DIR}/{PROTO_FILE}");
    let descriptors = protox::compile([PROTO_FILE], [PROTO_DIR])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
