//! Helpers whose daemon was killed. They go on, and would make what has been taken away already.

use crisp_sys::process::{pidfd_open, pidfd_send_signal};
use nix::libc::SIGKILL;
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How long looking may take beyond the patience of whoever waits. Reading the environment of a process
/// whose memory is locked takes as long as the lock is held, which a file system that hangs can make for
/// ever.
const LOOK_TIMEOUT: Duration = Duration::from_secs(7);

/// The time between two looks whether they have ended: at first, and at last for those that take long, as
/// each look is at all processes there are.
const STEP: Duration = Duration::from_millis(20);
const STEP_MAX: Duration = Duration::from_millis(500);

/// Waits until no process has `variable` (`NAME=value`) in its environment any more: no helper that was
/// given it, and nothing that one has started. Those that take longer than `patience` are killed.
pub async fn outwait(variable: &str, patience: Duration) {
    let (told, waiting) = (variable.to_owned(), Arc::new(()));
    let waited_for = Arc::downgrade(&waiting);
    let looking = tokio::task::spawn_blocking(move || look(&told, patience, &waited_for));
    let looked = tokio::time::timeout(patience + LOOK_TIMEOUT, looking).await;
    if looked.is_err() {
        tracing::warn!(
            variable,
            "the environment of a process cannot be read; what an earlier daemon ran may go on"
        );
    }
}

/// Whoever waits for a look holds the other end, and runs helpers with the same variable afterwards.
type WaitedFor = Weak<()>;

fn look(variable: &str, patience: Duration, waited_for: &WaitedFor) {
    let (begun, mut step) = (Instant::now(), STEP);
    loop {
        let orphans = find(variable);
        if orphans.is_empty() {
            return;
        }
        if begun.elapsed() > patience {
            for pid in orphans {
                end(pid, variable, waited_for);
            }
            return;
        }
        std::thread::sleep(step);
        step = STEP_MAX.min(step * 2);
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

fn end(pid: Pid, variable: &str, waited_for: &WaitedFor) {
    // The descriptor is the process's for good; the number may have become another's by now.
    let Ok(pidfd) = pidfd_open(pid) else {
        return;
    };
    // A process that was there before the look was given up is none of who waited.
    if has(pid, variable) && waited_for.strong_count() > 0 {
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
    use nix::sys::signal::{Signal, kill};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command};

    fn start(value: &str) -> Child {
        let mut sleep = Command::new("sleep");
        let sleep = sleep.arg("1000").env("CRISP_TEST_ORPHAN", value);
        sleep.spawn().unwrap()
    }

    #[test]
    fn a_look_that_was_given_up_kills_nothing() {
        let id = format!("own-{}", std::process::id());
        let mut own = start(&id);
        look(&format!("CRISP_TEST_ORPHAN={id}"), STEP, &Weak::new());
        let pid = Pid::from_raw(own.id().try_into().unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        assert_eq!(own.wait().unwrap().signal(), Some(Signal::SIGTERM as i32));
    }

    #[tokio::test]
    async fn what_has_the_variable_is_killed_and_nothing_else() {
        let id = format!("orphan-{}", std::process::id());
        let mut orphan = start(&id);
        let mut other = start(&format!("{id}1"));
        outwait(&format!("CRISP_TEST_ORPHAN={id}"), STEP).await;
        assert_eq!(orphan.wait().unwrap().signal(), Some(SIGKILL));
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
