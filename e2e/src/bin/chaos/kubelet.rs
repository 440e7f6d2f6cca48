//! A client as a kubelet is one: it loses patience, asks again, and expects an answer in the end.

use crate::faults::Begun;
use crate::random::Random;
use crate::world::{World, add_one};
use anyhow::{Result, bail, ensure};
use crisp_cri_api::v1::image_service_client::ImageServiceClient;
use crisp_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// Of the first attempts so many per cent are given up early by each of both ways.
const IMPATIENT_PERCENT: u64 = 6;

/// Longer than anything is waited for.
const FOR_EVER: Duration = Duration::from_secs(24 * 3600);

/// One of those who ask the daemon for things, each with decisions of its own.
#[derive(Debug)]
pub(crate) struct Kubelet {
    pub(crate) world: Arc<World>,
    pub(crate) client: Client,
    pub(crate) random: Random,
    /// In the trace.
    pub(crate) who: String,
    /// Tells its ports of the host from those of others.
    pub(crate) number: u16,
}

/// A connection to the daemon, which dials again when the daemon was restarted.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    channel: Channel,
}

impl Client {
    pub(crate) async fn connect(world: &World) -> Result<Self> {
        let channel = crisp_cri_api::connect(&world.node.socket()).await?;
        Ok(Self { channel })
    }

    pub(crate) fn runtime(&self) -> RuntimeServiceClient<Channel> {
        crisp_cri_api::runtime_client(self.channel.clone())
    }

    pub(crate) fn images(&self) -> ImageServiceClient<Channel> {
        crisp_cri_api::image_client(self.channel.clone())
    }
}

/// How long one attempt is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Patience {
    Endless,
    /// The call is dropped after so long.
    Drop(Duration),
    /// The server is told how long the client waits.
    Deadline(Duration),
}

impl Patience {
    fn choose(random: &mut Random) -> Self {
        let limit = random.milliseconds(1, 60);
        match random.between(0, 100) {
            choice if choice < IMPATIENT_PERCENT => Self::Drop(limit),
            choice if choice < 2 * IMPATIENT_PERCENT => Self::Deadline(limit),
            _ => Self::Endless,
        }
    }

    /// A request that says how long its client waits.
    pub(crate) fn request<T>(self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Self::Deadline(limit) = self {
            request.set_timeout(limit);
        }
        request
    }

    fn drop_after(self) -> Duration {
        match self {
            Self::Drop(limit) => limit,
            Self::Endless | Self::Deadline(_) => FOR_EVER,
        }
    }

    /// Whether an attempt failed for the want of it.
    fn explains(self, status: &Status) -> bool {
        let ended = matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled);
        !matches!(self, Self::Endless) && ended
    }
}

/// Something that is wanted of the daemon.
#[derive(Debug)]
pub(crate) struct Want {
    /// The RPC and of whom, for the trace.
    what: String,
    /// What it takes by its nature, beside the bound on all calls.
    takes: Duration,
}

impl Want {
    pub(crate) fn new(rpc: &str, of: impl fmt::Display) -> Self {
        Self {
            what: format!("{rpc} {of}"),
            takes: Duration::ZERO,
        }
    }

    pub(crate) fn takes(self, takes: Duration) -> Self {
        Self { takes, ..self }
    }
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Settled<T> {
    /// A refusal is one that the caller has accepted.
    pub(crate) answer: Result<T, Status>,
    /// An earlier attempt came to nothing, or to something unknown.
    pub(crate) repeated: bool,
    /// The daemon may have failed in an earlier attempt for what was wrong with the node.
    pub(crate) failed: bool,
}

impl<T> Settled<T> {
    /// For a want of which no refusal is accepted.
    pub(crate) fn must(self) -> Result<T> {
        Ok(self.answer?)
    }
}

/// For what has to succeed.
pub(crate) fn no_refusal(_: &Status) -> bool {
    false
}

impl Kubelet {
    /// The same one, for something that takes as many decisions as time brings about.
    pub(crate) fn fork(&mut self) -> Self {
        Self {
            world: self.world.clone(),
            client: self.client.clone(),
            random: self.random.fork(),
            who: self.who.clone(),
            number: self.number,
        }
    }

    /// Asks until there is an answer, or a refusal that is accepted.
    ///
    /// # Errors
    /// There is none within the bound after the last fault.
    pub(crate) async fn settle<T>(
        &mut self,
        want: Want,
        accepts: impl Fn(&Status) -> bool,
        ask: impl AsyncFn(Client, Patience) -> Result<T, Status>,
    ) -> Result<Settled<T>> {
        let begun = self.world.faults.start();
        let mut patience = Patience::choose(&mut self.random);
        // How often it has to ask is not for the seed to decide.
        let mut pauses = self.random.fork();
        let (mut repeated, mut failed) = (false, false);
        loop {
            let start = Instant::now();
            let answer = self.attempt(&want, begun, patience, &ask).await?;
            let end = match &answer {
                Ok(_) => true,
                Err(status) => !patience.explains(status) && accepts(status),
            };
            if end {
                return Ok(Settled {
                    answer,
                    repeated,
                    failed,
                });
            }
            if let Err(status) = answer
                && !patience.explains(&status)
            {
                self.excuse(&want, start, begun, &status)?;
                failed = true;
            }
            patience = Patience::Endless;
            repeated = true;
            tokio::time::sleep(pauses.milliseconds(10, 300)).await;
        }
    }

    async fn attempt<T>(
        &self,
        want: &Want,
        begun: Begun,
        patience: Patience,
        ask: &impl AsyncFn(Client, Patience) -> Result<T, Status>,
    ) -> Result<Result<T, Status>> {
        let (world, start) = (&self.world, Instant::now());
        add_one(&world.tally.operations);
        let asking = ask(self.client.clone(), patience);
        let answer = tokio::select! {
            answer = tokio::time::timeout(patience.drop_after(), asking) => answer,
            () = world.faults.overdue(begun, want.takes) => {
                bail!("{}: no answer, and nothing is wrong", want.what)
            }
        };
        let gave_up = |_| Err(Status::cancelled("the client has lost patience"));
        let answer = answer.unwrap_or_else(gave_up);
        let outcome = match &answer {
            Ok(_) => "ok".to_owned(),
            Err(status) => format!("{:?} {}", status.code(), status.message()),
        };
        let took_ms = start.elapsed().as_millis();
        self.note(format_args!("{} {took_ms} ms: {outcome}", want.what));
        Ok(answer)
    }

    /// A refusal has to have a reason: something is wrong with the node, or was a moment ago.
    fn excuse(&self, want: &Want, start: Instant, begun: Begun, status: &Status) -> Result<()> {
        let faults = &self.world.faults;
        // A connection that a fault has broken is noticed later.
        let broken = status.code() == Code::Unavailable && !faults.is_overdue(begun, want.takes);
        ensure!(
            broken || faults.disturbed_since(start),
            "{}: refused without a fault: {status:?}",
            want.what
        );
        Ok(())
    }

    pub(crate) fn note(&self, what: impl fmt::Display) {
        self.world.note(&self.who, what);
    }
}
