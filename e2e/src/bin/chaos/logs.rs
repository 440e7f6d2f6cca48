//! The log of a container over all its files: what was counted must be there, in order and once.

use anyhow::{Context, Result, ensure};
use crisp_e2e::{LogLine, parse_log};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The kubelet's log file and those that it has set aside.
#[derive(Debug)]
pub(crate) struct Logs {
    current: PathBuf,
    rotated: Vec<PathBuf>,
    disk: LogDisk,
    turns: u64,
}

/// How often the disk of all logs has become full, or has got room again.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogDisk(Arc<AtomicU64>);

impl LogDisk {
    /// Before it becomes full, and after it has got room.
    pub(crate) fn turn(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn turns(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// How many numbers each stream has, from zero on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) stdout: u64,
    pub(crate) stderr: u64,
}

impl Logs {
    /// Of a container that is not there yet.
    pub(crate) fn new(current: PathBuf, disk: LogDisk) -> Self {
        Self {
            current,
            rotated: Vec::new(),
            turns: disk.turns(),
            disk,
        }
    }

    /// Moves the file away, as the kubelet does before it asks for a new one.
    pub(crate) fn set_aside(&mut self) -> Result<()> {
        let aside = self
            .current
            .with_extension(format!("log.{}", self.rotated.len()));
        match fs::rename(&self.current, &aside) {
            Ok(()) => self.rotated.push(aside),
            // A container that was not started has none.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| self.current.display().to_string()),
        }
        Ok(())
    }

    /// Checks that what is there is whole, and tells how far it goes. None: the disk was full, when lines
    /// are dropped rather than that a container waits.
    pub(crate) fn count(&self) -> Result<Option<Counted>> {
        let text: String = self
            .rotated
            .iter()
            .chain([&self.current])
            .map(|path| fs::read_to_string(path).unwrap_or_default())
            .collect();
        if self.turns % 2 == 1 || self.turns != self.disk.turns() {
            return Ok(None);
        }
        // A line that is just being written.
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        let lines = parse_log(whole);
        Ok(Some(Counted {
            stdout: self.count_of("stdout", &lines)?,
            stderr: self.count_of("stderr", &lines)?,
        }))
    }

    fn count_of(&self, stream: &str, lines: &[LogLine]) -> Result<u64> {
        let mut expected = 0;
        let mut continued = false;
        for line in lines.iter().filter(|line| line.stream == stream) {
            let begins = !std::mem::replace(&mut continued, line.partial);
            let number = line
                .text
                .split(' ')
                .next()
                .and_then(|n| n.parse::<u64>().ok());
            // What shells say is no number.
            if let (true, Some(number)) = (begins, number) {
                ensure!(
                    number == expected,
                    "{}: {stream} has {number} where {expected} should be",
                    self.current.display()
                );
                expected += 1;
            }
        }
        Ok(expected)
    }
}
