//! Setting the limits of a cgroup.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use crisp_sys::bpf::replace_device_filter;
use oci_spec::runtime::LinuxResources;

use crate::controller::{Controller, Version};
use crate::plan::{self, Bandwidth, Bound, IfMissing, MemoryState, Setting, State};
use crate::{Cgroup, Error, devices, file, parse, refusal};

impl Cgroup {
    /// Sets the limits that are given; others stay as they are. Zero is "not given" where OCI has it so.
    ///
    /// All of them are checked before the first is written. When the kernel refuses one, those before it
    /// stay set and those after it are not.
    pub fn apply(&self, limits: &LinuxResources) -> Result<(), Error> {
        let has = |controller| self.hierarchies().has(controller);
        let rules = devices::rules(limits)?;
        let mut settings = self.settings(limits)?;
        if has(Controller::Devices) {
            settings.extend(devices::settings(&rules)?);
        }
        self.write(&settings)?;
        if !rules.is_empty() && !has(Controller::Devices) {
            self.attach_device_filter(&rules)?;
        }
        Ok(())
    }

    /// Changes the limits that are given, all of them or none: when the kernel refuses one, those that
    /// were changed before it are set back. One of memory that is below what is used is refused on version 2
    /// as well, when that cannot be reclaimed. Devices are not for here.
    pub fn change(&self, limits: &LinuxResources) -> Result<(), Error> {
        let mut limits = limits.clone();
        if let Some(memory) = limits.memory_mut() {
            memory.set_check_before_update(Some(true));
            self.reclaim_down_to(memory.limit())?;
        }
        let settings = self.settings(&limits)?;
        let before = self.present(&settings)?;
        let written = self.write(&settings);
        if written.is_err() {
            // What cannot be set back has not been changed either.
            for setting in before.iter().rev() {
                let _ = self.write(std::slice::from_ref(setting));
            }
        }
        written
    }

    /// Has version 2 give up memory as version 1 does by itself before it refuses a limit. What cannot be
    /// given up shows in what is used afterwards.
    fn reclaim_down_to(&self, limit: Option<i64>) -> Result<(), Error> {
        let (Some(Bound::At(limit)), Version::V2) =
            (Bound::asked(limit), self.hierarchies().version())
        else {
            return Ok(());
        };
        let usage_bytes = self.number(Controller::Memory, "memory.current")?;
        let above = usage_bytes.map_or(0, |usage| usage.saturating_sub(limit));
        if above > 0
            && let Some(dir) = self.dir_of(Controller::Memory)
        {
            // The limit in force may be as low already; and kernels before 5.19 have no such file.
            let _ = file::write(&dir, "memory.reclaim", &above.to_string());
        }
        Ok(())
    }

    /// The settings of the same files as they are now, a line each, since the kernel takes one at a time.
    fn present(&self, settings: &[Setting]) -> Result<Vec<Setting>, Error> {
        let mut present: Vec<Setting> = Vec::new();
        for setting in settings {
            let known = |other: &Setting| other.file == setting.file;
            if present.iter().any(known) {
                continue;
            }
            let content = match self.content(setting.controller, &setting.file) {
                // It can be written only: there is nothing to set back.
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::InvalidInput => {
                    None
                }
                content => content?,
            };
            let lines: Vec<String> = match content.as_deref().map(str::trim) {
                None => continue,
                // Nothing at all would be no write(2).
                Some("") => vec!["\n".to_owned()],
                Some(text) => text.lines().map(str::to_owned).collect(),
            };
            present.extend(lines.into_iter().map(|value| Setting {
                value,
                ..setting.clone()
            }));
        }
        Ok(present)
    }

    /// What is to be written for the limits that are given, but for devices.
    fn settings(&self, limits: &LinuxResources) -> Result<Vec<Setting>, Error> {
        let has = |controller| self.hierarchies().has(controller);
        let state = self.state(limits)?;
        match self.hierarchies().version() {
            Version::V1 => plan::v1::settings(limits, &state, has),
            Version::V2 => plan::v2::settings(limits, &state, has),
        }
    }

