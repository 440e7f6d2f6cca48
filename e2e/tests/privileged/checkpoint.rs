//! Checkpoints of running containers: archives that other tools read and restore, and containers that
//! notice nothing.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::CheckpointContainerRequest;
use crisp_e2e::{Container, Node, eventually, oci_handlers, own_users, sh, tools, until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tonic::{Code, Status};

/// Where version 2 of cgroups is beside version 1, which runc has no mount of.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// Counts in its memory, and changes its root file system before.
const COUNTER: &str = "echo made > /made; rm /etc/group; i=0; \
                       while :; do i=$((i+1)); echo $i; sleep 0.05; done";

/// A connection of a container with itself.
const CONNECTION: &str = "sleep 1000 | nc -l -p 7000 & \
                          (while ! netstat -tln | grep -q 7000; do sleep 0.1; done; \
                          sleep 1000 | nc 127.0.0.1 7000) & ";

async fn node() -> Result<Node> {
    node_with_criu(&tools::criu()).await
}

async fn node_with_criu(criu: &Path) -> Result<Node> {
    let criu = criu.display().to_string();
    Node::start_with(|config| {
        config.insert("criu".to_owned(), criu.into());
        config.insert("handlers".to_owned(), oci_handlers().into());
    })
    .await
}

async fn checkpoint(node: &Node, id: &str, location: &Path, timeout: i64) -> Result<(), Status> {
    let request = CheckpointContainerRequest {
        container_id: id.to_owned(),
        location: location.display().to_string(),
        timeout,
    };
    let answer = node.runtime().checkpoint_container(request).await;
    answer.map(drop)
}

async fn eventually_says(container: &Container<'_>, script: &str, wanted: &str) -> Result<()> {
    until(script, async || {
        let said = container.sh(script).await.ok()?;
        (said == wanted).then_some(())
    })
    .await
}

/// The numbers that a counter has written.
fn counted(container: &Container<'_>) -> Result<Vec<u64>> {
    let log = container.log()?;
    log.iter().map(|line| Ok(line.text.parse()?)).collect()
}

/// Checks that a counter goes on, and that it has left nothing out.
async fn goes_on(container: &Container<'_>) -> Result<()> {
    let before = counted(container)?.len();
    let further = || counted(container).is_ok_and(|all| all.len() > before + 3);
    eventually("the counter goes on", further).await?;
    let all = counted(container)?;
    let whole = all
        .iter()
        .zip(1..)
        .all(|(number, wanted)| *number == wanted);
    ensure!(whole, "{all:?}");
    Ok(())
}

/// The files of an archive that are read by people.
fn files(archive: &Path) -> Result<BTreeMap<String, String>> {
    let mut archive = tar::Archive::new(File::open(archive)?);
    let mut files = BTreeMap::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        files.insert(path, String::from_utf8_lossy(&bytes).into_owned());
    }
    Ok(files)
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {text}{errors}");
    Ok(text)
}

