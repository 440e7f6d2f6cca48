//! The process: what is executed, as whom, with which limits.

use super::{CapabilityPlan, absolute};
use crate::error::StartError;
use crate::plan::WindowSize;
use nix::sys::resource::Resource;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid};
use oci_spec::runtime::{LinuxPersonality, LinuxPersonalityDomain, PosixRlimitType, Process};
use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// A process as its spec wants it.
#[derive(Debug)]
pub(crate) struct ProcessPlan {
    /// Not empty.
    pub(crate) arguments: Vec<CString>,
    pub(crate) environment: Vec<CString>,
    /// Directories in which a name without a slash is looked for.
    pub(crate) search_path: Vec<PathBuf>,
    pub(crate) working_directory: PathBuf,
    pub(crate) window_size: WindowSize,
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    pub(crate) groups: Vec<Gid>,
    pub(crate) umask: Mode,
    pub(crate) capabilities: CapabilityPlan,
    pub(crate) no_new_privs: bool,
    pub(crate) rlimits: Vec<Rlimit>,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) apparmor_profile: Option<String>,
    pub(crate) selinux_label: Option<String>,
    /// `PER_*` of linux/personality.h.
    pub(crate) personality: Option<u32>,
}

/// A limit on a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rlimit {
    pub(crate) resource: Resource,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

/// Where programs are looked for when the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a spec without a umask gets, as from other runtimes.
const DEFAULT_UMASK: u32 = 0o022;

impl ProcessPlan {
    /// Whether security modules are told of it.
    pub(crate) fn is_labelled(&self) -> bool {
        self.apparmor_profile.is_some() || self.selinux_label.is_some()
    }

    pub(crate) fn from_spec(
        process: &Process,
        personality: Option<&LinuxPersonality>,
    ) -> Result<Self, StartError> {
        refuse_unsupported(process)?;
        let environment = process.env().as_deref().unwrap_or_default();
        let arguments = process.args().as_deref().unwrap_or_default();
        if arguments.first().is_none_or(String::is_empty) {
            return Err(StartError::invalid("process.args names nothing to execute"));
        }
        let user = process.user();
        let size = process.console_size();
        let cells = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
        Ok(Self {
            arguments: c_strings("process.args", arguments)?,
            environment: c_strings("process.env", environment)?,
            search_path: search_path(environment),
            working_directory: absolute(process.cwd())?,
            window_size: size.map_or(WindowSize::default(), |size| WindowSize {
                columns: cells(size.width()),
                rows: cells(size.height()),
            }),
            uid: Uid::from_raw(id("process.user.uid", user.uid())?),
            gid: Gid::from_raw(id("process.user.gid", user.gid())?),
            groups: groups(user.additional_gids().as_deref().unwrap_or_default())?,
            umask: Mode::from_bits_truncate(user.umask().unwrap_or(DEFAULT_UMASK)),
            capabilities: process
                .capabilities()
                .as_ref()
                .map(CapabilityPlan::from_spec)
                .unwrap_or_default(),
            no_new_privs: process.no_new_privileges().unwrap_or(false),
            rlimits: rlimits(process)?,
            oom_score_adj: process.oom_score_adj(),
            apparmor_profile: non_empty(process.apparmor_profile().as_deref()),
            selinux_label: non_empty(process.selinux_label().as_deref()),
            personality: personality.map(|personality| match personality.domain() {
                LinuxPersonalityDomain::PerLinux => 0,
                LinuxPersonalityDomain::PerLinux32 => 8,
            }),
        })
    }
}

fn refuse_unsupported(process: &Process) -> Result<(), StartError> {
    let unsupported = [
        ("process.scheduler", process.scheduler().is_some()),
        ("process.ioPriority", process.io_priority().is_some()),
        (
            "process.execCPUAffinity",
            process.exec_cpu_affinity().is_some(),
        ),
    ];
    match unsupported.iter().find(|(_, present)| *present) {
        Some((name, _)) => Err(StartError::invalid(format!(
            "the embedded runtime does not support {name}"
        ))),
        None => Ok(()),
    }
}

/// setresuid(2) takes all ones for "leave as it is", which is root; no id above an int is one.
fn id(field: &str, id: u32) -> Result<u32, StartError> {
    match i32::try_from(id) {
        Ok(_) => Ok(id),
        Err(_) => Err(StartError::invalid(format!("{field}: {id} is no id"))),
    }
}

fn groups(given: &[u32]) -> Result<Vec<Gid>, StartError> {
    let group = |gid: &u32| id("process.user.additionalGids", *gid).map(Gid::from_raw);
    given.iter().map(group).collect()
}

pub(super) fn c_strings(field: &str, strings: &[String]) -> Result<Vec<CString>, StartError> {
    let convert = |text: &String| {
        CString::new(text.as_str())
            .map_err(|_| StartError::invalid(format!("{field}: {text:?} has a zero byte in it")))
    };
    strings.iter().map(convert).collect()
}

/// Relative directories are left out: what is executed must not depend on where it is executed.
fn search_path(environment: &[String]) -> Vec<PathBuf> {
    let given = environment.iter().find_map(|var| var.strip_prefix("PATH="));
    given
        .unwrap_or(DEFAULT_PATH)
        .split(':')
        .filter(|directory| directory.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

fn non_empty(text: Option<&str>) -> Option<String> {
    text.filter(|text| !text.is_empty()).map(str::to_owned)
}

fn rlimits(process: &Process) -> Result<Vec<Rlimit>, StartError> {
    let all = process.rlimits().as_deref().unwrap_or_default().iter();
    all.map(|limit| {
        if limit.soft() > limit.hard() {
            return Err(StartError::invalid(format!(
                "process.rlimits: {}: the soft limit is above the hard one",
                limit.typ()
            )));
        }
        Ok(Rlimit {
            resource: resource(limit.typ()),
            soft: limit.soft(),
            hard: limit.hard(),
        })
    })
    .collect()
}

fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => Resource::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => Resource::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => Resource::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => Resource::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => Resource::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => Resource::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => Resource::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => Resource::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => Resource::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => Resource::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => Resource::RLIMIT_RTTIME,
    }
}

/// A path in the form that execve(2) takes; paths out of `search_path` have no zero byte.
pub(crate) fn c_path(path: PathBuf) -> CString {
    CString::new(path.into_os_string().into_vec()).expect("made of strings without zero bytes")
}