    /// What [`plan`] has to know of the limits in force, for the limits that are to be set.
    fn state(&self, limits: &LinuxResources) -> Result<State, Error> {
        let is_set = |value: Option<i64>| value.is_some_and(|value| value != 0);
        let cpu = limits.cpu().as_ref();
        let needs_bandwidth = cpu.is_some_and(|cpu| cpu.period().is_some_and(|period| period != 0));
        let memory = limits.memory().as_ref();
        let needs_memory =
            memory.is_some_and(|memory| is_set(memory.limit()) || is_set(memory.swap()));
        Ok(State {
            bandwidth: match needs_bandwidth {
                true => self.bandwidth()?,
                false => None,
            },
            memory: match needs_memory {
                true => self.memory_state()?,
                false => None,
            },
        })
    }

    fn bandwidth(&self) -> Result<Option<Bandwidth>, Error> {
        let (quota, period_us) = match self.hierarchies().version() {
            Version::V1 => (
                self.limit(Controller::Cpu, "cpu.cfs_quota_us")?,
                self.number(Controller::Cpu, "cpu.cfs_period_us")?,
            ),
            Version::V2 => match self.cpu_max()? {
                Some((quota, period_us)) => (quota, Some(period_us)),
                None => (None, None),
            },
        };
        Ok(period_us.map(|period_us| Bandwidth {
            quota: quota.map_or(Bound::Unlimited, Bound::At),
            period_us,
        }))
    }

    fn memory_state(&self) -> Result<Option<MemoryState>, Error> {
        let (limit, swap, usage) = match self.hierarchies().version() {
            Version::V1 => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", None),
            Version::V2 => (
                "memory.max",
                "memory.swap.max",
                self.number(Controller::Memory, "memory.current")?,
            ),
        };
        let bound = |limit: Option<u64>| limit.map_or(Bound::Unlimited, Bound::At);
        let Some(limit) = self.value(Controller::Memory, limit, parse::limit)? else {
            return Ok(None);
        };
        Ok(Some(MemoryState {
            limit: bound(limit),
            swap: self
                .value(Controller::Memory, swap, parse::limit)?
                .map(bound),
            usage_bytes: usage.unwrap_or(0),
        }))
    }

    /// Writes the settings in order; one `open` for a run of settings of the same file.
    fn write(&self, settings: &[Setting]) -> Result<(), Error> {
        for run in settings.chunk_by(|a, b| a.file == b.file) {
            let Some(dir) = self.dir_of(run[0].controller) else {
                continue;
            };
            let refused = |setting: &Setting, error| {
                refusal::explain(&dir, setting, self.hierarchies().version(), error)
            };
            let mut file: File = match file::open_for_writing(&dir, &run[0].file) {
                Err(error) if file::is_gone(&error) && run[0].if_missing == IfMissing::Skip => {
                    continue;
                }
                other => other.map_err(|error| refused(&run[0], error))?,
            };
            for setting in run {
                let written = file.write_all(setting.value.as_bytes());
                written.map_err(|error| refused(setting, error))?;
            }
        }
        Ok(())
    }

