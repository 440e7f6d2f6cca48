//! Profiles as users write them: the JSON of the OCI runtime specification, and docker's, which adds
//! architectures with their sub-architectures and rules that hold on some machines only.
//!
//! Fields that are not known are ignored, since profiles carry comments; what is known must make
//! sense. Defaults are those of the Go types behind both formats, where an absent list, `null` and an
//! empty list are the same.

use crate::Error;
use crate::abi::Machine;
use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompFilterFlag, LinuxSyscall,
};
use serde::Deserialize;
use std::path::PathBuf;

mod kernel;
use kernel::KernelVersion;

/// The longest text of a profile that is read; docker's own has 14 KiB.
pub const MAX_PROFILE_BYTES: usize = 256 << 10;

/// Reads a profile, and decides which of its rules hold on this machine for a container that may
/// come to have these capabilities.
///
/// # Errors
/// The text is too long or malformed, contradicts itself, or this machine's kernel cannot be asked
/// for a version that the profile depends on.
pub fn parse_profile(json: &[u8], granted: &Capabilities) -> Result<LinuxSeccomp, Error> {
    let host = Host {
        machine: Machine::RUNNING.ok_or(Error::UnsupportedMachine)?,
        kernel: KernelVersion::running().map_err(Error::KernelVersion)?,
        granted,
    };
    parse_for(&host, json)
}

/// What `includes` and `excludes` are about.
struct Host<'a> {
    machine: Machine,
    kernel: KernelVersion,
    granted: &'a Capabilities,
}

fn parse_for(host: &Host<'_>, json: &[u8]) -> Result<LinuxSeccomp, Error> {
    if json.len() > MAX_PROFILE_BYTES {
        return Err(Error::TooLong { length: json.len() });
    }
    let text: Text = serde_json::from_slice(json).map_err(|error| Error::Malformed {
        reason: error.to_string(),
    })?;
    let architectures = text.architectures(host.machine)?;
    let syscalls = text
        .syscalls
        .unwrap_or_default()
        .into_iter()
        .filter(|rule| rule.holds_on(host))
        .map(RuleText::into_oci)
        .collect::<Result<Vec<_>, _>>()?;

    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(text.default_action)
        .set_default_errno_ret(text.default_errno_ret)
        .set_architectures(architectures)
        .set_flags(text.flags)
        .set_listener_path(text.listener_path)
        .set_listener_metadata(text.listener_metadata)
        .set_syscalls(Some(syscalls));
    Ok(profile)
}

/// A profile.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Text {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<ArchText>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<PathBuf>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<RuleText>>,
}

/// An architecture and those whose programs it runs as well.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchText {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

/// A rule.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuleText {
    /// From before there was `names`.
    name: Option<String>,
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    args: Option<Vec<LinuxSeccompArg>>,
    includes: Option<FilterText>,
    excludes: Option<FilterText>,
}

/// Where a rule holds, or does not.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FilterText {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<KernelVersion>,
}

impl Text {
    /// None: that of the machine alone.
    fn architectures(&self, machine: Machine) -> Result<Option<Vec<Arch>>, Error> {
        let is_set = |list: Option<usize>| list.is_some_and(|length| length > 0);
        let listed = self.architectures.as_ref().map(Vec::len);
        let mapped = self.arch_map.as_ref().map(Vec::len);
        if is_set(listed) && is_set(mapped) {
            return Err(Error::Ambiguous {
                first: "architectures",
                second: "archMap",
            });
        }
        if is_set(listed) {
            return Ok(self.architectures.clone());
        }
        let of_this_machine = self
            .arch_map
            .iter()
            .flatten()
            .find(|entry| machine.abi(entry.architecture) == Some(machine.native()));
        Ok(of_this_machine.map(|entry| {
            let sub_architectures = entry.sub_architectures.iter().flatten();
            std::iter::once(&entry.architecture)
                .chain(sub_architectures)
                .copied()
                .collect()
        }))
    }
}

impl RuleText {
    fn holds_on(&self, host: &Host<'_>) -> bool {
        let included = self.includes.as_ref().is_none_or(|f| f.includes(host));
        let excluded = self.excludes.as_ref().is_some_and(|f| f.excludes(host));
        included && !excluded
    }

    fn into_oci(self) -> Result<LinuxSyscall, Error> {
        let names = match (self.name, self.names.filter(|names| !names.is_empty())) {
            (Some(name), None) => vec![name],
            (None, names) => names.unwrap_or_default(),
            (Some(_), Some(_)) => {
                return Err(Error::Ambiguous {
                    first: "name",
                    second: "names",
                });
            }
        };
        let mut rule = LinuxSyscall::default();
        rule.set_names(names)
            .set_action(self.action)
            .set_errno_ret(self.errno_ret)
            .set_args(self.args.filter(|args| !args.is_empty()));
        Ok(rule)
    }
}

impl FilterText {
    /// All capabilities, one of the architectures and the kernel.
    fn includes(&self, host: &Host<'_>) -> bool {
        let mut caps = self.caps.iter().flatten();
        let of_arch = match self.arches.as_deref() {
            None | Some([]) => true,
            Some(arches) => arches.iter().any(|arch| host.is(arch)),
        };
        of_arch
            && caps.all(|cap| host.has(cap))
            && self.min_kernel.is_none_or(|least| host.kernel >= least)
    }

    /// Any of the capabilities or architectures, or the kernel.
    fn excludes(&self, host: &Host<'_>) -> bool {
        let mut caps = self.caps.iter().flatten();
        let mut arches = self.arches.iter().flatten();
        caps.any(|cap| host.has(cap))
            || arches.any(|arch| host.is(arch))
            || self.min_kernel.is_some_and(|least| host.kernel >= least)
    }
}

impl Host<'_> {
    fn is(&self, arch: &str) -> bool {
        arch == self.machine.docker_name()
    }

    /// A capability that does not exist is one that nobody has.
    fn has(&self, capability: &str) -> bool {
        let name = capability.strip_prefix("CAP_").unwrap_or(capability);
        name.parse::<Capability>()
            .is_ok_and(|capability| self.granted.contains(&capability))
    }
}

#[cfg(test)]
mod tests;
