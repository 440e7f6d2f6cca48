//! The images of a cluster that are made of programs of its release.

use crisp_e2e::catalog::busybox_layer;
use crisp_e2e::{Entry, Image, Layer, Registry, tools};
use serde_json::json;
use std::fs;

/// The test program of Kubernetes itself: servers and clients of many kinds, over a shell.
pub(crate) const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";
/// The name server.
pub(crate) const COREDNS: &str = "registry.k8s.io/coredns/coredns:v1.14.1";

/// Has the registry serve them.
pub(crate) fn publish(registry: &Registry) {
    let agnhost = Image::new(vec![busybox_layer(), program("agnhost")])
        .with("Entrypoint", json!(["/agnhost"]))
        .with("Cmd", json!(["pause"]));
    registry.publish("e2e-test-images/agnhost", "2.63.0", &agnhost);
    let coredns = Image::new(vec![program("coredns")]).with("Entrypoint", json!(["/coredns"]));
    registry.publish("coredns/coredns", "v1.14.1", &coredns);
}

fn program(name: &str) -> crisp_e2e::PackedLayer {
    let path = tools::program(&format!("tools/kubernetes/{name}"));
    let bytes = fs::read(path).expect("a program that was just found can be read");
    Layer::new([Entry::program(name, bytes)]).gzip()
}
