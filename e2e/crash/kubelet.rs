//! A client that does as the kubelet does when a request fails: it looks, and asks again. It sees to it
//! that somebody dies on the way, and that nothing which it was told before is undone by that.

use crate::Case;
use crate::finding::{Finding, stuck};
use crate::model::{Flux, Model};
use crate::stories::Story;
use anyhow::Result;
use crisp_cri_api::v1::PodSandboxState;
use crisp_e2e::{Node, Pod, until};
use std::fs;
use std::time::Duration;
use tonic::{Code, Status};

/// How long one request may take: longer than all that the daemon waits for by itself here.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a request is repeated, and the pause before each time.
const ATTEMPTS: usize = 40;
const PAUSE: Duration = Duration::from_millis(100);

/// How long what goes on behind an answer may take, so that a rehearsal sees all of it.
const REST: Duration = Duration::from_millis(300);

/// The points of each step.
pub(crate) type Steps = Vec<(&'static str, Vec<String>)>;

/// Who died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Died {
    Nobody,
    Daemon,
    Shim,
}

/// What came of a step.
#[derive(Debug)]
pub(crate) enum Outcome<T> {
    Done(T),
    /// The pod's shim died, and its pod with it.
    PodLost,
}

#[derive(Debug)]
pub(crate) struct Kubelet {
    pub(crate) node: Node,
    pub(crate) model: Model,
    /// None: nobody is to die.
    case: Option<Case>,
    is_armed: bool,
    died: Died,
    /// What is to be audited is audited once more when the request that was repeated is done.
    is_audited: bool,
    steps: Steps,
}

impl Kubelet {
    pub(crate) async fn start(story: Story, case: Option<Case>) -> Result<Self> {
        let node = Node::start_with_crash_points(|config| story.configure(config)).await?;
        story.prepare(&node)?;
        Ok(Self {
            node,
            model: Model::default(),
            case,
            is_armed: false,
            died: Died::Nobody,
            is_audited: true,
            steps: Steps::new(),
        })
    }

    pub(crate) fn has_died(&self) -> bool {
        self.died != Died::Nobody
    }

