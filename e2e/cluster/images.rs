//! The images of a cluster that are made of programs of its release.

use crisp_e2e::catalog::{agnhost, busybox_layer};
use crisp_e2e::{Entry, Image, Layer, Registry, tools};
use serde_json::json;
use std::fs;

/// The name server.
pub(crate) const COREDNS: &str = "registry.k8s.io/coredns/coredns:v1.14.1";

/// Has the registry serve them.
pub(crate) fn publish(registry: &Registry) {
    registry.publish(
        "e2e-test-images/agnhost",
        "2.63.0",
        &agnhost(busybox_layer()),
    );
    let coredns = Image::new(vec![program("coredns")]).with("Entrypoint", json!(["/coredns"]));
    registry.publish("coredns/coredns", "v1.14.1", &coredns);
}

fn program(name: &str) -> crisp_e2e::PackedLayer {
    let path = tools::program(&format!("tools/kubernetes/{name}"));
    let bytes = fs::read(path).expect("a program that was just found can be read");
    Layer::new([Entry::program(name, bytes)]).gzip()
}
