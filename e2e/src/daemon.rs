//! The daemon's process and the files it is configured with.

use crate::registry::Registry;
use crate::slot::Slot;
use crate::wait::until;
use crate::{child, reboot, tools};
use anyhow::{Context, Result, anyhow, bail, ensure};
use crisp_cri_api::v1::VersionRequest;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use toml::{Table, toml};
use tonic::transport::Channel;

/// A daemon that runs, or is dead at the moment. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    program: PathBuf,
    dir: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Daemon {
    /// Writes the files that a daemon in this slot reads; it does not run yet.
    pub(crate) fn configure(
        program: PathBuf,
        slot: &Slot,
        registry: &Registry,
        edit: impl FnOnce(&mut Table),
    ) -> Result<Self> {
        let mut config = config(slot);
        edit(&mut config);
        let daemon = Self {
            program,
            dir: slot.dir().to_owned(),
            child: Mutex::new(None),
        };
        fs::write(daemon.config_path(), config.to_string())?;
        registry.mirror(&slot.dir().join("certs.d"))?;
        fs::create_dir_all(daemon.crash_dir())?;
        Ok(daemon)
    }

    /// Starts it, and waits until it answers.
    pub(crate) async fn start(&self, slot: &Slot) -> Result<Channel> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        let mut serve = child::bound(&reboot::command(slot, &self.program));
        serve.arg("serve").arg("--config").arg(self.config_path());
        serve.env(crisp_crash::DIRECTORY, self.crash_dir());
        serve
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        *self.child() = Some(child::spawn(serve).context("start of the daemon")?);
        let answer = until("the daemon answers", async || self.first_answer().await).await;
        answer.and_then(|answer| answer).with_context(|| self.log())
    }

    /// A connection once the daemon answers, an error once it has ended, nothing before.
    async fn first_answer(&self) -> Option<Result<Channel>> {
        let ended = self.child().as_mut()?.try_wait().ok()?;
        if let Some(status) = ended {
            return Some(Err(anyhow!("the daemon ended: {status}")));
        }
        let channel = crisp_cri_api::connect(&self.socket()).await.ok()?;
        let mut client = crisp_cri_api::runtime_client(channel.clone());
        client
            .version(VersionRequest::default())
            .await
            .ok()
            .map(|_| Ok(channel))
    }

    pub(crate) fn kill(&self) -> Result<()> {
        let mut child = self.child().take().context("the daemon is not running")?;
        if let Some(status) = child.try_wait()? {
            bail!("the daemon had ended by itself: {status}");
        }
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Sends the signal by which it ends, and waits until it has.
    pub(crate) async fn terminate(&self) -> Result<()> {
        let mut child = self.child().take().context("the daemon is not running")?;
        kill(Pid::from_raw(child.id().try_into()?), Signal::SIGTERM)?;
        let ended = until("the daemon ends", async || child.try_wait().ok().flatten()).await;
        let status = ended.or_else(|error| child.kill().map_err(Into::into).and(Err(error)))?;
        ensure!(status.success(), "the daemon ended: {status}");
        Ok(())
    }

    /// Waits until it has ended by SIGKILL, as it does by itself at a crash point.
    pub(crate) async fn killed(&self) -> Result<()> {
        let ended = async || self.child().as_mut()?.try_wait().ok()?;
        let status = until("the daemon dies", ended).await?;
        *self.child() = None;
        ensure!(
            status.signal() == Some(Signal::SIGKILL as i32),
            "the daemon ended by itself: {status}"
        );
        Ok(())
    }

    /// Whether it has not ended.
    pub(crate) fn runs(&self) -> bool {
        let mut child = self.child();
        child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Sends the signal by which a configuration is read again.
    pub(crate) fn hang_up(&self) -> Result<()> {
        let pid = self.pid().context("the daemon is not running")?;
        Ok(kill(Pid::from_raw(pid.try_into()?), Signal::SIGHUP)?)
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// Where it looks whether to die, if it is built for that.
    pub(crate) fn crash_dir(&self) -> PathBuf {
        self.dir.join("crash-points")
    }

    pub(crate) fn config_path(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("run/crisp.sock")
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.dir.join("crisp.log")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // One that is gone already is what is wanted.
        let _ = self.kill();
    }
}

/// Handlers by the names of their runtimes, Debian's runc and crun.
#[must_use]
pub fn oci_handlers() -> Table {
    let handler = |name| {
        let command = tools::oci_runtime(name).display().to_string();
        toml! { command = command }
    };
    let (runc, crun) = (handler("runc"), handler("crun"));
    toml! {
        runc = runc
        crun = crun
    }
}

/// Whatever two daemons on one host would share is the slot's own.
fn config(slot: &Slot) -> Table {
    let path = |name: &str| slot.dir().join(name).display().to_string();
    let (root_dir, run_dir, netns_dir, certs_dir) =
        (path("root"), path("run"), path("netns"), path("certs.d"));
    let (instance, cgroup_parent, bridge) = (slot.instance(), slot.cgroup(), slot.bridge());
    let [ipv4, ipv6] = slot.pod_cidrs();
    let (cni_conf_dir, cni_bin_dir) = (path("cni/net.d"), path("cni/bin"));
    let metrics_address = slot.metrics_address().to_string();
    let cni_tools = tools::program("tools").join("cni").display().to_string();
    toml! {
        root_dir = root_dir
        run_dir = run_dir
        netns_dir = netns_dir
        instance = instance
        [cgroup]
        default_parent = cgroup_parent
        [network]
        bridge = bridge
        pod_cidrs = [ipv4, ipv6]
        [network.cni]
        conf_dir = cni_conf_dir
        bin_dirs = [cni_bin_dir, cni_tools]
        [image]
        registry_config_dirs = [certs_dir]
        [metrics]
        address = metrics_address
    }
}
