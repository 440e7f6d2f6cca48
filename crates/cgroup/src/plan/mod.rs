//! Limits of an OCI runtime specification → what is written to which file, in which order. No I/O.

pub(crate) mod v1;
pub(crate) mod v2;

use std::borrow::Cow;

use oci_spec::runtime::{LinuxBlockIo, LinuxHugepageLimit, LinuxResources, LinuxThrottleDevice};

use crate::Error;
use crate::controller::Controller;

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) controller: Controller,
    pub(crate) file: Cow<'static, str>,
    pub(crate) value: String,
    pub(crate) if_missing: IfMissing,
}

/// What it means that a controller is there and the file is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IfMissing {
    Fail,
    /// Older kernels do without.
    Skip,
}

impl Setting {
    pub(crate) fn new(
        controller: Controller,
        file: impl Into<Cow<'static, str>>,
        value: impl ToString,
    ) -> Self {
        Self {
            controller,
            file: file.into(),
            value: value.to_string(),
            if_missing: IfMissing::Fail,
        }
    }

    pub(crate) fn or_skip(mut self) -> Self {
        self.if_missing = IfMissing::Skip;
        self
    }
}

/// What a cgroup holds already; read only as far as the order of the settings depends on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) bandwidth: Option<Bandwidth>,
    pub(crate) memory: Option<MemoryState>,
}

/// Cpu time per period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bandwidth {
    pub(crate) quota: Bound,
    pub(crate) period_us: u64,
}

/// The memory limits in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemoryState {
    pub(crate) limit: Bound,
    /// Version 1: of memory and swap together; version 2: of swap alone. None: the kernel does not
    /// account for swap.
    pub(crate) swap: Option<Bound>,
    /// Read on version 2 only: version 1 compares it with a new limit by itself.
    pub(crate) usage_bytes: u64,
}

/// A limit, ordered: everything is below "unlimited".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Bound {
    At(u64),
    Unlimited,
}

impl Bound {
    /// As OCI and CRI write limits: zero is none at all, less is unlimited.
    pub(crate) fn asked(value: Option<i64>) -> Option<Self> {
        match value? {
            0 => None,
            value => Some(u64::try_from(value).map_or(Self::Unlimited, Self::At)),
        }
    }

    pub(crate) fn value(self) -> Option<u64> {
        match self {
            Self::At(value) => Some(value),
            Self::Unlimited => None,
        }
    }

    /// With the interface's word for unlimited: `-1` on version 1, `max` on version 2.
    pub(crate) fn text(self, unlimited: &str) -> String {
        match self {
            Self::At(value) => value.to_string(),
            Self::Unlimited => unlimited.into(),
        }
    }
}

/// Memory and swap asked for together must leave room for the memory.
fn check_swap(limit: Option<Bound>, swap: Option<Bound>) -> Result<(), Error> {
    match (limit, swap) {
        (Some(limit), Some(swap)) if swap < limit => Err(Error::invalid(
            "memory.swap",
            swap.text("-1"),
            format!(
                "is less than memory.limit, {}, which it includes",
                limit.text("unlimited")
            ),
        )),
        _ => Ok(()),
    }
}

/// Swap cannot be accounted for: fine unless a number was asked for that somebody counts on.
fn check_swap_unaccounted(limit: Option<Bound>, swap: Option<Bound>) -> Result<(), Error> {
    match swap {
        Some(Bound::At(_)) if swap != limit => Err(Error::unsupported(
            "memory.swap",
            "the kernel does not account for swap (boot it with swapaccount=1)",
        )),
        _ => Ok(()),
    }
}

/// The largest number of processes; zero and less: no limit.
fn pids(resources: &LinuxResources) -> Option<Setting> {
    let limit = resources.pids().as_ref()?.limit();
    let value = if limit > 0 {
        limit.to_string()
    } else {
        "max".into()
    };
    Some(Setting::new(Controller::Pids, "pids.max", value))
}

/// The limits on huge pages as (prefix of the file, bytes), their sizes checked.
fn hugepages(resources: &LinuxResources) -> Result<Vec<(String, Bound)>, Error> {
    let limits = resources.hugepage_limits().as_deref().unwrap_or_default();
    let one = |limit: &LinuxHugepageLimit| {
        let size = limit.page_size();
        if !is_page_size(size) {
            return Err(Error::invalid(
                "hugepageLimits.pageSize",
                size,
                "is not of the form 2MB",
            ));
        }
        let bound = u64::try_from(limit.limit()).map_or(Bound::Unlimited, Bound::At);
        Ok((format!("hugetlb.{size}"), bound))
    };
    limits.iter().map(one).collect()
}

