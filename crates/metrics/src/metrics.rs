//! Everything that is counted, and how it is told.

use crate::buckets::{self, Histograms, Labels};
use crate::process::ProcessCollector;
use crate::{Phase, Pulls};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

type Counters = Family<Labels<1>, Counter>;
type Gauges = Family<Labels<1>, Gauge>;

/// What the daemon has counted since it was started.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    rpcs: Histograms<3>,
    phases: Histograms<1>,
    pulls: Pulls,
    pods: Gauges,
    containers: Gauges,
    images: Gauge,
    shims: Gauge,
    shims_lost: Counter,
    exits: Counters,
    events: Counters,
    event_listeners: Gauge,
    events_missed: Counter,
    teardown_failures: Counter,
    recovery_seconds: Gauge<f64, AtomicU64>,
    recovered: Counters,
}

/// An RPC that was answered.
#[derive(Debug, Clone, Copy)]
pub struct Rpc {
    pub service: &'static str,
    pub method: &'static str,
    /// The name of its gRPC code.
    pub code: &'static str,
    pub duration: Duration,
}

/// What there is now. The words are states.
#[derive(Debug, Clone, Default)]
pub struct Count {
    pub pods: Vec<(&'static str, usize)>,
    pub containers: Vec<(&'static str, usize)>,
    pub images: usize,
    /// Those that the daemon is connected to.
    pub shims: usize,
    pub event_listeners: usize,
}

/// What became of a pod that the daemon found when it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovered {
    /// Its shim answers: it goes on.
    TakenOver,
    /// Its shim is gone, or it was stopped: what was left is taken down.
    TakenDown,
    /// It was half made: nothing is left.
    Forgotten,
    /// Something of it is left.
    Failed,
}

impl Recovered {
    fn word(self) -> &'static str {
        match self {
            Self::TakenOver => "taken_over",
            Self::TakenDown => "taken_down",
            Self::Forgotten => "forgotten",
            Self::Failed => "failed",
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            registry: Registry::default(),
            rpcs: Family::new_with_constructor(buckets::of_rpcs),
            phases: Family::new_with_constructor(buckets::of_phases),
            pulls: Pulls::default(),
            pods: Family::default(),
            containers: Family::default(),
            images: Gauge::default(),
            shims: Gauge::default(),
            shims_lost: Counter::default(),
            exits: Family::default(),
            events: Family::default(),
            event_listeners: Gauge::default(),
            events_missed: Counter::default(),
            teardown_failures: Counter::default(),
            recovery_seconds: Gauge::default(),
            recovered: Family::default(),
        }
        .registered()
    }
}

impl Metrics {
    /// Enters everything in the registry.
    fn registered(mut self) -> Self {
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        let registry = &mut self.registry;
        registry.register("crisp_build", "The daemon's version", version);
        registry.register(
            "crisp_rpc_duration_seconds",
            "Time from an RPC's request to its answer, or to the first one of a stream",
            self.rpcs.clone(),
        );
        registry.register(
            "crisp_start_phase_duration_seconds",
            "Time that each phase of the start of pods and containers took when it succeeded",
            self.phases.clone(),
        );
        self.pulls.register(registry);
        registry.register("crisp_pods", "Pods by their state", self.pods.clone());
        registry.register(
            "crisp_containers",
            "Containers by their state",
            self.containers.clone(),
        );
        registry.register("crisp_images", "Images on the node", self.images.clone());
        registry.register(
            "crisp_shims",
            "Shims that the daemon is connected to: one for each pod that is ready",
            self.shims.clone(),
        );
        registry.register(
            "crisp_shims_lost",
            "Connections to shims that broke while their pods were ready",
            self.shims_lost.clone(),
        );
        registry.register(
            "crisp_container_exits",
            "Containers that ended, by the reason that the CRI tells",
            self.exits.clone(),
        );
        registry.register(
            "crisp_events",
            "Container events, by kind",
            self.events.clone(),
        );
        registry.register(
            "crisp_event_listeners",
            "Clients that listen to container events",
            self.event_listeners.clone(),
        );
        registry.register(
            "crisp_events_missed",
            "Container events that slow clients were told in summary",
            self.events_missed.clone(),
        );
        registry.register(
            "crisp_teardown_failures",
            "Attempts to take down a pod after which something of it was left",
            self.teardown_failures.clone(),
        );
        registry.register(
            "crisp_recovery_seconds",
            "How long the daemon took to find its pods again when it was started",
            self.recovery_seconds.clone(),
        );
        registry.register(
            "crisp_recovered_pods",
            "Pods that the daemon found when it was started, by what became of them",
            self.recovered.clone(),
        );
        registry.register_collector(Box::new(ProcessCollector));
        self
    }

