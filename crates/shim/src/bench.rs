//! Ways in for benchmarks. Not for anybody else.

use crate::lines::{Lines, Stream};
use std::time::SystemTime;

/// The log of a container's standard output, of which only what came last is kept.
#[derive(Debug)]
pub struct Log {
    lines: Lines,
    log: Vec<u8>,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            lines: Lines::new(Stream::Stdout),
            log: Vec::new(),
        }
    }
}

impl Log {
    /// Makes lines of what a container has written; how many bytes they are.
    pub fn take(&mut self, output: &[u8]) -> usize {
        self.log.clear();
        self.lines.push(output, SystemTime::now(), &mut self.log);
        self.log.len()
    }
}
