//! SELinux labels of pods. On a kernel without SELinux, or with a policy that knows no containers, these
//! tests end at once.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::{Mount, NamespaceMode, NamespaceOption, SeLinuxOption};
use crisp_e2e::{Container, Node, Process, security, xattr};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Whether the kernel's policy has the types that these tests ask for: the kernel checks what is
/// written here.
#[expect(
    clippy::print_stderr,
    reason = "whoever runs the tests is to see what was not tried"
)]
fn is_on() -> bool {
    let types = ["container_t", "spc_t"];
    let known = |kind: &&str| {
        let context = format!("system_u:system_r:{kind}:s0");
        fs::write("/sys/fs/selinux/context", context).is_ok()
    };
    let is_on = types.iter().all(known);
    if !is_on {
        eprintln!("skipped: no SELinux, or no container_t and spc_t in its policy");
    }
    is_on
}

async fn labelling_node() -> Result<Node> {
    Node::start_with(|config| {
        config.insert("enable_selinux".to_owned(), true.into());
    })
    .await
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value)
        .trim_end_matches(['\0', '\n'])
        .to_owned()
}

fn process_label(Process(pid): Process) -> Result<String> {
    let path = format!("/proc/{pid}/attr/current");
    fs::read(&path).map(|label| text(&label)).context(path)
}

fn file_label(path: &Path) -> Result<String> {
    let label = xattr(path, "security.selinux");
    label
        .map(|label| text(&label))
        .with_context(|| path.display().to_string())
}

/// A path inside a container, as the host sees it.
async fn seen_from_the_host(container: &Container<'_>, path: &str) -> Result<std::path::PathBuf> {
    let Process(pid) = container.process().await?;
    Ok(format!("/proc/{pid}/root{path}").into())
}

/// The fourth part of a context and all that follows.
fn level(label: &str) -> &str {
    label.splitn(4, ':').nth(3).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_selinux_labels_keep_pods_apart_and_survive_the_daemon() -> Result<()> {
    if !is_on() {
        return Ok(());
    }
    let node = labelling_node().await?;
    let mut labels = Vec::new();
    {
        for name in ["one", "two"] {
            let pod = node.run_pod(name, |_| ()).await?;
            let first = pod.start("first", |_| ()).await?;
            let second = pod.start("second", |_| ()).await?;
            let label = process_label(first.process().await?)?;
            ensure!(label == process_label(second.process().await?)?);
            ensure!(
                first
                    .sh("cat /proc/self/attr/current")
                    .await?
                    .trim_end_matches('\0')
                    == label
            );
            ensure!(
                label.contains(":container_t:") && level(&label).contains(','),
                "{label}"
            );
            for path in [
                "/",
                "/bin/busybox",
                "/dev",
                "/dev/shm",
                "/dev/pts",
                "/dev/mqueue",
                "/etc/hosts",
            ] {
                let of_file = file_label(&seen_from_the_host(&first, path).await?)?;
                ensure!(
                    of_file.contains(":container_file_t:") && level(&of_file) == level(&label),
                    "{path}: {of_file}"
                );
            }
            labels.push(label);
        }
    }
    ensure!(labels[0] != labels[1], "{labels:?}");
    node.kill()?;
    node.restart().await?;
    let pod = node.run_pod("three", |_| ()).await?;
    let third = pod.start("third", |_| ()).await?;
    let label = process_label(third.process().await?)?;
    ensure!(!labels.contains(&label), "{label} of {labels:?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_selinux_options_and_host_namespaces_change_the_label() -> Result<()> {
    if !is_on() {
        return Ok(());
    }
    let node = labelling_node().await?;
    let pod = node.run_pod("selinux", |_| ()).await?;
    let asked = pod
        .start("asked", |config| {
            security(config).selinux_options = Some(SeLinuxOption {
                r#type: "spc_t".to_owned(),
                level: "s0:c7".to_owned(),
                ..SeLinuxOption::default()
            });
        })
        .await?;
    let label = process_label(asked.process().await?)?;
    ensure!(label == "system_u:system_r:spc_t:s0:c7", "{label}");
    let host_pid = pod
        .start("host-pid", |config| {
            security(config).namespace_options = Some(NamespaceOption {
                pid: NamespaceMode::Node.into(),
                ..NamespaceOption::default()
            });
        })
        .await?;
    let label = process_label(host_pid.process().await?)?;
    ensure!(!label.contains("container_t"), "{label}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_selinux_relabels_volumes_and_nothing_of_the_host() -> Result<()> {
    if !is_on() {
        return Ok(());
    }
    let node = labelling_node().await?;
    let scratch = node.scratch()?;
    let (volume, outside) = (scratch.join("volume"), scratch.join("outside"));
    fs::create_dir_all(volume.join("deep"))?;
    fs::write(volume.join("deep/file"), "text")?;
    fs::write(&outside, "text")?;
    symlink(&outside, volume.join("link"))?;
    let before = file_label(&outside)?;
    let mount = |source: &Path| Mount {
        container_path: "/mnt".to_owned(),
        host_path: source.display().to_string(),
        selinux_relabel: true,
        ..Mount::default()
    };
    let pod = node.run_pod("selinux", |_| ()).await?;
    let container = pod
        .start("relabelled", |config| config.mounts = vec![mount(&volume)])
        .await?;
    let label = process_label(container.process().await?)?;
    for path in [volume.clone(), volume.join("deep/file")] {
        let of_file = file_label(&path)?;
        ensure!(
            of_file.contains(":container_file_t:") && level(&of_file) == level(&label),
            "{of_file}"
        );
    }
    ensure!(file_label(&outside)? == before);
    let refused = pod
        .create("refused", |config| {
            config.mounts = vec![mount(Path::new("/etc"))]
        })
        .await
        .err()
        .context("/etc was relabelled")?;
    ensure!(refused.message().contains("selinux_relabel"), "{refused}");
    node.finish().await
}
