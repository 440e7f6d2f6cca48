//! Nodes whose daemon and shims die at crash points.

use crate::kernel::Process;
use crate::node::Node;
use crate::records;
use crate::slot::Slot;
use crate::tools;
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;
use toml::Table;

impl Node {
    /// A node without any image, of the build that `hack/build.sh --crash-points` makes.
    ///
    /// # Errors
    /// Its daemon does not come up.
    pub async fn start_with_crash_points(edit: impl FnOnce(&mut Table)) -> Result<Self> {
        Self::start_program(tools::program("crash/crisp"), Slot::take(), edit).await
    }

    /// Has the daemon, or a shim, die at a crash point: `<point>:<n>` for the nth time from now on.
    ///
    /// # Errors
    /// The disk is full.
    pub fn kill_at(&self, order: &str) -> Result<()> {
        let (path, new) = (self.order(), self.daemon().crash_dir().join("new"));
        fs::write(&new, order)?;
        Ok(fs::rename(new, path)?)
    }

    /// Whether what [`Node::kill_at`] has asked for has not happened yet.
    #[must_use]
    pub fn is_to_die(&self) -> bool {
        self.order().exists()
    }

    /// Withdraws what [`Node::kill_at`] has asked for, if it has not happened.
    pub fn spare(&self) {
        let _ = fs::remove_file(self.order());
    }

    /// The crash points that daemons and shims have come to since this was asked last.
    #[must_use]
    pub fn reached_points(&self) -> Vec<String> {
        let path = self.daemon().crash_dir().join(crisp_crash::TRACE);
        let trace = fs::read_to_string(&path).unwrap_or_default();
        // Whatever is written at this moment belongs to the next.
        let _ = fs::remove_file(path);
        trace.lines().map(str::to_owned).collect()
    }

    /// Waits until the daemon has died at a crash point.
    ///
    /// # Errors
    /// It goes on, or has ended in another way.
    pub async fn killed(&self) -> Result<()> {
        self.daemon().killed().await
    }

    /// Whether the daemon has not ended.
    #[must_use]
    pub fn daemon_runs(&self) -> bool {
        self.daemon().runs()
    }

    /// The shim of a pod, by the pod's record.
    ///
    /// # Errors
    /// The pod has none.
    pub fn shim(&self, pod: &str) -> Result<Process> {
        let pods = records::pods(&self.root_dir())?;
        let pod = pods.iter().find(|record| record.id == pod);
        let shim = pod.and_then(|pod| pod.shim_pid);
        Ok(Process(shim.context("the pod has no shim")?))
    }

    fn order(&self) -> PathBuf {
        self.daemon().crash_dir().join(crisp_crash::KILL_AT)
    }
}