    pub(crate) fn shim_has_died(&self) -> bool {
        self.died == Died::Shim
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.node.log_path()).unwrap_or_default()
    }

    /// Whoever still dies behind the last answer has died then.
    ///
    /// # Errors
    /// Something is not as it was.
    pub(crate) async fn settle(&mut self) -> Result<(), Finding> {
        self.notice(Flux::Nothing).await?;
        self.model.check(&self.node, Flux::Nothing).await?;
        self.audit_again().await
    }

    /// Removes everything without a look at it.
    pub(crate) fn abandon(self) {
        self.node.abandon();
    }

    /// Removes what there is and audits; the answer is which points each step has.
    ///
    /// # Errors
    /// Something is missing, unrecorded or left.
    pub(crate) async fn finish(self) -> Result<Steps, Finding> {
        self.node.spare();
        let finished = self.node.finish().await;
        finished.map_err(|error| Finding::of_audit(&error))?;
        Ok(self.steps)
    }

    /// Makes a request until it succeeds. If somebody dies meanwhile the daemon is started again, and
    /// everything is as it was but what the request changes.
    ///
    /// # Errors
    /// It never succeeds, or something else has changed.
    pub(crate) async fn step<T>(
        &mut self,
        step: &'static str,
        flux: Flux,
        attempt: impl AsyncFn(&Node) -> Result<T, Status>,
    ) -> Result<Outcome<T>, Finding> {
        self.begin(step).await?;
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            let answer = tokio::time::timeout(ANSWER_TIMEOUT, attempt(&self.node)).await;
            let answer = answer.map_err(|_| stuck(format!("{step} is not answered")))?;
            // One that was answered may be undone all the same: it is repeated.
            let is_repeated = self.notice(flux).await? == Died::Daemon;
            if self.shim_has_died() && flux != Flux::Pod && self.pod_is_lost().await? {
                return Ok(Outcome::PodLost);
            }
            match answer {
                Ok(value) if !is_repeated => {
                    self.end(step).await?;
                    return Ok(Outcome::Done(value));
                }
                Ok(_) => {}
                Err(status) if self.died == Died::Nobody => {
                    return Err(stuck(format!(
                        "{step} failed, though nobody died: {status}"
                    )));
                }
                Err(status) => {
                    last = format!("{:?}: {}", status.code(), status.message());
                    if self.died == Died::Shim && status.code() == Code::AlreadyExists {
                        self.remove_lost_pods().await?;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        Err(stuck(format!("{step} fails {ATTEMPTS} times: {last}")))
    }

    /// As [`Kubelet::step`], with a request that is to be refused.
    ///
    /// # Errors
    /// It is not refused, or something else has changed.
    pub(crate) async fn refused_step<T>(
        &mut self,
        step: &'static str,
        flux: Flux,
        attempt: impl AsyncFn(&Node) -> Result<T, Status>,
    ) -> Result<Outcome<()>, Finding> {
        let refused = async |node: &Node| match attempt(node).await {
            Ok(_) => Err(Status::internal("it succeeded")),
            Err(status) if is_of_transport(&status) => Err(status),
            Err(_) => Ok(()),
        };
        self.step(step, flux, refused).await
    }

    /// Kills the daemon, if it runs, and starts it again.
    ///
    /// # Errors
    /// It does not come up, or something is not as it was.
    pub(crate) async fn restart(&mut self, step: &'static str) -> Result<(), Finding> {
        self.begin(step).await?;
        if self.node.daemon_runs() {
            self.node.kill().map_err(stuck)?;
        }
        let restarted = self.node.restart().await;
        let has_died = self.notice(Flux::Pod).await? == Died::Daemon;
        if let (Err(error), false) = (restarted, has_died) {
            return Err(stuck(format!("{error:#}")));
        }
        self.end(step).await?;
        Ok(())
    }

    /// Kills the daemon at a point while it does something, and leaves it dead.
    ///
    /// # Errors
    /// It does not come there.
    pub(crate) async fn die_at<T>(
        &mut self,
        point: &str,
        attempt: impl AsyncFn(&Node) -> Result<T, Status>,
    ) -> Result<(), Finding> {
        self.node.kill_at(point).map_err(stuck)?;
        let _ = attempt(&self.node).await;
        self.node.killed().await.map_err(stuck)
    }

    async fn begin(&mut self, step: &'static str) -> Result<(), Finding> {
        let order = self.case.as_ref().filter(|case| case.step == step);
        match order.map(|case| format!("{}:{}", case.point, case.nth)) {
            Some(order) if !self.is_armed => {
                self.node.kill_at(&order).map_err(stuck)?;
                self.is_armed = true;
            }
            _ if self.case.is_none() => drop(self.node.reached_points()),
            _ => {}
        }
        let is_lost = self.shim_has_died() && self.pod_is_lost().await?;
        if self.has_died() && !is_lost && self.node.daemon_runs() {
            self.model.check(&self.node, Flux::Nothing).await?;
            self.audit_again().await?;
        }
        Ok(())
    }

    async fn audit_again(&mut self) -> Result<(), Finding> {
        if self.is_audited {
            return Ok(());
        }
        self.is_audited = true;
        let audit = self.node.audit_records().await;
        audit.map_err(|error| Finding::of_audit(&error))
    }

    /// As [`Kubelet::settle`], if the pod has not gone with its shim.
    ///
    /// # Errors
    /// Something is not as it was.
    pub(crate) async fn settle_pod(&mut self) -> Result<Outcome<()>, Finding> {
        self.notice(Flux::Pod).await?;
        if self.shim_has_died() && self.pod_is_lost().await? {
            return Ok(Outcome::PodLost);
        }
        self.settle().await?;
        Ok(Outcome::Done(()))
    }

    /// Whether the shim that died was that of the story's pod, as it is now. The daemon hears of it behind
    /// whatever it does.
    async fn pod_is_lost(&self) -> Result<bool, Finding> {
        let Some(pod) = self.model.pod.as_ref().filter(|pod| pod.is_ready) else {
            return Ok(false);
        };
        let known = until("the pod is known as lost or sound", async || {
            let status = pod.handle(&self.node).status().await.ok()?;
            if status.state() == PodSandboxState::SandboxNotready {
                return Some(true);
            }
            let shim = self.node.shim(&pod.id).ok()?;
            shim.runs().then_some(false)
        });
        known.await.map_err(stuck)
    }

    /// Whoever dies as the last thing of a step has died then.
    pub(crate) async fn rest(&self) {
        tokio::time::sleep(REST).await;
    }

    async fn end(&mut self, step: &'static str) -> Result<(), Finding> {
        if self.case.is_none() {
            self.rest().await;
            self.synced().await?;
            self.steps.push((step, self.node.reached_points()));
        }
        Ok(())
    }

    /// Images are written to disk behind the answer to a pull, and disks take their time.
    async fn synced(&self) -> Result<(), Finding> {
        let index = self.node.root_dir().join("images/index.json");
        let synced = until("the images are on disk", async || {
            let text = fs::read_to_string(&index).unwrap_or_default();
            (!text.contains("unsynced-since-boot")).then_some(())
        });
        synced.await.map_err(stuck)
    }

    /// Whether somebody has died since this was asked last. A daemon that did is started again.
    async fn notice(&mut self, flux: Flux) -> Result<Died, Finding> {
        let is_new = self.is_armed && !self.has_died() && !self.node.is_to_die();
        let Some(case) = self.case.as_ref().filter(|_| is_new) else {
            return Ok(Died::Nobody);
        };
        if case.point.starts_with("shim.") {
            self.died = Died::Shim;
            self.is_audited = false;
            return Ok(Died::Shim);
        }
        self.died = Died::Daemon;
        self.is_audited = false;
        self.node.killed().await.map_err(stuck)?;
        let restarted = self.node.restart().await;
        restarted.map_err(|error| stuck(format!("{error:#}")))?;
        self.model.check(&self.node, flux).await?;
        let unsettled = self.model.ids_in(flux);
        let audit = self.node.audit_records_except(&unsettled).await;
        audit.map_err(|error| Finding::of_audit(&error))?;
        Ok(Died::Daemon)
    }

    /// As the kubelet does before it starts a pod anew.
    async fn remove_lost_pods(&self) -> Result<(), Finding> {
        for pod in self.node.pods().await.map_err(stuck)? {
            if pod.state == i32::from(PodSandboxState::SandboxNotready) {
                let pod = Pod::new(&self.node, pod.id, Default::default());
                pod.stop().await.map_err(stuck)?;
                pod.remove().await.map_err(stuck)?;
            }
        }
        Ok(())
    }
}

/// Whether it is not the daemon's answer but that there was none.
fn is_of_transport(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}
