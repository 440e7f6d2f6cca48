//! Programs of others that the daemon runs when it is told to: CNI plugins, verifiers of images, OCI
//! runtimes that are asked what they can do.
//!
//! A helper is bounded in time and output, gets no descriptor but its standard streams, and has a process
//! group of its own, which is killed when the helper has ended or is given up: nothing that it started
//! stays behind in the group.

#![forbid(unsafe_code)]

mod orphans;

pub use orphans::outwait;

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{SignalKind, signal};

/// A program to run, and how much of it is borne.
#[derive(Debug, Clone)]
pub struct Helper {
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// Beside the daemon's own environment.
    pub env: Vec<(OsString, OsString)>,
    /// What it reads; it may as well not.
    pub input: Vec<u8>,
    /// After this it is killed.
    pub timeout: Duration,
    /// It is killed when it writes more than this to one of its outputs.
    pub max_output_bytes: usize,
}

/// How a helper ended by itself.
#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// Why a helper has no outcome.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// It is not there, or cannot be executed.
    #[error("cannot run {}", program.display())]
    Spawn {
        program: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("{} did not end within {after:?} and was killed", program.display())]
    TimedOut { program: PathBuf, after: Duration },
    #[error("{} wrote more than {max_bytes} bytes and was killed", program.display())]
    TooMuchOutput { program: PathBuf, max_bytes: usize },
    #[error("cannot follow {}", program.display())]
    Io {
        program: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
}

/// How long the outputs of a helper that has ended are still read: they stay open for as long as a
/// process that left its group has them.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

impl Helper {
    /// Runs the program to its end. Dropping the future kills it.
    ///
    /// # Errors
    /// Any of [`Error`]; that it failed is no error but its [`Output::status`].
    pub async fn run(self) -> Result<Output, Error> {
        match tokio::time::timeout(self.timeout, self.run_to_end()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::TimedOut {
                program: self.program,
                after: self.timeout,
            }),
        }
    }

    async fn run_to_end(&self) -> Result<Output, Error> {
        let mut child = self.spawn()?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        let pid = Pid::from_raw(pid.expect("it was not waited for, and the kernel's pids fit"));
        let ended = ended(pid).map_err(|e| self.broken(e))?;
        let group = Group(pid);
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        {
            let talk = async {
                tokio::try_join!(
                    self.feed(child.stdin.take()),
                    self.gather(child.stdout.take(), &mut stdout),
                    self.gather(child.stderr.take(), &mut stderr),
                )
            };
            let (mut talk, mut ended) = (pin!(talk), pin!(ended));
            tokio::select! {
                talked = &mut talk => {
                    talked?;
                    ended.await;
                    drop(group);
                }
                () = &mut ended => {
                    drop(group);
                    if let Ok(talked) = tokio::time::timeout(DRAIN_TIMEOUT, talk).await {
                        talked?;
                    }
                }
            }
        }
        let status = child.wait().await.map_err(|e| self.broken(e))?;
        Ok(Output {
            status,
            stdout,
            stderr,
        })
    }

    fn spawn(&self) -> Result<Child, Error> {
        Command::new(&self.program)
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| Error::Spawn {
                program: self.program.clone(),
                source: Arc::new(source),
            })
    }

    async fn feed(&self, stdin: Option<ChildStdin>) -> Result<(), Error> {
        if let Some(mut stdin) = stdin {
            // A helper may end without having read it.
            let _ = stdin.write_all(&self.input).await;
        }
        Ok(())
    }

    async fn gather(
        &self,
        output: Option<impl AsyncRead + Unpin>,
        text: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let Some(output) = output else { return Ok(()) };
        let most = self.max_output_bytes;
        let read = output.take(most as u64 + 1).read_to_end(text).await;
        read.map_err(|e| self.broken(e))?;
        match text.len() > most {
            false => Ok(()),
            true => Err(Error::TooMuchOutput {
                program: self.program.clone(),
                max_bytes: most,
            }),
        }
    }

    fn broken(&self, source: io::Error) -> Error {
        Error::Io {
            program: self.program.clone(),
            source: Arc::new(source),
        }
    }
}

/// Waits until a child has ended, and leaves it to be reaped.
fn ended(child: Pid) -> io::Result<impl Future<Output = ()>> {
    let mut children = signal(SignalKind::child())?;
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    Ok(async move {
        while waitid(Id::Pid(child), flags) == Ok(WaitStatus::StillAlive) {
            children.recv().await;
        }
    })
}

/// A process group, killed when nobody waits for it any more. Its leader must not be reaped before: until
/// then its number is nobody else's.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // The one failure is that nothing is left to be killed.
        let _ = killpg(self.0, Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests;
