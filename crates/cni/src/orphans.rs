//! Plugins whose runtime was killed. They go on, and would make what has been taken away already.

use crate::Attachment;
use crisp_sys::process::{pidfd_open, pidfd_send_signal};
use nix::libc::SIGKILL;
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long they may take to end by themselves. One that is killed can leave what its own DEL stumbles
/// over.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long all of it may take. Reading the environment of a process whose memory is locked takes as long
/// as the lock is held, which a file system that hangs can make for ever.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// How often is looked whether they have ended.
const STEP: Duration = Duration::from_millis(20);

/// Waits until no process works on an attachment any more: no plugin, and nothing that one has started.
/// Those that take too long are killed. Only for an attachment that no [`Client`](crate::Client) works
/// on.
pub async fn outwait_orphans(attachment: &Attachment) {
    let told = format!("CNI_CONTAINERID={}", attachment.container_id);
    let looking = tokio::task::spawn_blocking(move || outwait(&told));
    if tokio::time::timeout(LOOK_TIMEOUT, looking).await.is_err() {
        tracing::warn!(
            "the environment of a process cannot be read; CNI plugins that an earlier daemon ran may go on"
        );
    }
}

fn outwait(told: &str) {
    let begun = Instant::now();
    loop {
        let orphans = find(told);
        if orphans.is_empty() {
            return;
        }
        if begun.elapsed() > PATIENCE {
            orphans.into_iter().for_each(|pid| end(pid, told));
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
        tracing::warn!(%pid, "killing a CNI plugin that an earlier daemon ran");
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
    use crate::testing::{network, request};
    use serde_json::json;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::sync::Arc;

    #[tokio::test]
    async fn what_goes_on_working_on_the_attachment_is_killed_and_nothing_else() {
        let mut request = request();
        request.container_id = format!("orphan-{}", std::process::id());
        let network = Arc::new(network(json!([{"type": "a"}])));
        let attachment = Attachment::new(network, request).unwrap();
        let start = |id: &str| {
            let mut sleep = Command::new("sleep");
            sleep
                .arg("1000")
                .env("CNI_CONTAINERID", id)
                .spawn()
                .unwrap()
        };
        let mut orphan = start(&attachment.container_id);
        let mut other = start(&format!("{}1", attachment.container_id));
        outwait_orphans(&attachment).await;
        assert_eq!(orphan.wait().unwrap().signal(), Some(SIGKILL));
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
