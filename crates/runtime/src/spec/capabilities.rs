//! Capabilities by name as the kernel's bits.

use crisp_sys::security::Capabilities;
use oci_spec::runtime::{Capabilities as Names, Capability, LinuxCapabilities};

/// The capability sets that a process executes with. The inheritable set is the ambient one: what
/// else a spec puts there would only come back through inheritable bits of files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CapabilityPlan {
    pub(crate) bounding: Capabilities,
    pub(crate) effective: Capabilities,
    pub(crate) permitted: Capabilities,
    pub(crate) ambient: Capabilities,
}

impl CapabilityPlan {
    pub(super) fn from_spec(sets: &LinuxCapabilities) -> Self {
        Self {
            bounding: set(sets.bounding().as_ref()),
            effective: set(sets.effective().as_ref()),
            permitted: set(sets.permitted().as_ref()),
            ambient: set(sets.ambient().as_ref()),
        }
    }
}

fn set(names: Option<&Names>) -> Capabilities {
    names
        .into_iter()
        .flatten()
        .fold(Capabilities::default(), |set, name| set.with(number(*name)))
}

/// Numbers of linux/capability.h.
fn number(capability: Capability) -> u32 {
    match capability {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::DacReadSearch => 2,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::LinuxImmutable => 9,
        Capability::NetBindService => 10,
        Capability::NetBroadcast => 11,
        Capability::NetAdmin => 12,
        Capability::NetRaw => 13,
        Capability::IpcLock => 14,
        Capability::IpcOwner => 15,
        Capability::SysModule => 16,
        Capability::SysRawio => 17,
        Capability::SysChroot => 18,
        Capability::SysPtrace => 19,
        Capability::SysPacct => 20,
        Capability::SysAdmin => 21,
        Capability::SysBoot => 22,
        Capability::SysNice => 23,
        Capability::SysResource => 24,
        Capability::SysTime => 25,
        Capability::SysTtyConfig => 26,
        Capability::Mknod => 27,
        Capability::Lease => 28,
        Capability::AuditWrite => 29,
        Capability::AuditControl => 30,
        Capability::Setfcap => 31,
        Capability::MacOverride => 32,
        Capability::MacAdmin => 33,
        Capability::Syslog => 34,
        Capability::WakeAlarm => 35,
        Capability::BlockSuspend => 36,
        Capability::AuditRead => 37,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
        Capability::CheckpointRestore => 40,
    }
}
