//! What a process takes of the machine.

use crate::kernel::Process;
use anyhow::Result;
use std::fmt;

/// At one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    pub descriptors: usize,
    pub threads: usize,
    pub resident_bytes: u64,
}

impl Figures {
    /// # Errors
    /// The process is gone.
    pub fn of(process: Process) -> Result<Self> {
        Ok(Self {
            descriptors: process.descriptors()?,
            threads: process.threads()?,
            resident_bytes: process.resident_bytes()?,
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            descriptors,
            threads,
            resident_bytes,
        } = self;
        let resident_kib = resident_bytes >> 10;
        write!(
            f,
            "{resident_kib} KiB, {descriptors} descriptors, {threads} threads"
        )
    }
}
