//! How much a container may write: a quota that the file system has for a project of the container's own.
//!
//! The directory of a snapshot belongs to the project, and so does all that is made in it: what the
//! container writes, its volumes, and what overlayfs needs. The file system keeps the project with the
//! directory and the limit with the project. No record is needed of either: a limit is set after the
//! directory has the project, and lifted before the directory goes.

use crate::Error;
use crisp_model::ContainerId;
use crisp_sys::quota;
use nix::errno::Errno;
use std::fs::File;
use std::io;
use std::path::Path;

/// The projects of containers: as many, from this number on. Administrators number theirs from 1, the
/// kubelet from 1,048,577.
const PROJECTS: u32 = 1 << 30;

/// How many projects are looked at for one that nobody has.
const TRIES: u32 = 64;

/// Limits what is going to be in an empty directory.
pub(crate) fn limit(dir: &Path, container: &ContainerId, limit_bytes: u64) -> Result<(), Error> {
    let opened = File::open(dir).map_err(|error| Error::io("open", dir, error))?;
    let fail = |errno: Errno| Error::io("limit", dir, errno);
    if !quota::enforces_projects(&opened).map_err(fail)? {
        let path = dir.to_owned();
        return Err(Error::NoQuotas { path });
    }
    let project = unused(&opened, container).map_err(fail)?;
    quota::set_project(&opened, project)
        .and_then(|()| quota::limit(&opened, project, Some(limit_bytes)))
        .map_err(fail)
}

/// Lifts the limit of a directory that is going to be removed; that it has none is fine, as it is that
/// there is no such directory.
pub(crate) fn lift(dir: &Path) -> Result<(), Error> {
    let opened = match File::open(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(|error| Error::io("open", dir, error))?,
    };
    // A file system without projects has no limits either.
    let project = quota::project(&opened).unwrap_or(0);
    if !(PROJECTS..2 * PROJECTS).contains(&project) {
        return Ok(());
    }
    match quota::limit(&opened, project, None) {
        // It was mounted anew, without quotas.
        Err(Errno::ESRCH | Errno::ENOSYS) => Ok(()),
        lifted => lifted.map_err(|errno| Error::io("lift the limit of", dir, errno)),
    }
}

/// A project without files and limits.
fn unused(on: &File, container: &ContainerId) -> nix::Result<u32> {
    let first = container.as_str().bytes().fold(0u32, |number, byte| {
        number.wrapping_mul(31).wrapping_add(byte.into())
    });
    let projects = (0..TRIES).map(|next| PROJECTS + first.wrapping_add(next) % PROJECTS);
    for project in projects {
        match quota::usage(on, project) {
            Ok(usage) if usage.inodes == 0 && usage.limit_bytes.is_none() => return Ok(project),
            // xfs keeps nothing of projects that nobody has used.
            Err(Errno::ENOENT) => return Ok(project),
            Ok(_) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::EBUSY)
}
