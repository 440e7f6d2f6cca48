//! Facts about the host that do not change while the daemon runs.

use crate::error::{Error, Result};
use crisp_model::spec::CapabilitySet;
use nix::unistd::gethostname;
use oci_spec::runtime::Capability;

/// What is asked of the host once.
#[derive(Debug)]
pub(crate) struct Host {
    /// Tells one boot from another (Documentation/admin-guide/sysctl/kernel.rst, `random`).
    pub(crate) boot_id: String,
    /// Capabilities that can be given to containers.
    pub(crate) held_capabilities: CapabilitySet,
    /// systemd is PID 1.
    pub(crate) systemd: bool,
}

/// Capabilities by number, as in `linux/capability.h`.
const CAPABILITIES: [Capability; 41] = {
    use Capability::*;
    [
        Chown,
        DacOverride,
        DacReadSearch,
        Fowner,
        Fsetid,
        Kill,
        Setgid,
        Setuid,
        Setpcap,
        LinuxImmutable,
        NetBindService,
        NetBroadcast,
        NetAdmin,
        NetRaw,
        IpcLock,
        IpcOwner,
        SysModule,
        SysRawio,
        SysChroot,
        SysPtrace,
        SysPacct,
        SysAdmin,
        SysBoot,
        SysNice,
        SysResource,
        SysTime,
        SysTtyConfig,
        Mknod,
        Lease,
        AuditWrite,
        AuditControl,
        Setfcap,
        MacOverride,
        MacAdmin,
        Syslog,
        WakeAlarm,
        BlockSuspend,
        AuditRead,
        Perfmon,
        Bpf,
        CheckpointRestore,
    ]
};

impl Host {
    pub(crate) fn inspect() -> Result<Self> {
        Ok(Self {
            boot_id: read("/proc/sys/kernel/random/boot_id")?,
            held_capabilities: held_capabilities(&read("/proc/self/status")?),
            // sd_booted(3).
            systemd: std::path::Path::new("/run/systemd/system").is_dir(),
        })
    }
}

/// The host's name as it is now: it can change while the daemon runs.
pub(crate) fn hostname() -> Result<String> {
    let name = gethostname().map_err(|errno| Error::io("ask for", "the host's name")(errno.into()));
    Ok(name?.to_string_lossy().into_owned())
}

fn read(path: &str) -> Result<String> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    Ok(text.trim().to_owned())
}

/// The effective set of proc_pid_status(5).
fn held_capabilities(status: &str) -> CapabilitySet {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let bits = line
        .and_then(|l| u64::from_str_radix(l.trim(), 16).ok())
        .unwrap_or(0);
    let held = |(number, _): &(usize, Capability)| bits >> number & 1 == 1;
    let all = CAPABILITIES.into_iter().enumerate();
    all.filter(held).map(|(_, capability)| capability).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_their_bits() {
        let set = held_capabilities("Name:\tx\nCapEff:\t0000000001000021\nCapBnd:\t0\n");
        assert_eq!(
            set,
            [Capability::Chown, Capability::Kill, Capability::SysResource].into()
        );
    }
}
