//! ExecSync: commands in a running container.

use anyhow::{Context, Result, ensure};
use crisp_e2e::{Executed, Node, Process, allow_privileged, eventually, security, sh};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn privileged_exec_gives_both_outputs_and_the_exit_code() -> Result<()> {
    let node = Node::start().await?;
    let container = node
        .run_pod("exec", |_| ())
        .await?
        .start("main", |_| ())
        .await?;
    let done = container
        .exec(&["sh", "-c", "echo out; echo err >&2; exit 7"])
        .await?;
    let expected = Executed {
        stdout: "out\n".to_owned(),
        stderr: "err\n".to_owned(),
        code: 7,
    };
    ensure!(done == expected, "{done:?}");
    ensure!(container.exec(&["sh", "-c", "kill -9 $$"]).await?.code == 137);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_exec_runs_as_the_containers_own_process_does() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("exec", |_| ()).await?;
    let container = pod
        .start("main", |config| {
            config.working_dir = "/var".to_owned();
            config.envs.push(crisp_cri_api::v1::KeyValue {
                key: "COLOUR".to_owned(),
                value: "blue".to_owned(),
            });
            let security = security(config);
            security.run_as_user = Some(crisp_cri_api::v1::Int64Value { value: 1000 });
            security.no_new_privs = true;
        })
        .await?;
    ensure!(container.sh("echo $COLOUR $PWD $(id -u)").await? == "blue /var 1000");
    ensure!(
        container
            .sh("grep NoNewPrivs /proc/self/status")
            .await?
            .ends_with('1')
    );
    // In the container's cgroups, so that its limits hold for it.
    let (own, first) = (
        container.sh("cat /proc/self/cgroup").await?,
        container.sh("cat /proc/1/cgroup").await?,
    );
    ensure!(own == first, "{own}\n{first}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_exec_of_what_cannot_run_tells_the_path() -> Result<()> {
    let node = Node::start().await?;
    let container = node
        .run_pod("exec", |_| ())
        .await?
        .start("main", |_| ())
        .await?;
    let error = container
        .exec(&["/no/such/binary"])
        .await
        .err()
        .context("it ran")?;
    ensure!(error.message().contains("/no/such/binary"), "{error}");
    ensure!(container.sh("echo alive").await? == "alive");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_exec_needs_a_running_container() -> Result<()> {
    let node = Node::start().await?;
    let container = node
        .run_pod("exec", |_| ())
        .await?
        .create("main", |_| ())
        .await?;
    ensure!(
        container.exec(&["true"]).await.is_err(),
        "exec in a created container"
    );
    container.start().await?;
    container.stop(0).await?;
    ensure!(
        container.exec(&["true"]).await.is_err(),
        "exec in an exited container"
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_exec_output_is_bounded_and_the_command_ends() -> Result<()> {
    let node = Node::start().await?;
    let container = node
        .run_pod("exec", |_| ())
        .await?
        .start("main", |_| ())
        .await?;
    let done = container
        .exec(&["sh", "-c", "yes | head -c 40000000; echo end >&2"])
        .await?;
    // What is over the bound is dropped, not left in the pipe: the command runs to its end.
    ensure!((done.code, done.stderr.as_str()) == (0, "end\n"));
    let bytes = done.stdout.len();
    ensure!((1 << 20..=16 << 20).contains(&bytes), "{bytes} bytes");
    ensure!(done.stdout.starts_with("y\ny\n"));
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_exec_over_its_timeout_is_ended_with_all_its_processes() -> Result<()> {
    let node = Node::start().await?;
    let container = node
        .run_pod("exec", |_| ())
        .await?
        .start("main", |_| ())
        .await?;
    let script = "sleep 7650201 & sh -c 'sleep 7650201' & sleep 7650201";
    let error = container
        .exec_for(1, &["sh", "-c", script])
        .await
        .err()
        .context("it ended")?;
    ensure!(error.code() == Code::DeadlineExceeded, "{error}");
    let left = || {
        Process::all()
            .iter()
            .any(|process| process.runs() && process.command_line().contains("7650201"))
    };
    eventually("its processes are gone", || !left()).await?;
    ensure!(container.sh("echo alive").await? == "alive");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_exec_ends_although_its_child_holds_the_output() -> Result<()> {
    let node = Node::start().await?;
    let container = node
        .run_pod("exec", |_| ())
        .await?
        .start("main", |config| config.command = sh("sleep 1000000 & wait"))
        .await?;
    let done = container
        .exec_for(20, &["sh", "-c", "sleep 1000001 & echo out"])
        .await?;
    ensure!(
        (done.stdout.as_str(), done.code) == ("out\n", 0),
        "{done:?}"
    );
    node.finish().await
}

/// A container whose init has made groups of its own, as systemd does, has no processes in the one above them.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs cgroup v2: e2e/node-vm.sh"]
async fn privileged_exec_goes_where_the_init_has_gone() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("nested", allow_privileged).await?;
    // A privileged one sees all of the host's groups.
    let script = "cd /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup) && mkdir own && \
                  echo 1 >own/cgroup.procs && echo +pids >cgroup.subtree_control && echo done && \
                  exec sleep 100000";
    let container = pod
        .start("main", |config| {
            security(config).privileged = true;
            config.command = sh(script);
        })
        .await?;
    container.wait_log("done").await?;
    let group = container.sh("cut -d: -f3 /proc/self/cgroup").await?;
    ensure!(
        group.ends_with(&format!("/{}/own", container.id)),
        "{group}"
    );
    node.finish().await
}
