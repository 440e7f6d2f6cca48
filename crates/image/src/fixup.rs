//! Layers are unpacked each alone, so that they can be shared and unpacked at the same time. Some
//! archives have files in directories that they do not describe (`etc/passwd` without `etc/`): there the
//! attributes of the layers below hold, which are not known while one layer is unpacked.
//!
//! When an image is complete, every such directory is looked at in the whole stack. If what overlayfs
//! would show is not what the layers say together, the image gets one more layer on top, which holds
//! nothing but directories with the right attributes. Hardly any image needs one.

use crate::attributes::Attributes;
use crate::layers::{Layer, Layers};
use crate::stack::{Directory, Node, Part};
use crate::sums::Coverage;
use crate::unpack::Unpacked;
use crate::{Digest, Error};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{getegid, geteuid};
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

/// The mode of a directory that no layer describes.
const DEFAULT_MODE: u32 = 0o755;

/// Directories and what they ought to have, parents before what is in them.
type Plan = BTreeMap<Vec<u8>, Attributes>;

/// The chain id of a stack of layers (OCI image spec, config.md § Layer ChainID), base first.
pub(crate) fn chain_id(diff_ids: &[Digest]) -> Digest {
    let mut ids = diff_ids.iter();
    let first = ids.next().cloned().unwrap_or_else(|| Digest::of(b""));
    ids.fold(first, |chain, id| {
        Digest::of(format!("{chain} {id}").as_bytes())
    })
}

/// Makes the fix-up layer of a stack, given topmost first, if it needs one.
pub(crate) fn make(
    layers: &Arc<Layers>,
    stack: &[Arc<Layer>],
    key: Digest,
) -> Result<Option<Arc<Layer>>, Error> {
    if stack.len() < 2 || !stack.iter().any(|layer| layer.record.has_implicit_dirs) {
        return Ok(None);
    }
    if let Some(layer) = layers.get(&key) {
        return Ok(Some(layer));
    }
    let implicit = stack
        .iter()
        .map(|layer| layers.implicit_dirs(layer).map(HashSet::from_iter))
        .collect::<Result<Vec<HashSet<Vec<u8>>>, Error>>()?;
    let lower_dirs: Vec<PathBuf> = stack
        .iter()
        .map(|layer| layers.lower_dir(layer.number))
        .collect();
    let plan = plan(&Directory::root(&lower_dirs)?, &implicit)?;
    if plan.is_empty() {
        return Ok(None);
    }
    let staged = layers.stage()?;
    let root = staged.open_fs_dir()?;
    write(&root, &plan).map_err(|errno| Error::io("write", staged.fs_dir(), errno))?;
    // There are no files: that there are none is what is checked.
    let sums_written = staged.sums()?.finish();
    sums_written.map_err(|error| Error::io("write the checksums in", staged.fs_dir(), error))?;
    let inodes = plan.len() as u64;
    staged
        .commit(
            key,
            &Unpacked {
                bytes: inodes * 4096,
                inodes,
                sums: Coverage::Whole,
                ..Unpacked::default()
            },
        )
        .map(Some)
}

fn plan(root: &Directory, implicit: &[HashSet<Vec<u8>>]) -> Result<Plan, Error> {
    let paths: HashSet<&Vec<u8>> = implicit.iter().flatten().collect();
    let mut plan = Plan::new();
    for path in paths {
        let mut ancestors = Plan::new();
        let is_wrong = examine(root, path, implicit, &mut ancestors)
            .map_err(|errno| Error::io("look up", OsStr::from_bytes(path), errno))?;
        if is_wrong {
            plan.append(&mut ancestors);
        }
    }
    Ok(plan)
}

/// Walks down to `path` and notes what each directory on the way ought to have. Tells whether the last
/// one would be shown with something else.
fn examine(
    root: &Directory,
    path: &[u8],
    implicit: &[HashSet<Vec<u8>>],
    plan: &mut Plan,
) -> nix::Result<bool> {
    let mut directory = root.clone();
    let mut is_wrong = false;
    let ends = path
        .iter()
        .enumerate()
        .filter(|&(_, &byte)| byte == b'/')
        .map(|(at, _)| at);
    let mut start = 0;
    for end in ends.chain([path.len()]) {
        let Some(Node::Directory(child)) = directory.child(OsStr::from_bytes(&path[start..end]))?
        else {
            return Ok(false);
        };
        let at = &path[..end];
        let describing = child
            .parts
            .iter()
            .find(|part| !implicit[part.layer].contains(at));
        let right = describing.map_or_else(|| Ok(undescribed()), attributes)?;
        let shown = child
            .parts
            .first()
            .map_or_else(|| Ok(undescribed()), attributes)?;
        is_wrong = !same(&right, &shown);
        plan.insert(at.to_vec(), right);
        directory = child;
        start = end + 1;
    }
    Ok(is_wrong)
}

fn undescribed() -> Attributes {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    Attributes {
        mode: DEFAULT_MODE,
        uid,
        gid,
        mtime: None,
        xattrs: Vec::new(),
    }
}

/// Times are not worth a layer.
fn same(a: &Attributes, b: &Attributes) -> bool {
    (a.mode, a.uid, a.gid, &a.xattrs) == (b.mode, b.uid, b.gid, &b.xattrs)
}