/// `64KB`, `2MB`, `1GB`: as the kernel names its files (Documentation/admin-guide/cgroup-v1/hugetlb.rst).
fn is_page_size(size: &str) -> bool {
    let number = ["KB", "MB", "GB"]
        .iter()
        .find_map(|unit| size.strip_suffix(unit));
    number.is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// The throttles of block devices: (`major:minor`, rate) for reading and writing bytes and operations.
struct Throttles(Vec<(Throttle, String, u64)>);

#[derive(Clone, Copy)]
enum Throttle {
    ReadBytes,
    WriteBytes,
    ReadOperations,
    WriteOperations,
}

impl Throttles {
    fn of(block_io: &LinuxBlockIo) -> Self {
        let lists: [(Throttle, &Option<Vec<LinuxThrottleDevice>>); 4] = [
            (Throttle::ReadBytes, block_io.throttle_read_bps_device()),
            (Throttle::WriteBytes, block_io.throttle_write_bps_device()),
            (
                Throttle::ReadOperations,
                block_io.throttle_read_iops_device(),
            ),
            (
                Throttle::WriteOperations,
                block_io.throttle_write_iops_device(),
            ),
        ];
        let throttles = lists.into_iter().flat_map(|(throttle, devices)| {
            devices.iter().flatten().map(move |device| {
                let number = format!("{}:{}", device.major(), device.minor());
                (throttle, number, device.rate())
            })
        });
        Self(throttles.collect())
    }
}

/// Fails on what this crate, or the kernel, does not limit: a limit that is silently not there is worse
/// than none.
fn refuse_what_nobody_enforces(resources: &LinuxResources) -> Result<(), Error> {
    let refuse = |given: bool, setting: &str, reason: &str| match given {
        true => Err(Error::unsupported(setting, reason)),
        false => Ok(()),
    };
    let network = resources.network().as_ref();
    refuse(
        network.is_some_and(|network| network.class_id().is_some_and(|id| id != 0)),
        "network.classID",
        "crisp does not use the net_cls controller",
    )?;
    refuse(
        network.is_some_and(|network| network.priorities().iter().flatten().next().is_some()),
        "network.priorities",
        "crisp does not use the net_prio controller",
    )?;
    refuse(
        resources.rdma().iter().flatten().next().is_some(),
        "rdma",
        "crisp does not use the rdma controller",
    )?;
    let block_io = resources.block_io().as_ref();
    refuse(
        block_io.is_some_and(|io| {
            io.leaf_weight().is_some_and(|weight| weight != 0)
                || io.weight_device().iter().flatten().next().is_some()
        }),
        "blockIO.leafWeight and blockIO.weightDevice",
        "kernels since 5.0 have one weight per cgroup",
    )?;
    let memory = resources.memory().as_ref();
    refuse(
        memory.is_some_and(|memory| memory.kernel_tcp().is_some_and(|limit| limit > 0)),
        "memory.kernelTCP",
        "memory.limit includes the kernel's memory",
    )
}

/// Fails when a setting needs a controller that the host has not.
fn require(settings: &[Setting], has: impl Fn(Controller) -> bool) -> Result<(), Error> {
    match settings.iter().find(|setting| !has(setting.controller)) {
        Some(setting) => Err(Error::unsupported(
            &setting.file,
            format!("this host has no {} controller", setting.controller),
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The resources that the JSON of an OCI runtime specification states.
    pub(crate) fn resources(json: &str) -> LinuxResources {
        serde_json::from_str(json).unwrap()
    }

    /// The settings as `file=value`.
    pub(crate) fn lines(settings: &[Setting]) -> Vec<String> {
        settings
            .iter()
            .map(|setting| format!("{}={}", setting.file, setting.value))
            .collect()
    }

    #[test]
    fn unenforceable_limits_are_refused() {
        for json in [
            r#"{"network": {"classID": 1}}"#,
            r#"{"network": {"priorities": [{"name": "eth0", "priority": 1}]}}"#,
            r#"{"rdma": {"mlx5_1": {"hcaHandles": 3}}}"#,
            r#"{"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 500}]}}"#,
            r#"{"memory": {"kernelTCP": 1048576}}"#,
        ] {
            let result = refuse_what_nobody_enforces(&resources(json));
            assert!(matches!(result, Err(Error::Unsupported { .. })), "{json}");
        }
        assert!(refuse_what_nobody_enforces(&resources("{}")).is_ok());
    }

    #[test]
    fn page_sizes_are_checked() {
        for (size, valid) in [
            ("2MB", true),
            ("64KB", true),
            ("1GB", true),
            ("MB", false),
            ("2M", false),
            ("2MB/../x", false),
            ("", false),
        ] {
            assert_eq!(is_page_size(size), valid, "{size:?}");
        }
    }
}
