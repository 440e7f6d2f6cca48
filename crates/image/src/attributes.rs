//! What a file or directory on disk has beside its content.

use crisp_sys::xattr;
use nix::errno::Errno;
use nix::sys::stat::{FileStat, Mode, fchmod, fstat, futimens};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

/// Attributes by which overlayfs would show something else than the layer holds.
pub(crate) const OVERLAY_XATTRS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// Attributes that an archive may have. Others are either the host's matter (labels of its security modules)
/// or overlayfs's own.
const ARCHIVED_XATTRS: [&[u8]; 4] = [
    b"security.capability",
    b"system.posix_acl_access",
    b"system.posix_acl_default",
    b"user.",
];

/// Whether an extended attribute of this name is taken from an archive, and written into one.
pub(crate) fn is_archived(xattr: &[u8]) -> bool {
    let mut prefixes = ARCHIVED_XATTRS.iter();
    prefixes.any(|prefix| xattr.starts_with(prefix))
}

/// Mode, owner, time and extended attributes, but overlayfs's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// None: whatever it is.
    pub(crate) mtime: Option<TimeSpec>,
    pub(crate) xattrs: Vec<(CString, Vec<u8>)>,
}

impl Attributes {
    pub(crate) fn read(file: &OwnedFd) -> nix::Result<Self> {
        let stat = fstat(file)?;
        Ok(Self {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: Some(modified(&stat)),
            xattrs: xattrs(file)?,
        })
    }

    /// Owner first, because changing it clears setuid bits and capabilities; times last, because all
    /// else changes them.
    pub(crate) fn apply(&self, file: &OwnedFd) -> nix::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        fchown(file, Some(uid), Some(gid))?;
        fchmod(file, Mode::from_bits_truncate(self.mode))?;
        for (name, value) in &self.xattrs {
            set_xattr(file, name, value)?;
        }
        match &self.mtime {
            Some(mtime) => futimens(file, mtime, mtime),
            None => Ok(()),
        }
    }
}

/// A file system without attributes for users, such as tmpfs, loses them without harm; capabilities and
/// access lists must not be lost.
pub(crate) fn set_xattr(file: impl AsFd, name: &CStr, value: &[u8]) -> nix::Result<()> {
    match xattr::set(file, name, value) {
        Err(Errno::ENOTSUP) if name.to_bytes().starts_with(b"user.") => Ok(()),
        result => result,
    }
}

/// When the content was last changed.
pub(crate) fn modified(stat: &FileStat) -> TimeSpec {
    TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec)
}

fn xattrs(file: &OwnedFd) -> nix::Result<Vec<(CString, Vec<u8>)>> {
    let names = match xattr::list(file) {
        Err(Errno::ENOTSUP) => return Ok(Vec::new()),
        names => names?,
    };
    let is_overlay = |name: &CString| {
        let mut prefixes = OVERLAY_XATTRS.iter();
        prefixes.any(|prefix| name.to_bytes().starts_with(prefix))
    };
    let mut found = Vec::new();
    for name in names.into_iter().filter(|name| !is_overlay(name)) {
        if let Some(value) = xattr::get(file, &name)? {
            found.push((name, value));
        }
    }
    found.sort();
    Ok(found)
}
