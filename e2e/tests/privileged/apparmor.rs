//! AppArmor profiles of containers. On a kernel without AppArmor these tests end at once.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::security_profile::ProfileType;
use crisp_cri_api::v1::{Capability, SecurityProfile};
use crisp_e2e::{Container, Node, Pod, security};
use std::io::Write;
use std::process::{Command, Stdio};
use tonic::Status;

#[expect(
    clippy::print_stderr,
    reason = "whoever runs the tests is to see what was not tried"
)]
fn is_on() -> bool {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    let is_on = enabled.is_ok_and(|enabled| enabled.trim() == "Y");
    if !is_on {
        eprintln!("skipped: the kernel runs without AppArmor");
    }
    is_on
}

/// A container that could mount, were it not for its profile.
async fn start<'a>(
    pod: &Pod<'a>,
    name: &str,
    profile: Option<(ProfileType, &str)>,
) -> Result<Container<'a>, Status> {
    pod.start(name, |config| {
        let security = security(config);
        security.apparmor = profile.map(|(kind, name)| SecurityProfile {
            profile_type: kind.into(),
            localhost_ref: name.to_owned(),
        });
        security.capabilities = Some(Capability {
            add_capabilities: vec!["SYS_ADMIN".to_owned()],
            ..Capability::default()
        });
    })
    .await
}

/// The profiles of the first process and of one that is exec'd.
async fn profiles(container: &Container<'_>) -> Result<[String; 2]> {
    let of = async |process: &str| {
        let path = format!("cat /proc/{process}/attr/current");
        Ok::<_, anyhow::Error>(container.sh(&path).await?.trim().to_owned())
    };
    Ok([of("1").await?, of("self").await?])
}

/// Defines a profile for the host, by the program that the daemon uses too.
fn load(text: &str) -> Result<()> {
    let mut parser = Command::new("apparmor_parser")
        .args(["--replace", "--skip-cache"])
        .stdin(Stdio::piped())
        .spawn()?;
    let mut stdin = parser.stdin.take().context("it has a standard input")?;
    stdin.write_all(text.as_bytes())?;
    drop(stdin);
    ensure!(parser.wait()?.success(), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_apparmor_default_profile_confines_all_but_those_who_ask_for_none() -> Result<()>
{
    if !is_on() {
        return Ok(());
    }
    let node = Node::start().await?;
    let pod = node.run_pod("apparmor", |_| ()).await?;
    let default = "crisp-default (enforce)";
    for (name, profile) in [
        ("unset", None),
        ("default", Some((ProfileType::RuntimeDefault, ""))),
    ] {
        let confined = start(&pod, name, profile).await?;
        ensure!(profiles(&confined).await? == [default, default]);
        for forbidden in [
            "mkdir -p /tmp/m && mount -t tmpfs none /tmp/m",
            "echo 1 > /proc/sysrq-trigger",
            "echo 1 > /sys/kernel/mm/ksm/run",
        ] {
            let refused = confined.exec(&["sh", "-c", forbidden]).await?;
            ensure!(refused.code != 0, "{forbidden}: {refused:?}");
        }
        // The usual work is none of the profile's business, and its end is the host's.
        confined
            .sh("echo text > /tmp/file && chown 1 /tmp/file && sleep 100 & kill $!")
            .await?;
        confined.stop(10).await?;
    }
    let free = start(&pod, "free", Some((ProfileType::Unconfined, ""))).await?;
    ensure!(profiles(&free).await? == ["unconfined", "unconfined"]);
    free.sh("mkdir -p /tmp/m && mount -t tmpfs none /tmp/m")
        .await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_apparmor_profile_of_the_host_is_applied_if_it_is_loaded() -> Result<()> {
    if !is_on() {
        return Ok(());
    }
    load("profile crisp-e2e-no-tmp { file, network, capability, signal, deny /tmp/** w, }")?;
    let node = Node::start().await?;
    let pod = node.run_pod("apparmor", |_| ()).await?;
    let localhost = |name| Some((ProfileType::Localhost, name));
    let confined = start(&pod, "local", localhost("crisp-e2e-no-tmp")).await?;
    let expected = "crisp-e2e-no-tmp (enforce)";
    ensure!(profiles(&confined).await? == [expected, expected]);
    let refused = confined.exec(&["touch", "/tmp/file"]).await?;
    ensure!(refused.stderr.contains("Permission denied"), "{refused:?}");
    confined.sh("touch /root/file").await?;
    let missing = start(&pod, "missing", localhost("crisp-e2e-missing")).await;
    let error = missing.err().context("it started")?;
    ensure!(error.message().contains("crisp-e2e-missing"), "{error}");
    node.finish().await
}
