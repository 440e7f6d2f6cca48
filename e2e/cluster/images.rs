//! The images of a cluster that are made of programs of its release.

use crisp_e2e::catalog::busybox_layer;
use crisp_e2e::{Entry, Image, Layer, PackedLayer, Registry, agnhost, tools};
use serde_json::json;
use std::fs;

/// The name server.
pub(crate) const COREDNS: &str = "registry.k8s.io/coredns/coredns:v1.14.1";
/// The server of figures.
pub(crate) const METRICS_SERVER: &str = "registry.k8s.io/metrics-server/metrics-server:v0.9.0";

/// Has the registry serve them.
pub(crate) fn publish(registry: &Registry) {
    registry.publish(
        "e2e-test-images/agnhost",
        "2.63.0",
        &agnhost(busybox_layer()),
    );
    for (name, tag, at) in [
        ("coredns", "v1.14.1", "kubernetes"),
        ("metrics-server", "v0.9.0", "bin"),
    ] {
        let image = Image::new(vec![program(at, name)]);
        let image = image.with("Entrypoint", json!([format!("/{name}")]));
        registry.publish(&format!("{name}/{name}"), tag, &image);
    }
}

fn program(at: &str, name: &str) -> PackedLayer {
    let path = tools::program(&format!("tools/{at}/{name}"));
    let bytes = fs::read(path).expect("a program that was just found can be read");
    Layer::new([Entry::program(name, bytes)]).gzip()
}
