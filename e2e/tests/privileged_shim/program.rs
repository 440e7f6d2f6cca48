//! The copy of its program that a shim is started from.

use crate::harness::*;
use crisp_shim_api::ShimPid;
use crisp_sys::sealed::ProgramCopy;
use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

#[test]
fn privileged_copy_of_a_program_runs_and_cannot_be_changed() {
    let copy = ProgramCopy::new("copy", &mut File::open("/bin/true").unwrap()).unwrap();
    let copy = copy.seal().unwrap();
    let path = format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        copy.as_fd().as_raw_fd()
    );
    assert!(Command::new(&path).status().unwrap().success());
    assert_eq!(fs::read_link(&path).unwrap(), Path::new("/copy"));
    let kind = |refused: std::io::Error| refused.kind();
    let written = File::options().write(true).open(&path);
    assert_eq!(
        written.map_err(kind).err(),
        Some(ErrorKind::ReadOnlyFilesystem)
    );
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o111
    );
    let opened_up = fs::set_permissions(&path, Permissions::from_mode(0o777));
    assert_eq!(opened_up.map_err(kind), Err(ErrorKind::ReadOnlyFilesystem));
}

#[test]
fn privileged_copy_that_is_still_written_is_not_sealed() {
    let copy = ProgramCopy::new("copy", &mut File::open("/bin/true").unwrap()).unwrap();
    let _writer = copy.as_fd().try_clone_to_owned().unwrap();
    assert_eq!(copy.seal().unwrap_err().kind(), ErrorKind::ResourceBusy);
}

#[test]
fn privileged_shim_and_pause_have_the_copy_as_their_program() {
    let pod = Pod::start("program", usual_pod());
    let shim = ShimPid::read(&pod.paths).unwrap().expect("a shim runs");
    for pid in [shim.pid().as_raw(), pod.pause.cast_signed()] {
        let exe = format!("/proc/{pid}/exe");
        until("the program is executed", || {
            fs::read_link(&exe).unwrap() == Path::new("/crisp-shim")
        });
        let mode = fs::metadata(&exe).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o111);
    }
    pod.finish();
}
