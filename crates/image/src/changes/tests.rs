use super::*;
use crate::unpack::opaque_xattr;
use ::tar::EntryType;
use crisp_sys::xattr;
use nix::sys::stat::{Mode, SFlag};
use std::collections::BTreeMap;
use std::fs::create_dir_all;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, Instant};

fn write_file(dir: &Path, path: &str, text: &str) {
    let path = dir.join(path);
    create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn whiteout(path: &Path) {
    use nix::sys::stat::mknodat;
    mknodat(nix::fcntl::AT_FDCWD, path, SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
}

fn make_opaque(path: &Path) {
    xattr::set(File::open(path).unwrap(), opaque_xattr(), b"y").unwrap();
}

/// What an archive says of each path: its kind, and its content or target.
fn read(archive: &Path) -> BTreeMap<String, (EntryType, String)> {
    let mut archive = ::tar::Archive::new(File::open(archive).unwrap());
    let entries = archive.entries().unwrap();
    let entries = entries.map(|entry| {
        let mut entry = entry.unwrap();
        let (path, kind) = (
            entry.path().unwrap().into_owned(),
            entry.header().entry_type(),
        );
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        if let Some(target) = entry.link_name().unwrap() {
            text = target.display().to_string();
        }
        (path.display().to_string(), (kind, text))
    });
    entries.collect()
}

#[test]
fn what_was_made_is_archived_and_what_was_deleted_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let (upper, lower) = (dir.path().join("upper"), dir.path().join("lower"));
    for path in [
        "etc/passwd",
        "gone/file",
        "anew/old",
        "anew/sub/old",
        "kept",
    ] {
        write_file(&lower, path, "image");
    }
    for path in ["etc/new", "anew/sub/new", "proc/x", "secret"] {
        write_file(&upper, path, path);
    }
    whiteout(&upper.join("gone"));
    whiteout(&upper.join("never-there"));
    make_opaque(&upper.join("anew"));
    symlink("/secret", upper.join("link")).unwrap();
    std::fs::hard_link(upper.join("secret"), upper.join("second")).unwrap();
    std::fs::set_permissions(upper.join("secret"), PermissionsExt::from_mode(0o4750)).unwrap();
    let path = dir.path().join("tar");
    let bounds = |bytes| Bounds {
        bytes,
        until: Instant::now() + Duration::from_secs(60),
    };
    let left_out = HashSet::from([PathBuf::from("proc")]);
    let archive = |bounds| {
        let file = File::create(&path).unwrap();
        write(
            &upper,
            std::slice::from_ref(&lower),
            &left_out,
            file,
            bounds,
        )
    };
    let mut deleted = archive(bounds(64 << 10)).unwrap();
    deleted.sort();
    assert_eq!(
        deleted,
        ["anew/old", "anew/sub/old", "gone"].map(PathBuf::from)
    );
    let found = read(&path);
    let expect = |path: &str, kind, text: &str| {
        assert_eq!(found[path], (kind, text.to_owned()), "{path}");
    };
    expect("etc/new", EntryType::Regular, "etc/new");
    expect("anew/sub/new", EntryType::Regular, "anew/sub/new");
    expect("link", EntryType::Symlink, "/secret");
    expect("second", EntryType::Regular, "secret");
    expect("secret", EntryType::Link, "second");
    let others = ["etc", "anew", "anew/sub"].map(|path| found[path].0);
    assert_eq!(others, [EntryType::Directory; 3]);
    assert_eq!(found.len(), 8, "{found:?}");
    let size = std::fs::metadata(&path).unwrap().len();
    let full = archive(bounds(size)).unwrap_err();
    assert!(matches!(full, Error::NoSpace { .. }), "{full}");
    let late = Bounds {
        bytes: 64 << 10,
        until: Instant::now() - Duration::from_secs(1),
    };
    assert!(archive(late).is_err());
    assert_eq!(std::fs::metadata(upper.join("secret")).unwrap().nlink(), 2);
}
