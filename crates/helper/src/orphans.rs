//! Helpers whose daemon was killed. They go on, and would make what has been taken away already.

use crisp_sys::process::{pidfd_open, pidfd_send_signal};
use nix::libc::SIGKILL;
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long looking may take beyond the patience of whoever waits. Reading the environment of a process whose memory is locked
/// takes as long as the lock is held, which a file system that hangs can make for ever.
const LOOK_TIMEOUT: Duration = Duration::from_secs(7);

/// How often is looked whether they have ended.
const STEP: Duration = Duration::from_millis(20);

/// Waits until no process has `variable` (`NAME=value`) in its environment any more: no helper that was
/// given it, and nothing that one has started. Those that take longer than `patience` are killed.
pub async fn outwait(variable: &str, patience: Duration) {
    let told = variable.to_owned();
    let looking = tokio::task::spawn_blocking(move || look(&told, patience));
    let looked = tokio::time::timeout(patience + LOOK_TIMEOUT, looking).await;
    if looked.is_err() {
        tracing::warn!(
            variable,
            "the environment of a process cannot be read; what an earlier daemon ran may go on"
        );
    }
}

fn look(variable: &str, patience: Duration) {
    let begun = Instant::now();
    loop {
        let orphans = find(variable);
        if orphans.is_empty() {
            return;
        }
        if begun.elapsed() > patience {
            orphans.into_iter().for_each(|pid| end(pid, variable));
            return;
        }
        std::thread::sleep(STEP);
    }
}

/// The processes that have a variable in their environment.
fn find(variable: &str) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    pids.map(Pid::from_raw)
        .filter(|pid| has(*pid, variable))
        .collect()
}

fn end(pid: Pid, variable: &str) {
    // The descriptor is the process's for good; the number may have become another's by now.
    let Ok(pidfd) = pidfd_open(pid) else {
        return;
    };
    if has(pid, variable) {
        tracing::warn!(%pid, "killing what an earlier daemon ran");
        // One that has ended is what is wanted.
        let _ = pidfd_send_signal(&pidfd, SIGKILL);
    }
}

fn has(pid: Pid, variable: &str) -> bool {
    let path = Path::new("/proc").join(pid.to_string()).join("environ");
    let environment = fs::read(path).unwrap_or_default();
    environment
        .split(|byte| *byte == 0)
        .any(|entry| entry == variable.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    #[tokio::test]
    async fn what_has_the_variable_is_killed_and_nothing_else() {
        let id = format!("orphan-{}", std::process::id());
        let start = |value: &str| {
            let mut sleep = Command::new("sleep");
            let sleep = sleep.arg("1000").env("CRISP_TEST_ORPHAN", value);
            sleep.spawn().unwrap()
        };
        let mut orphan = start(&id);
        let mut other = start(&format!("{id}1"));
        outwait(&format!("CRISP_TEST_ORPHAN={id}"), STEP).await;
        assert_eq!(orphan.wait().unwrap().signal(), Some(SIGKILL));
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
