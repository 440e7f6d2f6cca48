//! A terminal with a program on it, as a person has one.

use crate::wait::until;
use anyhow::{Context, Result};
use nix::pty::openpty;
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command as StdCommand, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use tokio::process::{Child, Command};

/// The side that the person is at. The program is killed when this is dropped.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    shown: Arc<Mutex<String>>,
    program: Child,
}

impl Terminal {
    /// Runs a program on a new terminal, which becomes its controlling one by setsid(1).
    ///
    /// # Errors
    /// It cannot be started.
    pub fn open(program: &StdCommand) -> Result<Self> {
        let pair = openpty(None, None)?;
        let (master, slave) = (File::from(pair.master), File::from(pair.slave));
        let mut command = Command::new("setsid");
        command
            .arg("--ctty")
            .arg(program.get_program())
            .args(program.get_args())
            .stdin(slave.try_clone()?)
            .stdout(slave.try_clone()?)
            .stderr(slave)
            .kill_on_drop(true);
        let program = command.spawn()?;
        let shown = Arc::default();
        thread::spawn({
            let (screen, shown) = (master.try_clone()?, Arc::clone(&shown));
            move || watch(screen, &shown)
        });
        Ok(Self {
            master,
            shown,
            program,
        })
    }

    /// Types a text, without an Enter that is not in it.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn enter(&mut self, text: &str) -> Result<()> {
        Ok(self.master.write_all(text.as_bytes())?)
    }

    /// Gives the window another size.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        Ok(crisp_sys::terminal::set_size(&self.master, columns, rows)?)
    }

    /// Waits until a text is shown.
    ///
    /// # Errors
    /// It is not; the message has what is.
    pub async fn wait_for(&self, text: &str) -> Result<()> {
        let shows = async || self.shown().contains(text).then_some(());
        let found = until(&format!("{text:?} on the terminal"), shows).await;
        found.with_context(|| self.shown())
    }

    /// Everything that was shown so far.
    #[must_use]
    pub fn shown(&self) -> String {
        lock(&self.shown).clone()
    }

    /// Waits for the end of the program.
    ///
    /// # Errors
    /// It goes on running.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        until("the program on the terminal ends", async || {
            self.program.try_wait().ok().flatten()
        })
        .await
        .with_context(|| self.shown())
    }
}

/// Takes note of what is shown until nobody holds the other side any more.
fn watch(mut screen: File, shown: &Mutex<String>) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = screen.read(&mut bytes) {
        lock(shown).push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
}

fn lock(shown: &Mutex<String>) -> std::sync::MutexGuard<'_, String> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}
