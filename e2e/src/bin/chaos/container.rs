//! A container and what must hold for it, whatever else happens on the node.

use crate::kubelet::{Kubelet, Settled, Want, no_refusal};
use crate::logs::{Counted, Logs};
use crate::population::{Lodger, Resident};
use crate::traces;
use crate::workload::Workload;
use crate::world::add_one;
use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::*;
use crisp_e2e::Process;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::Code;

/// A grace period that no workload needs more of, on however slow a machine.
pub(super) const LONG_GRACE_S: i64 = 60;

#[derive(Debug)]
pub(crate) struct Container {
    pub(super) lodger: Arc<Lodger>,
    pub(super) workload: Workload,
    pub(super) stage: Stage,
    /// Something was asked that ends it.
    stop: Option<Stop>,
    /// It may be one that could not be started for what was wrong with the node.
    start_failed: bool,
    /// When its last start began, if that failed.
    failed_at: Option<Instant>,
    pub(super) logs: Logs,
    counted: Counted,
    /// What was told of its end; it does not change.
    end: Option<End>,
}

/// How far its client has brought it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Created,
    Started,
    Stopped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Its workload has set up its answer to SIGTERM and has time for it.
    Gentle,
    Harsh,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct End {
    code: i32,
    reason: String,
    finished_at: i64,
}

