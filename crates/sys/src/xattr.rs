//! Extended attributes by file descriptor (xattr(7)).
//!
//! Descriptors opened with `O_PATH` serve [`set_by_path_fd`] alone: elsewhere the kernel answers EBADF.

use nix::errno::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd};

/// The longest value that the kernel stores (`XATTR_SIZE_MAX`).
pub const MAX_VALUE_LEN: usize = 65536;
/// The longest list of names that the kernel gives (`XATTR_LIST_MAX`).
const MAX_LIST_LEN: usize = 65536;

/// Sets an attribute, whether it exists or not (fsetxattr(2)).
///
/// # Errors
/// ENOTSUP: the file system or the kind of file has no such attributes; EPERM: the caller may not set
/// this one; ENOSPC, EDQUOT, E2BIG.
pub fn set(fd: impl AsFd, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: the name is NUL-terminated, and the value is readable for the length given; the kernel
    // copies both before the call returns.
    let result = unsafe {
        libc::fsetxattr(
            fd.as_fd().as_raw_fd(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    Errno::result(result).map(drop)
}

/// Sets an attribute of what a descriptor opened with `O_PATH` names, which may be a symbolic link
/// (setxattr(2) by the link in `/proc/self/fd`).
///
/// # Errors
/// As [`set`].
pub fn set_by_path_fd(fd: impl AsFd, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    let link = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let link = CString::new(link).expect("a number has no zero byte");
    // SAFETY: the path and the name are NUL-terminated, and the value is readable for the length
    // given; the kernel copies all before the call returns.
    let result = unsafe {
        libc::setxattr(
            link.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    Errno::result(result).map(drop)
}

/// The value of an attribute, if it exists (fgetxattr(2)).
///
/// # Errors
/// ENOTSUP: the file system has no attributes; EPERM: the caller may not read this one.
pub fn get(fd: impl AsFd, name: &CStr) -> Result<Option<Vec<u8>>, Errno> {
    let read = |buffer: &mut [u8]| {
        // SAFETY: the name is NUL-terminated, and the kernel writes at most the length given into a
        // buffer that is ours alone.
        unsafe {
            libc::fgetxattr(
                fd.as_fd().as_raw_fd(),
                name.as_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
            )
        }
    };
    match read_growing(MAX_VALUE_LEN, read) {
        Ok(value) => Ok(Some(value)),
        Err(Errno::ENODATA) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The names of all attributes that the caller may see (flistxattr(2)).
///
/// # Errors
/// ENOTSUP: the file system has no attributes.
pub fn list(fd: impl AsFd) -> Result<Vec<CString>, Errno> {
    let names = read_growing(MAX_LIST_LEN, |buffer| {
        // SAFETY: the kernel writes at most the length given into a buffer that is ours alone.
        unsafe {
            libc::flistxattr(
                fd.as_fd().as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
            )
        }
    })?;
    Ok(names
        .split_inclusive(|&byte| byte == 0)
        .filter_map(|name| CStr::from_bytes_with_nul(name).ok().map(CStr::to_owned))
        .collect())
}

/// Reads with a small buffer first, and with the largest that can be needed if that was too small.
fn read_growing(
    max_len: usize,
    read: impl Fn(&mut [u8]) -> libc::ssize_t,
) -> Result<Vec<u8>, Errno> {
    const FIRST_LEN: usize = 256;
    for len in [FIRST_LEN, max_len] {
        let mut buffer = vec![0; len];
        match Errno::result(read(&mut buffer)) {
            Ok(len) => {
                buffer.truncate(
                    usize::try_from(len).expect("a result that is no error is not negative"),
                );
                return Ok(buffer);
            }
            Err(Errno::ERANGE) if len < max_len => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::ERANGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_read_and_listed() {
        let file = tempfile::tempfile().unwrap();
        let long = vec![7; 1000];
        set(&file, c"user.short", b"value").unwrap();
        set(&file, c"user.long", &long).unwrap();
        set(&file, c"user.empty", b"").unwrap();
        assert_eq!(
            get(&file, c"user.short").unwrap().as_deref(),
            Some(&b"value"[..])
        );
        assert_eq!(get(&file, c"user.long").unwrap(), Some(long));
        assert_eq!(get(&file, c"user.empty").unwrap(), Some(Vec::new()));
        assert_eq!(get(&file, c"user.absent").unwrap(), None);
        let names = list(&file).unwrap();
        for name in [c"user.short", c"user.long", c"user.empty"] {
            assert!(
                names.iter().any(|listed| listed.as_c_str() == name),
                "{name:?}"
            );
        }
    }
}
