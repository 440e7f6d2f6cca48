//! The images that the tests ask for, under the names that they ask for
//! (kubernetes, test/utils/image/manifest.go).

use crisp_e2e::catalog::{setuid_root, shell_layer, web_server};
use crisp_e2e::{Image, Registry, agnhost, tools};
use serde_json::json;

/// Has the registry serve them; returns their names.
pub(crate) fn publish(registry: &Registry) -> Vec<String> {
    let shell = shell_layer(&tools::program("tools/bin/busybox"));
    let busybox = Image::new(vec![shell.clone()]);
    let agnhost = agnhost(shell.clone());
    let pause = agnhost
        .clone()
        .with("Entrypoint", json!(["/agnhost", "pause"]));
    let pause = pause.with("Cmd", json!([]));
    let not_root = busybox.clone().with("User", json!("1234"));
    let put = |repository: &str, tag: &str, image: &Image| {
        registry.publish(repository, tag, image);
        format!("registry.k8s.io/{repository}:{tag}")
    };
    let put_test = |name: &str, tag: &str, image: &Image| {
        let repository = format!("e2e-test-images/{name}");
        put(&repository, tag, image)
    };
    vec![
        put_test("agnhost", "2.63.0", &agnhost),
        put_test("agnhost", "2.55", &agnhost),
        put_test("busybox", "1.37.0-1", &busybox),
        put_test("glibc-dns-testing", "2.0.0", &busybox),
        put_test("ipc-utils", "1.4", &busybox),
        put_test("nginx", "1.15-4", &web_server(shell.clone(), 80)),
        put_test(
            "nonewprivs",
            "1.4",
            &setuid_root(shell, "usr/local/bin/nnp"),
        ),
        put_test("nonroot", "1.5", &not_root),
        put("pause", "3.10.2", &pause),
    ]
}
