//! Mount propagation that was asked for must be possible: the kernel takes a slave of a private mount
//! without a word, and nothing ever shows up in it.

use crate::error::{Context, StartError};
use crisp_sys::mount::Propagation;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Whether the mount that `path` lies in can be mounted with this propagation.
pub(super) fn verify(path: &Path, wanted: Propagation) -> Result<(), StartError> {
    let (needed, enough): (&str, &[&str]) = match wanted {
        Propagation::Shared => ("shared", &["shared:"]),
        Propagation::Slave => ("shared or a slave", &["shared:", "master:"]),
        Propagation::Private | Propagation::Unbindable => return Ok(()),
    };
    let mount_info = "/proc/self/mountinfo";
    let table = fs::read_to_string(mount_info).step("read", mount_info)?;
    if has_any(&table, &mount_id(path)?, enough) {
        Ok(())
    } else {
        Err(StartError::invalid(format!(
            "mount of {}: the mount it lies in is not {needed}, which the propagation needs",
            path.display()
        )))
    }
}

fn mount_id(path: &Path) -> Result<String, StartError> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let fd = open(path, flags, Mode::empty()).step("open mount source", path)?;
    let info = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
    let text = fs::read_to_string(&info).step("read", &info)?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    Ok(id.unwrap_or_default().trim().to_owned())
}

/// Whether a mount has one of these among its optional fields: those from the seventh to a hyphen
/// (proc_pid_mountinfo(5)).
fn has_any(table: &str, id: &str, prefixes: &[&str]) -> bool {
    let line = table
        .lines()
        .find(|line| line.split(' ').next() == Some(id));
    line.into_iter()
        .flat_map(|line| line.split(' ').skip(6).take_while(|field| *field != "-"))
        .any(|field| prefixes.iter().any(|prefix| field.starts_with(prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_fields_end_at_the_hyphen() {
        let table = "22 27 0:21 / /proc rw - proc shared:1 rw\n\
                     23 27 0:22 / /a rw,relatime shared:5 master:6 - sysfs sysfs rw\n";
        assert!(has_any(table, "23", &["master:"]));
        assert!(has_any(table, "23", &["shared:"]));
        assert!(!has_any(table, "22", &["shared:"]));
        assert!(!has_any(table, "2", &["shared:"]));
    }
}
