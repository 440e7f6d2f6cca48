//! A machine with a daemon on it, or what comes closest: a daemon that shares nothing with others.

mod end;
mod requests;

pub use requests::image_spec;

use crate::catalog::BUSYBOX;
use crate::daemon::{Daemon, oci_handlers};
use crate::disk;
use crate::kernel::systemd_makes_cgroups;
use crate::leftovers;
use crate::registry::Registry;
use crate::slot::Slot;
use crate::tools;
use crate::wait::until;
use anyhow::Result;
use requests::default_handler;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use toml::{Table, Value};
use tonic::transport::Channel;

/// A running daemon. All it made is removed when this is dropped, whatever state it is in.
#[derive(Debug)]
pub struct Node {
    daemon: Daemon,
    channel: Channel,
    files_before: BTreeSet<PathBuf>,
    mounts_before: Vec<PathBuf>,
    finished: AtomicBool,
    // Sweeps when dropped: after the daemon.
    slot: Slot,
}

impl Node {
    /// A daemon that has the busybox image already.
    ///
    /// # Errors
    /// It does not come up, or cannot pull.
    pub async fn start() -> Result<Self> {
        Self::start_with(|_| ()).await
    }

    /// The same, with settings of the daemon changed.
    ///
    /// # Errors
    /// It does not come up, or cannot pull.
    pub async fn start_with(edit: impl FnOnce(&mut Table)) -> Result<Self> {
        let node = Self::start_empty(edit).await?;
        node.pull(BUSYBOX).await?;
        Ok(node)
    }

    /// A daemon that has the busybox image, and a file system of so many MiB for all that it keeps; with
    /// settings changed.
    ///
    /// # Errors
    /// There is no root; the daemon does not come up, or cannot pull.
    pub async fn start_on_small_disk(size_mib: u32, edit: impl FnOnce(&mut Table)) -> Result<Self> {
        let mount = |slot: &Slot| disk::mount_small(&slot.root_dir(), size_mib);
        Self::start_on_disks(mount, edit).await
    }

    /// The same, with another file system as small for what belongs to running pods, and one for logs.
    ///
    /// # Errors
    /// There is no root; the daemon does not come up, or cannot pull.
    pub async fn start_on_small_disks(
        size_mib: u32,
        edit: impl FnOnce(&mut Table),
    ) -> Result<Self> {
        let mount = |slot: &Slot| {
            let dirs = [slot.root_dir(), slot.run_dir(), slot.log_dir()];
            dirs.iter()
                .try_for_each(|dir| disk::mount_small(dir, size_mib))
        };
        Self::start_on_disks(mount, edit).await
    }

    /// A daemon that has the busybox image, and an ext4 of so many MiB for all that it keeps, with quotas of
    /// projects in force.
    ///
    /// # Errors
    /// The kernel has no quotas; the daemon does not come up, or cannot pull.
    pub async fn start_on_disk_with_quotas(
        size_mib: u32,
        edit: impl FnOnce(&mut Table),
    ) -> Result<Self> {
        let mount = |slot: &Slot| disk::mount_with_quotas(&slot.root_dir(), size_mib);
        Self::start_on_disks(mount, edit).await
    }

    async fn start_on_disks(
        mount: impl FnOnce(&Slot) -> Result<()>,
        edit: impl FnOnce(&mut Table),
    ) -> Result<Self> {
        let slot = Slot::take();
        mount(&slot)?;
        let node = Self::start_with_handlers(slot, edit).await?;
        node.pull(BUSYBOX).await?;
        Ok(node)
    }

