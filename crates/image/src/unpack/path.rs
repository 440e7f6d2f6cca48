//! The paths of a layer's entries, brought into one form and checked.

use super::Error;

/// The prefix of names that hide something of the layers below (OCI image spec, layer.md § Whiteouts).
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// Names with this prefix are AUFS's own, but for the opaque marker.
const AUFS: &[u8] = b".wh..wh.";
/// Hides all that the layers below have in the directory.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";

/// The longest name and the longest path (limits.h: `NAME_MAX`, `PATH_MAX` with its NUL).
const MAX_NAME_LEN: usize = 255;
const MAX_PATH_LEN: usize = 4095;

/// What an entry's path asks for. Paths are relative, without `.`, `..` and repeated slashes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The root of the layer itself.
    Root,
    Path(Path),
    /// Hide this path of the layers below.
    Whiteout(Path),
    /// Hide all that the layers below have in this directory; the empty path is the root.
    Opaque(Vec<u8>),
    /// AUFS's own files mean nothing here.
    Ignored,
}

/// A directory and a name in it. The directory is empty for the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) parent: Vec<u8>,
    pub(super) name: Vec<u8>,
}

impl Path {
    pub(super) fn whole(&self) -> Vec<u8> {
        join(&self.parent, &self.name)
    }
}

pub(super) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() {
        name.to_vec()
    } else {
        [parent, b"/", name].concat()
    }
}

impl Target {
    pub(super) fn parse(path: &[u8]) -> Result<Self, Error> {
        let path = normalise(path)?;
        let mut components: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
        let name = components.pop().unwrap_or_default();
        if components
            .iter()
            .any(|component| component.starts_with(AUFS))
        {
            return Ok(Self::Ignored);
        }
        if components
            .iter()
            .any(|component| component.starts_with(WHITEOUT))
        {
            return Err(Error::refused(&path, "it is inside of a whiteout"));
        }
        let parent = components.join(&b'/');
        let in_parent = |name: &[u8]| Path {
            parent: parent.clone(),
            name: name.to_vec(),
        };
        Ok(match name {
            b"" => Self::Root,
            OPAQUE => Self::Opaque(parent),
            _ if name.starts_with(AUFS) => Self::Ignored,
            _ => match name.strip_prefix(WHITEOUT) {
                Some(b"" | b"." | b"..") => {
                    return Err(Error::refused(&path, "it is a whiteout of nothing"));
                }
                Some(hidden) => Self::Whiteout(in_parent(hidden)),
                None => Self::Path(in_parent(name)),
            },
        })
    }
}

/// The path of a hard link's target.
pub(super) fn parse_link(path: &[u8]) -> Result<Path, Error> {
    let path = normalise(path)?;
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => Ok(Path {
            parent: path[..slash].to_vec(),
            name: path[slash + 1..].to_vec(),
        }),
        None if path.is_empty() => Err(Error::refused(&path, "it is a hard link to the root")),
        None => Ok(Path {
            parent: Vec::new(),
            name: path,
        }),
    }
}

/// Drops slashes at the beginning and what changes nothing. A path that begins with a slash is one below
/// the layer's root, as ko and kaniko write them; `..` is written by nobody who means well.
fn normalise(path: &[u8]) -> Result<Vec<u8>, Error> {
    if path.contains(&0) {
        return Err(Error::refused(path, "its name holds a NUL"));
    }
    let mut normal = Vec::with_capacity(path.len());
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(Error::refused(path, "its name holds `..`")),
            _ if component.len() > MAX_NAME_LEN => {
                return Err(Error::refused(path, "its name is longer than 255 bytes"));
            }
            _ => {
                if !normal.is_empty() {
                    normal.push(b'/');
                }
                normal.extend_from_slice(component);
            }
        }
    }
    if normal.len() > MAX_PATH_LEN {
        return Err(Error::refused(path, "its path is longer than 4095 bytes"));
    }
    Ok(normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(parent: &str, name: &str) -> Path {
        Path {
            parent: parent.into(),
            name: name.into(),
        }
    }

    #[test]
    fn paths_are_told_apart() {
        let cases = [
            ("./", Target::Root),
            ("/", Target::Root),
            ("", Target::Root),
            ("a", Target::Path(path("", "a"))),
            ("./a//b/./c/", Target::Path(path("a/b", "c"))),
            ("/ko-app/program", Target::Path(path("ko-app", "program"))),
            ("a/.wh.b", Target::Whiteout(path("a", "b"))),
            ("a/.wh..wh..opq", Target::Opaque(b"a".to_vec())),
            (".wh..wh..opq", Target::Opaque(Vec::new())),
            (".wh..wh.plnk/1.2", Target::Ignored),
            (".wh..wh.aufs", Target::Ignored),
            ("..a/b..", Target::Path(path("..a", "b.."))),
        ];
        for (text, wanted) in cases {
            assert_eq!(Target::parse(text.as_bytes()).unwrap(), wanted, "{text}");
        }
    }

    #[test]
    fn hostile_paths_are_refused() {
        let long_name = "n".repeat(256);
        let long_path = "abcdefg/".repeat(513);
        let bad = [
            "..",
            "a/../b",
            "/..",
            "a/..",
            "../../etc/passwd",
            ".wh.",
            ".wh..",
            ".wh...",
            ".wh.a/b",
            "a\0b",
            &long_name,
            &long_path,
        ];
        for text in bad {
            assert!(Target::parse(text.as_bytes()).is_err(), "{text:?}");
        }
        for text in ["", "/", "../a", "a/../../b"] {
            assert!(parse_link(text.as_bytes()).is_err(), "{text:?}");
        }
        assert_eq!(parse_link(b"/a/b").unwrap(), path("a", "b"));
    }
}
