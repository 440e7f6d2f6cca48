//! The last steps: descriptors, working directory, and the execution itself.

use crate::error::{Context, Reason, StartError};
use crate::spec::{ProcessPlan, c_path};
use crisp_sys::path::{Symlinks, open_in_root};
use crisp_sys::process::{StdioNumber, close_on_exec, install_stdio, reset_signals};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{AccessFlags, access, execve, fchdir, getcwd};
use std::ffi::{CStr, OsStr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Makes these the standard descriptors.
pub(super) fn install(stdio: [BorrowedFd<'_>; 3]) -> Result<(), StartError> {
    let numbers = [StdioNumber::Input, StdioNumber::Output, StdioNumber::Error];
    for (fd, number) in stdio.into_iter().zip(numbers) {
        install_stdio(fd, number).step("set up the standard descriptors", "")?;
    }
    Ok(())
}

/// Enters the working directory, and makes sure that it is one inside of the root: a process that
/// starts in a directory of the host has the host.
pub(super) fn enter_working_directory(
    root: &OwnedFd,
    process: &ProcessPlan,
) -> Result<(), StartError> {
    let path = &process.working_directory;
    let fail = |errno| StartError::working_directory(path, errno);
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let directory = open_in_root(root, path, flags, Symlinks::Follow).map_err(fail)?;
    fchdir(&directory).map_err(fail)?;
    match getcwd() {
        Ok(path) if path.is_absolute() => Ok(()),
        _ => Err(StartError::NotExecutable {
            path: path.clone(),
            reason: Reason::OutsideRoot,
        }),
    }
}

/// Nothing of the caller goes on: no descriptor, and no signal that it ignores or blocks.
pub(super) fn forget_the_caller() -> Result<(), StartError> {
    reset_signals();
    close_on_exec().step("keep the caller's files from the process", "")
}

/// Executes the program. A name without a slash is looked for in the container's own `PATH`, as the
/// process's user, by executing: what can be executed is what is found. Returns why it could not.
pub(super) fn search_and_execute(process: &ProcessPlan) -> StartError {
    let name = process.arguments[0].as_c_str();
    let failed = |reason| StartError::NotExecutable {
        path: to_path(name).to_owned(),
        reason,
    };
    if name.to_bytes().contains(&b'/') {
        return failed(reason(name, execute(name, process)));
    }
    // One that exists but must not be executed says more than all where there is none.
    let mut found = None;
    for directory in &process.search_path {
        let path = directory.join(to_path(name));
        let candidate = c_path(path.clone());
        match reason(&candidate, execute(&candidate, process)) {
            Reason::NotFound => {}
            Reason::PermissionDenied => {
                found.get_or_insert((path, Reason::PermissionDenied));
            }
            reason => return StartError::NotExecutable { path, reason },
        }
    }
    match found {
        Some((path, reason)) => StartError::NotExecutable { path, reason },
        None => failed(Reason::NotInPath),
    }
}

/// Returns only on failure.
fn execute(path: &CStr, process: &ProcessPlan) -> Errno {
    match execve(path, &process.arguments, &process.environment) {
        Ok(never) => match never {},
        Err(errno) => errno,
    }
}

fn reason(path: &CStr, errno: Errno) -> Reason {
    let exists = || access(path, AccessFlags::F_OK).is_ok();
    match Reason::of_exec(errno) {
        Reason::NotFound if errno == Errno::ENOENT && exists() => Reason::NoInterpreter,
        reason => reason,
    }
}

fn to_path(text: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(text.to_bytes()))
}
