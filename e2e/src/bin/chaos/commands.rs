//! What is asked of containers that run: commands in them, other limits, new log files.

use crate::container::Container;
use crate::faults::BOUND;
use crate::kubelet::{Kubelet, Want};
use crate::logs::Counted;
use crate::population::Resident;
use crate::workload::TOLD;
use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::*;
use crisp_e2e::sh;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Child;
use tokio::time::timeout;
use tonic::{Code, Status};

/// Says a line to who is attached to, and waits until it comes back.
async fn repeated(mut crictl: Child, line: &str) -> Result<()> {
    let mut input = crictl.stdin.take().context("its input is a pipe")?;
    input.write_all(format!("{line}\n").as_bytes()).await?;
    let output = crictl.stdout.take().context("its output is a pipe")?;
    let mut lines = BufReader::new(output).lines();
    while let Some(heard) = lines.next_line().await? {
        if heard == line {
            return Ok(());
        }
    }
    anyhow::bail!("it ended: {:?}", crictl.wait_with_output().await?)
}

impl Container {
    /// Runs a command that says something on both streams and ends with a code.
    pub(crate) async fn exec(&mut self, kubelet: &mut Kubelet, pod: &Resident) -> Result<()> {
        let code = i32::try_from(kubelet.random.between(0, 100))?;
        let script = format!("echo out {code}; echo err {code} >&2; exit {code}");
        let answer = self.exec_sync(kubelet, pod, &script, 0).await?;
        let expected = ExecSyncResponse {
            stdout: format!("out {code}\n").into(),
            stderr: format!("err {code}\n").into(),
            exit_code: code,
        };
        ensure!(
            answer.as_ref().is_ok_and(|answer| *answer == expected) || self.may_have_ended(pod),
            "{script:?} in {}: {answer:?}",
            self.id()
        );
        Ok(())
    }

    /// Runs a command that does not end in its time.
    pub(crate) async fn exec_too_long(
        &mut self,
        kubelet: &mut Kubelet,
        pod: &Resident,
    ) -> Result<()> {
        let answer = self.exec_sync(kubelet, pod, "sleep 1000", 1).await?;
        let late = matches!(&answer, Err(status) if status.code() == Code::DeadlineExceeded);
        ensure!(
            late || self.may_have_ended(pod),
            "a command without an end in {}: {answer:?}",
            self.id()
        );
        Ok(())
    }

