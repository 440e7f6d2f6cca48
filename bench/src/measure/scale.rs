//! How long answers and starts take among many pods.

use super::{CLIENTS, Effort, SETTLE, end_pods, start_pods};
use crate::figure::{Row, Samples, Unit};
use crate::runtime::{Runtime, Started, timed};
use anyhow::Result;
use crisp_cri_api::v1::*;

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
        }
        end_pods(self.runtime, &pods, CLIENTS).await
    }

    /// How long the kubelet's questions take, each asked again and again: what a long answer has left of the caches
    /// is nothing that the next question could do anything about.
    async fn answers(&mut self, pods: &[Started]) -> Result<()> {
        let (runtime, count) = (self.runtime, pods.len());
        for _ in 0..self.effort.rounds {
            let (_, ms) = timed(runtime.list_pods()).await?;
            self.add_among("ListPodSandbox", count, ms);
        }
        for _ in 0..self.effort.rounds {
            let (_, ms) = timed(runtime.list_containers()).await?;
            self.add_among("ListContainers", count, ms);
        }
        for one in pods.iter().cycle().take(self.effort.rounds) {
            let ((), ms) = timed(self.pod_status(one)).await?;
            self.add_among("PodSandboxStatus", count, ms);
        }
        for one in pods.iter().cycle().take(self.effort.rounds) {
            let (_, ms) = timed(runtime.container_status(&one.container)).await?;
            self.add_among("ContainerStatus", count, ms);
        }
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

    async fn pod_status(&self, started: &Started) -> Result<()> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: started.pod.id.clone(),
            verbose: false,
        };
        self.runtime.client().pod_sandbox_status(request).await?;
        Ok(())
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
