//! Layers as overlayfs would show them together, without mounting them.
//!
//! The layers are an image's, so hostile: everything goes by file descriptor, one name at a time, and
//! symbolic links are resolved here, with the stack's root as `/`.

use crate::unpack::{is_whiteout, opaque_xattr};
use crate::{Error, tree::kind_of};
use crisp_sys::xattr;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use std::collections::{BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;

/// Symbolic links that are followed on one way, as many as the kernel does.
const MAX_LINKS: usize = 40;

/// One directory in the layers that have it, topmost first.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    pub(crate) parts: Vec<Part>,
}

/// A directory in one layer.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// Counted from the top.
    pub(crate) layer: usize,
    pub(crate) fd: Rc<OwnedFd>,
}

impl Part {
    /// Without symbolic links, as none was followed to get here.
    fn place(&self) -> nix::Result<PathBuf> {
        let link = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        readlinkat(AT_FDCWD, link.as_str()).map(PathBuf::from)
    }
}

/// What a name stands for.
#[derive(Debug)]
pub(crate) enum Node {
    Directory(Directory),
    /// Anything else, as an entry of a directory of one layer.
    Other {
        parent: Part,
        name: OsString,
        stat: FileStat,
    },
}

impl Directory {
    /// The root of all that is stacked, given topmost first.
    pub(crate) fn root(lower_dirs: &[PathBuf]) -> Result<Self, Error> {
        let open = |(layer, path): (usize, &PathBuf)| {
            let file = File::open(path).map_err(|error| Error::io("open", path, error))?;
            Ok(Part {
                layer,
                fd: Rc::new(file.into()),
            })
        };
        let parts = lower_dirs
            .iter()
            .enumerate()
            .map(open)
            .collect::<Result<_, Error>>()?;
        Ok(Self { parts })
    }

    /// Looks one name up (kernel, filesystems/overlayfs.rst: the topmost counts; directories are merged
    /// down to a whiteout, an opaque directory, or something that is no directory).
    pub(crate) fn child(&self, name: &OsStr) -> nix::Result<Option<Node>> {
        let mut parts = Vec::new();
        for part in &self.parts {
            let stat = match fstatat(&*part.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Err(Errno::ENOENT) => continue,
                stat => stat?,
            };
            if kind_of(&stat) != SFlag::S_IFDIR {
                if parts.is_empty() && !is_whiteout(&stat) {
                    return Ok(Some(Node::Other {
                        parent: part.clone(),
                        name: name.to_owned(),
                        stat,
                    }));
                }
                break;
            }
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let fd = Rc::new(openat(&*part.fd, name, flags, Mode::empty())?);
            let is_opaque =
                matches!(xattr::get(&fd, opaque_xattr()), Ok(Some(value)) if value == b"y");
            parts.push(Part {
                layer: part.layer,
                fd,
            });
            if is_opaque {
                break;
            }
        }
        Ok((!parts.is_empty()).then_some(Node::Directory(Self { parts })))
    }

    /// The names that any layer has in it; one that is hidden by a layer above is no child.
    pub(crate) fn names(&self) -> nix::Result<BTreeSet<OsString>> {
        self.names_within(usize::MAX)
    }