    /// A daemon without any image.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn start_empty(edit: impl FnOnce(&mut Table)) -> Result<Self> {
        Self::start_with_handlers(Slot::take(), edit).await
    }

    /// A daemon that has the busybox image, for a kubelet that makes cgroups the way that the machine is meant
    /// for: by systemd, in the place that it has for them, or in one of the node's own.
    ///
    /// # Errors
    /// systemd has another kubelet's; it does not come up, or cannot pull.
    pub async fn start_for_kubelet() -> Result<Self> {
        let slot = match systemd_makes_cgroups() {
            true => Slot::take_with_slice_of_kubelets()?,
            false => Slot::take(),
        };
        let node = Self::start_with_handlers(slot, |_| ()).await?;
        node.pull(BUSYBOX).await?;
        Ok(node)
    }

    async fn start_with_handlers(slot: Slot, edit: impl FnOnce(&mut Table)) -> Result<Self> {
        Self::start_on(slot, |config| {
            if !default_handler().is_empty() {
                config.insert("handlers".to_owned(), oci_handlers().into());
            }
            edit(config);
        })
        .await
    }

    /// Any build of the daemon, without any image, but with addresses for thousands of pods, and what belongs to
    /// running ones in memory.
    ///
    /// # Errors
    /// There is no root; it does not come up.
    pub async fn start_wide(program: PathBuf) -> Result<Self> {
        let slot = Slot::take();
        for dir in [slot.run_dir(), slot.dir().join("netns")] {
            disk::mount_run(&dir)?;
        }
        let cidrs = slot.wide_cidrs().map(Value::from).to_vec();
        Self::start_program(program, slot, |config| {
            config["network"]["pod_cidrs"] = cidrs.into();
        })
        .await
    }

    /// A daemon without any image, on a machine that was made for it, with settings changed.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn start_on(slot: Slot, edit: impl FnOnce(&mut Table)) -> Result<Self> {
        Self::start_program(tools::program("dist/crisp"), slot, edit).await
    }

    pub(crate) async fn start_program(
        program: PathBuf,
        slot: Slot,
        edit: impl FnOnce(&mut Table),
    ) -> Result<Self> {
        let daemon = Daemon::configure(program, &slot, Registry::shared(), edit)?;
        let channel = daemon.start(&slot).await?;
        Ok(Self {
            daemon,
            channel,
            files_before: leftovers::files(slot.dir()),
            mounts_before: leftovers::mounts(&slot),
            finished: AtomicBool::new(false),
            slot,
        })
    }

    /// The socket that serves the CRI.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.daemon.socket()
    }

    /// No other node on this machine has it at the same time.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.slot.number()
    }

    /// A port of the host that no other node's pods ask for.
    #[must_use]
    pub fn host_port(&self) -> u16 {
        20_000 + u16::from(self.slot.number())
    }

    /// The name of the bridge that pods are wired to.
    #[must_use]
    pub fn bridge(&self) -> String {
        self.slot.bridge()
    }

    /// The cgroup that pods are below, absolute in every hierarchy.
    #[must_use]
    pub fn cgroup_parent(&self) -> String {
        self.slot.cgroup()
    }

    /// A program on the machine that the daemon is on: in its network namespace.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.slot.command(program)
    }

    /// Where the log directories of pods are. The kubelet's, so no part of the audit.
    #[must_use]
    pub fn log_dir(&self) -> PathBuf {
        self.slot.log_dir()
    }

    /// A directory for files of the test itself.
    ///
    /// # Errors
    /// The disk is full.
    pub fn scratch(&self) -> Result<PathBuf> {
        let dir = self.dir().join("scratch");
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Where the daemon keeps images and records.
    #[must_use]
    pub fn root_dir(&self) -> PathBuf {
        self.slot.root_dir()
    }

    /// The file that the daemon is configured by.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.daemon.config_path()
    }

    /// Where it looks for how registries are reached.
    #[must_use]
    pub fn certs_dir(&self) -> PathBuf {
        self.dir().join("certs.d")
    }

    /// What the daemon says.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.daemon.log_path()
    }

    /// All that it has said.
    #[must_use]
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Where the daemon keeps what belongs to running pods.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.slot.run_dir()
    }

    /// Where the network namespaces of pods are shown.
    #[must_use]
    pub fn netns_dir(&self) -> PathBuf {
        self.dir().join("netns")
    }

    pub(crate) fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    pub(crate) fn slot(&self) -> &Slot {
        &self.slot
    }

    pub(crate) fn dir(&self) -> &Path {
        self.slot.dir()
    }

    /// What is mounted below its directory, or on it, whatever the daemon does.
    pub(crate) fn mounts_before(&self) -> &[PathBuf] {
        &self.mounts_before
    }

    /// The file of a pod's record.
    #[must_use]
    pub fn pod_record(&self, pod: &str) -> PathBuf {
        self.root_dir().join("pods").join(pod).join("pod.json")
    }

    /// The file of a container's record.
    #[must_use]
    pub fn container_record(&self, pod: &str, container: &str) -> PathBuf {
        let containers = self.root_dir().join("pods").join(pod).join("containers");
        containers.join(format!("{container}.json"))
    }

    /// The daemon's process id; none while it is killed.
    #[must_use]
    pub fn daemon_pid(&self) -> Option<u32> {
        self.daemon.pid()
    }

    /// Kills the daemon as the kernel's OOM killer would.
    ///
    /// # Errors
    /// It had ended already.
    pub fn kill(&self) -> Result<()> {
        self.daemon.kill()
    }

    /// Has the daemon end by itself, as an administrator does.
    ///
    /// # Errors
    /// It had ended already, or does not.
    pub async fn terminate(&self) -> Result<()> {
        self.daemon.terminate().await
    }

    /// Starts the daemon again after it was ended, and waits until it answers.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn restart(&self) -> Result<()> {
        self.daemon.start(&self.slot).await.map(drop)
    }

    /// Changes the configuration file and has the daemon read it again; the answer is what it logs
    /// about that.
    ///
    /// # Errors
    /// It does not run, or logs nothing.
    pub async fn reload(&self, edit: impl FnOnce(&mut Table)) -> Result<String> {
        let mut config: Table = fs::read_to_string(self.config_path())?.parse()?;
        edit(&mut config);
        self.reload_text(&config.to_string()).await
    }

    /// The same with whatever text as the file.
    ///
    /// # Errors
    /// It does not run, or logs nothing.
    pub async fn reload_text(&self, config: &str) -> Result<String> {
        fs::write(self.config_path(), config)?;
        let before = self.daemon.log().len();
        self.daemon.hang_up()?;
        until("the configuration is read again", async || {
            let log = self.daemon.log().split_off(before);
            let ends = ["was read again", "the configuration stays as it was"];
            ends.iter().any(|end| log.contains(end)).then_some(log)
        })
        .await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !self.finished.load(Ordering::Relaxed) {
            eprintln!("the daemon's log:\n{}", self.daemon.log());
        }
    }
}
