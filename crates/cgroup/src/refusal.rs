//! Why the kernel refused a value, in words.

use std::io;
use std::path::Path;

use nix::errno::Errno;

use crate::controller::{Controller, Version};
use crate::plan::Setting;
use crate::{Error, file, parse};

/// The error for a setting that could not be written in `dir`.
pub(crate) fn explain(dir: &Path, setting: &Setting, version: Version, source: io::Error) -> Error {
    let path = dir.join(setting.file.as_ref());
    if file::is_gone(&source) && !dir.exists() {
        return Error::NotFound { path: dir.into() };
    }
    let errno = Errno::from_raw(source.raw_os_error().unwrap_or(0));
    let facts = Facts {
        dir,
        version,
        setting,
    };
    Error::Refused {
        file: path,
        value: setting.value.clone(),
        reason: facts.reason(errno),
        source,
    }
}

struct Facts<'a> {
    dir: &'a Path,
    version: Version,
    setting: &'a Setting,
}

impl Facts<'_> {
    /// Continues a sentence that starts with the value.
    fn reason(&self, errno: Errno) -> String {
        let file = self.setting.file.as_ref();
        match (self.setting.controller, errno) {
            (_, Errno::ENOENT) => self.missing(),
            (Controller::Memory, Errno::EBUSY) => self.below("usage", |file| {
                file.replace(".limit_in_bytes", ".usage_in_bytes")
            }),
            (Controller::Memory, Errno::EINVAL) if file.contains("limit_in_bytes") => {
                "would make the limit of memory alone larger than that of memory and swap together"
                    .into()
            }
            (Controller::Cpu, Errno::EINVAL)
                if file.contains("shares") || file.contains("weight") =>
            {
                "is not a weight that the kernel takes, or the cgroup is idle (cpu.idle)".into()
            }
            (Controller::Cpu, Errno::EINVAL) => {
                "is more than the parent cgroup has, less than a child has, or out of the kernel's \
                 bounds (at least 1000 µs of quota; a period of 1000 to 1000000 µs)"
                    .into()
            }
            (Controller::CpuSet, Errno::EINVAL | Errno::EACCES | Errno::ERANGE) => self.outside(),
            (Controller::CpuSet, Errno::EBUSY) => "is less than a child cgroup has".into(),
            (Controller::CpuSet, Errno::ENOSPC) => "would leave processes without a cpu".into(),
            (Controller::Devices, Errno::EPERM) => "is not allowed to the parent cgroup".into(),
            (Controller::Devices, Errno::EINVAL) => {
                "cannot be changed for all devices in a cgroup that has children".into()
            }
            (Controller::BlkIo, Errno::ENODEV) => "names no block device of this host".into(),
            (_, Errno::EACCES | Errno::EPERM | Errno::EROFS) => {
                "may not be written by crisp here (the cgroup is not delegated to it)".into()
            }
            (_, Errno::EINVAL | Errno::ERANGE) => "is not a value that the file takes".into(),
            _ => "was refused by the kernel".into(),
        }
    }

    fn missing(&self) -> String {
        let name = self.setting.controller.name(self.version);
        match self.version {
            Version::V1 => "cannot be written: this kernel has no such file".into(),
            Version::V2 if self.is_enabled(name) => {
                "cannot be written: this kernel has no such file".into()
            }
            Version::V2 => format!(
                "cannot be written: the parent cgroup does not hand the {name} controller down"
            ),
        }
    }

    fn is_enabled(&self, name: &str) -> bool {
        file::read(self.dir, "cgroup.controllers")
            .is_ok_and(|enabled| enabled.split_whitespace().any(|enabled| enabled == name))
    }

    fn below(&self, what: &str, file_of: impl Fn(&str) -> String) -> String {
        let current = file::read(self.dir, &file_of(&self.setting.file));
        match current.ok().as_deref().and_then(parse::number) {
            Some(bytes) => format!("is below the current {what} of {bytes} bytes"),
            None => format!("is below the current {what}"),
        }
    }

    fn outside(&self) -> String {
        let parent = self
            .dir
            .parent()
            .and_then(|parent| file::read(parent, &self.setting.file).ok());
        match parent.as_deref().map(str::trim) {
            Some(has) if !has.is_empty() => {
                format!("is not a list within what the parent cgroup has ({has})")
            }
            _ => "is not a list of what this host has".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn refused(files: &[(&str, &str)], setting: &Setting, errno: Errno) -> String {
        let root = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(root.path().join(name), content).unwrap();
        }
        let error = explain(root.path(), setting, Version::V2, errno.into());
        let prefix = format!("{}/", root.path().display());
        error.to_string().replace(&prefix, "")
    }

    #[test]
    fn refusals_name_file_value_and_reason() {
        let memory = Setting::new(Controller::Memory, "memory.limit_in_bytes", 4096);
        assert_eq!(
            refused(
                &[("memory.usage_in_bytes", "9000\n")],
                &memory,
                Errno::EBUSY
            ),
            "memory.limit_in_bytes: 4096 is below the current usage of 9000 bytes"
        );
        let pids = Setting::new(Controller::Pids, "pids.max", 5);
        assert_eq!(
            refused(
                &[("cgroup.controllers", "cpu memory\n")],
                &pids,
                Errno::ENOENT
            ),
            "pids.max: 5 cannot be written: the parent cgroup does not hand the pids controller down"
        );
        assert_eq!(
            refused(
                &[("cgroup.controllers", "cpu pids\n")],
                &pids,
                Errno::ENOENT
            ),
            "pids.max: 5 cannot be written: this kernel has no such file"
        );
    }

    #[test]
    fn a_cgroup_that_is_gone_is_not_found() {
        let pids = Setting::new(Controller::Pids, "pids.max", 5);
        let dir = Path::new("/nonexistent/cgroup");
        for errno in [Errno::ENOENT, Errno::ENODEV] {
            let error = explain(dir, &pids, Version::V1, errno.into());
            assert!(matches!(error, Error::NotFound { .. }));
        }
    }
}
