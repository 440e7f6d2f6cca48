//! Generates messages, clients and server traits from `proto/`; the parser is in Rust, so no protoc
//! needs to be installed.

use std::error::Error;

const PROTO_DIR: &str = "../../proto";
const PROTO_FILES: [&str; 5] = [
    "cri.proto",
    "crisp.proto",
    "containerd/containers.proto",
    "containerd/tasks.proto",
    "containerd/version.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in PROTO_FILES {
        println!("cargo::rerun-if-changed={PROTO_DIR}/{file}");
    }
    let descriptors = protox::compile(PROTO_FILES, [PROTO_DIR])?;
    tonic_prost_build::configure()
        // The order of labels and annotations is the same in every answer.
        .btree_map(".")
        // Written by hand, so that no log shows a password.
        .skip_debug(["runtime.v1.AuthConfig", "crisp.node.v1.Credentials"])
        .compile_fds(descriptors)?;
    Ok(())
}
