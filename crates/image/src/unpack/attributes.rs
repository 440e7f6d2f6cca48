//! Owners, modes, times and extended attributes of what is unpacked.

use super::Error;
use crate::attributes::{OVERLAY_XATTRS, is_archived, set_xattr};
use crate::tar::{Entry, Time};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmod, fchmodat, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, getegid, geteuid};
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

/// What an entry has beside its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    mtime: Time,
    xattrs: Vec<(CString, Vec<u8>)>,
}

impl Attributes {
    pub(super) fn of(entry: &Entry) -> Result<Self, Error> {
        Ok(Self {
            mode: entry.mode,
            uid: id(entry, entry.uid)?,
            gid: id(entry, entry.gid)?,
            mtime: entry.mtime,
            xattrs: xattrs(entry)?,
        })
    }

    /// Memory that this takes, about.
    pub(super) fn len(&self) -> usize {
        let xattrs = self
            .xattrs
            .iter()
            .map(|(name, value)| name.count_bytes() + value.len());
        size_of::<Self>() + xattrs.sum::<usize>()
    }

    /// Owner first, because changing it clears setuid bits and capabilities; times last, because all
    /// else changes them.
    pub(super) fn apply_to_file(&self, file: impl AsFd) -> Result<(), (&'static str, Errno)> {
        let file = file.as_fd();
        if self.has_other_owner() {
            fchown(
                file,
                Some(Uid::from_raw(self.uid)),
                Some(Gid::from_raw(self.gid)),
            )
            .map_err(|errno| ("change the owner of", errno))?;
        }
        fchmod(file, mode(self.mode)).map_err(|errno| ("change the mode of", errno))?;
        for (name, value) in &self.xattrs {
            set_xattr(file, name, value)
                .map_err(|errno| ("set an extended attribute of", errno))?;
        }
        let mtime = self.timespec();
        futimens(file, &mtime, &mtime).map_err(|errno| ("set the time of", errno))
    }

    /// For a symbolic link, which has no mode.
    pub(super) fn apply_to_link(
        &self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
    ) -> Result<(), (&'static str, Errno)> {
        self.apply_owner_at(parent, name)?;
        self.apply_time_at(parent, name)
    }

    /// For a device or a pipe that was just made, so that the name is not that of a symbolic link.
    pub(super) fn apply_to_node(
        &self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
    ) -> Result<(), (&'static str, Errno)> {
        self.apply_owner_at(parent, name)?;
        fchmodat(parent, name, mode(self.mode), FchmodatFlags::FollowSymlink)
            .map_err(|errno| ("change the mode of", errno))?;
        self.apply_time_at(parent, name)
    }

    fn apply_owner_at(
        &self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
    ) -> Result<(), (&'static str, Errno)> {
        if !self.has_other_owner() {
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        fchownat(
            parent,
            name,
            Some(uid),
            Some(gid),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )
        .map_err(|errno| ("change the owner of", errno))
    }

    fn apply_time_at(
        &self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
    ) -> Result<(), (&'static str, Errno)> {
        let mtime = self.timespec();
        utimensat(
            parent,
            name,
            &mtime,
            &mtime,
            UtimensatFlags::NoFollowSymlink,
        )
        .map_err(|errno| ("set the time of", errno))
    }

    /// Whether what we make is not owned as it should be from the start. The directories around it have
    /// no setgid bit yet, so it has our own ids.
    fn has_other_owner(&self) -> bool {
        self.uid != geteuid().as_raw() || self.gid != getegid().as_raw()
    }

    fn timespec(&self) -> TimeSpec {
        TimeSpec::new(self.mtime.seconds, i64::from(self.mtime.nanoseconds))
    }
}

fn id(entry: &Entry, id: u64) -> Result<u32, Error> {
    // The highest id means "leave it as it is" to the kernel.
    u32::try_from(id)
        .ok()
        .filter(|&id| id != u32::MAX)
        .ok_or_else(|| Error::refused(&entry.path, "its owner is no valid id"))
}

fn xattrs(entry: &Entry) -> Result<Vec<(CString, Vec<u8>)>, Error> {
    let mut accepted = Vec::new();
    for (name, value) in &entry.xattrs {
        if OVERLAY_XATTRS.iter().any(|prefix| name.starts_with(prefix)) {
            return Err(Error::refused(
                &entry.path,
                "it sets attributes of the overlay file system",
            ));
        }
        if is_archived(name) {
            let name = CString::new(name.clone())
                .map_err(|_| Error::refused(&entry.path, "the name of an attribute holds a NUL"))?;
            accepted.push((name, value.clone()));
        }
    }
    Ok(accepted)
}

pub(super) fn mode(bits: u32) -> Mode {
    Mode::from_bits_truncate(bits)
}

pub(super) fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}
