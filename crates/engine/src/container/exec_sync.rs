//! Running a command in a container and collecting what it says.

use crate::container::exec::{ExecWanted, milliseconds};
use crate::engine::{Engine, detached, exit_reason};
use crate::error::{Error, Result};
use crate::view::ExecOutput;
use crisp_crash::point;
use crisp_shim_api::message::Exit;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::oneshot;

/// What is kept of each stream, in bytes; the kubelet's own bound on a message.
const OUTPUT_MAX: usize = 16 << 20;
/// Bytes that are read at once.
const READ_BYTES: usize = 16 << 10;
/// How long output is waited for after the command's end, when something it started holds the pipe.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

impl Engine {
    /// Runs a command in a container, waits for its end and gives its output. None or zero for
    /// `timeout` waits for ever; after it the command and all it started are killed.
    ///
    /// # Errors
    /// [`Error::DeadlineExceeded`] after the timeout; [`Error::NotExecutable`] if there is no such
    /// program; [`Error::FailedPrecondition`] if the container does not run.
    pub async fn exec_sync(
        self: &Arc<Self>,
        id: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput> {
        let container = self.running_container(id)?;
        let shim = self.shim_of(&container)?;
        let timeout = timeout.filter(|t| !t.is_zero());
        let wanted = ExecWanted {
            timeout,
            ..ExecWanted::default()
        };
        let exec = self.prepare_exec(&container.record(), command, wanted)?;
        detached(async move {
            let (exited, fds) = exec.start(&shim).await?;
            point!("exec.started");
            let (exit, stdout, stderr) = collect(fds, exited).await?;
            point!("exec.ended");
            if exit.timed_out {
                return Err(Error::DeadlineExceeded {
                    what: "the command".to_owned(),
                    after_ms: timeout.map_or(0, milliseconds),
                });
            }
            Ok(ExecOutput {
                stdout,
                stderr,
                exit_code: exit_reason(&exit).exit_code(),
            })
        })
        .await
    }
}

/// Reads both streams to their end; but not for longer than a moment after the command has ended.
async fn collect(
    fds: Vec<OwnedFd>,
    mut exited: oneshot::Receiver<Exit>,
) -> Result<(Exit, Vec<u8>, Vec<u8>)> {
    let Ok([stdout, stderr]) = <[OwnedFd; 2]>::try_from(fds) else {
        return Err(Error::Shim("did not give the command's output".to_owned()));
    };
    let (stdout, stderr) = (Stream::new(stdout)?, Stream::new(stderr)?);
    let reading = async { tokio::join!(stdout.read_to_end(), stderr.read_to_end()) };
    tokio::pin!(reading);
    let gone = |_| Error::Shim("is gone".to_owned());
    let exit = tokio::select! {
        exit = &mut exited => {
            let exit = exit.map_err(gone)?;
            let _ = tokio::time::timeout(DRAIN_TIMEOUT, &mut reading).await;
            exit
        }
        _ = &mut reading => exited.await.map_err(gone)?,
    };
    Ok((exit, stdout.take(), stderr.take()))
}

/// One stream of a command's output, and what of it is kept.
struct Stream {
    pipe: Receiver,
    kept: Mutex<Vec<u8>>,
}

impl Stream {
    fn new(pipe: OwnedFd) -> Result<Self> {
        let pipe = Receiver::from_owned_fd(pipe)
            .map_err(|e| Error::Shim(format!("gave no pipe for the command's output: {e}")))?;
        Ok(Self {
            pipe,
            kept: Mutex::default(),
        })
    }

    /// What is beyond the bound is read too, and dropped, so that the command is not held up.
    async fn read_to_end(&self) {
        let mut buffer = vec![0; READ_BYTES];
        while self.pipe.readable().await.is_ok() {
            match self.pipe.try_read(&mut buffer) {
                Ok(0) => return,
                Ok(bytes) => self.keep(&buffer[..bytes]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    fn keep(&self, bytes: &[u8]) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let room = OUTPUT_MAX - kept.len();
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
