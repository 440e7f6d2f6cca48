//! Starting a further process in a container; and reopening its log.

use super::Container;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::record::ContainerRecord;
use crate::seccomp::Confinement;
use crate::shim::{Shim, unexpected};
use crisp_crash::point;
use crisp_model::ExecId;
use crisp_model::spec::exec_process;
use crisp_shim_api::message::{Exec, Exit, ReopenLog, reply, request};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// A longer process object than this, in bytes, travels beside the packet: the environment of a
/// container may be larger than a packet.
const PROCESS_IN_PACKET_MAX: usize = 64 << 10;

/// How a process is to be exec'd.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ExecWanted {
    pub(crate) terminal: bool,
    pub(crate) stdin: bool,
    pub(crate) timeout: Option<Duration>,
}

/// A process that is ready to be exec'd.
#[derive(Debug)]
pub(crate) struct PreparedExec {
    message: Exec,
    /// Holds the process object when the message does not.
    process: Option<OwnedFd>,
}

impl PreparedExec {
    pub(crate) fn id(&self) -> &str {
        &self.message.exec_id
    }

    /// Starts it, and gives its exit to come and the descriptors of its streams.
    pub(crate) async fn start(
        self,
        shim: &Shim,
    ) -> Result<(oneshot::Receiver<Exit>, Vec<OwnedFd>)> {
        let exec_id = self.message.exec_id.clone();
        let exited = shim.expect_exec(&exec_id);
        let request = request::Body::Exec(self.message);
        let started = shim.call_with(request, self.process.as_slice(), None).await;
        if started.is_err() {
            shim.forget_exec(&exec_id);
        }
        match started? {
            (reply::Body::ExecStarted(_), fds) => Ok((exited, fds)),
            (other, _) => Err(unexpected(&other)),
        }
    }
}

impl Engine {
    /// A container, if it runs.
    pub(crate) fn running_container(&self, id: &str) -> Result<Arc<Container>> {
        let container = self.store.container(id)?;
        match container.state().pid() {
            Some(_) => Ok(container),
            None => Err(Error::FailedPrecondition(format!(
                "container {} does not run",
                container.id()
            ))),
        }
    }

    pub(crate) fn prepare_exec(
        &self,
        record: &ContainerRecord,
        command: Vec<String>,
        wanted: ExecWanted,
    ) -> Result<PreparedExec> {
        if command.first().is_none_or(String::is_empty) {
            return Err(Error::invalid("cmd", "is empty"));
        }
        let first = self.read_process(record)?;
        let process = exec_process(first, command, wanted.terminal);
        let json = serde_json::to_vec(&process).map_err(|e| Error::Internal(e.to_string()))?;
        let (process_json, process) = match json.len() {
            0..=PROCESS_IN_PACKET_MAX => (json, None),
            _ => (
                Vec::new(),
                Some(in_memory(&json).map_err(Error::io("write", "a memory file"))?),
            ),
        };
        let filter = Confinement::read(&self.bundle_dir(&record.pod, &record.id))?;
        let message = Exec {
            container_id: record.id.to_string(),
            exec_id: ExecId::generate().to_string(),
            process_json,
            terminal: wanted.terminal,
            stdin: wanted.stdin,
            timeout_ms: wanted.timeout.map_or(0, milliseconds),
            seccomp_filter: filter.filter,
            seccomp_flags: filter.flags,
        };
        Ok(PreparedExec { message, process })
    }

    /// Has the shim open the container's log anew, after the old file was moved away.
    ///
    /// # Errors
    /// If the container does not run.
    pub async fn reopen_log(self: &Arc<Self>, id: &str) -> Result<()> {
        let container = self.running_container(id)?;
        let request = ReopenLog {
            container_id: container.id().to_string(),
        };
        let shim = self.shim_of(&container)?;
        shim.call(request::Body::ReopenLog(request)).await?;
        point!("reopen.answered");
        Ok(())
    }
}

fn in_memory(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(c"process", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// Whole milliseconds; what is shorter than one is one, for zero means for ever.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .max(1)
}
