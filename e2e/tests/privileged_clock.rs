//! The host's clock is set while pods run: by who sees that it is wrong. On a node of its own, for it is set
//! for all that run there.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::ContainerState;
use crisp_e2e::{Container, Node, Pod, sh};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};
use std::time::Duration;
use tonic::Code;

const HOUR: Duration = Duration::from_secs(3600);

/// The clock, which is right again in the end.
struct Clock {
    real: Duration,
    since_boot: Duration,
}

impl Clock {
    fn now(clock: ClockId) -> Result<Duration> {
        Ok(clock_gettime(clock)?.into())
    }

    fn read() -> Result<Self> {
        Ok(Self {
            real: Self::now(ClockId::CLOCK_REALTIME)?,
            since_boot: Self::now(ClockId::CLOCK_BOOTTIME)?,
        })
    }

    /// What it would show had nobody set it.
    fn right(&self) -> Result<Duration> {
        Ok(self.real + (Self::now(ClockId::CLOCK_BOOTTIME)? - self.since_boot))
    }

    fn set(time: Duration) -> Result<()> {
        let set = clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(time));
        set.context("set the clock")
    }

    fn go_back(&self, by: Duration) -> Result<()> {
        Self::set(self.right()?.checked_sub(by).context("before 1970")?)
    }

    fn go_forward(&self, by: Duration) -> Result<()> {
        Self::set(self.right()? + by)
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let set = self.right().and_then(Self::set);
        assert!(set.is_ok() || std::thread::panicking(), "{set:?}");
    }
}

/// It is killed alone.
const IGNORES_SIGTERM: &str = "trap '' TERM; echo ready; while :; do sleep 0.05; done";

/// What takes time takes as long, and what has an order keeps it.
async fn ensure_all_is_as_ever(node: &Node, pod: &Pod<'_>, name: &str) -> Result<()> {
    let ending = pod
        .start(name, |config| config.command = sh("echo out; exit 3"))
        .await?;
    let status = ending.wait_exit().await?;
    ensure!(
        status.exit_code == 3 && status.started_at <= status.finished_at,
        "{status:?}"
    );
    ensure!(ending.log()?.last().is_some_and(|line| line.text == "out"));
    let stubborn = pod
        .start(&format!("{name}-stubborn"), |config| {
            config.command = sh(IGNORES_SIGTERM);
        })
        .await?;
    stubborn.wait_log("ready").await?;
    let late = stubborn.exec_for(1, &["sleep", "1000000"]).await.err();
    let late = late.context("it had no end")?;
    ensure!(late.code() == Code::DeadlineExceeded, "{late}");
    stubborn.stop(1).await?;
    ensure!(stubborn.status().await?.exit_code == 137);
    ensure!(node.containers().await?.iter().any(|c| c.id == ending.id));
    Ok(())
}

async fn grace_ends(container: &Container<'_>, clock: &Clock) -> Result<()> {
    let (stopped, set) = tokio::join!(container.stop(3), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        clock.go_back(HOUR)
    });
    set?;
    stopped?;
    let status = container.status().await?;
    ensure!(
        status.exit_code == 137 && status.started_at <= status.finished_at,
        "{status:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "sets the host's clock: e2e/node-vm.sh"]
async fn privileged_clock_that_is_set_changes_no_grace_period_and_no_order() -> Result<()> {
    let node = Node::start().await?;
    let clock = Clock::read()?;
    let pod = node.run_pod("timeless", |_| ()).await?;
    let old = pod
        .start("old", |config| config.command = sh(IGNORES_SIGTERM))
        .await?;
    old.wait_log("ready").await?;
    clock.go_forward(HOUR)?;
    ensure_all_is_as_ever(&node, &pod, "forward").await?;
    clock.go_back(HOUR)?;
    ensure_all_is_as_ever(&node, &pod, "back").await?;
    node.kill()?;
    node.restart().await?;
    ensure!(old.status().await?.state() == ContainerState::ContainerRunning);
    clock.go_forward(HOUR)?;
    grace_ends(&old, &clock).await?;
    pod.remove().await?;
    drop(clock);
    node.finish().await
}
