//! The null device of a container.

use crate::error::{Context, StartError};
use crate::plan::Stdio;
use crisp_sys::path::{Symlinks, open_in_root};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{SFlag, fstat, makedev};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Major 1, minor 3 (Documentation/admin-guide/devices.txt).
pub(super) fn is_null(file: impl AsFd) -> nix::Result<bool> {
    let stat = fstat(file)?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    Ok(kind == SFlag::S_IFCHR && stat.st_rdev == makedev(1, 3))
}

/// The container's own null device, for a process whose standard input is the host's: that is a file of a
/// mount that the container does not have, and a process with one cannot be checkpointed. None: it has
/// another input, or the container has no null device where it belongs.
pub(super) fn own(root: &OwnedFd, stdio: &Stdio) -> Result<Option<OwnedFd>, StartError> {
    let path = Path::new("/dev/null");
    match stdio {
        Stdio::Pipes([input, ..]) if is_null(input).step("look at the standard input", "")? => {}
        _ => return Ok(None),
    }
    // Whatever else is there must not be opened: that could have effects.
    let found = open_in_root(root, path, OFlag::O_PATH, Symlinks::Refuse);
    if !found.is_ok_and(|found| is_null(found) == Ok(true)) {
        return Ok(None);
    }
    // Another may have come in its place, and a volume may allow no devices.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
    let opened = open_in_root(root, path, flags, Symlinks::Refuse).ok();
    Ok(opened.filter(|opened| is_null(opened) == Ok(true) && make_blocking(opened).is_ok()))
}

/// Takes back `O_NONBLOCK`, which whoever has the file would see.
fn make_blocking(file: &OwnedFd) -> nix::Result<()> {
    fcntl(file, FcntlArg::F_SETFL(OFlag::O_RDONLY)).map(drop)
}
