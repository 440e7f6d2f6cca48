//! The image of Kubernetes' own test program: servers and clients of many kinds, and what its tests run
//! beside it.

use crate::image::Image;
use crate::layer::{Entry, Layer, PackedLayer};
use crate::tools;
use serde_json::json;
use std::fs;

/// Its public name.
pub const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";

/// What the tests ask of curl(1), by what there is in a shell's layer.
const CURL: &str = r#"#!/bin/sh
seconds=60
while [ $# -gt 1 ]; do
    case $1 in
        --max-time) seconds=$2 && shift ;;
        --connect-timeout) shift ;;
    esac
    shift
done
exec wget -q -O - -T "$seconds" "$1"
"#;

/// What they ask of bash(1), which any shell can do.
const BASH: &str = "#!/bin/sh\nexec sh \"$@\"\n";

/// What is served by that name, over a shell.
///
/// # Panics
/// The program was not built.
#[must_use]
pub fn agnhost(shell: PackedLayer) -> Image {
    let program = fs::read(tools::program("tools/kubernetes/agnhost"));
    let program = program.expect("a program that was just found can be read");
    let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
    let identity = identity.expect("a name of ASCII");
    let layer = Layer::new([
        Entry::program("agnhost", program),
        Entry::symlink("agnhost-2", "agnhost"),
        Entry::file("localhost.crt", identity.cert.pem()),
        Entry::file("localhost.key", identity.signing_key.serialize_pem()),
        Entry::program("bin/bash", BASH),
        Entry::program("bin/curl", CURL),
    ]);
    Image::new(vec![shell, layer.gzip()])
        .with("Entrypoint", json!(["/agnhost"]))
        .with("Cmd", json!(["pause"]))
}
