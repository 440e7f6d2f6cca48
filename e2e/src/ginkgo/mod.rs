//! Suites of ginkgo, the framework that Kubernetes' tests are written in: how one is run to its end, and
//! what came out of it.

mod report;

pub use report::{Report, Verdict};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::{Child, Command};

/// Runs a suite's program to its end, with all that it prints in a file. Its verdict is in its report: when
/// there is none, what it printed says why.
///
/// # Errors
/// It cannot be started.
pub async fn run_suite(mut command: Command, log: &Path) -> Result<()> {
    let log = File::create(log).with_context(|| log.display().to_string())?;
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .with_context(|| format!("start of {:?}", command.as_std().get_program()))?;
    let mut processes = Processes(child);
    processes.0.wait().await?;
    Ok(())
}

/// A program in a process group of its own: in parallel a suite is several processes.
#[derive(Debug)]
struct Processes(Child);

impl Drop for Processes {
    fn drop(&mut self) {
        // There is no id any more when it has been waited for.
        let leader = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(leader) = leader {
            // All have ended already at best.
            let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
        }
    }
}

/// An empty directory for results, which stays for a person to look into.
///
/// # Errors
/// It cannot be emptied.
pub fn empty_results(dir: PathBuf) -> Result<PathBuf> {
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    Ok(dir)
}
