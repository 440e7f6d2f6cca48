//! Generates messages, clients and server traits from `proto/`; the parser is in Rust, so no protoc
//! needs to be installed.

use protox::prost_reflect::prost_types::FileDescriptorSet;
use std::error::Error;
use std::path::PathBuf;

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
    let out_dir = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    std::fs::write(out_dir.join("methods.rs"), methods(&descriptors))?;
    tonic_prost_build::configure()
        // The order of labels and annotations is the same in every answer.
        .btree_map(".")
        // Written by hand, so that no log shows a password.
        .skip_debug(["runtime.v1.AuthConfig", "crisp.node.v1.Credentials"])
        .compile_fds(descriptors)?;
    Ok(())
}

/// A list of all RPCs, as Rust.
fn methods(descriptors: &FileDescriptorSet) -> String {
    let mut list = String::from("[\n");
    for file in &descriptors.file {
        for service in &file.service {
            for method in &service.method {
                let (package, service, method) = (file.package(), service.name(), method.name());
                list.push_str(&format!(
                    "Method {{ path: \"/{package}.{service}/{method}\", service: {service:?}, name: {method:?} }},\n"
                ));
            }
        }
    }
    list.push(']');
    list
}