fn attributes(part: &Part) -> nix::Result<Attributes> {
    Attributes::read(&part.fd)
}

fn write(root: &OwnedFd, plan: &Plan) -> nix::Result<()> {
    let open = |path: &[u8]| {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(root, OsStr::from_bytes(path), flags, Mode::empty())
    };
    for path in plan.keys() {
        mkdirat(root, OsStr::from_bytes(path), Mode::S_IRWXU)?;
    }
    for (path, attributes) in plan.iter().rev() {
        attributes.apply(&open(path)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sums;
    use crate::tar::tests::{end, entry};
    use crate::unpack::unpack;
    use std::fs;
    use std::ops::ControlFlow;
    use std::os::unix::fs::PermissionsExt;

    const DIR: u8 = b'5';
    const FILE: u8 = b'0';

    struct Store {
        _dir: tempfile::TempDir,
        layers: Arc<Layers>,
    }

    impl Store {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let layers = Layers::open(dir.path()).unwrap();
            Self { _dir: dir, layers }
        }

        fn add(&self, entries: &[Vec<u8>]) -> Arc<Layer> {
            let bytes = [entries.concat(), end()].concat();
            let staged = self.layers.stage().unwrap();
            let unpacked = unpack(
                &bytes[..],
                staged.open_fs_dir().unwrap(),
                sums::Writer::none(),
            )
            .unwrap();
            staged.commit(Digest::of(&bytes), &unpacked).unwrap()
        }

        fn fixup(&self, stack: &[&Arc<Layer>]) -> Option<PathBuf> {
            let stack: Vec<_> = stack.iter().map(|&layer| layer.clone()).collect();
            let layer = make(&self.layers, &stack, Digest::of(b"fixup")).unwrap()?;
            Some(self.layers.lower_dir(layer.number))
        }
    }

    fn mode(path: PathBuf) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn an_undescribed_directory_keeps_what_the_layers_below_say() {
        let store = Store::new();
        let base = store.add(&[
            entry("tmp/", DIR, "", 0o1777, b""),
            entry("var/", DIR, "", 0o711, b""),
            entry("var/deep/", DIR, "", 0o700, b""),
            entry("plain/", DIR, "", 0o755, b""),
        ]);
        let upper = store.add(&[
            entry("tmp/file", FILE, "", 0o644, b""),
            entry("var/deep/file", FILE, "", 0o644, b""),
            entry("plain/file", FILE, "", 0o644, b""),
            entry("new/file", FILE, "", 0o644, b""),
        ]);
        let fixup = store.fixup(&[&upper, &base]).unwrap();
        assert_eq!(mode(fixup.join("tmp")), 0o1777);
        assert_eq!(mode(fixup.join("var")), 0o711);
        assert_eq!(mode(fixup.join("var/deep")), 0o700);
        assert!(!fixup.join("plain").exists() && !fixup.join("new").exists());
        assert_eq!(fs::read_dir(fixup.join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn what_is_missing_of_it_is_found() {
        let store = Store::new();
        let base = store.add(&[entry("tmp/", DIR, "", 0o1777, b"")]);
        let upper = store.add(&[entry("tmp/file", FILE, "", 0o644, b"")]);
        let made = make(&store.layers, &[upper, base], Digest::of(b"fixup")).unwrap();
        let layer = made.unwrap();
        let verify = || store.layers.verify(&layer, |_| ControlFlow::Continue(()));
        assert_eq!(layer.record.sums, Coverage::Whole);
        assert_eq!(verify(), [""; 0]);
        fs::remove_dir(store.layers.lower_dir(layer.number).join("tmp")).unwrap();
        assert_eq!(verify().len(), 1);
    }

    #[test]
    fn nothing_is_made_when_nothing_is_wrong() {
        let store = Store::new();
        let base = store.add(&[entry("tmp/", DIR, "", 0o1777, b"")]);
        let described = store.add(&[
            entry("tmp/", DIR, "", 0o700, b""),
            entry("tmp/file", FILE, "", 0o644, b""),
        ]);
        let undescribed = store.add(&[entry("other/file", FILE, "", 0o644, b"")]);
        assert_eq!(store.fixup(&[&described, &base]), None);
        assert_eq!(store.fixup(&[&undescribed, &base]), None);
        assert_eq!(store.fixup(&[&undescribed]), None);
    }

    #[test]
    fn what_was_hidden_on_the_way_says_nothing() {
        let store = Store::new();
        let base = store.add(&[entry("tmp/", DIR, "", 0o1777, b"")]);
        let hiding = store.add(&[entry(".wh.tmp", FILE, "", 0o644, b"")]);
        let upper = store.add(&[entry("tmp/file", FILE, "", 0o644, b"")]);
        assert_eq!(store.fixup(&[&upper, &hiding, &base]), None);
        let described_again = store.add(&[entry("tmp/", DIR, "", 0o700, b"")]);
        assert_eq!(
            mode(
                store
                    .fixup(&[&upper, &described_again, &hiding, &base])
                    .unwrap()
                    .join("tmp")
            ),
            0o700
        );
    }

    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let [a, b] = [b"a", b"b"].map(|text| Digest::of(text));
        assert_eq!(chain_id(std::slice::from_ref(&a)), a);
        assert_eq!(
            chain_id(&[a.clone(), b.clone()]),
            Digest::of(format!("{a} {b}").as_bytes())
        );
    }
}
