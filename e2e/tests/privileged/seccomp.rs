//! System calls that a container may and may not make.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::SecurityProfile;
use crisp_cri_api::v1::security_profile::ProfileType;
use crisp_e2e::{Container, Node, Pod, security};
use serde_json::json;
use tonic::Status;

async fn start<'a>(
    pod: &Pod<'a>,
    name: &str,
    profile_type: ProfileType,
    localhost_ref: &str,
) -> Result<Container<'a>, Status> {
    let profile = SecurityProfile {
        profile_type: profile_type.into(),
        localhost_ref: localhost_ref.to_owned(),
    };
    pod.start(name, |config| security(config).seccomp = Some(profile))
        .await
}

/// The mode in proc_pid_status(5): 0 is none, 2 a filter.
async fn mode(container: &Container<'_>) -> Result<String> {
    container
        .sh("grep Seccomp: /proc/self/status | tr -dc 0-9")
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_seccomp_runtime_default_blocks_new_user_namespaces() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("seccomp", |_| ()).await?;
    let confined = start(&pod, "confined", ProfileType::RuntimeDefault, "").await?;
    ensure!(mode(&confined).await? == "2");
    let refused = confined.exec(&["unshare", "-U", "true"]).await?;
    ensure!(
        refused.code != 0 && refused.stderr.contains("Operation not permitted"),
        "{refused:?}"
    );
    // The usual work of a container is none of the filter's business.
    confined
        .sh("mkdir /tmp/dir && echo text > /tmp/dir/file && chown 1000 /tmp/dir/file && sleep 0.01")
        .await?;

    let free = start(&pod, "free", ProfileType::Unconfined, "").await?;
    ensure!(mode(&free).await? == "0");
    let allowed = free.exec(&["unshare", "-U", "true"]).await?;
    ensure!(allowed.code == 0, "{allowed:?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_seccomp_profile_of_the_host_is_applied() -> Result<()> {
    let node = Node::start().await?;
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
    });
    let path = node.scratch()?.join("no-mkdir.json");
    std::fs::write(&path, profile.to_string())?;
    let pod = node.run_pod("seccomp", |_| ()).await?;
    let container = start(
        &pod,
        "local",
        ProfileType::Localhost,
        &path.display().to_string(),
    )
    .await?;
    let refused = container.exec(&["mkdir", "/tmp/dir"]).await?;
    ensure!(
        refused.code != 0 && refused.stderr.contains("not supported"),
        "{refused:?}"
    );
    container.sh("echo text > /tmp/file").await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_seccomp_profile_that_is_missing_or_broken_is_an_error() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("seccomp", |_| ()).await?;
    let missing = node.scratch()?.join("missing.json");
    let error = start(
        &pod,
        "missing",
        ProfileType::Localhost,
        &missing.display().to_string(),
    )
    .await
    .err()
    .context("it started")?;
    ensure!(error.message().contains("missing.json"), "{error}");
    let broken = node.scratch()?.join("broken.json");
    std::fs::write(&broken, "{\"defaultAction\": \"SCMP_ACT_NO_SUCH\"}")?;
    let error = start(
        &pod,
        "broken",
        ProfileType::Localhost,
        &broken.display().to_string(),
    )
    .await
    .err()
    .context("it started")?;
    ensure!(error.message().contains("broken.json"), "{error}");
    node.finish().await
}
