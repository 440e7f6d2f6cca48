//! Sealed copies of programs in memory, so that what is executed cannot be changed by anybody: not by
//! an upgrade half done, and not by a container that reached the file (CVE-2019-5736).

use std::ffi::CStr;
use std::fs::{File, Permissions};
use std::io::{self, Seek};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

/// The kernel lets nobody look into a process whose program its user may not read (`dumpable` in
/// proc(5)): with this, a process that has given up root's privileges is closed from its execution on.
const EXECUTE_ONLY: u32 = 0o111;

/// Copies `source` from its start into an anonymous file to execute, of which neither content nor
/// size can change any more. `name` is what /proc shows of it.
///
/// # Errors
/// Of memfd_create(2), of reading `source`, or that memory is short.
pub fn sealed_copy(name: &CStr, source: &mut File) -> io::Result<OwnedFd> {
    let mut copy = File::from(create(name)?);
    source.rewind()?;
    io::copy(source, &mut copy)?;
    copy.set_permissions(Permissions::from_mode(EXECUTE_ONLY))?;
    seal(&copy)?;
    Ok(copy.into())
}

/// `MFD_EXEC` (Linux 6.3) says that the file is to be executed, which `vm.memfd_noexec` may demand;
/// older kernels refuse the flag and need none.
fn create(name: &CStr) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    match memfd_create(name, flags | libc::MFD_EXEC) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => memfd_create(name, flags),
        created => created,
    }
}

fn memfd_create(name: &CStr, flags: libc::c_uint) -> io::Result<OwnedFd> {
    // SAFETY: `name` is a valid C string.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn seal(file: &File) -> io::Result<()> {
    let seals = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: no pointers.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::Command;

    #[test]
    fn a_sealed_copy_runs_and_cannot_be_written() {
        let mut program = File::open("/bin/true").unwrap();
        let copy = sealed_copy(c"true", &mut program).unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), copy.as_raw_fd());
        assert!(Command::new(&path).status().unwrap().success());
        let mut file = File::from(copy);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o111);
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(0).is_err());
    }
}
