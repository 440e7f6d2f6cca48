//! The groups of measurements, a module each.

mod exec;
mod idle;
mod log;
mod pull;
mod scale;
mod start;
mod throughput;

use crate::conmon::Conmon;
use crate::figure::Row;
use crate::runtime::{Runtime, Started};
use anyhow::Result;
use clap::ValueEnum;
use futures_util::future::try_join_all;
use std::time::Duration;

/// What belongs together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// What a daemon and pods that do nothing take. It comes first: a daemon that has had pods already has
    /// memory for others.
    Idle,
    /// The start of a pod with one container, and its end.
    Start,
    /// Commands in a container.
    Exec,
    /// Pods started per second.
    Throughput,
    /// Answers and starts by the number of pods.
    Scale,
    /// Pull and unpack.
    Pull,
    /// A container that writes as fast as it can.
    Log,
}

impl Group {
    /// What takes much memory is last: a daemon does not give all of it back.
    pub(crate) const ALL: [Self; 7] = [
        Self::Idle,
        Self::Start,
        Self::Exec,
        Self::Pull,
        Self::Log,
        Self::Throughput,
        Self::Scale,
    ];
}

/// How much is done for each figure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Samples of what takes milliseconds.
    pub(crate) rounds: usize,
    /// Samples of what takes seconds.
    pub(crate) long_rounds: usize,
    /// Samples of what takes many pods.
    pub(crate) crowds: usize,
    /// The most pods at a time, of the first runtime.
    pods: usize,
    /// And of each other.
    peer_pods: usize,
    /// How long it is watched what idle pods cost.
    pub(crate) idle: Duration,
}

impl Effort {
    pub(crate) fn new(quick: bool, pods: usize, peer_pods: usize) -> Self {
        if quick {
            Self {
                rounds: 20,
                long_rounds: 1,
                crowds: 1,
                pods,
                peer_pods,
                idle: Duration::from_secs(10),
            }
        } else {
            Self {
                rounds: 100,
                long_rounds: 5,
                crowds: 3,
                pods,
                peer_pods,
                idle: Duration::from_secs(60),
            }
        }
    }

    /// The most pods at a time of the runtime with this number.
    fn most_pods(&self, number: usize) -> usize {
        if number == 0 {
            self.pods
        } else {
            self.peer_pods
        }
    }
}

/// `conmon` is for what it is measured by, too.
pub(crate) async fn group(
    group: Group,
    runtimes: &[Runtime],
    conmon: Option<&Conmon>,
    effort: &Effort,
) -> Result<Vec<Row>> {
    match group {
        Group::Idle => idle::measure(runtimes, effort).await,
        Group::Start => start::measure(runtimes, effort).await,
        Group::Exec => exec::measure(runtimes, effort).await,
        Group::Throughput => throughput::measure(runtimes, effort).await,
        Group::Scale => scale::measure(runtimes, effort).await,
        Group::Pull => pull::measure(runtimes, effort).await,
        Group::Log => log::measure(runtimes, conmon, effort).await,
    }
}

/// As long as anything may take that is waited for.
pub(crate) const BOUND: Duration = Duration::from_secs(300);

/// Samples of milliseconds that are taken of one runtime in a row. What it leaves behind to be done falls on
/// its own samples so.
const TURN: usize = 10;
/// And how long it may take to have done it before another one's turn.
const SETTLE: Duration = Duration::from_millis(300);

/// Has runtimes take turns, of `turn` samples each, until each has given so many.
async fn in_turns(
    runtimes: &[Runtime],
    samples: usize,
    turn: usize,
    mut sample: impl AsyncFnMut(usize, &Runtime) -> Result<()>,
) -> Result<()> {
    for begin in (0..samples).step_by(turn) {
        for (number, runtime) in runtimes.iter().enumerate() {
            tokio::time::sleep(SETTLE).await;
            for _ in begin..samples.min(begin + turn) {
                sample(number, runtime).await?;
            }
        }
    }
    Ok(())
}

/// Clients that start and end many pods, where it is not measured how long that takes.
const CLIENTS: usize = 8;

/// Runs as many pods, by so many clients at a time.
async fn start_pods(runtime: &Runtime, pods: usize, clients: usize) -> Result<Vec<Started>> {
    let shares = (0..clients).map(|client| async move {
        let mut started = Vec::new();
        for _ in (client..pods).step_by(clients) {
            started.push(runtime.start_pod().await?);
        }
        anyhow::Ok(started)
    });
    Ok(try_join_all(shares).await?.concat())
}

/// Ends pods, by so many clients at a time.
async fn end_pods(runtime: &Runtime, pods: &[Started], clients: usize) -> Result<()> {
    let shares = (0..clients).map(|client| async move {
        for started in pods.iter().skip(client).step_by(clients) {
            runtime.end_pod(started).await?;
        }
        anyhow::Ok(())
    });
    try_join_all(shares).await.map(drop)
}
