//! Devices that are asked for by name (Container Device Interface), and the hooks that come with them.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::{CdiDevice, ContainerConfig, Int64Value};
use crisp_e2e::{Node, eventually};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tonic::Code;

fn device(name: &str) -> CdiDevice {
    CdiDevice {
        name: format!("vendor.example/device={name}"),
    }
}

/// A daemon that looks for descriptions of devices in `scratch()/cdi`.
async fn with_descriptions() -> Result<Node> {
    let node = Node::start_with(|config| {
        let root = config["root_dir"].as_str().unwrap_or_default();
        let dir = format!("{root}/../scratch/cdi");
        config.insert("cdi_dirs".to_owned(), vec![dir].into());
    })
    .await?;
    fs::create_dir_all(node.scratch()?.join("cdi"))?;
    Ok(node)
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_cdi_device_is_had_by_its_name() -> Result<()> {
    let node = with_descriptions().await?;
    let scratch = node.scratch()?;
    fs::write(scratch.join("library"), "of the vendor")?;
    let description = format!(
        "cdiVersion: 0.8.0
kind: vendor.example/device
containerEdits:
  env: [VENDOR=example]
devices:
  - name: tun
    containerEdits:
      env: [DEVICE=tun]
      additionalGids: [4711]
      deviceNodes: [{{path: /dev/vendor, hostPath: /dev/net/tun, permissions: rw}}]
      mounts:
        - {{hostPath: {}, containerPath: /lib/vendor, options: [ro, nosuid, nodev, bind]}}
",
        scratch.join("library").display()
    );
    fs::write(scratch.join("cdi/vendor.yaml"), description)?;
    let pod = node.run_pod("devices", |_| ()).await?;
    let by_field = pod
        .start("field", |config| {
            config.cdi_devices = vec![device("tun")];
        })
        .await?;
    let by_annotation = pod
        .start("annotation", |config| {
            let device = "vendor.example/device=tun".to_owned();
            config.annotations.insert("cdi.k8s.io/x".to_owned(), device);
        })
        .await?;
    for container in [by_field, by_annotation] {
        for (script, expected) in [
            // The node alone would not do: the cgroup has to allow it.
            ("exec 3<>/dev/vendor && echo opened", "opened"),
            ("stat -c %a /dev/vendor", "666"),
            (
                "tr '\\0' '\\n' </proc/1/environ | grep -c -e VENDOR=example -e DEVICE=tun",
                "2",
            ),
            ("grep -c 'Groups:.*4711' /proc/1/status", "1"),
            ("cat /lib/vendor", "of the vendor"),
            (
                "touch /lib/vendor 2>/dev/null || echo read-only",
                "read-only",
            ),
        ] {
            let shown = container.sh(script).await?;
            ensure!(shown == expected, "{script}: {shown:?}");
        }
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_cdi_device_that_cannot_be_had_is_refused() -> Result<()> {
    let node = with_descriptions().await?;
    let classes = r#"{"cdiVersion": "0.6.0", "kind": "vendor.example/device", "devices": [
        {"name": "classed", "containerEdits": {"intelRdt": {"closID": "x"}}}]}"#;
    fs::write(node.scratch()?.join("cdi/vendor.json"), classes)?;
    let pod = node.run_pod("devices", |_| ()).await?;
    for (device, reason) in [("none", "scratch/cdi"), ("classed", "RDT")] {
        let refused = pod
            .create("refused", |config| {
                config.cdi_devices = vec![self::device(device)];
            })
            .await
            .err()
            .with_context(|| format!("{device} was given"))?;
        ensure!(
            refused.code() == Code::FailedPrecondition
                && refused.message().contains(device)
                && refused.message().contains(reason),
            "{refused}"
        );
    }
    node.finish().await
}

/// Writes a program for hooks: it gets its point as first argument, and the state in `$state`.
fn hook_program(dir: &Path, script: &str) -> Result<PathBuf> {
    let path = dir.join("hook");
    fs::write(&path, format!("#!/bin/sh\nstate=$(cat)\n{script}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

fn hook(point: &str, path: &Path) -> Value {
    json!({"hookName": point, "path": path, "args": ["hook", point]})
}

/// A description of a device with these hooks.
fn describe(dir: &Path, name: &str, hooks: &[Value]) -> Result<()> {
    let description = json!({
        "cdiVersion": "0.6.0",
        "kind": "vendor.example/device",
        "devices": [{"name": name, "containerEdits": {"hooks": hooks}}],
    });
    let path = dir.join(format!("cdi/{name}.json"));
    Ok(fs::write(path, description.to_string())?)
}

fn with_device(name: &'static str) -> impl FnOnce(&mut ContainerConfig) {
    move |config| config.cdi_devices = vec![device(name)]
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_cdi_hooks_run_in_their_order_and_in_their_namespaces() -> Result<()> {
    let node = with_descriptions().await?;
    let scratch = node.scratch()?;
    let told = scratch.join("told");
    let script = format!(
        r#"field() {{ echo "$state" | grep -o "\"$1\":[^,}}]*" | cut -d: -f2- | tr -d '"'; }}
echo "$1 $(field status) $(readlink /proc/self/ns/net /proc/self/ns/mnt | tr '\n' ' ')" >> {told}
case $1 in
createContainer) touch "$(field bundle)/rootfs/made-by-hook" ;;
poststart) readlink "/proc/$(field pid)/ns/net" >> {told} ;;
esac"#,
        told = told.display()
    );
    let program = hook_program(&scratch, &script)?;
    let of_the_host = [
        "prestart",
        "createRuntime",
        "createContainer",
        "poststart",
        "poststop",
    ];
    let mut hooks = of_the_host.map(|point| hook(point, &program)).to_vec();
    hooks.push(json!({
        "hookName": "startContainer",
        "path": "/bin/sh",
        "args": ["sh", "-c", "id -u > /tmp/started-as; cat > /tmp/state"],
    }));
    describe(&scratch, "hooked", &hooks)?;
    let pod = node.run_pod("hooks", |_| ()).await?;
    let container = pod
        .start("hooked", |config| {
            with_device("hooked")(config);
            crisp_e2e::security(config).run_as_user = Some(Int64Value { value: 1000 });
        })
        .await?;
    let heard = || fs::read_to_string(&told).unwrap_or_default();
    eventually("the poststart hook has run", || {
        heard().lines().count() == 5
    })
    .await?;
    ensure!(container.sh("cat /tmp/started-as").await? == "1000");
    ensure!(
        container
            .sh("cat /tmp/state")
            .await?
            .contains("\"created\"")
    );
    container.sh("ls /made-by-hook").await?;
    container.stop(0).await?;
    container.wait_exit().await?;

    let namespace =
        |path: &Path| Ok::<_, std::io::Error>(fs::read_link(path)?.display().to_string());
    let host_net = namespace(Path::new("/proc/self/ns/net"))?;
    let host_mnt = namespace(Path::new("/proc/self/ns/mnt"))?;
    let lines: Vec<String> = heard().lines().map(|line| line.trim().to_owned()).collect();
    let host = format!("{host_net} {host_mnt}");
    ensure!(lines[0] == format!("prestart creating {host}"), "{lines:?}");
    ensure!(
        lines[1] == format!("createRuntime creating {host}"),
        "{lines:?}"
    );
    let pod_net = &lines[4];
    ensure!(*pod_net != host_net, "{lines:?}");
    ensure!(
        lines[2].starts_with(&format!("createContainer creating {pod_net}"))
            && !lines[2].contains(&host_mnt),
        "{lines:?}"
    );
    ensure!(lines[3] == format!("poststart running {host}"), "{lines:?}");
    ensure!(lines[5] == format!("poststop stopped {host}"), "{lines:?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_cdi_hook_that_fails_or_hangs_fails_the_start_and_nothing_else() -> Result<()> {
    let node = with_descriptions().await?;
    let scratch = node.scratch()?;
    let stopped = scratch.join("stopped");
    let script = format!(
        "case $1 in
createRuntime) echo no such card >&2; exit 3 ;;
createContainer) sleep 1000 ;;
poststop) touch {} ;;
esac",
        stopped.display()
    );
    let program = hook_program(&scratch, &script)?;
    let failing = ["createRuntime", "poststop"].map(|point| hook(point, &program));
    describe(&scratch, "failing", &failing)?;
    let mut hanging = hook("createContainer", &program);
    hanging["timeout"] = 1.into();
    describe(&scratch, "hanging", &[hanging])?;
    let missing = hook("createContainer", &scratch.join("missing"));
    describe(&scratch, "missing", &[missing])?;
    let pod = node.run_pod("hooks", |_| ()).await?;
    let other = pod.start("other", |_| ()).await?;
    for (name, parts) in [
        ("failing", ["createRuntime: exited with 3", "no such card"]),
        ("hanging", ["createContainer", "did not end within 1 s"]),
        ("missing", ["createContainer", "scratch/missing"]),
    ] {
        let container = pod.create(name, with_device(name)).await?;
        let (started, worked) = tokio::join!(container.start(), other.sh("echo works"));
        ensure!(worked? == "works");
        let refused = started.err().context("it started")?;
        for part in parts {
            ensure!(refused.message().contains(part), "{name}: {refused}");
        }
    }
    eventually("the poststop hook has run", || stopped.exists()).await?;
    node.finish().await
}