fn staged(node: &Node) -> Vec<PathBuf> {
    let entries = fs::read_dir(node.root_dir().join("checkpoints"));
    let entries = entries.into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_checkpoint_is_read_by_its_tool_and_the_container_goes_on() -> Result<()> {
    let node = node().await?;
    let pod = node.run_pod_with_handler("pod", "", |_| ()).await?;
    let container = pod.start("counter", |it| it.command = sh(COUNTER)).await?;
    container.wait_log("3").await?;
    let process = container.process().await?;
    let archive = node.scratch()?.join("checkpoint.tar");
    checkpoint(&node, &container.id, &archive, 60).await?;
    goes_on(&container).await?;
    ensure!(container.process().await? == process);
    ensure!(fs::metadata(&archive)?.permissions().mode() & 0o777 == 0o600);
    ensure!(staged(&node).is_empty());
    ensure!(fs::read_dir(node.scratch()?)?.count() == 1);

    let files = files(&archive)?;
    let config: Value = serde_json::from_str(&files["config.dump"])?;
    ensure!(config["id"] == container.id && config["runtime"] == "crisp");
    let deleted: Value = serde_json::from_str(&files["deleted.files"])?;
    ensure!(deleted == json!(["/etc/group"]), "{deleted}");
    ensure!(files["container.log"].contains(" stdout F 3\n"));
    for part in ["dump.log", "stats-dump", "status.dump", "bind.mounts"] {
        ensure!(files.contains_key(part), "{part}: {:?}", files.keys());
    }
    for image in [
        "pstree.img",
        "inventory.img",
        "pages-1.img",
        "descriptors.json",
    ] {
        let path = format!("checkpoint/{image}");
        ensure!(files.contains_key(&path), "{path}: {:?}", files.keys());
    }

    let tool = tools::program("tools/bin/checkpointctl");
    let shown = run(Command::new(&tool).arg("show").arg(&archive))?;
    ensure!(
        shown.contains("counter") && shown.contains("busybox"),
        "{shown}"
    );
    let inspect = ["inspect", "--ps-tree", "--stats", "--metadata"];
    let inspected = run(Command::new(&tool).args(inspect).arg(&archive))?;
    for part in ["[1]  sh", "Pod name: pod", "Pages written"] {
        ensure!(inspected.contains(part), "{part}: {inspected}");
    }
    let mut memory = files
        .iter()
        .filter(|(path, _)| path.starts_with("checkpoint/pages-"));
    ensure!(memory.any(|(_, pages)| pages.contains(COUNTER)));
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_checkpoint_is_restored_by_runc_beside_the_original() -> Result<()> {
    let node = node().await?;
    let pod = node.run_pod_with_handler("pod", "", |_| ()).await?;
    let container = pod.start("counter", |it| it.command = sh(COUNTER)).await?;
    container.wait_log("3").await?;
    let dir = node.scratch()?;
    let archive = dir.join("checkpoint.tar");
    checkpoint(&node, &container.id, &archive, 0).await?;
    let at = counted(&container)?.len();

    let bundle = dir.join("bundle");
    let rootfs = bundle.join("rootfs");
    fs::create_dir_all(&rootfs)?;
    run(Command::new("tar")
        .arg("-xf")
        .arg(&archive)
        .arg("-C")
        .arg(&bundle))?;
    let root = format!("/proc/{}/root/.", container.process().await?.0);
    run(Command::new("cp").args(["-ax", &root]).arg(&rootfs))?;
    fs::remove_file(rootfs.join("made"))?;
    let changes = bundle.join("rootfs-diff.tar");
    run(Command::new("tar")
        .arg("-xf")
        .arg(changes)
        .arg("-C")
        .arg(&rootfs))?;
    ensure!(fs::read_to_string(rootfs.join("made"))? == "made\n");
    let mut spec: Value = serde_json::from_slice(&fs::read(bundle.join("spec.dump"))?)?;
    spec["linux"]["cgroupsPath"] = format!("{}/restored", node.cgroup_parent()).into();
    if Path::new(UNIFIED).exists() {
        let mounts = spec["mounts"].as_array_mut().context("mounts")?;
        mounts.push(
            json!({"destination": UNIFIED, "type": "bind", "source": UNIFIED,
                           "options": ["rbind", "ro"]}),
        );
    }
    fs::write(bundle.join("config.json"), spec.to_string())?;

    let output = dir.join("output");
    let runc = || {
        let mut runc = Command::new(tools::oci_runtime("runc"));
        let criu = tools::criu();
        let criu = criu.parent().map(|dir| dir.display().to_string());
        let path = std::env::var("PATH").unwrap_or_default();
        runc.env("PATH", format!("{}:{path}", criu.unwrap_or_default()));
        runc.arg("--root")
            .arg(dir.join("runc"))
            .stdin(Stdio::null());
        runc
    };
    let file = File::create(&output)?;
    let restored = runc()
        .args(["restore", "--detach", "--file-locks", "--image-path"])
        .arg(bundle.join("checkpoint"))
        .arg("--work-path")
        .arg(&bundle)
        .arg("--bundle")
        .arg(&bundle)
        .arg("restored")
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()?;
    let text = || fs::read_to_string(&output).unwrap_or_default();
    let log = fs::read_to_string(bundle.join("restore.log")).unwrap_or_default();
    let ran = eventually("it counts", || text().lines().count() > 3).await;
    let deleted = run(runc().args(["delete", "--force", "restored"]));
    ensure!(restored.success(), "{}{log}", text());
    ran.and(deleted.map(drop))?;
    let first: usize = text().lines().next().context("it says nothing")?.parse()?;
    // What it had in memory, which is later than what its log had and sooner than what came then.
    ensure!((4..=at + 1).contains(&first), "{first} of {at}: {}", text());
    goes_on(&container).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_checkpoints_have_terminals_mapped_users_and_connections() -> Result<()> {
    let node = node().await?;
    let dir = node.scratch()?;
    let pod = node.run_pod_with_handler("pod", "", |_| ()).await?;
    let terminal = pod
        .start("terminal", |it| {
            it.command = sh(COUNTER);
            it.tty = true;
            it.stdin = true;
        })
        .await?;
    let users = node.run_pod_with_handler("users", "", own_users).await?;
    let mapped = users.start("mapped", |it| it.command = sh(COUNTER)).await?;
    let connected = pod
        .start("connected", |it| {
            it.command = sh(&format!("{CONNECTION}{COUNTER}"))
        })
        .await?;
    let connections = "netstat -tn | grep -c ESTABLISHED";
    eventually_says(&connected, connections, "2").await?;
    for container in [&terminal, &mapped, &connected] {
        container.wait_log("3").await?;
        let archive = dir.join(&container.id);
        checkpoint(&node, &container.id, &archive, 60).await?;
        goes_on(container).await?;
        ensure!(files(&archive)?.contains_key("checkpoint/pages-1.img"));
    }
    ensure!(connected.sh(connections).await? == "2");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_checkpoint_by_runc_leaves_the_container_running() -> Result<()> {
    let node = node().await?;
    let pod = node.run_pod_with_handler("pod", "runc", |_| ()).await?;
    let container = pod.start("counter", |it| it.command = sh(COUNTER)).await?;
    container.wait_log("3").await?;
    let archive = node.scratch()?.join("checkpoint.tar");
    checkpoint(&node, &container.id, &archive, 60).await?;
    goes_on(&container).await?;
    let files = files(&archive)?;
    let config: Value = serde_json::from_str(&files["config.dump"])?;
    ensure!(config["runtime"] == "runc", "{config}");
    ensure!(files.contains_key("checkpoint/pstree.img") && files.contains_key("rootfs-diff.tar"));
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_checkpoints_that_cannot_be_made_leave_nothing() -> Result<()> {
    let node = node_with_criu(Path::new("no-such-criu")).await?;
    let dir = node.scratch()?;
    let archive = dir.join("checkpoint.tar");
    let pod = node.run_pod_with_handler("pod", "", |_| ()).await?;
    let container = pod.start("counter", |it| it.command = sh(COUNTER)).await?;
    let created = pod.create("created", |_| ()).await?;
    container.wait_log("3").await?;
    let refused = |id: &str, location: &Path, timeout| {
        let (node, id, location) = (&node, id.to_owned(), location.to_owned());
        async move {
            let answer = checkpoint(node, &id, &location, timeout).await;
            answer.err().context("there is a checkpoint")
        }
    };
    let missing = refused(&container.id, &archive, 0).await?;
    ensure!(
        missing.code() == Code::FailedPrecondition && missing.message().contains("install criu"),
        "{missing}"
    );
    let created = refused(&created.id, &archive, 0).await?;
    ensure!(created.code() == Code::FailedPrecondition, "{created}");
    let unknown = refused("no-such", &archive, 0).await?;
    ensure!(unknown.code() == Code::NotFound, "{unknown}");
    for location in ["", "relative.tar", "/", "/no/such/directory/x.tar"] {
        let wrong = refused(&container.id, Path::new(location), 0).await?;
        ensure!(wrong.code() == Code::InvalidArgument, "{location}: {wrong}");
    }
    let criu = dir.join("criu");
    let setting = criu.display().to_string();
    node.reload(|config| drop(config.insert("criu".to_owned(), setting.into())))
        .await?;
    // One that says nothing, and one that fails.
    for (script, code, timeout) in [
        ("exec sleep 2", Code::DeadlineExceeded, 1),
        ("echo 'Error: no way' >&2; exit 1", Code::Internal, 0),
    ] {
        fs::write(&criu, format!("#!/bin/sh\n{script}\n"))?;
        fs::set_permissions(&criu, PermissionsExt::from_mode(0o755))?;
        let failed = refused(&container.id, &archive, timeout).await?;
        ensure!(failed.code() == code, "{failed}");
        eventually("nothing is left", || staged(&node).is_empty()).await?;
        fs::remove_file(&criu)?;
    }
    ensure!(fs::read_dir(&dir)?.count() == 0);
    goes_on(&container).await?;
    node.finish().await
}

/// Kills the daemon when a file is there of what a checkpoint is made of. False: that was made sooner.
async fn kill_during_checkpoint(
    node: &Node,
    container: &Container<'_>,
    archive: &Path,
    ready: &str,
) -> Result<bool> {
    let (mut runtime, request) = (
        node.runtime(),
        CheckpointContainerRequest {
            container_id: container.id.clone(),
            location: archive.display().to_string(),
            timeout: 60,
        },
    );
    let asking = tokio::spawn(async move { runtime.checkpoint_container(request).await });
    let staging = node.root_dir().join("checkpoints").join(&container.id);
    while !staging.join(ready).exists() && !asking.is_finished() {
        tokio::task::yield_now().await;
    }
    node.kill()?;
    if asking.await?.is_err() {
        return Ok(true);
    }
    fs::remove_file(archive)?;
    node.restart().await?;
    Ok(false)
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_daemon_killed_during_a_checkpoint_leaves_the_container_running() -> Result<()> {
    let node = node().await?;
    let dir = node.scratch()?;
    let pod = node.run_pod_with_handler("pod", "", |_| ()).await?;
    let container = pod.start("counter", |it| it.command = sh(COUNTER)).await?;
    container.wait_log("3").await?;
    let archive = dir.join("checkpoint.tar");
    // From before the processes are stopped until after they go on.
    for ready in [
        "record.json",
        "files/dump.log",
        "files/checkpoint/pstree.img",
        "files/rootfs-diff.tar",
    ] {
        let mut attempts = 0;
        while !kill_during_checkpoint(&node, &container, &archive, ready).await? {
            attempts += 1;
            ensure!(
                attempts < 20,
                "{ready}: each was made before the daemon was killed"
            );
        }
        let before = counted(&container)?.len();
        let further = || counted(&container).is_ok_and(|all| all.len() > before + 3);
        eventually("it goes on without a daemon", further).await?;
        node.restart().await?;
        eventually("nothing is left", || staged(&node).is_empty()).await?;
        goes_on(&container).await?;
    }
    let _ = fs::remove_file(&archive);
    ensure!(fs::read_dir(&dir)?.count() == 0);
    checkpoint(&node, &container.id, &archive, 60).await?;
    ensure!(archive.exists());
    goes_on(&container).await?;
    node.finish().await
}