    /// Everything as text, with what there is now.
    #[must_use]
    pub fn text(&self, now: &Count) -> String {
        self.set(now);
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a String takes everything");
        text
    }

    fn set(&self, now: &Count) {
        let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        for (family, counts) in [(&self.pods, &now.pods), (&self.containers, &now.containers)] {
            for (state, number) in counts {
                family
                    .get_or_create(&[("state", *state)])
                    .set(gauge(*number));
            }
        }
        self.images.set(gauge(now.images));
        self.shims.set(gauge(now.shims));
        self.event_listeners.set(gauge(now.event_listeners));
    }

    /// What the pulls of images are counted by.
    #[must_use]
    pub fn pulls(&self) -> Pulls {
        self.pulls.clone()
    }

    pub fn rpc(&self, rpc: Rpc) {
        let labels = [
            ("service", rpc.service),
            ("method", rpc.method),
            ("code", rpc.code),
        ];
        let histogram = self.rpcs.get_or_create(&labels);
        histogram.observe(rpc.duration.as_secs_f64());
    }

    /// Does a phase's work and counts the time that it takes, if it succeeds.
    ///
    /// # Errors
    /// Those of the work.
    pub async fn time<T, E>(
        &self,
        phase: Phase,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let began = Instant::now();
        let done = work.await?;
        self.phase_took(phase, began.elapsed());
        Ok(done)
    }

    /// The same of work that blocks.
    ///
    /// # Errors
    /// Those of the work.
    pub fn time_blocking<T, E>(
        &self,
        phase: Phase,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let began = Instant::now();
        let done = work()?;
        self.phase_took(phase, began.elapsed());
        Ok(done)
    }

    fn phase_took(&self, phase: Phase, time: Duration) {
        self.phases
            .get_or_create(&[("phase", phase.name())])
            .observe(time.as_secs_f64());
    }

    /// The connection to a shim broke that nobody told to go.
    pub fn shim_lost(&self) {
        self.shims_lost.inc();
    }

    /// A container ended. `reason` is one of the words that the CRI has for it.
    pub fn exited(&self, reason: &'static str) {
        self.exits.get_or_create(&[("reason", reason)]).inc();
    }

    /// Something happened to a pod or container.
    pub fn event(&self, kind: &'static str) {
        self.events.get_or_create(&[("kind", kind)]).inc();
    }

    /// A client was too slow for so many events.
    pub fn events_missed(&self, number: u64) {
        self.events_missed.inc_by(number);
    }

    pub fn teardown_failed(&self) {
        self.teardown_failures.inc();
    }

    /// A pod was found when the daemon was started.
    pub fn recovered(&self, outcome: Recovered) {
        let labels = [("outcome", outcome.word())];
        self.recovered.get_or_create(&labels).inc();
    }

    /// All pods were found.
    pub fn recovery_took(&self, duration: Duration) {
        self.recovery_seconds.set(duration.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_counted_is_told() {
        let metrics = Metrics::default();
        metrics.rpc(Rpc {
            service: "RuntimeService",
            method: "Version",
            code: "OK",
            duration: Duration::from_millis(3),
        });
        let work = async { Ok::<_, ()>(7) };
        assert_eq!(metrics.time(Phase::Network, work).await, Ok(7));
        let failing = async { Err::<(), _>(8) };
        assert_eq!(metrics.time(Phase::Shim, failing).await, Err(8));
        metrics.pulls().ended("success", Duration::from_secs(2));
        metrics.pulls().received(1000);
        metrics.exited("OOMKilled");
        let text = metrics.text(&Count {
            pods: vec![("ready", 2)],
            shims: 2,
            ..Count::default()
        });
        for line in [
            "crisp_rpc_duration_seconds_bucket{le=\"0.0025\",service=\"RuntimeService\",method=\"Version\",code=\"OK\"} 0",
            "crisp_rpc_duration_seconds_bucket{le=\"0.00315\",service=\"RuntimeService\",method=\"Version\",code=\"OK\"} 1",
            "crisp_start_phase_duration_seconds_count{phase=\"network\"} 1",
            "crisp_image_pull_duration_seconds_sum{result=\"success\"} 2.0",
            "crisp_image_pull_bytes_total 1000",
            "crisp_container_exits_total{reason=\"OOMKilled\"} 1",
            "crisp_pods{state=\"ready\"} 2",
            "crisp_shims 2",
        ] {
            assert!(text.lines().any(|told| told == line), "{line}\n{text}");
        }
        assert!(!text.contains("phase=\"shim\""), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
