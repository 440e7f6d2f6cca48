//! Containers: what they run, what is told about them, and several in one pod.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::{ContainerState, KeyValue};
use crisp_e2e::catalog::{BUSYBOX, busybox_layer};
use crisp_e2e::{Image, Node, Pod, Registry, image_spec, sh};
use serde_json::json;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

#[tokio::test(flavor = "multi_thread")]
async fn privileged_command_and_environment_come_from_config_and_image() -> Result<()> {
    let image = Image::new(vec![busybox_layer()])
        .with("Entrypoint", json!(["echo", "entrypoint"]))
        .with("Cmd", json!(["cmd"]))
        .with("Env", json!(["PATH=/bin", "FROM=image", "KEPT=yes"]))
        .with("WorkingDir", json!("/var"));
    Registry::shared().publish("test/command", "1", &image);
    let node = Node::start().await?;
    node.pull("registry.k8s.io/test/command:1").await?;
    let pod = node.run_pod("command", |_| ()).await?;
    let words = |words: &[&str]| {
        words
            .iter()
            .map(|&word| word.to_owned())
            .collect::<Vec<_>>()
    };
    let cases: [(&str, &[&str], &[&str], &str); 5] = [
        ("image", &[], &[], "entrypoint cmd"),
        ("args", &[], &["args"], "entrypoint args"),
        ("command", &["echo", "command"], &[], "command"),
        ("both", &["echo", "command"], &["args"], "command args"),
        (
            "environment",
            &["sh", "-c", "echo $FROM $KEPT $NEW $PWD $HOSTNAME"],
            &[],
            "config yes new /var command",
        ),
    ];
    for (name, command, args, expected) in cases {
        let container = pod
            .start(name, |config| {
                config.image = Some(image_spec("registry.k8s.io/test/command:1"));
                (config.command, config.args) = (words(command), words(args));
                config.envs = [("FROM", "config"), ("NEW", "new")]
                    .map(|(key, value)| KeyValue {
                        key: key.to_owned(),
                        value: value.to_owned(),
                    })
                    .to_vec();
            })
            .await?;
        container.wait_exit().await?;
        let log: Vec<_> = container.log()?.into_iter().map(|line| line.text).collect();
        ensure!(log == [expected], "{name}: {log:?}");
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_working_directory_is_made_when_missing() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("directory", |_| ()).await?;
    let container = pod
        .start("main", |config| {
            config.working_dir = "/not/yet/there".to_owned()
        })
        .await?;
    ensure!(container.sh("pwd").await? == "/not/yet/there");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_status_tells_each_state_with_its_facts() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("states", |_| ()).await?;
    let cases = [
        ("well", "exit 0", 0, "Completed"),
        ("badly", "exit 3", 3, "Error"),
        ("by-signal", "kill -USR1 $$; sleep 9", 128 + 10, "Error"),
    ];
    for (name, script, exit_code, reason) in cases {
        let container = pod
            .create(name, |config| {
                // A child, since the kernel keeps unhandled signals from PID 1.
                config.command = sh(&format!("sh -c '{script}'; exit $?"));
                config.labels.insert("label".to_owned(), name.to_owned());
                config
                    .annotations
                    .insert("annotation".to_owned(), name.to_owned());
            })
            .await?;
        let created = container.status().await?;
        ensure!(
            created.state() == ContainerState::ContainerCreated,
            "{created:?}"
        );
        ensure!(
            (created.started_at, created.finished_at) == (0, 0),
            "{created:?}"
        );
        container.start().await?;
        let exited = container.wait_exit().await?;
        ensure!(
            (exited.exit_code, exited.reason.as_str()) == (exit_code, reason),
            "{exited:?}"
        );
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
        let times = [
            1,
            exited.created_at,
            exited.started_at,
            exited.finished_at,
            now,
        ];
        ensure!(times.is_sorted(), "{times:?}");
        ensure!(exited.created_at == created.created_at);
        ensure!(
            exited.labels["label"] == name && exited.annotations["annotation"] == name,
            "{exited:?}"
        );
        let image = node.image(BUSYBOX).await?.context("no image")?;
        ensure!(
            exited.image_id == image.id && !exited.image_ref.is_empty(),
            "{exited:?}"
        );
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_containers_of_a_pod_are_apart_and_end_with_it() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("several", |_| ()).await?;
    let one = pod.start("one", |_| ()).await?;
    let two = pod.start("two", |_| ()).await?;
    one.sh("echo written > /tmp/file").await?;
    ensure!(
        two.exec(&["cat", "/tmp/file"]).await?.code == 1,
        "their root file systems are one"
    );
    ensure!(one.sh("hostname").await? == "several" && two.sh("hostname").await? == "several");
    one.stop(0).await?;
    one.remove().await?;
    ensure!(two.sh("echo alive").await? == "alive");
    // The name is free again.
    let one_again = pod.start("one", |_| ()).await?;
    ensure!(
        one_again.exec(&["cat", "/tmp/file"]).await?.code == 1,
        "it has the old one's files"
    );
    pod.stop().await?;
    for container in [&two, &one_again] {
        let status = container.status().await?;
        ensure!(
            status.state() == ContainerState::ContainerExited,
            "{status:?}"
        );
    }
    pod.remove().await?;
    ensure!(node.containers().await?.is_empty());
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_many_pods_start_and_stop_side_by_side() -> Result<()> {
    let node = Node::start().await?;
    let one = async |index: usize| {
        let pod = node.run_pod(&format!("pod-{index}"), |_| ()).await?;
        let container = pod
            .start("main", |config| config.command = sh("echo done"))
            .await?;
        ensure!(container.wait_exit().await?.exit_code == 0);
        let address = pod.addresses().await?[0];
        ensure!(node.pods().await?.iter().any(|listed| listed.id == pod.id));
        anyhow::Ok((pod, address))
    };
    // On the heap: sixteen of them are too much for a test's stack.
    let boxed = |index| Box::pin(one(index));
    let four = async |at| tokio::try_join!(boxed(at), boxed(at + 1), boxed(at + 2), boxed(at + 3));
    let (a, b, c, d) = tokio::try_join!(four(0), four(4), four(8), four(12))?;
    let made: Vec<_> = [a, b, c, d].into_iter().flat_map(<[_; 4]>::from).collect();
    let addresses: BTreeSet<_> = made.iter().map(|(_, address)| address).collect();
    ensure!(addresses.len() == 16, "{addresses:?}");
    let (first, second) = made.split_at(8);
    let stop = async |pods: &[(Pod<'_>, IpAddr)]| {
        for (pod, _) in pods {
            pod.stop().await?;
            pod.remove().await?;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(stop(first), stop(second))?;
    node.finish().await
}
