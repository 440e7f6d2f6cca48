//! The node that all of this happens on, and what is kept of the run.

use crate::faults::{Fault, Faults};
use crate::logs::LogDisk;
use crate::plugins::Plugins;
use crate::population::Population;
use anyhow::{Context, Result};
use crisp_e2e::{Node, oci_handlers};
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::{RwLock, watch};

/// Room for the images, for what a few dozen containers write, and for their logs.
const DISK_MIB: u32 = 160;

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) node: Node,
    pub(crate) plugins: Plugins,
    pub(crate) faults: Faults,
    pub(crate) population: Population,
    pub(crate) log_disk: LogDisk,
    pub(crate) tally: Tally,
    /// Read by each step; written by who needs that nobody is in one.
    pub(crate) steps: RwLock<()>,
    trace: Trace,
    ends: watch::Sender<bool>,
}

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) operations: AtomicU64,
    pub(crate) pods: AtomicU64,
    pub(crate) containers: AtomicU64,
    pub(crate) daemons_killed: AtomicU64,
    pub(crate) shims_killed: AtomicU64,
    pub(crate) other_faults: AtomicU64,
}

impl World {
    pub(crate) async fn open(trace: &Path) -> Result<Self> {
        let node = Node::start_on_small_disks(DISK_MIB, |config| {
            config.insert("handlers".to_owned(), oci_handlers().into());
        })
        .await?;
        Ok(Self {
            plugins: Plugins::install(&node)?,
            node,
            faults: Faults::new(),
            population: Population::default(),
            log_disk: LogDisk::default(),
            tally: Tally::default(),
            steps: RwLock::default(),
            trace: Trace::open(trace)?,
            ends: watch::Sender::new(false),
        })
    }

    /// Writes a line of the trace.
    pub(crate) fn note(&self, who: &str, what: impl fmt::Display) {
        self.trace.write(who, &what);
    }

    pub(crate) fn begin_fault(&self, who: &str, what: impl fmt::Display) -> Fault<'_> {
        let fault = self.faults.begin();
        self.note(who, format_args!("FAULT {what}"));
        fault
    }

    /// Has everybody come to an end.
    pub(crate) fn end(&self) {
        self.ends.send_replace(true);
    }

    pub(crate) fn is_ending(&self) -> bool {
        *self.ends.borrow()
    }

    /// Sleeps, but not beyond the end.
    pub(crate) async fn pause(&self, time: std::time::Duration) {
        let mut ends = self.ends.subscribe();
        // The sender lives as long as `self`.
        let _ = tokio::time::timeout(time, ends.wait_for(|ends| *ends)).await;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        write!(
            f,
            "operations {}, pods {}, containers {}, daemons killed {}, shims killed {}, other faults {}",
            count(&self.operations),
            count(&self.pods),
            count(&self.containers),
            count(&self.daemons_killed),
            count(&self.shims_killed),
            count(&self.other_faults),
        )
    }
}

pub(crate) fn add_one(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A file with a line for each thing that was done, with the seconds since the start.
#[derive(Debug)]
struct Trace {
    start: Instant,
    file: Mutex<BufWriter<File>>,
}

impl Trace {
    fn open(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        Ok(Self {
            start: Instant::now(),
            file: Mutex::new(BufWriter::new(file)),
        })
    }

    fn write(&self, who: &str, what: &dyn fmt::Display) {
        let seconds = self.start.elapsed().as_secs_f64();
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever fills the disk of the traces sees it elsewhere.
        let _ = writeln!(file, "{seconds:10.3} {who:8} {what}");
        let _ = file.flush();
    }
}
