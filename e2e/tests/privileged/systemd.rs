//! A node whose PID 1 is systemd: the daemon runs from its unit, and pods in slices.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::{CgroupDriver, ContainerState, RuntimeConfigRequest};
use crisp_e2e::{Node, eventually, resources, tools};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const MANIFEST: &str = include_str!("../../../manifests/crisp.service");
const MIB: i64 = 1 << 20;

/// Does something that systemd is asked for.
fn systemctl(arguments: &[&str]) -> Result<()> {
    let output = Command::new("systemctl").args(arguments).output()?;
    ensure!(
        output.status.success(),
        "systemctl {arguments:?}: {output:?}"
    );
    Ok(())
}

/// The unit that crisp is installed with, but for the daemon and the configuration of a node.
struct Unit {
    name: String,
    file: PathBuf,
}

impl Unit {
    fn install(node: &Node) -> Result<Self> {
        let installed = "ExecStart=/usr/local/bin/crisp serve";
        ensure!(MANIFEST.contains(installed), "{MANIFEST}");
        let daemon = tools::program("dist/crisp");
        let started = format!(
            "ExecStart={} serve --config {}",
            daemon.display(),
            node.config_path().display()
        );
        let name = format!("crisp-e2e-{}.service", node.number());
        let file = Path::new("/run/systemd/system").join(&name);
        fs::create_dir_all("/run/systemd/system")?;
        fs::write(&file, MANIFEST.replace(installed, &started))?;
        Ok(Self { name, file })
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // One that was never started is what is wanted.
        let _ = systemctl(&["stop", &self.name]);
        let _ = fs::remove_file(&self.file);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs systemd as PID 1: e2e/node-vm.sh"]
async fn privileged_systemd_restarts_the_unit_and_containers_go_on() -> Result<()> {
    let node = Node::start().await?;
    node.kill()?;
    let unit = Unit::install(&node)?;
    systemctl(&["start", &unit.name])?;
    let pod = node.run_pod("lasting", |_| ()).await?;
    let container = pod.start("main", |_| ()).await?;
    let process = container.process().await?;

    systemctl(&["restart", &unit.name])?;
    ensure!(container.process().await? == process);
    ensure!(container.sh("echo still here").await? == "still here");

    systemctl(&["stop", &unit.name])?;
    ensure!(process.runs(), "the container ended with the unit");
    systemctl(&["start", &unit.name])?;
    let status = container.status().await?;
    ensure!(
        status.state() == ContainerState::ContainerRunning,
        "{status:?}"
    );
    container.stop(0).await?;
    drop(unit);
    node.restart().await?;
    node.finish().await
}

/// A slice as the kubelet has systemd make one, with all slices above it.
struct Slice {
    name: String,
    parent: String,
}

impl Slice {
    fn start(node: &Node) -> Result<Self> {
        let parent = format!("crispe2e{}", node.number());
        let name = format!("{parent}-burstable-pod1_2.slice");
        systemctl(&["set-property", "--runtime", &name, "MemoryAccounting=yes"])?;
        systemctl(&["start", &name])?;
        Ok(Self { name, parent })
    }

    fn dir(&self) -> PathBuf {
        let parent = &self.parent;
        ["/sys/fs/cgroup".to_owned(), format!("{parent}.slice")]
            .into_iter()
            .chain([format!("{parent}-burstable.slice"), self.name.clone()])
            .collect()
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        // What is below goes with it.
        let _ = systemctl(&["stop", &format!("{}.slice", self.parent)]);
        let _ = systemctl(&["revert", &self.name]);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs systemd as PID 1: e2e/node-vm.sh"]
async fn privileged_systemd_slice_holds_the_pod_and_leaves_its_limits() -> Result<()> {
    let node = Node::start().await?;
    let answer = node
        .runtime()
        .runtime_config(RuntimeConfigRequest {})
        .await?;
    let linux = answer.into_inner().linux.context("no configuration")?;
    ensure!(linux.cgroup_driver() == CgroupDriver::Systemd, "{linux:?}");

    let slice = Slice::start(&node)?;
    let pod = node
        .run_pod("sliced", |config| {
            config.linux.get_or_insert_default().cgroup_parent = slice.name.clone();
        })
        .await?;
    let container = pod
        .start("main", |config| {
            let resources = resources(config);
            resources.memory_limit_in_bytes = 32 * MIB;
            resources.cpu_shares = 1024;
            resources.cpuset_cpus = "0".to_owned();
        })
        .await?;
    let cgroup = container.cgroup("memory").await?;
    ensure!(cgroup.0.starts_with(slice.dir()), "{cgroup:?}");

    for _ in 0..2 {
        ensure!(cgroup.read("memory.max")? == (32 * MIB).to_string());
        ensure!(cgroup.read("cpu.weight")? == "100");
        ensure!(cgroup.read("cpuset.cpus.effective")? == "0");
        // systemd writes what it knows of its own cgroups again.
        systemctl(&["daemon-reload"])?;
        systemctl(&["set-property", "--runtime", &slice.name, "CPUWeight=200"])?;
    }
    pod.stop().await?;
    pod.remove().await?;
    ensure!(slice.dir().is_dir(), "the slice is systemd's to remove");
    systemctl(&["stop", &slice.name])?;
    eventually("systemd removes the slice", || !slice.dir().exists()).await?;
    node.finish().await
}
