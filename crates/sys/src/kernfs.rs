//! Files of cgroups by their ids, to which the kernel goes without a walk through names.
//!
//! A walk takes a lock and references at each directory on the way, as kernfs has no way without (it leaves
//! RCU walks): of four directories it is half of what it takes to open a file. The id is what a file handle
//! of a kernfs holds that has handles, as that of sysfs has not (name_to_handle_at(2), `FILEID_KERNFS` in
//! linux/exportfs.h). It is never that of another file later.

use libc::file_handle;
use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::ffi::{c_int, c_uint};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::process::owned_fd;

/// linux/exportfs.h.
const FILEID_KERNFS: c_int = 0xfe;

/// A handle whose content is an id.
#[repr(C)]
struct Handle {
    header: file_handle,
    id: [u8; 8],
}

impl Handle {
    fn new(kind: c_int, id: u64) -> Self {
        let id = id.to_ne_bytes();
        Self {
            header: file_handle {
                handle_bytes: c_uint::try_from(id.len()).expect("eight"),
                handle_type: kind,
                f_handle: [],
            },
            id,
        }
    }
}

/// The id of a file below a directory.
///
/// # Errors
/// `EOPNOTSUPP`: its file system is of another kind. Those of name_to_handle_at(2).
pub fn id(directory: impl AsFd, path: &str) -> nix::Result<NonZeroU64> {
    let mut handle = Handle::new(0, 0);
    let mut mount: c_int = 0;
    let result = path.with_nix_path(|path| {
        // SAFETY: the path ends with NUL, and the handle has room for as many bytes as it says.
        unsafe {
            libc::name_to_handle_at(
                directory.as_fd().as_raw_fd(),
                path.as_ptr(),
                (&raw mut handle).cast(),
                &raw mut mount,
                0,
            )
        }
    })?;
    match Errno::result(result) {
        Ok(_) if handle.header.handle_type == FILEID_KERNFS => {
            NonZeroU64::new(u64::from_ne_bytes(handle.id)).ok_or(Errno::EOPNOTSUPP)
        }
        // Those of others may be longer.
        Ok(_) | Err(Errno::EOVERFLOW) => Err(Errno::EOPNOTSUPP),
        Err(error) => Err(error),
    }
}

/// Opens the file that has this id in the file system of `directory`, which is open for reading.
///
/// # Errors
/// `ESTALE`: it is no more. `EPERM` without `CAP_DAC_READ_SEARCH` in the first user namespace.
pub fn open(directory: impl AsFd, id: NonZeroU64, flags: OFlag) -> nix::Result<OwnedFd> {
    let mut handle = Handle::new(FILEID_KERNFS, id.get());
    let directory = directory.as_fd().as_raw_fd();
    // SAFETY: the handle is as long as it says.
    let fd = unsafe { libc::open_by_handle_at(directory, (&raw mut handle).cast(), flags.bits()) };
    owned_fd(fd.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::open as open_path;
    use nix::sys::stat::Mode;

    #[test]
    fn a_file_has_an_id_in_file_systems_of_this_kind_only() {
        let directory = |path: &str| {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            open_path(path, flags, Mode::empty()).unwrap()
        };
        assert_eq!(id(directory("/proc"), "self/stat"), Err(Errno::EOPNOTSUPP));
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("file"), "").unwrap();
        let root = directory(root.path().to_str().unwrap());
        assert_eq!(id(&root, "file"), Err(Errno::EOPNOTSUPP));
        assert_eq!(id(&root, "other"), Err(Errno::ENOENT));
    }
}
