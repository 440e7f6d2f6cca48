//! A program that runs beside tests until it is told to end, and what it says.

use crate::child;
use crate::wait::until_within;
use anyhow::{Context, Result, anyhow};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long one may take until it answers, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(180);
const STEP: Duration = Duration::from_millis(200);

/// One that runs, or is dead at the moment. Killed when dropped.
#[derive(Debug)]
pub struct Service {
    command: Mutex<Command>,
    log: PathBuf,
    process: Mutex<Option<Child>>,
}

impl Service {
    /// It does not run yet. Its log is empty before it does.
    ///
    /// # Errors
    /// The log cannot be written.
    pub fn new(command: &Command, log: PathBuf) -> Result<Self> {
        File::create(&log).with_context(|| log.display().to_string())?;
        Ok(Self {
            command: Mutex::new(child::bound(command)),
            log,
            process: Mutex::new(None),
        })
    }

    /// From its next start on it is another command.
    pub fn become_command(&self, command: &Command) {
        *self.command() = child::bound(command);
    }

    /// Starts it, and waits until it answers.
    ///
    /// # Errors
    /// It ends, or does not answer; the message has where its log is.
    pub async fn start(&self, mut answers: impl AsyncFnMut() -> bool) -> Result<()> {
        self.spawn()?;
        let answer = until_within(PATIENCE, STEP, "it answers", async || {
            if let Ok(Some(status)) = self.process().as_mut()?.try_wait() {
                return Some(Err(anyhow!("it ended: {status}")));
            }
            answers().await.then_some(Ok(()))
        });
        let answer = answer.await.and_then(|answer| answer);
        answer.with_context(|| self.log.display().to_string())
    }

    fn spawn(&self) -> Result<()> {
        let log = File::options().append(true).open(&self.log)?;
        let told = self.command();
        let mut command = Command::new(told.get_program());
        command
            .args(told.get_args())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = child::spawn(command).with_context(|| format!("{told:?}"))?;
        *self.process() = Some(child);
        Ok(())
    }

    /// Kills it, as a crash would.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&self) -> Result<()> {
        let mut child = self.process().take().context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Where what it says stays, for a person to look into.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    fn command(&self) -> MutexGuard<'_, Command> {
        self.command.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // One that is gone already is what is wanted.
        let _ = self.kill();
    }
}