    /// What its workload has written comes into its log.
    pub(crate) async fn compare_log(
        &mut self,
        kubelet: &mut Kubelet,
        pod: &Resident,
    ) -> Result<()> {
        let answer = self.exec_sync(kubelet, pod, TOLD, 0).await?;
        let told = answer.ok().and_then(|answer| {
            let text = String::from_utf8(answer.stdout).ok()?;
            text.trim().parse::<u64>().ok()
        });
        // None: it has not begun to count.
        let told = told.map_or(0, |last| last + 1);
        let start = Instant::now();
        loop {
            let counted = self.logs.count()?;
            let has_all = |counted: Counted| counted.stdout >= told && counted.stderr >= told;
            if counted.is_none_or(has_all) {
                return self.check_log(pod);
            }
            ensure!(
                start.elapsed() < BOUND,
                "{} has written {told} lines to each stream, its log has {counted:?}",
                self.id()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn exec_sync(
        &mut self,
        kubelet: &mut Kubelet,
        pod: &Resident,
        script: &str,
        timeout_s: i64,
    ) -> Result<Result<ExecSyncResponse, Status>> {
        let id = self.id().to_owned();
        let want = Want::new("ExecSync", format!("{id} {script:?}"));
        let timed = |status: &Status| timeout_s > 0 && status.code() == Code::DeadlineExceeded;
        let settled = kubelet
            .settle(
                want.takes(Duration::from_secs(timeout_s.unsigned_abs())),
                |status| timed(status) || self.may_have_ended(pod),
                async |client, patience| {
                    let request = ExecSyncRequest {
                        container_id: id.clone(),
                        cmd: sh(script),
                        timeout: timeout_s,
                    };
                    let answer = client.runtime().exec_sync(patience.request(request)).await;
                    answer.map(tonic::Response::into_inner)
                },
            )
            .await?;
        Ok(settled.answer)
    }

    /// The same over a stream, as `kubectl exec` does.
    pub(crate) async fn exec_stream(
        &mut self,
        kubelet: &mut Kubelet,
        pod: &Resident,
    ) -> Result<()> {
        let start = Instant::now();
        let script = "cat; echo err >&2; exit 3";
        let command = ["exec", "-i", self.id(), "sh", "-c", script];
        let (node, input) = (&kubelet.world.node, "some input\n");
        let output = node.try_crictl_with_input(&command, input).await?;
        kubelet.note(format_args!("exec stream {}: {output:?}", self.id()));
        let right =
            output.stdout == input && output.stderr.contains("err\n") && output.code != Some(0);
        let excused = self.may_have_ended(pod) || kubelet.world.faults.disturbed_since(start);
        ensure!(right || excused, "exec stream in {}: {output:?}", self.id());
        Ok(())
    }

    /// Tells it something, and hears it repeat that, as by `kubectl attach`.
    pub(crate) async fn attach(&mut self, kubelet: &mut Kubelet, pod: &Resident) -> Result<()> {
        let start = Instant::now();
        let line = format!("told {}", kubelet.random.between(0, 1000));
        let crictl = kubelet
            .world
            .node
            .start_crictl(&["attach", "-i", self.id()])?;
        let heard = match timeout(BOUND, repeated(crictl, &line)).await {
            Ok(heard) => heard,
            Err(_) => Err(anyhow::anyhow!("{line:?} is not heard for {BOUND:?}")),
        };
        kubelet.note(format_args!("attach {}: {heard:?}", self.id()));
        let excused = self.may_have_ended(pod) || kubelet.world.faults.disturbed_since(start);
        ensure!(
            heard.is_ok() || excused,
            "attach to {}: {heard:?}",
            self.id()
        );
        Ok(())
    }

    /// Sets a limit, which its status tells then.
    pub(crate) async fn update(&mut self, kubelet: &mut Kubelet, pod: &Resident) -> Result<()> {
        let id = self.id().to_owned();
        let cpu_shares = i64::try_from(kubelet.random.between(2, 2048))?;
        let resources = LinuxContainerResources {
            cpu_shares,
            ..LinuxContainerResources::default()
        };
        let settled = kubelet
            .settle(
                Want::new("UpdateContainerResources", format!("{id} {cpu_shares}")),
                |_| self.may_have_ended(pod),
                async |client, patience| {
                    let request = UpdateContainerResourcesRequest {
                        container_id: id.clone(),
                        linux: Some(resources.clone()),
                        ..UpdateContainerResourcesRequest::default()
                    };
                    let request = patience.request(request);
                    client
                        .runtime()
                        .update_container_resources(request)
                        .await
                        .map(drop)
                },
            )
            .await?;
        let answer = kubelet.status_of(&id, |_| false).await?.must()?;
        let told = answer.status.and_then(|status| status.resources);
        let told = told.and_then(|told| told.linux).context("no resources")?;
        ensure!(
            settled.answer.is_err() || told.cpu_shares == cpu_shares,
            "{id} has {} of {cpu_shares} cpu_shares",
            told.cpu_shares
        );
        Ok(())
    }

    /// Moves its log file away and has it begin another one.
    pub(crate) async fn rotate_log(&mut self, kubelet: &mut Kubelet, pod: &Resident) -> Result<()> {
        let id = self.id().to_owned();
        self.logs.set_aside()?;
        kubelet
            .settle(
                Want::new("ReopenContainerLog", &id),
                |_| self.may_have_ended(pod),
                async |client, patience| {
                    let request = ReopenContainerLogRequest {
                        container_id: id.clone(),
                    };
                    let request = patience.request(request);
                    client
                        .runtime()
                        .reopen_container_log(request)
                        .await
                        .map(drop)
                },
            )
            .await?;
        Ok(())
    }
}
