//! Runtime handlers with a command: pods under runc and crun are as pods under the embedded runtime.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::{
    HugepageLimit, LinuxContainerResources, Mount, NamespaceMode, PodSandboxConfig,
    SecurityProfile, StatusRequest, UpdateContainerResourcesRequest, security_profile::ProfileType,
};
use crisp_e2e::{
    Container, Executed, Node, Pod, Process, eventually, oci_handlers, own_users, resources,
    security, sh, until,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs;
use std::path::PathBuf;
use tonic::Code;

const RUNTIMES: [&str; 2] = ["runc", "crun"];
const MIB: i64 = 1 << 20;

async fn node() -> Result<Node> {
    Node::start_with(|config| drop(config.insert("handlers".to_owned(), oci_handlers().into())))
        .await
}

/// What a runtime keeps of the containers of a pod: nothing, or a directory for each.
fn runtime_state(node: &Node, pod: &Pod<'_>) -> Vec<PathBuf> {
    let dir = node.run_dir().join("pods").join(&pod.id).join("oci");
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Counts until SIGTERM, which it ends by in its own way.
const PATIENT: &str = "trap 'echo bye; exit 3' TERM; echo out; echo err >&2; i=0; \
                       while :; do i=$((i+1)); echo $i; sleep 0.05; done";

#[tokio::test(flavor = "multi_thread")]
async fn privileged_other_runtimes_run_the_whole_life_of_a_container() -> Result<()> {
    let node = node().await?;
    for runtime in RUNTIMES {
        let pod = node.run_pod_with_handler(runtime, runtime, |_| ()).await?;
        ensure!(pod.status().await?.runtime_handler == runtime);
        let container = pod
            .start("main", |config| config.command = sh(PATIENT))
            .await
            .with_context(|| runtime.to_owned())?;
        container.wait_log("out").await?;
        let error_line = container.wait_log("err").await?;
        ensure!(error_line.stream == "stderr", "{error_line:?}");
        exec_works(&container)
            .await
            .with_context(|| runtime.to_owned())?;
        limits_change(&node, &container)
            .await
            .with_context(|| runtime.to_owned())?;

        let process = container.process().await?;
        node.kill()?;
        let lines = container.log()?.len();
        eventually("the log goes on", || {
            container.log().is_ok_and(|log| log.len() > lines + 3)
        })
        .await?;
        node.restart().await?;
        ensure!(container.process().await? == process);
        exec_works(&container)
            .await
            .with_context(|| runtime.to_owned())?;

        container.stop(20).await?;
        let status = container.status().await?;
        ensure!(
            (status.exit_code, status.reason.as_str()) == (3, "Error"),
            "{status:?}"
        );
        container.wait_log("bye").await?;
        ensure!(
            runtime_state(&node, &pod).is_empty(),
            "{:?}",
            runtime_state(&node, &pod)
        );
        container.remove().await?;
    }
    node.finish().await
}

async fn exec_works(container: &Container<'_>) -> Result<()> {
    let script = "echo out; echo err >&2; exit 7";
    let expected = Executed {
        stdout: "out\n".to_owned(),
        stderr: "err\n".to_owned(),
        code: 7,
    };
    let done = container.exec(&["sh", "-c", script]).await?;
    ensure!(done == expected, "{done:?}");
    ensure!(container.exec(&["sh", "-c", "kill -9 $$"]).await?.code == 137);
    // So short that it has ended before anybody could look.
    for _ in 0..5 {
        ensure!(container.exec(&["true"]).await?.code == 0);
    }
    let missing = container.exec(&["/no/such/binary"]).await;
    let missing = missing.err().context("it ran")?;
    ensure!(
        missing.message().contains("exec /no/such/binary"),
        "{missing}"
    );
    let late = container
        .exec_for(1, &["sh", "-c", "sleep 7650301 & sleep 7650301"])
        .await;
    ensure!(
        late.as_ref()
            .is_err_and(|error| error.code() == Code::DeadlineExceeded),
        "{late:?}"
    );
    let left = || {
        let mut all = Process::all().into_iter();
        all.any(|process| process.runs() && process.command_line().contains("7650301"))
    };
    eventually("its processes are gone", || !left()).await
}

async fn limits_change(node: &Node, container: &Container<'_>) -> Result<()> {
    let update = UpdateContainerResourcesRequest {
        container_id: container.id.clone(),
        linux: Some(LinuxContainerResources {
            memory_limit_in_bytes: 96 * MIB,
            ..LinuxContainerResources::default()
        }),
        ..UpdateContainerResourcesRequest::default()
    };
    node.runtime().update_container_resources(update).await?;
    ensure!(memory_limit(container).await? == (96 * MIB).to_string());
    Ok(())
}

async fn memory_limit(container: &Container<'_>) -> Result<String> {
    let memory = container.cgroup("memory").await?;
    memory
        .read("memory.limit_in_bytes")
        .or_else(|_| memory.read("memory.max"))
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_other_runtimes_confine_containers_as_asked() -> Result<()> {
    let node = node().await?;
    for runtime in RUNTIMES {
        let pod = node.run_pod_with_handler(runtime, runtime, |_| ()).await?;
        let one = pod
            .start("one", |config| {
                let security = security(config);
                security.seccomp = Some(SecurityProfile {
                    profile_type: ProfileType::RuntimeDefault.into(),
                    ..SecurityProfile::default()
                });
                security.no_new_privs = true;
                security.readonly_rootfs = true;
                security.supplemental_groups = vec![777];
                security.masked_paths = vec!["/proc/kcore".to_owned()];
                // Lower than a runtime without CAP_SYS_RESOURCE can have it.
                resources(config).oom_score_adj = -997;
                // As the kubelet sends it whether or not the node counts huge pages.
                resources(config).hugepage_limits = vec![HugepageLimit {
                    page_size: "2MB".to_owned(),
                    limit: 0,
                }];
            })
            .await
            .with_context(|| runtime.to_owned())?;
        let two = pod.start("two", |_| ()).await?;
        for (script, expected) in [
            ("hostname", runtime),
            ("grep Seccomp: /proc/1/status | tr -dc 0-9", "2"),
            ("grep Seccomp: /proc/self/status | tr -dc 0-9", "2"),
            ("grep NoNewPrivs: /proc/1/status | tr -dc 0-9", "1"),
            ("touch /x 2>&1 | grep -c Read-only", "1"),
            ("head -c 1 /proc/kcore | wc -c", "0"),
            ("id -G | grep -cw 777", "1"),
            ("grep -c . /etc/resolv.conf > /dev/null; echo $?", "0"),
            ("stat -f -c %T /dev/shm", "tmpfs"),
            ("ls /proc/1/fd | tr '\\n' ' '", "0 1 2"),
        ] {
            let shown = one.sh(script).await.with_context(|| runtime.to_owned())?;
            ensure!(shown == expected, "{runtime}: {script}: {shown:?}");
        }
        two.sh("echo shared > /dev/shm/file").await?;
        ensure!(one.sh("cat /dev/shm/file").await? == "shared");
        let kinds = ["net", "ipc", "uts"];
        for kind in kinds {
            let (one, two) = (one.process().await?, two.process().await?);
            ensure!(
                one.namespace(kind)? == two.namespace(kind)?,
                "{runtime}: {kind}"
            );
        }
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        ensure!(
            !mounts.contains(&one.id),
            "the host sees mounts of a container:\n{mounts}"
        );
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_other_runtimes_fail_starts_as_the_embedded_one_does() -> Result<()> {
    let node = node().await?;
    for runtime in RUNTIMES {
        let pod = node.run_pod_with_handler(runtime, runtime, |_| ()).await?;
        let cases: [(&str, &[&str], &str, &str); 4] = [
            (
                "missing",
                &["/no/such/binary"],
                "/",
                "exec /no/such/binary: no such file",
            ),
            (
                "unknown",
                &["nosuch"],
                "/",
                "exec nosuch: executable file not found in $PATH",
            ),
            (
                "data",
                &["/etc/hosts"],
                "/",
                "exec /etc/hosts: permission denied",
            ),
            (
                "file",
                &["true"],
                "/etc/hosts",
                "working directory /etc/hosts",
            ),
        ];
        for (name, command, working_dir, expected) in cases {
            let container = pod
                .create(name, |config| {
                    config.command = command.iter().map(|&word| word.to_owned()).collect();
                    working_dir.clone_into(&mut config.working_dir);
                })
                .await?;
            let error = container.start().await.err().context("it started")?;
            ensure!(
                error.message().contains(expected),
                "{runtime} {name}: {error}"
            );
            let status = container.status().await?;
            ensure!(
                (status.exit_code, status.reason.as_str()) == (128, "StartError"),
                "{status:?}"
            );
        }
        ensure!(
            runtime_state(&node, &pod).is_empty(),
            "{:?}",
            runtime_state(&node, &pod)
        );
        // The pod is none the worse for it.
        ensure!(pod.start("good", |_| ()).await?.sh("echo alive").await? == "alive");
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_other_runtimes_hand_over_terminals_and_input() -> Result<()> {
    let node = node().await?;
    for runtime in RUNTIMES {
        let pod = node.run_pod_with_handler(runtime, runtime, |_| ()).await?;
        let container = pod
            .start("tty", |config| {
                config.command = sh("tty; echo ready; sleep 1000000");
                config.tty = true;
            })
            .await
            .with_context(|| runtime.to_owned())?;
        container.wait_log("ready").await?;
        ensure!(
            container.log()?[0].text.starts_with("/dev/"),
            "{:?}",
            container.log()?
        );
        let mut terminal = node.crictl_on_terminal(&["exec", "-it", &container.id, "tty"])?;
        terminal.wait_for("/dev/pts/").await?;
        ensure!(terminal.wait().await?.success());

        let reader = pod
            .start("reader", |config| {
                config.command = sh("read line; echo got $line");
                config.stdin = true;
            })
            .await?;
        let attach = ["attach", "-i", &reader.id];
        let attached = node.crictl_with_input(&attach, "hello\n");
        let (attached, logged) = tokio::join!(attached, reader.wait_log("got hello"));
        attached?;
        logged?;
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_other_runtimes_tell_how_containers_end() -> Result<()> {
    let node = node().await?;
    for runtime in RUNTIMES {
        let pod = node.run_pod_with_handler(runtime, runtime, |_| ()).await?;
        let quick = pod
            .start("quick", |config| config.command = sh("exit 5"))
            .await?;
        ensure!(quick.wait_exit().await?.exit_code == 5);
        let killed = pod.start("killed", |_| ()).await?;
        killed.stop(0).await?;
        ensure!(killed.status().await?.exit_code == 137);
        let eater = pod
            .start("eater", |config| {
                config.command = sh("x=0123456789; while :; do x=$x$x; done");
                resources(config).memory_limit_in_bytes = 64 * MIB;
            })
            .await?;
        let status = eater.wait_exit().await?;
        ensure!(
            (status.exit_code, status.reason.as_str()) == (137, "OOMKilled"),
            "{runtime}: {status:?}"
        );
        // What a client changes before the start holds after it.
        let changed = pod
            .create("changed", |config| {
                resources(config).memory_limit_in_bytes = 64 * MIB;
            })
            .await?;
        let update = UpdateContainerResourcesRequest {
            container_id: changed.id.clone(),
            linux: Some(LinuxContainerResources {
                memory_limit_in_bytes: 80 * MIB,
                ..LinuxContainerResources::default()
            }),
            ..UpdateContainerResourcesRequest::default()
        };
        node.runtime().update_container_resources(update).await?;
        changed.start().await?;
        ensure!(memory_limit(&changed).await? == (80 * MIB).to_string());
        ensure!(runtime_state(&node, &pod).len() == 1);
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_pods_pid_limit_holds_under_other_runtimes() -> Result<()> {
    let mut handlers = oci_handlers();
    for (_, handler) in handlers.iter_mut() {
        let settings = handler.as_table_mut().context("a handler is a table")?;
        settings.insert("pod_pids_limit".to_owned(), 64.into());
    }
    let node =
        Node::start_with(|config| drop(config.insert("handlers".to_owned(), handlers.into())))
            .await?;
    for runtime in RUNTIMES {
        let pod = node.run_pod_with_handler(runtime, runtime, |_| ()).await?;
        let bomb = "sh -c 'bomb() { bomb | bomb & }; bomb'; sleep 1000000";
        let container = pod
            .start("bomb", |config| config.command = sh(bomb))
            .await
            .with_context(|| runtime.to_owned())?;
        container
            .wait_log("Resource temporarily unavailable")
            .await?;
        container.stop(0).await?;
    }
    node.finish().await
}

/// A mount of the host with one below it, gone when dropped.
struct Nested([PathBuf; 2]);

impl Nested {
    fn make(outer: PathBuf) -> Result<Self> {
        let made = Self([outer.clone(), outer.join("inner")]);
        for dir in &made.0 {
            fs::create_dir(dir)?;
            mount(
                Some("none"),
                dir,
                Some("tmpfs"),
                MsFlags::empty(),
                None::<&str>,
            )?;
        }
        Ok(made)
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        for dir in self.0.iter().rev() {
            let _ = umount2(dir, MntFlags::MNT_DETACH);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_recursive_read_only_reaches_below_under_other_runtimes() -> Result<()> {
    let node = node().await?;
    let nested = Nested::make(node.scratch()?.join("outer"))?;
    for runtime in RUNTIMES {
        let pod = node.run_pod_with_handler(runtime, runtime, |_| ()).await?;
        let container = pod
            .start("main", |config| {
                config.mounts.push(Mount {
                    container_path: "/mnt".to_owned(),
                    host_path: nested.0[0].display().to_string(),
                    readonly: true,
                    recursive_read_only: true,
                    ..Mount::default()
                });
            })
            .await
            .with_context(|| runtime.to_owned())?;
        for file in ["/mnt/file", "/mnt/inner/file"] {
            let write = container.exec(&["touch", file]).await?;
            ensure!(
                write.stderr.contains("Read-only file system"),
                "{runtime}: {write:?}"
            );
        }
        container.stop(0).await?;
    }
    drop(nested);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_user_namespaces_are_had_of_runtimes_that_offer_them() -> Result<()> {
    let node = node().await?;
    let status = node.runtime().status(StatusRequest::default()).await?;
    let offered: Vec<(String, bool)> = status
        .into_inner()
        .runtime_handlers
        .into_iter()
        .map(|handler| {
            let features = handler.features.unwrap_or_default();
            (handler.name, features.user_namespaces)
        })
        .collect();
    // Debian's crun is older than the command that would tell.
    let expected = [("", true), ("crun", false), ("runc", true)];
    let expected = expected.map(|(name, offers)| (name.to_owned(), offers));
    ensure!(offered == expected, "{offered:?}");

    let refused = node.run_pod_with_handler("crun", "crun", own_users).await;
    let refused = refused.err().context("crun ran it")?;
    ensure!(refused.message().contains("user namespaces"), "{refused}");

    let pod = node.run_pod_with_handler("runc", "runc", own_users).await?;
    let container = pod.start("main", |_| ()).await?;
    ensure!(
        container
            .sh("cat /proc/self/uid_map")
            .await?
            .contains("1000000")
    );
    ensure!(
        container
            .sh("id -u; stat -c %u:%g /bin /etc/hosts | sort -u")
            .await?
            .starts_with("0\n0:0")
    );
    container.sh("touch /file /dev/shm/file").await?;
    ensure!(container.sh("stat -c %u:%g /file").await? == "0:0");

    let of_host = |config: &mut PodSandboxConfig| {
        own_users(config);
        let linux = config.linux.get_or_insert_default();
        let security = linux.security_context.get_or_insert_default();
        security.namespace_options.get_or_insert_default().network = NamespaceMode::Node.into();
    };
    let pod = node.run_pod_with_handler("host", "runc", of_host).await?;
    let container = pod.start("main", |_| ()).await?;
    let own = Process(std::process::id().try_into()?).namespace("net")?;
    ensure!(container.process().await?.namespace("net")? == own);
    let mounts = container.sh("cat /proc/self/mounts").await?;
    let sys = mounts.lines().rfind(|line| line.contains(" /sys "));
    ensure!(sys.is_some_and(|line| line.contains(" ro,")), "{mounts}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_handler_that_is_unknown_or_has_no_program_refuses_pods() -> Result<()> {
    let node = Node::start_with(|config| {
        let handlers = toml::toml! { gone = { command = "/no/such/runtime" } };
        config.insert("handlers".to_owned(), handlers.into());
    })
    .await?;
    for (handler, expected) in [
        (
            "gone",
            "\"gone\" cannot be used: /no/such/runtime: No such file",
        ),
        ("nosuch", "no runtime handler \"nosuch\" is known"),
    ] {
        let refused = node.run_pod_with_handler(handler, handler, |_| ()).await;
        let refused = refused.err().context("it ran")?;
        ensure!(refused.message().contains(expected), "{refused}");
    }
    ensure!(node.pods().await?.is_empty());
    let check = node.try_crisp(&["check"]).await?;
    ensure!(check.stdout.contains("gone: /no/such/runtime"), "{check:?}");
    until("pods run by other handlers all the same", async || {
        node.run_pod_with_handler("embedded", "", |_| ()).await.ok()
    })
    .await?;
    node.finish().await
}
