//! The images that critest asks for, under the names that it asks for.

use crisp_e2e::catalog::{setuid_root, shell_layer, web_server};
use crisp_e2e::{Digest, Entry, Image, Layer, PackedLayer, Registry, tools};
use serde_json::json;

/// The port of the web server in the host's network.
const HOST_NETWORK_PORT: u16 = 12003;
/// Go's name for the machine, which is in the name of an image.
const GO_ARCH: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "amd64"
};

/// Publishes all of them. One is asked for by the digest that it has in its public registry, which no
/// other image can have: the digest that it has here is returned.
pub(crate) fn publish(registry: &Registry) -> Digest {
    let shell = shell_layer(&tools::program("tools/bin/busybox"));
    publish_programs(registry, &shell);
    publish_users(registry, &shell);
    publish_benchmarks(registry, &shell);
    publish_names(registry, &shell)
}

/// Those that the suite runs for what is in them.
fn publish_programs(registry: &Registry, shell: &PackedLayer) {
    let put = |name: &str, tag: &str, image: &Image| {
        registry.publish(&format!("e2e-test-images/{name}"), tag, image);
    };
    put("busybox", "1.29-2", &Image::new(vec![shell.clone()]));
    put("nginx", "1.14-2", &web_server(shell.clone(), 80));
    put("httpd", "2.4.39-4", &httpd(shell));
    put("nonewprivs", "1.3", &setuid_root(shell.clone(), "euid"));
    let host_network = web_server(shell.clone(), HOST_NETWORK_PORT);
    let name = format!("k8s-staging-cri-tools/hostnet-nginx-{GO_ARCH}");
    registry.publish(&name, "latest", &host_network);
    // Other runtimes hold their pods by it: any program that stays, but sleep, which a spec looks for
    // among a pod's processes. Each tag has to be an image of its own, as a spec counts tags.
    for tag in ["3.9", "3.10"] {
        let pause = extended(shell, Entry::file("version", tag));
        let pause = pause.with("Entrypoint", json!(["/bin/tail", "-f", "/dev/null"]));
        registry.publish("pause", tag, &pause.with("User", json!("65535:65535")));
    }
}

/// A web server that has its name in its log, as the suite expects of Apache's.
fn httpd(shell: &PackedLayer) -> Image {
    let page = Layer::new([
        Entry::directory("srv"),
        Entry::file("srv/index.html", "<h1>httpd</h1>\n"),
    ]);
    let serve = "echo httpd: resuming normal operations >&2; exec httpd -f -p 80 -h /srv";
    Image::new(vec![shell.clone(), page.gzip()]).with("Cmd", json!(["sh", "-c", serve]))
}

/// Those whose configuration names a user.
fn publish_users(registry: &Registry, shell: &PackedLayer) {
    let users = [
        ("uid", "1002"),
        ("username", "www-data"),
        ("uid-group", "1003:1004"),
        ("username-group", "www-data:1004"),
    ];
    for (name, user) in users {
        let image = Image::new(vec![shell.clone()]).with("User", json!(user));
        publish_test_image(registry, &format!("user-{name}"), "latest", &image);
    }
    // The shell's /etc/group has this user in a group that is not the user's own.
    let image = Image::new(vec![shell.clone()]).with("User", json!("1000"));
    publish_test_image(registry, "predefined-group", "latest", &image);
}

/// Those that the suite pulls, lists and removes by names of all kinds.
fn publish_names(registry: &Registry, shell: &PackedLayer) -> Digest {
    let named = |name: &str| extended(shell, Entry::file("name", name));
    for name in ["1", "2", "3", "latest"] {
        publish_test_image(registry, name, "latest", &named(name));
    }
    for tag in ["1", "2", "3"] {
        publish_test_image(registry, "tags", tag, &named("tags"));
    }
    for tag in ["test", "all"] {
        publish_test_image(registry, "tag", tag, &named(tag));
    }
    publish_test_image(registry, "digest", "latest", &named("digest"))
}

/// Those of `critest -benchmark`.
fn publish_benchmarks(registry: &Registry, shell: &PackedLayer) {
    for tag in ["1", "1.35.0-glibc", "1-glibc", "1-musl", "1-uclibc"] {
        let image = extended(shell, Entry::file("version", tag));
        registry.publish("docker/library/busybox", tag, &image);
    }
}

fn publish_test_image(registry: &Registry, name: &str, tag: &str, image: &Image) -> Digest {
    registry.publish(
        &format!("k8s-staging-cri-tools/test-image-{name}"),
        tag,
        image,
    )
}

/// A shell and one more file.
fn extended(shell: &PackedLayer, entry: Entry) -> Image {
    Image::new(vec![shell.clone(), Layer::new([entry]).gzip()])
}
