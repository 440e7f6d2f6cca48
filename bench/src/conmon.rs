//! conmon, which watches over each container of CRI-O and podman, with runc. It serves no CRI: what is measured
//! of it is how it logs what a container writes.

use crate::images::{LINES, lines};
use crate::measure::BOUND;
use crate::processes::cpu_time;
use anyhow::{Context, Result, ensure};
use crisp_e2e::tools::run;
use crisp_e2e::{Slot, catalog, tools, until, until_within};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// What each container is called.
const NAME: &str = "writer";
/// What containers have of busybox.
const APPLETS: [&str; 4] = ["cat", "seq", "sh", "sleep"];
/// How often it is looked at what conmon has used of the cpus, which nobody can tell when it has ended.
const STEP: Duration = Duration::from_millis(5);

/// Directories and a cgroup for containers, one at a time.
#[derive(Debug)]
pub(crate) struct Conmon {
    pub(crate) version: String,
    runc: PathBuf,
    slot: Slot,
}

/// A container that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Since its start.
    pub(crate) after: Duration,
    /// What conmon has used of the cpus meanwhile.
    pub(crate) cpu: Duration,
}

impl Conmon {
    pub(crate) fn prepare() -> Result<Self> {
        let output = Command::new("conmon").arg("--version").output();
        let version = String::from_utf8(output.context("conmon")?.stdout)?;
        let version = version.lines().next().unwrap_or_default();
        let conmon = Self {
            version: version.replace(" version ", " "),
            runc: tools::program("tools/containerd-and-runc/runc"),
            slot: Slot::take(),
        };
        for dir in ["exits", "sockets"] {
            fs::create_dir_all(conmon.path(dir))?;
        }
        let root = conmon.path("bundle/rootfs");
        catalog::install_busybox(&root, &APPLETS)?;
        fs::write(root.join(LINES.trim_start_matches('/')), lines())?;
        Ok(conmon)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.slot.dir().join(name)
    }

    /// Where a container's output goes.
    pub(crate) fn log_path(&self) -> PathBuf {
        self.path("log")
    }

    /// Runs a container to its end.
    pub(crate) async fn run(&self, script: &str) -> Result<Ended> {
        let spec = self.spec(script).to_string();
        fs::write(self.path("bundle/config.json"), spec)?;
        run(&mut self.create())?;
        let (pid, monitor) = (self.path("pid"), self.path("monitor"));
        let made = async || fs::read_to_string(&pid).ok().filter(|pid| !pid.is_empty());
        until("runc makes the container", made).await?;
        let monitor = fs::read_to_string(monitor)?.trim().parse()?;
        run(&mut self.runc(&["start", NAME]))?;
        let ended = watch(monitor, &self.path("exits").join(NAME)).await?;
        run(&mut self.runc(&["delete", NAME]))?;
        fs::remove_file(pid)?;
        Ok(ended)
    }

    /// It leaves a child behind, which has runc create the container.
    fn create(&self) -> Command {
        let mut create = Command::new("conmon");
        create
            .args(["--api-version", "1", "--cid", NAME, "--cuuid", NAME])
            .args(["--name", NAME])
            .arg("--runtime")
            .arg(&self.runc)
            .arg(format!("--runtime-arg=--root={}", self.state().display()))
            .arg("--bundle")
            .arg(self.path("bundle"))
            .arg("--container-pidfile")
            .arg(self.path("pid"))
            .arg("--conmon-pidfile")
            .arg(self.path("monitor"))
            .arg("--exit-dir")
            .arg(self.path("exits"))
            .arg("--socket-dir-path")
            .arg(self.path("sockets"))
            .arg("--log-path")
            .arg(self.log_path());
        create
    }

    fn runc(&self, arguments: &[&str]) -> Command {
        let mut runc = Command::new(&self.runc);
        runc.arg("--root").arg(self.state()).args(arguments);
        runc
    }

    fn state(&self) -> PathBuf {
        self.path("state")
    }

    fn spec(&self, script: &str) -> Value {
        let namespaces = ["ipc", "mount", "network", "pid", "uts"];
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": { "uid": 0, "gid": 0 },
                "args": ["/bin/sh", "-c", script],
                "env": ["PATH=/bin"],
                "cwd": "/",
            },
            "root": { "path": "rootfs" },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"] },
            ],
            "linux": {
                "cgroupsPath": format!("{}/{NAME}", self.slot.cgroup()),
                "namespaces": namespaces.map(|kind| json!({ "type": kind })),
            },
        })
    }
}

/// Waits for what a monitor writes when its container, which has just been started, has ended.
async fn watch(monitor: i32, exit: &Path) -> Result<Ended> {
    let started = SystemTime::now();
    let before = cpu_time(&[monitor]);
    let mut last = before;
    let ended = async || {
        last = last.max(cpu_time(&[monitor]));
        fs::metadata(exit).ok()?.modified().ok()
    };
    let ended_at = until_within(BOUND, STEP, "the container ends", ended).await?;
    let code = fs::read_to_string(exit)?;
    ensure!(code == "0", "the container ended with {code}");
    fs::remove_file(exit)?;
    Ok(Ended {
        after: ended_at.duration_since(started)?,
        cpu: last.saturating_sub(before),
    })
}
