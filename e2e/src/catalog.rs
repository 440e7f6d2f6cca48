//! The images that most tests run, made of Debian packages and served under public names.

use crate::image::{Flavour, Image};
use crate::layer::{Entry, Layer, PackedLayer, Packing};
use crate::registry::Registry;
use crate::tools;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// One layer with a shell and its applets.
pub const BUSYBOX: &str = "docker.io/library/busybox:1.35";
/// Four layers: busybox, libraries, the server, a page. Its stop signal is SIGQUIT.
pub const NGINX: &str = "docker.io/library/nginx:1.22";
/// What [`NGINX`] answers to `GET /`.
pub const NGINX_PAGE: &str = "<title>A page from the top layer</title>\n";
/// busybox under names of users that the test images `registry.k8s.io/e2e/user-<name>` run as.
pub const USERS: [(&str, &str); 4] = [
    ("uid", "1002"),
    ("name", "www-data"),
    ("uid-gid", "1003:1004"),
    ("name-gid", "www-data:1004"),
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\nmember:x:1000:1000:Member:/home/member:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n";
const GROUP: &str =
    "root:x:0:\nwww-data:x:33:\nmember:x:1000:\nteam:x:50000:member\nnogroup:x:65534:\n";
pub(crate) fn publish(registry: &Registry) {
    registry.publish(
        "library/busybox",
        "1.35",
        &Image::new(vec![busybox_layer()]),
    );
    // As public registries offer it: several platforms, of which this machine is one.
    let foreign = Image::new(vec![busybox_layer()])
        .flavour(Flavour::Docker)
        .architecture("s390x");
    registry.publish_index(
        "library/nginx",
        "1.22",
        &[foreign, web_server(busybox_layer(), 80)],
    );
    for (name, user) in USERS {
        let image = Image::new(vec![busybox_layer()]).with("User", json!(user));
        registry.publish(&format!("e2e/user-{name}"), "1", &image);
    }
}

/// The lowest layer of most images.
#[must_use]
pub fn busybox_layer() -> PackedLayer {
    static LAYER: LazyLock<PackedLayer> = LazyLock::new(|| shell_layer(&busybox()));
    LAYER.clone()
}

/// A static busybox that runs on the host as well.
#[must_use]
pub fn busybox() -> PathBuf {
    tools::debian("bin/busybox")
}

/// Puts busybox into a root directory, with links by the names of these applets.
///
/// # Errors
/// It is there already, or cannot be copied.
pub fn install_busybox(root: &Path, applets: &[&str]) -> io::Result<()> {
    let bin = root.join("bin");
    fs::create_dir_all(&bin)?;
    fs::copy(busybox(), bin.join("busybox"))?;
    applets
        .iter()
        .try_for_each(|applet| symlink("busybox", bin.join(applet)))
}

/// A root file system whose programs are all the applets of one busybox.
///
/// # Panics
/// The program is no busybox that runs here.
#[must_use]
pub fn shell_layer(program: &Path) -> PackedLayer {
    let listing = Command::new(program)
        .arg("--list")
        .output()
        .expect("busybox runs here");
    let applets = String::from_utf8(listing.stdout).expect("names of applets are ASCII");
    let directories = [
        "bin", "dev", "etc", "home", "proc", "run", "sys", "usr", "usr/bin", "var", "var/www",
    ];
    let mut entries: Vec<Entry> = directories.into_iter().map(Entry::directory).collect();
    entries.extend([
        Entry::symlink("var/run", "/run"),
        Entry::directory("root").mode(0o700),
        Entry::directory("tmp").mode(0o1777),
        Entry::directory("home/member").owner(1000, 1000),
        Entry::file("etc/passwd", PASSWD),
        Entry::file("etc/group", GROUP),
        Entry::program("bin/busybox", read(program)),
    ]);
    let applets = applets.lines().filter(|applet| *applet != "busybox");
    // Some runtimes set the mode once more with each name.
    let links =
        applets.map(|applet| Entry::hard_link(&format!("bin/{applet}"), "bin/busybox").mode(0o755));
    entries.extend(links);
    Layer::new(entries).gzip()
}

/// A shell, and a program at a path that tells the identity it runs with, which is root's whoever starts
/// it.
///
/// # Panics
/// The program was not built.
#[must_use]
pub fn setuid_root(shell: PackedLayer, path: &str) -> Image {
    let program = Entry::program(path, read(&tools::program("tools/bin/euid"))).mode(0o4755);
    let directories = Path::new(path).ancestors().skip(1);
    let mut entries: Vec<Entry> = directories
        .filter(|dir| !dir.as_os_str().is_empty())
        .map(|dir| Entry::directory(text(dir)))
        .collect();
    entries.reverse();
    entries.push(program);
    Image::new(vec![shell, Layer::new(entries).gzip()])
        .with("Entrypoint", json!([format!("/{path}")]))
}

/// A shell, libraries, nginx and [`NGINX_PAGE`]: a layer for each.
#[must_use]
pub fn web_server(shell: PackedLayer, port: u16) -> Image {
    let libraries = Layer::new(library_entries()).gzip();
    let server = Layer::new([
        Entry::directory("usr/sbin"),
        Entry::program("usr/sbin/nginx", read(&tools::debian("usr/sbin/nginx"))),
        Entry::directory("etc/nginx"),
        Entry::file("etc/nginx/nginx.conf", nginx_conf(port)),
        Entry::directory("var/lib"),
        Entry::directory("var/lib/nginx"),
        Entry::directory("var/log"),
        Entry::directory("var/log/nginx"),
    ]);
    let page = Layer::new([
        Entry::directory("usr/share"),
        Entry::directory("usr/share/nginx"),
        Entry::directory("usr/share/nginx/html"),
        Entry::file("usr/share/nginx/html/index.html", NGINX_PAGE),
    ]);
    Image::new(vec![
        shell,
        libraries,
        server.gzip(),
        page.pack(Packing::Zstd),
    ])
    .with("Cmd", json!(["nginx", "-g", "daemon off;"]))
    .with("ExposedPorts", json!({format!("{port}/tcp"): {}}))
    .with("StopSignal", json!("SIGQUIT"))
}

fn nginx_conf(port: u16) -> String {
    format!(
        "user www-data;
worker_processes 1;
error_log stderr notice;
pid /run/nginx.pid;
events {{ worker_connections 64; }}
http {{
  access_log /dev/stdout;
  server {{
    listen {port};
    listen [::]:{port};
    root /usr/share/nginx/html;
  }}
}}
"
    )
}

/// The shared libraries of the unpacked packages, and the loader where binaries expect it.
fn library_entries() -> Vec<Entry> {
    let root = tools::debian("");
    let mut directories = BTreeSet::new();
    let mut files = Vec::new();
    for top in ["lib", "lib64", "usr/lib"] {
        for path in libraries_below(&root.join(top), 2) {
            let inside = path.strip_prefix(&root).expect("found below the root");
            directories.extend(
                inside
                    .ancestors()
                    .skip(1)
                    .filter(|dir| !dir.as_os_str().is_empty())
                    .map(Path::to_owned),
            );
            files.push(library_entry(&path, text(inside)));
        }
    }
    directories
        .iter()
        .map(|dir| Entry::directory(text(dir)))
        .chain(files)
        .collect()
}

fn library_entry(path: &Path, inside: &str) -> Entry {
    match fs::read_link(path) {
        Ok(to) => Entry::symlink(inside, text(&to)),
        Err(_) => Entry::program(inside, read(path)),
    }
}

/// Files named like shared objects, as deep as multiarch directories are.
fn libraries_below(dir: &Path, depth: u8) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.expect("the unpacked packages can be read").path();
        if path.is_dir() && depth > 1 {
            found.extend(libraries_below(&path, depth - 1));
        } else if !path.is_dir() && text(&path).contains(".so") {
            found.push(path);
        }
    }
    found
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("Debian's paths are ASCII")
}
