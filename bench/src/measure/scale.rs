//! How long answers and starts take among many pods.

use super::{CLIENTS, Effort, SETTLE, end_pods, start_pods};
use crate::figure::{Row, Samples, Unit};
use crate::runtime::{Network, Runtime, Started, timed};
use anyhow::{Context, Result};
use crisp_cri_api::v1::*;
use std::time::Duration;
use tonic::Streaming;

const COUNTS: [usize; 4] = [10, 100, 500, 1000];

/// One runtime after the other: pods of one would be in the way of another's.
pub(super) async fn measure(runtimes: &[Runtime], effort: &Effort) -> Result<Vec<Row>> {
    let mut samples = Samples::new(runtimes.len());
    for (number, runtime) in runtimes.iter().enumerate() {
        let mut scale = Scale {
            runtime,
            effort,
            number,
            samples: &mut samples,
        };
        scale.grow().await?;
    }
    Ok(samples.into_rows())
}

/// How long a runtime may take to begin to tell of events, after the first.
const SUBSCRIBED: Duration = Duration::from_secs(5);

/// Waits for the event of a container's start.
async fn started(events: &mut Streaming<ContainerEventResponse>, container: &str) -> Result<()> {
    let wanted = ContainerEventType::ContainerStartedEvent;
    loop {
        let event = events.message().await?.context("the events have ended")?;
        if event.container_id == container && event.container_event_type() == wanted {
            return Ok(());
        }
    }
}

struct Scale<'a> {
    runtime: &'a Runtime,
    effort: &'a Effort,
    number: usize,
    samples: &'a mut Samples,
}

impl Scale<'_> {
    async fn grow(&mut self) -> Result<()> {
        let mut pods = Vec::new();
        let most = self.effort.most_pods(self.number);
        for count in COUNTS.into_iter().filter(|&count| count <= most) {
            pods.extend(start_pods(self.runtime, count - pods.len(), CLIENTS).await?);
            self.answers(&pods).await?;
            self.starts(count).await?;
            self.events(count).await?;
        }
        end_pods(self.runtime, &pods, CLIENTS).await
    }

    /// How long the kubelet's questions take, each asked again and again: what a long answer has left of the caches
    /// is nothing that the next question could do anything about.
    async fn answers(&mut self, pods: &[Started]) -> Result<()> {
        let (runtime, count) = (self.runtime, pods.len());
        let each = || pods.iter().cycle().take(self.effort.rounds);
        let pod_lists = each().map(|_| runtime.list_pods());
        let container_lists = each().map(|_| runtime.list_containers());
        let pod_statuses = each().map(|one| runtime.pod_status(&one.pod.id));
        let container_statuses = each().map(|one| runtime.container_status(&one.container));
        self.ask("ListPodSandbox", count, pod_lists).await?;
        self.ask("ListContainers", count, container_lists).await?;
        self.ask("PodSandboxStatus", count, pod_statuses).await?;
        self.ask("ContainerStatus", count, container_statuses)
            .await?;
        // containerd's older releases have no answer to one of them.
        for _ in 0..self.effort.rounds / 5 {
            if let Ok(((), ms)) = timed(self.container_stats()).await {
                self.add_among("ListContainerStats", count, ms);
            }
        }
        for _ in 0..self.effort.rounds / 5 {
            if let Ok(((), ms)) = timed(self.pod_stats()).await {
                self.add_among("ListPodSandboxStats", count, ms);
            }
        }
        Ok(())
    }

    async fn ask<T>(
        &mut self,
        what: &str,
        count: usize,
        questions: impl Iterator<Item: Future<Output = Result<T>>>,
    ) -> Result<()> {
        for question in questions {
            let (_, ms) = timed(question).await?;
            self.add_among(what, count, ms);
        }
        Ok(())
    }

    /// One pod more at a time, when nothing is left to be done of the last one's end.
    async fn starts(&mut self, count: usize) -> Result<()> {
        for _ in 0..self.effort.rounds / 5 {
            tokio::time::sleep(SETTLE).await;
            let (started, ms) = timed(self.runtime.start_pod()).await?;
            self.runtime.end_pod(&started).await?;
            self.add_among("pod start", count, ms);
        }
        Ok(())
    }

    /// How long it takes from the order to start a container until the kubelet hears that it has started. A
    /// runtime that tells of no events has no such row.
    async fn events(&mut self, count: usize) -> Result<()> {
        let runtime = self.runtime;
        let mut client = runtime.client();
        // Some begin to answer with the first event only.
        let subscription =
            tokio::spawn(async move { client.get_container_events(GetEventsRequest {}).await });
        tokio::time::sleep(SETTLE).await;
        let pod = runtime.run_pod(runtime.new_pod(Network::Own)?).await?;
        if let Ok(Ok(Ok(answer))) = tokio::time::timeout(SUBSCRIBED, subscription).await {
            let mut events = answer.into_inner();
            for _ in 0..self.effort.rounds / 5 {
                let container = runtime.create(&pod).await?;
                let told = async {
                    runtime.start(&container).await?;
                    started(&mut events, &container).await
                };
                let ((), ms) = timed(told).await?;
                self.add_among("start of a container, to its event", count, ms);
                runtime.stop(&container).await?;
                runtime.remove(&container).await?;
            }
        }
        runtime.stop_pod(&pod.id).await?;
        runtime.remove_pod(&pod.id).await
    }

    async fn container_stats(&self) -> Result<()> {
        let request = ListContainerStatsRequest::default();
        self.runtime.client().list_container_stats(request).await?;
        Ok(())
    }

    async fn pod_stats(&self) -> Result<()> {
        let request = ListPodSandboxStatsRequest::default();
        self.runtime
            .client()
            .list_pod_sandbox_stats(request)
            .await?;
        Ok(())
    }

    fn add_among(&mut self, what: &str, pods: usize, ms: f64) {
        let what = format!("{what}, {pods} pods");
        self.samples.add(self.number, &what, Unit::Milliseconds, ms);
    }
}