    /// Devices without a controller for them: a BPF filter in the version 2 hierarchy, which works on a
    /// hybrid host as well.
    fn attach_device_filter(&self, rules: &[devices::Rule]) -> Result<(), Error> {
        let Some(mount) = self.hierarchies().unified() else {
            return Err(Error::unsupported(
                "devices",
                "this host has no devices controller and no cgroup v2",
            ));
        };
        let dir = self.dir_in(mount);
        let cgroup = File::open(&dir).map_err(|error| self.unreadable(&dir, error))?;
        replace_device_filter(cgroup.as_fd(), &devices::filter(rules))
            .map_err(|source| Error::DeviceFilter { dir, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::tests::v2;

    fn resources(json: &str) -> LinuxResources {
        serde_json::from_str(json).unwrap()
    }

    fn content(cgroup: &Cgroup, file: &str) -> String {
        file::read(&cgroup.dirs()[0], file).unwrap()
    }

    #[test]
    fn version_2_limits_are_written() {
        let (_root, cgroup) = v2(&[
            ("cpu.weight", ""),
            ("cpu.max", "max 100000\n"),
            ("memory.max", "max\n"),
            ("memory.swap.max", "max\n"),
            ("memory.current", "4096\n"),
            ("memory.high", ""),
            ("pids.max", ""),
        ]);
        let limits = resources(
            r#"{
                "cpu": {"shares": 1024, "quota": 50000000, "period": 100000},
                "memory": {"limit": 67108864, "swap": 77108864},
                "pids": {"limit": 9},
                "unified": {"memory.high": "60000000"}
            }"#,
        );
        cgroup.apply(&limits).unwrap();
        assert_eq!(content(&cgroup, "cpu.weight"), "100");
        assert_eq!(content(&cgroup, "cpu.max"), "50000000 100000");
        assert_eq!(content(&cgroup, "memory.max"), "67108864");
        assert_eq!(content(&cgroup, "memory.swap.max"), "10000000");
        assert_eq!(content(&cgroup, "memory.high"), "60000000");
        assert_eq!(content(&cgroup, "pids.max"), "9");
    }

    #[test]
    fn a_change_that_fails_is_undone() {
        let (_root, cgroup) = v2(&[
            ("cpu.weight", "300\n"),
            ("cgroup.controllers", "cpu memory\n"),
        ]);
        let limits = r#"{"cpu": {"shares": 1024}, "pids": {"limit": 9}}"#;
        cgroup.change(&resources(limits)).unwrap_err();
        assert_eq!(content(&cgroup, "cpu.weight"), "300\n");
    }

    #[test]
    fn a_change_that_would_kill_is_refused() {
        let (_root, cgroup) = v2(&[
            ("cpu.weight", "300\n"),
            ("memory.current", "8192\n"),
            ("memory.max", "6000\n"),
            ("memory.reclaim", ""),
            ("memory.swap.max", "max\n"),
        ]);
        let limits = r#"{"cpu": {"shares": 1024}, "memory": {"limit": 4096}}"#;
        let error = cgroup.change(&resources(limits)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "memory.limit: 4096 is below the current usage of 8192 bytes"
        );
        assert_eq!(content(&cgroup, "cpu.weight"), "300\n");
        assert_eq!(content(&cgroup, "memory.reclaim"), "4096");
        // As the kubelet repeats the limit in force when it changes another.
        let limits = r#"{"cpu": {"shares": 1024}, "memory": {"limit": 6000}}"#;
        cgroup.change(&resources(limits)).unwrap();
        assert_eq!(content(&cgroup, "cpu.weight"), "100\n");
    }

    #[test]
    fn what_was_empty_or_of_several_lines_can_be_set_back() {
        let (_root, cgroup) = v2(&[
            ("cpuset.cpus", "\n"),
            ("io.max", "8:0 rbps=1 wbps=max\n8:16 rbps=2 wbps=max\n"),
        ]);
        let limits = r#"{"cpu": {"cpus": "0"}, "unified": {"io.max": "8:0 rbps=9"}}"#;
        let settings = cgroup.settings(&resources(limits)).unwrap();
        let present = cgroup.present(&settings).unwrap();
        let values = |file: &str| -> Vec<&str> {
            let of_file = present.iter().filter(|setting| setting.file == file);
            of_file.map(|setting| setting.value.as_str()).collect()
        };
        assert_eq!(values("cpuset.cpus"), ["\n"]);
        assert_eq!(
            values("io.max"),
            ["8:0 rbps=1 wbps=max", "8:16 rbps=2 wbps=max"]
        );
    }

    #[test]
    fn a_controller_that_is_not_handed_down_is_named() {
        let (_root, cgroup) = v2(&[("cgroup.controllers", "cpu memory\n")]);
        let error = cgroup.apply(&resources(r#"{"pids": {"limit": 9}}"#));
        let message = error.unwrap_err().to_string();
        assert!(message.ends_with(
            "pod/pids.max: 9 cannot be written: the parent cgroup does not hand the pids controller down"
        ));
    }

    #[test]
    fn nothing_is_written_when_a_limit_makes_no_sense() {
        let (_root, cgroup) = v2(&[("pids.max", "")]);
        let limits = r#"{"pids": {"limit": 9}, "unified": {"cgroup.procs": "1"}}"#;
        assert!(cgroup.apply(&resources(limits)).is_err());
        assert_eq!(content(&cgroup, "pids.max"), "");
    }
}
