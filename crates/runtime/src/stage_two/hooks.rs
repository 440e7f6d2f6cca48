//! The hooks that run while the container is made and before its program is executed.

use super::root::Visit;
use crate::error::{Context, StartError};
use crate::spec::Point;
use crate::stage_one::InitHooks;
use crisp_sys::process::SingleThreaded;
use nix::errno::Errno;
use nix::unistd::Pid;
use std::path::Path;

/// The hooks of a process, of which most have none.
pub(super) struct Hooks<'a>(Option<Own<'a>>);

struct Own<'a> {
    init: &'a InitHooks,
    /// This process in the caller's pid namespace.
    pid: Pid,
}

impl<'a> Hooks<'a> {
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// While the host's procfs is at /proc.
    pub(super) fn new(init: Option<&'a InitHooks>) -> Result<Self, StartError> {
        let own = |init| {
            Ok(Own {
                init,
                pid: host_pid()?,
            })
        };
        init.map(own).transpose().map(Self)
    }

    pub(super) fn root_place(&self) -> Option<&'a Path> {
        self.0.as_ref()?.init.root_place.as_deref()
    }

    /// Runs those that see the host's files, and find the container's root among them.
    pub(super) fn create(&self, visit: &Visit, witness: &SingleThreaded) -> Result<(), StartError> {
        let Some(Own { init, pid }) = &self.0 else {
            return Ok(());
        };
        if let Some(attendant) = &init.attendant {
            attendant.created(*pid)?;
        }
        let enter = || visit.return_to_host();
        init.run
            .at(Point::CreateContainer, Some(*pid), enter, witness)
    }

    /// Runs those that belong to the container, and lets those begin to wait that come after the start.
    pub(super) fn start(
        &self,
        become_the_container: impl Fn() -> Result<(), StartError>,
        witness: &SingleThreaded,
    ) -> Result<(), StartError> {
        let Some(Own { init, pid }) = &self.0 else {
            return Ok(());
        };
        if let (Some(attendant), None) = (&init.attendant, &init.root_place) {
            attendant.created(*pid)?;
        }
        init.run.at(
            Point::StartContainer,
            Some(*pid),
            become_the_container,
            witness,
        )?;
        match &init.attendant {
            Some(attendant) => attendant.starting(),
            None => Ok(()),
        }
    }

    /// There was nothing to execute.
    pub(super) fn not_started(&self) {
        if let Some(attendant) = self.0.as_ref().and_then(|own| own.init.attendant.as_ref()) {
            attendant.not_started();
        }
    }
}

fn host_pid() -> Result<Pid, StartError> {
    let path = Path::new("/proc/self");
    let link = std::fs::read_link(path).step("read link", path)?;
    let pid = link.to_str().and_then(|pid| pid.parse().ok());
    pid.map(Pid::from_raw)
        .ok_or(Errno::EINVAL)
        .step("read link", path)
}
