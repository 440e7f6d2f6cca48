//! Labels of security modules, which the kernel applies at the execution (proc_pid_attr(5)) of who has them
//! set, or of its child.

use crate::error::StartError;
use crate::spec::ProcessPlan;
use crisp_sys::path::open_beneath;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::write;
use std::os::fd::OwnedFd;
use std::path::Path;

/// `self_proc`: the process in a procfs that is out of the container's reach.
pub(crate) fn apply(self_proc: &OwnedFd, process: &ProcessPlan) -> Result<(), StartError> {
    if let Some(profile) = &process.apparmor_profile {
        let value = format!("exec {profile}");
        set(self_proc, "attr/apparmor/exec", &value).map_err(|error| match error {
            Errno::ENOENT if !exists(self_proc, "attr/apparmor") => {
                unavailable("AppArmor", profile)
            }
            Errno::ENOENT => StartError::invalid(format!(
                "process.apparmorProfile: {profile:?} is not loaded on this node"
            )),
            error => failed("set AppArmor profile", profile, error),
        })?;
    }
    if let Some(label) = &process.selinux_label {
        set(self_proc, "attr/exec", label).map_err(|error| match error {
            Errno::EINVAL if !Path::new("/sys/fs/selinux/enforce").exists() => {
                unavailable("SELinux", label)
            }
            error => failed("set SELinux label", label, error),
        })?;
    }
    Ok(())
}

fn set(self_proc: &OwnedFd, file: &str, value: &str) -> nix::Result<()> {
    let file = open_beneath(self_proc, Path::new(file), OFlag::O_WRONLY)?;
    write(file, value.as_bytes()).map(drop)
}

fn exists(self_proc: &OwnedFd, path: &str) -> bool {
    open_beneath(self_proc, Path::new(path), OFlag::O_PATH).is_ok()
}

fn unavailable(module: &str, wanted: &str) -> StartError {
    StartError::invalid(format!(
        "{wanted:?} was asked for, but the kernel of this node runs without {module}"
    ))
}

fn failed(step: &str, value: &str, errno: Errno) -> StartError {
    StartError::Io {
        step: format!("{step} {value:?}"),
        path: "".into(),
        errno,
    }
}