    /// Like [`Self::names`]; `EOVERFLOW` when they are more than `max`.
    pub(crate) fn names_within(&self, max: usize) -> nix::Result<BTreeSet<OsString>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut names = BTreeSet::new();
        for part in &self.parts {
            for entry in Dir::openat(&*part.fd, ".", flags, Mode::empty())?.into_iter() {
                let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
                if name != "." && name != ".." {
                    names.insert(name);
                }
                if names.len() > max {
                    return Err(Errno::EOVERFLOW);
                }
            }
        }
        Ok(names)
    }

    /// Looks a path up, following symbolic links, with `self` as `/`.
    pub(crate) fn resolve(&self, path: &OsStr) -> nix::Result<Option<Node>> {
        let mut way = vec![self.clone()];
        let mut todo = components(path);
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                way.truncate((way.len() - 1).max(1));
                continue;
            }
            match way[way.len() - 1].child(&name)? {
                None => return Ok(None),
                Some(Node::Directory(directory)) => way.push(directory),
                Some(Node::Other { parent, stat, .. }) if kind_of(&stat) == SFlag::S_IFLNK => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::ELOOP);
                    }
                    let target = readlinkat(&*parent.fd, name.as_os_str())?;
                    if target.as_bytes().starts_with(b"/") {
                        way.truncate(1);
                    }
                    for component in components(&target).into_iter().rev() {
                        todo.push_front(component);
                    }
                }
                Some(other) => return Ok(todo.is_empty().then_some(other)),
            }
        }
        Ok(way.pop().map(Node::Directory))
    }

    /// Where on disk a directory is, in each layer that has a part in it, topmost first; or a regular
    /// file. None if the path leads nowhere or to something else.
    pub(crate) fn places(&self, path: &str) -> Result<Option<Vec<PathBuf>>, Error> {
        let io = |errno| Error::io("look up", path, errno);
        match self.resolve(OsStr::new(path)).map_err(io)? {
            Some(Node::Directory(directory)) => {
                let places = directory.parts.iter().map(Part::place);
                places.collect::<nix::Result<_>>().map(Some).map_err(io)
            }
            Some(Node::Other { parent, name, stat }) if kind_of(&stat) == SFlag::S_IFREG => {
                let place = parent.place().map_err(io)?;
                Ok(Some(vec![place.join(name)]))
            }
            _ => Ok(None),
        }
    }

    /// The content of a regular file; none if the path leads nowhere or to something else.
    pub(crate) fn read_file(&self, path: &str, max_bytes: usize) -> Result<Option<Vec<u8>>, Error> {
        let found = self
            .resolve(OsStr::new(path))
            .map_err(|errno| Error::io("look up", path, errno))?;
        match found {
            Some(Node::Other { parent, name, stat }) if kind_of(&stat) == SFlag::S_IFREG => {
                read_bounded(&parent, &name, path, max_bytes).map(Some)
            }
            _ => Ok(None),
        }
    }
}

fn components(path: &OsStr) -> VecDeque<OsString> {
    path.as_bytes()
        .split(|&byte| byte == b'/')
        .filter(|component| !matches!(*component, b"" | b"."))
        .map(|component| OsStr::from_bytes(component).to_owned())
        .collect()
}

