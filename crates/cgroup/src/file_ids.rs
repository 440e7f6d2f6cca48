//! Where the files of one cgroup are that are read again and again.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};

/// What tells the figures that kubelets ask for every few seconds, of both versions. On a host a name is in one
/// hierarchy only.
const NAMES: [&str; 12] = [
    "cpuacct.usage",
    "memory.usage_in_bytes",
    "memory.limit_in_bytes",
    "cpu.stat",
    "memory.current",
    "memory.max",
    "memory.swap.current",
    "memory.stat",
    "pids.current",
    "cpu.pressure",
    "memory.pressure",
    "io.pressure",
];

/// Ids of files, as far as they were asked for: see [`crisp_sys::kernfs`].
#[derive(Debug, Default)]
pub(crate) struct FileIds([AtomicU64; NAMES.len()]);

impl FileIds {
    /// The place of a file's id; none: it is not one of those.
    pub(crate) fn of(&self, name: &str) -> Option<FileId<'_>> {
        let place = NAMES.iter().position(|known| *known == name)?;
        Some(FileId(&self.0[place]))
    }
}

/// The id of one file; zero: it is not known. Threads that learn it at a time learn the same.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileId<'a>(&'a AtomicU64);

impl FileId<'_> {
    pub(crate) fn get(self) -> Option<NonZeroU64> {
        NonZeroU64::new(self.0.load(Ordering::Relaxed))
    }

    pub(crate) fn set(self, id: Option<NonZeroU64>) {
        self.0
            .store(id.map_or(0, NonZeroU64::get), Ordering::Relaxed);
    }
}