impl Container {
    /// Creates one. Twice at the same time it is still one.
    pub(crate) async fn create(
        kubelet: &mut Kubelet,
        pod: &Resident,
        sandbox: &PodSandboxConfig,
        config: ContainerConfig,
        workload: Workload,
    ) -> Result<Option<Self>> {
        let log_path = Path::new(&sandbox.log_directory).join(&config.log_path);
        let logs = Logs::new(log_path, kubelet.world.log_disk.clone());
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox.clone()),
        };
        let twice = kubelet.random.chance(10);
        let want = Want::new(
            "CreateContainer",
            request.config.as_ref().map_or("", |c| &c.log_path),
        );
        let settled = kubelet
            .settle(
                want,
                |_| pod.is_doomed(),
                async |client, patience| {
                    let create = async || {
                        let request = patience.request(request.clone());
                        let answer = client.runtime().create_container(request).await;
                        answer.map(|answer| answer.into_inner().container_id)
                    };
                    if !twice {
                        return Ok((create().await?, None));
                    }
                    let (one, other) = tokio::join!(create(), create());
                    Ok((one?, Some(other?)))
                },
            )
            .await?;
        let Ok((id, other)) = settled.answer else {
            return Ok(None);
        };
        ensure!(
            other.as_ref().is_none_or(|other| *other == id),
            "one container was created twice: {id}, {other:?}"
        );
        add_one(&kubelet.world.tally.containers);
        kubelet.note(format_args!("container {id} {workload:?}"));
        let lodger = Lodger::new(&id);
        pod.lodgers().push(lodger.clone());
        Ok(Some(Self {
            lodger,
            workload,
            stage: Stage::Created,
            stop: None,
            start_failed: false,
            failed_at: None,
            logs,
            counted: Counted::default(),
            end: None,
        }))
    }

    pub(super) fn id(&self) -> &str {
        &self.lodger.id
    }

    /// Runs until something is done to it, and nothing was.
    pub(super) fn lasts(&self) -> bool {
        self.stage == Stage::Started
            && matches!(self.workload, Workload::Count { .. })
            && self.stop.is_none()
            && !self.start_failed
    }

    /// It, or its pod, was killed from outside.
    pub(super) fn is_struck(&self, pod: &Resident) -> bool {
        pod.is_doomed() || self.lodger.is_killed()
    }

    /// A refusal, or a wrong answer, may be for its having ended.
    pub(super) fn may_have_ended(&self, pod: &Resident) -> bool {
        !self.lasts() || self.is_struck(pod)
    }

    pub(crate) async fn start(&mut self, kubelet: &mut Kubelet, pod: &Resident) -> Result<()> {
        let id = self.id().to_owned();
        let absent = matches!(self.workload, Workload::Absent);
        let begun = Instant::now();
        // Told of one that an attempt has started, or failed to start.
        let again = |status: &tonic::Status| status.code() == Code::FailedPrecondition;
        let Settled {
            answer,
            repeated,
            failed,
        } = kubelet
            .settle(
                Want::new("StartContainer", &id),
                |status| again(status) || pod.is_doomed(),
                async |client, patience| {
                    let request = StartContainerRequest {
                        container_id: id.clone(),
                    };
                    client
                        .runtime()
                        .start_container(patience.request(request))
                        .await
                        .map(drop)
                },
            )
            .await?;
        self.stage = Stage::Started;
        // An attempt whose answer did not come may have failed for what was wrong with the node.
        let is_disturbed = kubelet.world.faults.disturbed_since(begun);
        self.start_failed |= failed || answer.is_err() && is_disturbed;
        self.failed_at = answer.is_err().then_some(begun);
        if let Err(status) = answer {
            ensure!(
                absent || repeated || pod.is_doomed(),
                "start of {id} is refused: {status:?}"
            );
        } else {
            ensure!(!absent, "{id} was started without a program");
            // What has failed once cannot be started any more.
            self.start_failed = false;
        }
        self.observe(kubelet, pod).await
    }

    pub(crate) async fn stop(&mut self, kubelet: &mut Kubelet, pod: &Resident) -> Result<()> {
        let id = self.id().to_owned();
        let grace_s = *kubelet
            .random
            .pick(&[0, 0, 1, 2, LONG_GRACE_S, LONG_GRACE_S]);
        // One that ignores the signal would take the whole grace.
        let answers = matches!(self.workload, Workload::Count { stopped: Some(_) });
        let grace_s = if answers || self.end.is_some() {
            grace_s
        } else {
            grace_s.min(2)
        };
        if self.stage != Stage::Created {
            self.ask_to_stop(grace_s)?;
        }
        let twice = kubelet.random.chance(15);
        let grace = Duration::from_secs(grace_s.unsigned_abs());
        kubelet
            .settle(
                Want::new("StopContainer", format!("{id} {grace_s} s")).takes(grace),
                no_refusal,
                async |client, patience| {
                    let stop = async || {
                        let request = StopContainerRequest {
                            container_id: id.clone(),
                            timeout: grace_s,
                        };
                        client
                            .runtime()
                            .stop_container(patience.request(request))
                            .await
                    };
                    if twice {
                        let (one, other) = tokio::join!(stop(), stop());
                        return one.and(other).map(drop);
                    }
                    stop().await.map(drop)
                },
            )
            .await?
            .must()?;
        if self.stage == Stage::Started {
            self.stage = Stage::Stopped;
        }
        self.observe(kubelet, pod).await
    }

    fn ask_to_stop(&mut self, grace_s: i64) -> Result<()> {
        let counted = self.logs.count()?;
        let has_trap = counted.is_some_and(|counted| counted.stdout > 0);
        let gentle = has_trap && grace_s >= LONG_GRACE_S && self.stop != Some(Stop::Harsh);
        self.stop = Some(if gentle { Stop::Gentle } else { Stop::Harsh });
        Ok(())
    }

    /// Before its pod is stopped.
    pub(crate) fn expect_kill(&mut self) {
        self.stop = Some(Stop::Harsh);
    }

    /// After its pod was stopped.
    pub(crate) fn was_killed(&mut self) {
        if self.stage == Stage::Started {
            self.stage = Stage::Stopped;
        }
    }

    /// Removes it, whatever it does; nothing of it is left.
    pub(crate) async fn remove(mut self, kubelet: &mut Kubelet, pod: &Resident) -> Result<()> {
        let id = self.id().to_owned();
        self.expect_kill();
        pod.lodgers().retain(|lodger| lodger.id != id);
        kubelet
            .settle(
                Want::new("RemoveContainer", &id),
                no_refusal,
                async |client, patience| {
                    let request = RemoveContainerRequest {
                        container_id: id.clone(),
                    };
                    client
                        .runtime()
                        .remove_container(patience.request(request))
                        .await
                        .map(drop)
                },
            )
            .await?
            .must()?;
        kubelet.world.population.bury(&id);
        let again = kubelet
            .status_of(&id, |status| status.code() == Code::NotFound)
            .await?;
        ensure!(again.answer.is_err(), "{id} is removed and has a status");
        traces::of_container(&kubelet.world.node, &pod.id, &id)?;
        self.check_log(pod).context("after the removal")
    }

    /// Asks how it is, and checks that it can be so.
    pub(crate) async fn observe(&mut self, kubelet: &mut Kubelet, pod: &Resident) -> Result<()> {
        let id = self.id().to_owned();
        let answer = kubelet.status_of(&id, no_refusal).await?.must()?;
        let status = answer.status.context("ContainerStatus without a status")?;
        let state = status.state();
        let checked = match state {
            ContainerState::ContainerCreated => self.check_created(kubelet, pod),
            ContainerState::ContainerRunning => self.check_running(pod, pid(&answer.info)),
            ContainerState::ContainerExited => self.check_exited(pod, &status),
            ContainerState::ContainerUnknown => Err(anyhow::anyhow!("its state is unknown")),
        };
        checked
            .and_then(|()| self.check_log(pod))
            .with_context(|| format!("{self:?}\nhas {status:?}"))
    }

    fn check_created(&mut self, kubelet: &Kubelet, pod: &Resident) -> Result<()> {
        let faults = &kubelet.world.faults;
        // A start that failed on a full disk is on none, and a new daemon does not know of it.
        let is_forgotten = self.failed_at.is_some_and(|at| faults.disturbed_since(at));
        if is_forgotten {
            self.stage = Stage::Created;
            self.end = None;
        }
        let may_be = self.stage == Stage::Created || self.start_failed || pod.is_doomed();
        ensure!(may_be, "it was started and is not");
        Ok(())
    }

    fn check_running(&self, pod: &Resident, pid: Option<i32>) -> Result<()> {
        ensure!(self.stage != Stage::Created, "it runs and was not started");
        ensure!(self.end.is_none(), "it runs after its end");
        ensure!(self.stage != Stage::Stopped, "it runs after it was stopped");
        // One that has just ended has none.
        let Some(pid) = pid else {
            ensure!(self.may_have_ended(pod), "it runs without a process");
            return Ok(());
        };
        ensure!(
            self.lodger.pid().is_none_or(|before| before == pid),
            "its process is another one: {pid}"
        );
        self.lodger.set_pid(pid);
        ensure!(
            Process(pid).runs() || self.may_have_ended(pod),
            "its process does not run"
        );
        Ok(())
    }

    fn check_exited(&mut self, pod: &Resident, status: &ContainerStatus) -> Result<()> {
        let end = End {
            code: status.exit_code,
            reason: status.reason.clone(),
            finished_at: status.finished_at,
        };
        if let Some(before) = &self.end {
            ensure!(*before == end, "its end was another one");
            return Ok(());
        }
        ensure!(
            status.created_at <= status.finished_at && status.started_at <= status.finished_at,
            "its times are out of order"
        );
        // Asked after the status: it is said before it is done.
        let expected = self.ends(pod);
        ensure!(
            pod.is_doomed() || expected.contains(&end.code),
            "it may end by one of {expected:?}"
        );
        let by_itself = self.stop.is_none() && !self.is_struck(pod) && !self.start_failed;
        let is_greedy = matches!(self.workload, Workload::Greedy);
        ensure!(
            !by_itself || is_greedy == (end.reason == "OOMKilled"),
            "its end has another cause"
        );
        if let (true, Some(lines)) = (by_itself, self.workload.lines()) {
            let counted = self.logs.count()?;
            let is_whole = |counted: Counted| (counted.stdout, counted.stderr) == (lines, lines);
            ensure!(
                counted.is_none_or(is_whole),
                "of {lines} lines the log has {counted:?}"
            );
        }
        self.end = Some(end);
        Ok(())
    }

    /// The codes that it may have ended by.
    fn ends(&self, pod: &Resident) -> Vec<i32> {
        let mut codes = Vec::from_iter(self.workload.end());
        let absent = matches!(self.workload, Workload::Absent);
        if self.stage != Stage::Created && (absent || self.start_failed) {
            codes.push(128);
        }
        if self.is_struck(pod) {
            codes.push(137);
        }
        let answer = match self.workload {
            Workload::Count { stopped } => stopped,
            _ => None,
        };
        match (self.stop, answer) {
            (None, _) => {}
            // It never ran, and cannot any more.
            (Some(_), _) if self.stage == Stage::Created => codes.push(255),
            (Some(Stop::Gentle), Some(code)) => codes.push(code),
            // A process that is no pid 1 dies of a signal that it has not heard of yet.
            (Some(_), answer) => codes.extend([137, 143].into_iter().chain(answer)),
        }
        codes
    }

    /// No line is lost or doubled, and none that was there is gone.
    pub(super) fn check_log(&mut self, pod: &Resident) -> Result<()> {
        let Some(counted) = self.logs.count()? else {
            return Ok(());
        };
        ensure!(
            counted.stdout >= self.counted.stdout && counted.stderr >= self.counted.stderr,
            "the log of {} has lost lines: {counted:?}, before {:?}, doomed {}",
            self.id(),
            self.counted,
            pod.is_doomed()
        );
        self.counted = counted;
        Ok(())
    }
}

impl Kubelet {
    /// ContainerStatus with what is told to a person.
    pub(super) async fn status_of(
        &mut self,
        id: &str,
        accepts: impl Fn(&tonic::Status) -> bool,
    ) -> Result<Settled<ContainerStatusResponse>> {
        self.settle(
            Want::new("ContainerStatus", id),
            accepts,
            async |client, patience| {
                let request = ContainerStatusRequest {
                    container_id: id.to_owned(),
                    verbose: true,
                };
                let answer = client
                    .runtime()
                    .container_status(patience.request(request))
                    .await;
                answer.map(tonic::Response::into_inner)
            },
        )
        .await
    }
}

fn pid(info: &BTreeMap<String, String>) -> Option<i32> {
    let info: serde_json::Value = serde_json::from_str(info.get("info")?).ok()?;
    i32::try_from(info["pid"].as_i64()?).ok()
}