fn read_bounded(
    parent: &Part,
    name: &OsStr,
    path: &str,
    max_bytes: usize,
) -> Result<Vec<u8>, Error> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = openat(&*parent.fd, name, flags, Mode::empty())
        .and_then(|file| fstat(&file).map(|stat| (file, stat)))
        .map_err(|errno| Error::io("open", path, errno))?;
    let (file, stat) = file;
    if kind_of(&stat) != SFlag::S_IFREG {
        return Err(Error::io("read", path, Errno::EINVAL));
    }
    let mut bytes = Vec::new();
    File::from(file)
        .take(max_bytes as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io("read", path, error))?;
    if bytes.len() > max_bytes {
        return Err(Error::refused(
            path,
            format!("it is larger than {max_bytes} bytes"),
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::mknodat;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use tempfile::TempDir;

    /// Two layers, the upper one first.
    struct Layers(TempDir);

    impl Layers {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for layer in ["upper", "lower"] {
                fs::create_dir_all(dir.path().join(layer).join("etc")).unwrap();
            }
            Self(dir)
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn write(&self, path: &str, text: &str) {
            fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
            fs::write(self.path(path), text).unwrap();
        }

        fn read(&self, path: &str) -> Option<String> {
            let root = Directory::root(&[self.path("upper"), self.path("lower")]).unwrap();
            root.read_file(path, 100)
                .unwrap()
                .map(|bytes| String::from_utf8(bytes).unwrap())
        }
    }

    fn whiteout(path: &Path) {
        mknodat(nix::fcntl::AT_FDCWD, path, SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
    }

    #[test]
    fn the_topmost_file_counts_and_directories_are_merged() {
        let layers = Layers::new();
        layers.write("lower/etc/passwd", "lower");
        layers.write("lower/etc/group", "group");
        assert_eq!(layers.read("etc/passwd").as_deref(), Some("lower"));
        layers.write("upper/etc/passwd", "upper");
        assert_eq!(layers.read("/etc/passwd").as_deref(), Some("upper"));
        assert_eq!(layers.read("etc/group").as_deref(), Some("group"));
        assert_eq!(layers.read("etc"), None);
        assert_eq!(layers.read("etc/passwd/x"), None);
    }

    #[test]
    fn whiteouts_and_opaque_directories_hide() {
        let layers = Layers::new();
        layers.write("lower/etc/passwd", "x");
        layers.write("lower/opaque/file", "x");
        layers.write("lower/gone/file", "x");
        whiteout(&layers.path("upper/etc/passwd"));
        whiteout(&layers.path("upper/gone"));
        layers.write("upper/opaque/other", "y");
        let opaque = File::open(layers.path("upper/opaque")).unwrap();
        xattr::set(&opaque, opaque_xattr(), b"y").unwrap();
        for hidden in ["etc/passwd", "gone/file", "opaque/file"] {
            assert_eq!(layers.read(hidden), None, "{hidden}");
        }
        assert_eq!(layers.read("opaque/other").as_deref(), Some("y"));
    }

    #[test]
    fn links_lead_nowhere_but_into_the_stack() {
        let layers = Layers::new();
        layers.write("secret", "outside");
        layers.write("lower/etc/real", "inside");
        layers.write("lower/secret", "the image's own");
        for (name, target) in [
            ("absolute", "/etc/real"),
            ("relative", "../../../etc/./real"),
            ("chain", "absolute"),
            ("out", "../../../../secret"),
            ("loop", "loop"),
            ("proc", "/proc/self/root/etc/passwd"),
        ] {
            symlink(target, layers.path("upper/etc").join(name)).unwrap();
        }
        symlink("/etc", layers.path("upper/etcetera")).unwrap();
        for path in ["etc/absolute", "etc/relative", "etc/chain", "etcetera/real"] {
            assert_eq!(layers.read(path).as_deref(), Some("inside"), "{path}");
        }
        assert_eq!(layers.read("etc/out").as_deref(), Some("the image's own"));
        assert_eq!(
            layers.read("../../secret").as_deref(),
            Some("the image's own")
        );
        assert_eq!(layers.read("etc/proc"), None);
        let root = Directory::root(&[layers.path("upper"), layers.path("lower")]).unwrap();
        assert!(matches!(
            root.read_file("etc/loop", 100),
            Err(Error::Io { .. })
        ));
    }

    #[test]
    fn a_path_is_found_in_every_layer_that_has_a_part_in_it() {
        let layers = Layers::new();
        layers.write("lower/model/big", "weights");
        layers.write("lower/model/old/x", "");
        layers.write("upper/model/small", "weights");
        layers.write("lower/only/file", "");
        symlink("/model", layers.path("upper/link")).unwrap();
        let root = Directory::root(&[layers.path("upper"), layers.path("lower")]).unwrap();
        let places = |path| root.places(path).unwrap();
        let at = |paths: &[&str]| Some(paths.iter().map(|path| layers.path(path)).collect());
        assert_eq!(places(""), at(&["upper", "lower"]));
        assert_eq!(places("model"), at(&["upper/model", "lower/model"]));
        assert_eq!(places("link"), at(&["upper/model", "lower/model"]));
        assert_eq!(places("../../link/big"), at(&["lower/model/big"]));
        assert_eq!(places("only"), at(&["lower/only"]));
        for missing in ["none", "model/small/x"] {
            assert_eq!(places(missing), None, "{missing}");
        }
        whiteout(&layers.path("upper/only"));
        assert_eq!(places("only/file"), None);
    }

    #[test]
    fn reading_is_bounded_and_waits_for_nothing() {
        let layers = Layers::new();
        layers.write("lower/etc/passwd", &"x".repeat(101));
        let root = Directory::root(&[layers.path("upper"), layers.path("lower")]).unwrap();
        assert!(matches!(
            root.read_file("etc/passwd", 100),
            Err(Error::Refused { .. })
        ));
        assert_eq!(
            root.read_file("etc/passwd", 101).unwrap().unwrap().len(),
            101
        );
        nix::unistd::mkfifo(&layers.path("upper/etc/pipe"), Mode::S_IRWXU).unwrap();
        assert_eq!(layers.read("etc/pipe"), None);
    }
}
