//! Seccomp profiles as filters: compiled once per profile, and kept with the container.

use crate::config::UnsetSeccomp;
use crate::error::{Error, Result};
use crate::files::replace_file;
use crisp_model::spec::CapabilitySet;
use crisp_model::{ContainerSecurity, SecurityProfile};
use crisp_seccomp::Program;
use oci_spec::runtime::{Capability, LinuxSeccomp};
use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// File of the bundle that holds the filter: its flags as four little-endian bytes, then the filter.
const FILTER_FILE: &str = "seccomp.bpf";
const PROFILE_MAX_BYTES: u64 = crisp_seccomp::MAX_PROFILE_BYTES as u64;
/// Compiled default profiles that are kept, one for each set of capabilities that was seen.
const CACHED_MAX: usize = 64;

/// Compiled default profiles by the capabilities that they depend on.
#[derive(Debug, Default)]
pub(crate) struct Profiles {
    defaults: Mutex<HashMap<String, Arc<Program>>>,
}

/// What confines the system calls of a container.
#[derive(Debug, Default)]
pub(crate) struct Confinement {
    /// For the spec; none when the filter says it all.
    pub(crate) profile: Option<LinuxSeccomp>,
    program: Option<Arc<Program>>,
}

impl Profiles {
    /// The filter that a security context asks for.
    ///
    /// # Errors
    /// If a localhost profile is missing or wrong.
    pub(crate) fn of(
        &self,
        security: &ContainerSecurity,
        capabilities: &CapabilitySet,
        unset: UnsetSeccomp,
    ) -> Result<Confinement> {
        let program = match Asked::by(security, unset) {
            Asked::Nothing => return Ok(Confinement::default()),
            Asked::Default => self.default_program(capabilities)?,
            Asked::Localhost(path) => Arc::new(localhost(path, capabilities)?.1),
        };
        Ok(Confinement {
            profile: None,
            program: Some(program),
        })
    }

    fn default_program(&self, capabilities: &CapabilitySet) -> Result<Arc<Program>> {
        let mut names: Vec<_> = capabilities.iter().map(Capability::to_string).collect();
        names.sort_unstable();
        let key = names.join(",");
        let mut cached = self.defaults.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = cached.get(&key) {
            return Ok(program.clone());
        }
        let profile = crisp_seccomp::default_profile(capabilities);
        let program = crisp_seccomp::compile(&profile)
            .map_err(|e| Error::Internal(format!("the default seccomp profile: {e}")))?;
        let program = Arc::new(program);
        if cached.len() >= CACHED_MAX {
            cached.clear();
        }
        cached.insert(key, program.clone());
        Ok(program)
    }
}

/// What a security context asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked<'a> {
    Nothing,
    Default,
    Localhost(&'a Path),
}

impl<'a> Asked<'a> {
    fn by(security: &'a ContainerSecurity, unset: UnsetSeccomp) -> Self {
        if security.privileged {
            return Self::Nothing;
        }
        match (&security.seccomp, unset) {
            (SecurityProfile::Unconfined, _)
            | (SecurityProfile::Unset, UnsetSeccomp::Unconfined) => Self::Nothing,
            (SecurityProfile::Localhost(path), _) => Self::Localhost(Path::new(path)),
            _ => Self::Default,
        }
    }
}

impl Confinement {
    /// What a security context asks for as a profile in the spec, for a runtime that compiles it itself.
    ///
    /// # Errors
    /// As [`Profiles::of`].
    pub(crate) fn in_spec(
        security: &ContainerSecurity,
        capabilities: &CapabilitySet,
        unset: UnsetSeccomp,
    ) -> Result<Self> {
        let profile = match Asked::by(security, unset) {
            Asked::Nothing => None,
            Asked::Default => Some(crisp_seccomp::default_profile(capabilities)),
            Asked::Localhost(path) => Some(localhost(path, capabilities)?.0),
        };
        Ok(Self {
            profile,
            program: None,
        })
    }

    /// Puts the filter in a bundle.
    pub(crate) fn write(&self, bundle: &Path) -> Result<()> {
        let Some(program) = &self.program else {
            return Ok(());
        };
        let mut content = program.flags.to_le_bytes().to_vec();
        content.extend_from_slice(&program.filter);
        replace_file(&bundle.join(FILTER_FILE), &content)
    }

    /// The filter in a bundle; an empty one: none.
    pub(crate) fn read(bundle: &Path) -> Result<Program> {
        let path = bundle.join(FILTER_FILE);
        let content = match std::fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Program {
                    filter: Vec::new(),
                    flags: 0,
                });
            }
            read => read.map_err(Error::io("read", &path))?,
        };
        let (flags, filter) = content
            .split_first_chunk::<4>()
            .ok_or_else(|| Error::Internal(format!("{} is torn", path.display())))?;
        Ok(Program {
            filter: filter.to_vec(),
            flags: u32::from_le_bytes(*flags),
        })
    }
}

/// A profile of the host, and its filter.
fn localhost(path: &Path, capabilities: &CapabilitySet) -> Result<(LinuxSeccomp, Program)> {
    let field = "linux.security_context.seccomp.localhost_ref";
    if !path.is_absolute() {
        return Err(Error::invalid(
            field,
            format!("{path:?} is not an absolute path"),
        ));
    }
    let metadata = std::fs::metadata(path).map_err(Error::io("read the seccomp profile", path))?;
    if !metadata.is_file() || metadata.len() > PROFILE_MAX_BYTES {
        let reason = format!("{path:?} is not a file of at most {PROFILE_MAX_BYTES} bytes");
        return Err(Error::invalid(field, reason));
    }
    let text = std::fs::read(path).map_err(Error::io("read the seccomp profile", path))?;
    let wrong = |e: crisp_seccomp::Error| Error::invalid(field, format!("{}: {e}", path.display()));
    let profile = crisp_seccomp::parse_profile(&text, capabilities).map_err(wrong)?;
    let program = crisp_seccomp::compile(&profile).map_err(wrong)?;
    Ok((profile, program))
}
