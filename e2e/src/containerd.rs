//! containerd with runc and CNI plugins: a peer that crisp is measured beside.

use crate::registry::Registry;
use crate::slot::Slot;
use crate::wait::until;
use crate::{child, cni, disk, tools};
use anyhow::{Context, Result};
use crisp_cri_api::v1::VersionRequest;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use toml::{Table, toml};
use tonic::transport::Channel;

/// A running containerd with directories, a bridge and cgroups of its own. All it made is removed
/// when this is dropped.
#[derive(Debug)]
pub struct Containerd {
    child: Child,
    // Sweeps when dropped: after the daemon.
    slot: Slot,
}

impl Containerd {
    /// The image that its pods' first processes are of; [`Registry::shared`] has to serve it.
    pub const PAUSE: &str = "registry.k8s.io/pause:3.9";

    /// Starts it without any image, and waits until it answers.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn start() -> Result<Self> {
        let slot = Slot::take();
        let dir = slot.dir();
        fs::create_dir_all(dir.join("net.d"))?;
        disk::mount_run(&dir.join("state"))?;
        let network = cni::network(&slot, slot.wide_cidrs(), &[]);
        fs::write(dir.join("net.d/10-pods.conflist"), network.to_string())?;
        Registry::shared().mirror(&dir.join("certs.d"))?;
        fs::write(dir.join("config.toml"), config(dir).to_string())?;
        let containerd = Self {
            child: spawn(dir)?,
            slot,
        };
        let answers = until("containerd answers", async || containerd.answers().await).await;
        answers.with_context(|| fs::read_to_string(containerd.log_path()).unwrap_or_default())?;
        Ok(containerd)
    }

    /// The socket that serves the CRI.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.slot.dir().join("containerd.sock")
    }

    /// The cgroup that pods are below, absolute in every hierarchy.
    #[must_use]
    pub fn cgroup_parent(&self) -> String {
        self.slot.cgroup()
    }

    /// Where the log directories of pods are.
    #[must_use]
    pub fn log_dir(&self) -> PathBuf {
        self.slot.log_dir()
    }

    fn log_path(&self) -> PathBuf {
        self.slot.dir().join("containerd.log")
    }

    async fn answers(&self) -> Option<Channel> {
        let channel = crisp_cri_api::connect(&self.socket()).await.ok()?;
        let mut client = crisp_cri_api::runtime_client(channel.clone());
        client.version(VersionRequest::default()).await.ok()?;
        Some(channel)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // One that is gone already is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The directory of containerd, its shim and runc.
fn programs() -> PathBuf {
    tools::program("tools/containerd-and-runc")
}

fn spawn(dir: &Path) -> Result<Child> {
    let programs = programs();
    // It looks for its shim there.
    let path = format!(
        "{}:{}",
        programs.display(),
        env::var("PATH").unwrap_or_default()
    );
    let log = fs::File::create(dir.join("containerd.log"))?;
    let mut serve = child::bound(&Command::new(programs.join("containerd")));
    serve
        .arg("--config")
        .arg(dir.join("config.toml"))
        .env("PATH", path)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    child::spawn(serve).context("start of containerd")
}

/// As it is by default, but for what others on this host would share with it.
fn config(dir: &Path) -> Table {
    let path = |name: &str| dir.join(name).display().to_string();
    let (root, state, socket) = (path("root"), path("state"), path("containerd.sock"));
    let (conf_dir, certs_dir) = (path("net.d"), path("certs.d"));
    let bin_dir = tools::program("tools/cni").display().to_string();
    let runc = programs().join("runc").display().to_string();
    let pause = Containerd::PAUSE;
    let cri = toml! {
        sandbox_image = pause
        restrict_oom_score_adj = true
        netns_mounts_under_state_dir = true
        [cni]
        conf_dir = conf_dir
        bin_dir = bin_dir
        [registry]
        config_path = certs_dir
        [containerd.runtimes.runc]
        runtime_type = "io.containerd.runc.v2"
        [containerd.runtimes.runc.options]
        BinaryName = runc
    };
    let mut config = toml! {
        version = 2
        root = root
        state = state
        [grpc]
        address = socket
    };
    let plugins = Table::from_iter([("io.containerd.grpc.v1.cri".to_owned(), cri.into())]);
    config.insert("plugins".to_owned(), plugins.into());
    config
}
