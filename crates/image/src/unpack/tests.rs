//! What layers do to the directory they are unpacked into. As root, owners and devices are checked too.

use super::*;
use crate::tar::tests::{end, entry, pax};
use nix::unistd::getegid;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use tempfile::TempDir;

const DIR: u8 = b'5';
const FILE: u8 = b'0';
const SYMLINK: u8 = b'2';
const HARD_LINK: u8 = b'1';

/// The layer's directory, in another that must not change.
struct Layer {
    outside: TempDir,
}

impl Layer {
    fn new() -> Self {
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir(outside.path().join("layer")).unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        Self { outside }
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.outside.path().join("layer").join(path)
    }

    fn unpack(&self, entries: &[Vec<u8>]) -> Result<Unpacked, Error> {
        let bytes = [entries.concat(), end()].concat();
        let root = fs::File::open(self.path("")).unwrap();
        unpack(&bytes[..], root.into(), sums::Writer::none())
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn stat(&self, path: &str) -> fs::Metadata {
        fs::symlink_metadata(self.path(path)).unwrap()
    }

    fn is_whiteout(&self, path: &str) -> bool {
        let stat = self.stat(path);
        stat.file_type().is_char_device() && stat.rdev() == 0
    }

    fn is_opaque(&self, path: &str) -> bool {
        let directory = fs::File::open(self.path(path)).unwrap();
        xattr::get(&directory, opaque_xattr()).unwrap().as_deref() == Some(b"y")
    }

    /// Nothing outside of the layer was touched.
    fn assert_contained(&self) {
        let names: BTreeSet<_> = fs::read_dir(self.outside.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["layer".into(), "secret".into()].into());
        let secret = self.outside.path().join("secret");
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        assert_eq!(fs::metadata(&secret).unwrap().nlink(), 1);
    }
}

fn dir(path: &str) -> Vec<u8> {
    entry(path, DIR, "", 0o755, b"")
}

fn file(path: &str, data: &str) -> Vec<u8> {
    entry(path, FILE, "", 0o644, data.as_bytes())
}

fn link(path: &str, target: &str) -> Vec<u8> {
    entry(path, SYMLINK, target, 0o777, b"")
}

fn hard(path: &str, target: &str) -> Vec<u8> {
    entry(path, HARD_LINK, target, 0o644, b"")
}

#[test]
fn files_directories_and_links_come_out_as_they_went_in() {
    let layer = Layer::new();
    let unpacked = layer
        .unpack(&[
            entry("./", DIR, "", 0o711, b""),
            entry("dir/", DIR, "", 0o1777, b""),
            entry("dir/program", FILE, "", 0o4755, b"#!"),
            link("dir/link", "program"),
            hard("other", "dir/program"),
            file("/ko-app/absolute", "below the root"),
            entry("pipe", b'6', "", 0o622, b""),
        ])
        .unwrap();
    assert_eq!(layer.read("dir/program"), "#!");
    assert_eq!(
        layer.stat("dir/program").permissions().mode() & 0o7777,
        0o4755
    );
    assert_eq!(layer.stat("dir").permissions().mode() & 0o7777, 0o1777);
    assert_eq!(layer.stat("").permissions().mode() & 0o7777, 0o711);
    assert_eq!(
        fs::read_link(layer.path("dir/link")).unwrap(),
        Path::new("program")
    );
    assert_eq!(layer.stat("other").ino(), layer.stat("dir/program").ino());
    assert_eq!(layer.read("ko-app/absolute"), "below the root");
    assert!(layer.stat("pipe").file_type().is_fifo());
    assert_eq!(layer.stat("pipe").permissions().mode() & 0o7777, 0o622);
    for path in ["", "dir", "dir/program", "dir/link", "pipe"] {
        assert_eq!(layer.stat(path).mtime(), 1, "{path}");
    }
    assert_eq!(
        unpacked.root,
        Some(RootAttributes {
            mode: 0o711,
            uid: geteuid().as_raw(),
            gid: getegid().as_raw()
        })
    );
    assert_eq!(unpacked.implicit_dirs, [b"ko-app"]);
    assert_eq!(unpacked.inodes, 6);
    layer.assert_contained();
}

#[test]
fn nothing_of_the_attributes_of_a_directory_is_inherited() {
    let layer = Layer::new();
    layer
        .unpack(&[
            entry("setgid/", DIR, "", 0o2775, b""),
            dir("setgid/dir"),
            file("setgid/file", ""),
            entry("closed/", DIR, "", 0, b""),
            file("closed/file", ""),
        ])
        .unwrap();
    assert_eq!(layer.stat("setgid").permissions().mode() & 0o7777, 0o2775);
    assert_eq!(
        layer.stat("setgid/dir").permissions().mode() & 0o7777,
        0o755
    );
    assert_eq!(layer.stat("closed").permissions().mode() & 0o7777, 0);
}

#[test]
fn whiteouts_take_the_form_that_overlayfs_knows() {
    let layer = Layer::new();
    let unpacked = layer
        .unpack(&[
            file(".wh.gone", ""),
            dir("dir"),
            file("dir/.wh..wh..opq", ""),
            file("dir/kept", "x"),
            file("implicit/.wh.gone", ""),
            file(".wh..wh.plnk", ""),
        ])
        .unwrap();
    assert!(layer.is_whiteout("gone"));
    assert!(layer.is_opaque("dir"));
    assert_eq!(layer.read("dir/kept"), "x");
    assert!(layer.is_whiteout("implicit/gone"));
    assert!(!layer.path(".wh..wh.plnk").exists());
    assert!(!unpacked.opaque_root);
    assert!(
        layer
            .unpack(&[file(".wh..wh..opq", "")])
            .unwrap()
            .opaque_root
    );
}

#[test]
fn a_whiteout_does_not_hide_what_its_own_layer_has() {
    let layer = Layer::new();
    layer
        .unpack(&[
            file("file-first", "x"),
            file(".wh.file-first", ""),
            file(".wh.file-last", ""),
            file("file-last", "x"),
            dir("dir-first"),
            file(".wh.dir-first", ""),
            file(".wh.dir-last", ""),
            dir("dir-last"),
            file(".wh.implicit", ""),
            file("implicit/file", "x"),
        ])
        .unwrap();
    assert_eq!(layer.read("file-first"), "x");
    assert_eq!(layer.read("file-last"), "x");
    assert!(layer.is_opaque("dir-first"));
    assert!(layer.is_opaque("dir-last"));
    assert!(layer.is_opaque("implicit"));
    assert_eq!(layer.read("implicit/file"), "x");
}

#[test]
fn the_last_entry_of_a_path_counts() {
    let layer = Layer::new();
    let unpacked = layer
        .unpack(&[
            file("a", "first"),
            file("a", "second"),
            file("tree/deep/file", "x"),
            file("tree", "now a file"),
            link("dir", "/somewhere"),
            dir("dir"),
            file("dir/file", "x"),
            link("link", "a"),
            file("link", "not through the link"),
            dir("again"),
            file("again/file", "kept"),
            entry("again/", DIR, "", 0o700, b""),
        ])
        .unwrap();
    assert_eq!(layer.read("a"), "second");
    assert_eq!(layer.read("tree"), "now a file");
    assert_eq!(layer.read("dir/file"), "x");
    assert_eq!(layer.read("link"), "not through the link");
    assert_eq!(layer.read("again/file"), "kept");
    assert_eq!(layer.stat("again").permissions().mode() & 0o7777, 0o700);
    assert!(
        unpacked.implicit_dirs.is_empty(),
        "{:?}",
        unpacked.implicit_dirs
    );
}

#[test]
fn links_within_the_layer_are_followed_and_no_others() {
    let layer = Layer::new();
    layer
        .unpack(&[
            dir("usr"),
            dir("usr/lib"),
            link("lib", "usr/lib"),
            file("lib/file", "x"),
        ])
        .unwrap();
    assert_eq!(layer.read("usr/lib/file"), "x");

    let outside = layer.outside.path().to_str().unwrap();
    for target in [
        "..",
        "../..",
        outside,
        "/",
        "/etc",
        "/proc/self/root",
        "escape",
        "usr/../..",
    ] {
        let layer = Layer::new();
        for trap in [
            &[dir("usr"), link("escape", target), file("escape/file", "x")][..],
            &[dir("usr"), link("escape", target), dir("escape/dir")],
            &[dir("usr"), link("escape", target), link("escape/link", "x")],
            &[
                dir("usr"),
                link("escape", target),
                file("escape/.wh.secret", ""),
            ],
            &[
                dir("usr"),
                link("escape", target),
                file("escape/.wh..wh..opq", ""),
            ],
            &[
                dir("usr"),
                link("escape", target),
                hard("stolen", "escape/secret"),
            ],
            &[
                dir("usr"),
                link("escape", target),
                file("f", ""),
                hard("escape/link", "f"),
            ],
        ] {
            let layer_is_fresh = Layer::new();
            let result = layer_is_fresh.unpack(trap);
            assert!(
                matches!(result, Err(Error::Refused { .. })),
                "{target}: {result:?}"
            );
            layer_is_fresh.assert_contained();
        }
        layer.assert_contained();
    }
}

#[test]
fn a_link_that_is_replaced_is_not_written_through() {
    let layer = Layer::new();
    symlink(layer.outside.path().join("secret"), layer.path("trap")).unwrap();
    layer
        .unpack(&[file("trap", "overwritten"), hard("copy", "trap")])
        .unwrap();
    assert_eq!(layer.read("trap"), "overwritten");
    layer.assert_contained();

    // A hard link to a symbolic link is a second name of the link itself.
    let layer = Layer::new();
    layer
        .unpack(&[link("link", "../secret"), hard("copy", "link")])
        .unwrap();
    assert_eq!(
        fs::read_link(layer.path("copy")).unwrap(),
        Path::new("../secret")
    );
    layer.assert_contained();
}

#[test]
fn hostile_entries_are_refused() {
    let whiteout_trick = [file(".wh.w", ""), hard("w2", "w")];
    let cases: Vec<Vec<Vec<u8>>> = vec![
        vec![file("../escape", "")],
        vec![file("a/../../escape", "")],
        vec![hard("stolen", "../secret")],
        vec![hard("stolen", "nothing")],
        vec![dir("d"), hard("h", "d")],
        vec![file("f", ""), hard("f", "f")],
        whiteout_trick.to_vec(),
        vec![file("f", ""), file("f/below", "")],
        vec![link("dangling", "nothing"), file("dangling/file", "")],
        vec![entry("disk", b'4', "", 0o666, b"")],
        vec![entry("whiteout", b'3', "", 0o666, b"")],
        vec![entry("./", FILE, "", 0o644, b"")],
        vec![link("empty", "")],
        vec![
            pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y")]),
            dir("d"),
        ],
        vec![
            pax(&[("SCHILY.xattr.user.overlay.redirect", b"/etc")]),
            dir("d"),
        ],
        vec![pax(&[("uid", b"4294967295")]), file("f", "")],
        vec![pax(&[("uid", b"4294967296")]), file("f", "")],
        vec![pax(&[("path", b"a\0b")]), file("f", "")],
        vec![pax(&[("path", "n".repeat(256).as_bytes())]), file("f", "")],
        vec![pax(&[("path", "d/".repeat(2100).as_bytes())]), dir("d")],
    ];
    for entries in cases {
        let layer = Layer::new();
        let result = layer.unpack(&entries);
        assert!(
            matches!(result, Err(Error::Refused { .. })),
            "{result:?} for {}",
            entries.concat().escape_ascii()
        );
        layer.assert_contained();
    }
}

#[test]
fn memory_for_directories_is_bounded() {
    let layer = Layer::new();
    let value = vec![b'x'; 60_000];
    let described = [pax(&[("SCHILY.xattr.user.big", &value)]), dir("d")].concat();
    let many: Vec<_> = (0..300)
        .map(|n| {
            let mut entry = described.clone();
            let at = entry.len() - 512;
            entry.truncate(at);
            entry.extend(dir(&format!("d{n}")));
            entry
        })
        .collect();
    let result = layer.unpack(&many);
    assert!(
        matches!(result, Err(Error::Refused { reason, .. }) if reason.contains("too many directories"))
    );
}

#[test]
fn holes_stay_holes() {
    let layer = Layer::new();
    let header = pax(&[
        ("GNU.sparse.size", b"1000000"),
        ("GNU.sparse.map", b"500000,3"),
        ("GNU.sparse.name", b"sparse"),
    ]);
    layer.unpack(&[header, file("fake", "abc")]).unwrap();
    let data = fs::read(layer.path("sparse")).unwrap();
    assert_eq!(
        (data.len(), &data[500_000..500_003]),
        (1_000_000, &b"abc"[..])
    );
    assert!(data.iter().filter(|&&byte| byte != 0).count() == 3);
    assert!(layer.stat("sparse").blocks() * 512 < 100_000);
}

#[test]
fn extended_attributes_are_set_or_left_out() {
    let layer = Layer::new();
    let header = pax(&[
        ("SCHILY.xattr.user.kept", b"1"),
        ("SCHILY.xattr.security.selinux", b"label"),
    ]);
    layer
        .unpack(&[header.clone(), file("file", ""), header, dir("dir")])
        .unwrap();
    for path in ["file", "dir"] {
        let opened = fs::File::open(layer.path(path)).unwrap();
        assert_eq!(
            xattr::get(&opened, c"user.kept").unwrap().as_deref(),
            Some(&b"1"[..])
        );
        assert_ne!(
            xattr::get(&opened, c"security.selinux")
                .ok()
                .flatten()
                .as_deref(),
            Some(&b"label"[..])
        );
    }
}

#[test]
fn what_only_root_may_set_is_set_by_root() {
    let layer = Layer::new();
    let owner = pax(&[("uid", b"1234"), ("gid", b"70000")]);
    let result = layer.unpack(&[
        owner.clone(),
        entry("setuid", FILE, "", 0o6755, b""),
        owner.clone(),
        link("link", "x"),
        owner,
        entry("./", DIR, "", 0o700, b""),
    ]);
    if !geteuid().is_root() {
        assert!(
            matches!(
                result,
                Err(Error::Io {
                    errno: Errno::EPERM,
                    ..
                })
            ),
            "{result:?}"
        );
        return;
    }
    let unpacked = result.unwrap();
    for path in ["setuid", "link", ""] {
        assert_eq!(
            (layer.stat(path).uid(), layer.stat(path).gid()),
            (1234, 70000),
            "{path}"
        );
    }
    assert_eq!(layer.stat("setuid").permissions().mode() & 0o7777, 0o6755);
    assert_eq!(
        unpacked.root,
        Some(RootAttributes {
            mode: 0o700,
            uid: 1234,
            gid: 70000
        })
    );
}
