//! Layers of images: tar files, packed as registries serve them. Nothing is refused, so that the
//! hostile ones can be made as well.

use crate::image::Digest;
use std::io::Write;
use tar::{Builder, EntryType, Header};

/// How a layer's tar file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// One entry of a layer; root's and of a usual mode unless said otherwise.
#[derive(Debug, Clone)]
pub struct Entry {
    kind: EntryType,
    path: String,
    link: String,
    mode: u32,
    owner: (u64, u64),
    device: Option<(u32, u32)>,
    xattrs: Vec<(String, Vec<u8>)>,
    content: Vec<u8>,
}

impl Entry {
    fn new(kind: EntryType, path: &str, mode: u32) -> Self {
        Self {
            kind,
            path: path.to_owned(),
            link: String::new(),
            mode,
            owner: (0, 0),
            device: None,
            xattrs: Vec::new(),
            content: Vec::new(),
        }
    }

    #[must_use]
    pub fn directory(path: &str) -> Self {
        Self::new(EntryType::Directory, path, 0o755)
    }

    #[must_use]
    pub fn file(path: &str, content: impl Into<Vec<u8>>) -> Self {
        Self {
            content: content.into(),
            ..Self::new(EntryType::Regular, path, 0o644)
        }
    }

    #[must_use]
    pub fn program(path: &str, content: impl Into<Vec<u8>>) -> Self {
        Self::file(path, content).mode(0o755)
    }

    #[must_use]
    pub fn symlink(path: &str, to: &str) -> Self {
        Self {
            link: to.to_owned(),
            ..Self::new(EntryType::Symlink, path, 0o777)
        }
    }

    /// Another name of a file of the same layer or of one below it.
    #[must_use]
    pub fn hard_link(path: &str, to: &str) -> Self {
        Self {
            link: to.to_owned(),
            ..Self::new(EntryType::Link, path, 0o644)
        }
    }

    #[must_use]
    pub fn character_device(path: &str, major: u32, minor: u32) -> Self {
        Self {
            device: Some((major, minor)),
            ..Self::new(EntryType::Char, path, 0o666)
        }
    }

    /// Hides a path of the layers below (OCI image-spec, layer.md, "Whiteouts").
    #[must_use]
    pub fn whiteout(path: &str) -> Self {
        match path.rsplit_once('/') {
            Some((directory, name)) => Self::file(&format!("{directory}/.wh.{name}"), ""),
            None => Self::file(&format!(".wh.{path}"), ""),
        }
    }

    /// Hides all that the layers below have in a directory.
    #[must_use]
    pub fn opaque(directory: &str) -> Self {
        Self::file(&format!("{directory}/.wh..wh..opq"), "")
    }

    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    #[must_use]
    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.owner = (uid, gid);
        self
    }

    #[must_use]
    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.xattrs.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The header with the names exactly as given: the tar crate's own setters refuse `..` and
    /// absolute paths, which hostile layers need.
    fn header(&self) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(self.kind);
        header.set_mode(self.mode);
        header.set_uid(self.owner.0);
        header.set_gid(self.owner.1);
        header.set_mtime(1_700_000_000);
        header.set_size(self.content.len() as u64);
        let old = header.as_old_mut();
        old.name[..self.path.len()].copy_from_slice(self.path.as_bytes());
        old.linkname[..self.link.len()].copy_from_slice(self.link.as_bytes());
        if let Some((major, minor)) = self.device {
            header.set_device_major(major).expect("ustar has devices");
            header.set_device_minor(minor).expect("ustar has devices");
        }
        header.set_cksum();
        header
    }
}

/// A tar file in the making.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    entries: Vec<Entry>,
}

impl Layer {
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        Self {
            entries: entries.into_iter().collect(),
        }
    }

    #[must_use]
    pub fn gzip(&self) -> PackedLayer {
        self.pack(Packing::Gzip)
    }

    #[must_use]
    pub fn pack(&self, packing: Packing) -> PackedLayer {
        PackedLayer::new(self.tar(), packing)
    }

    fn tar(&self) -> Vec<u8> {
        let mut tar = Builder::new(Vec::new());
        for entry in &self.entries {
            let xattrs: Vec<(String, &[u8])> = entry
                .xattrs
                .iter()
                .map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.as_slice()))
                .collect();
            if !xattrs.is_empty() {
                let pairs = xattrs.iter().map(|(name, value)| (name.as_str(), *value));
                tar.append_pax_extensions(pairs).expect(IN_MEMORY);
            }
            tar.append(&entry.header(), entry.content.as_slice())
                .expect(IN_MEMORY);
        }
        tar.into_inner().expect(IN_MEMORY)
    }
}

const IN_MEMORY: &str = "writing to memory does not fail";

/// A layer as a registry serves it.
#[derive(Debug, Clone)]
pub struct PackedLayer {
    pub packing: Packing,
    /// Of the tar file inside.
    pub diff_id: Digest,
    pub tar: Vec<u8>,
    pub blob: Vec<u8>,
}

impl PackedLayer {
    /// Packs any bytes, whether they are a tar file or not.
    #[must_use]
    pub fn new(tar: Vec<u8>, packing: Packing) -> Self {
        let blob = match packing {
            Packing::Plain => tar.clone(),
            Packing::Gzip => {
                let level = flate2::Compression::fast();
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), level);
                gzip.write_all(&tar).expect(IN_MEMORY);
                gzip.finish().expect(IN_MEMORY)
            }
            Packing::Zstd => zstd::encode_all(tar.as_slice(), 1).expect(IN_MEMORY),
        };
        Self {
            packing,
            diff_id: Digest::of(&tar),
            tar,
            blob,
        }
    }
}
