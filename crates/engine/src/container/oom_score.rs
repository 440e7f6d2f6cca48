//! Changing how likely the kernel is to end a container's processes when memory is short
//! (proc_pid_oom_score_adj(5)).

use crate::engine::{Engine, blocking};
use crate::error::{Error, Result};
use crate::record::ContainerRecord;
use crisp_cgroup::{Cgroup, CgroupPath};
use nix::errno::Errno;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, ErrorKind, Write};

/// How often processes are looked for that were born while others were given the score. Their parents
/// pass it on, so that the first look that finds none is the last.
const LOOKS_MAX: u32 = 16;

impl Engine {
    /// Gives a score to every process of a container, and to those that join it later. A score that is
    /// lower than the kernel allows (it takes CAP_SYS_RESOURCE) leaves a process the one that it has.
    pub(super) async fn set_oom_score_adj(
        &self,
        record: &ContainerRecord,
        score: i32,
    ) -> Result<()> {
        let mut spec = self.read_spec(record)?;
        if let Some(process) = spec.process_mut() {
            process.set_oom_score_adj(Some(score));
        }
        self.write_spec(record, &spec)?;
        let cgroup = self.hierarchies.open(&CgroupPath::parse(&record.cgroup)?);
        blocking(move || give_to_all(&cgroup, score)).await
    }
}

fn give_to_all(cgroup: &Cgroup, score: i32) -> Result<()> {
    let mut given = HashSet::new();
    for _ in 0..LOOKS_MAX {
        let mut found = cgroup.pids()?;
        found.retain(|pid| given.insert(*pid));
        if found.is_empty() {
            break;
        }
        give(cgroup, &found, score)?;
    }
    Ok(())
}

/// A file that is open stays its process's: one that is still in the cgroup then is the one meant, even
/// where ids are given anew.
fn give(cgroup: &Cgroup, pids: &[u32], score: i32) -> Result<()> {
    let mut files = Vec::new();
    for pid in pids {
        let path = format!("/proc/{pid}/oom_score_adj");
        match File::options().write(true).open(&path) {
            Ok(file) => files.push((pid, path, file)),
            Err(error) if has_ended(&error) => {}
            Err(error) => return Err(Error::io("open", path)(error)),
        }
    }
    let still: HashSet<_> = cgroup.pids()?.into_iter().collect();
    for (pid, path, mut file) in files {
        if !still.contains(pid) {
            continue;
        }
        match file.write_all(score.to_string().as_bytes()) {
            Err(error) if has_ended(&error) || error.kind() == ErrorKind::PermissionDenied => {}
            written => written.map_err(Error::io("write", path))?,
        }
    }
    Ok(())
}

fn has_ended(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32)
}
