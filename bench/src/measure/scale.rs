//! What many pods cost, and how long answers and starts take among them.

use super::{Effort, end_pods, start_pods};
use crate::figure::{Row, Samples, Unit};
use crate::processes::{cpu_time, pss_bytes, rss_bytes};
use crate::runtime::{Runtime, Started, timed};
use anyhow::Result;
use crisp_cri_api::v1::*;
use std::time::{Duration, Instant};

const COUNTS: [usize; 4] = [10, 100, 500, 1000];
/// The number of pods whose memory and cpu are looked at.
const IDLE_PODS: usize = 100;
/// Clients that start and end the pods; what it takes is not measured here.
const CLIENTS: usize = 8;
/// As often the kubelet asks for all pods and containers.
const RELIST: Duration = Duration::from_secs(1);

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
        // What the daemon does not need before it has pods at all is none of each pod's.
        let mut among_few = None;
        let rss = self.runtime.rss_at_first_bytes as f64 / 1e6;
        self.add("daemon RSS, before the first pod", Unit::Megabytes, rss);
        for count in COUNTS
            .into_iter()
            .filter(|&count| count <= self.effort.pods)
        {
            pods.extend(start_pods(self.runtime, count - pods.len(), CLIENTS).await?);
            let few = *among_few.get_or_insert((count, pss_bytes(self.runtime.daemon)?));
            if count == IDLE_PODS {
                self.memory(&pods, few).await?;
                self.idle(&pods).await?;
            }
            self.answers(&pods).await?;
            self.starts(count).await?;
        }
        end_pods(self.runtime, &pods, CLIENTS).await
    }

    /// `few` says what the daemon took when there were so many pods.
    async fn memory(&mut self, pods: &[Started], few: (usize, u64)) -> Result<()> {
        let daemon = self.runtime.daemon;
        let processes = self.runtime.overhead(pods).await?;
        let pss = processes
            .iter()
            .map(|&pid| pss_bytes(pid))
            .sum::<Result<u64>>()?;
        let growth = pss_bytes(daemon)?.saturating_sub(few.1);
        let per_pod = |bytes: u64, pods: usize| bytes as f64 / pods as f64 / 1e6;
        let growth = per_pod(growth, pods.len() - few.0);
        let all = per_pod(pss, pods.len()) + growth;
        self.add("memory per idle pod (PSS)", Unit::Megabytes, all);
        self.add("  of which the daemon's growth", Unit::Megabytes, growth);
        let rss = rss_bytes(daemon)? as f64 / 1e6;
        self.add(
            &format!("daemon RSS, {} pods", pods.len()),
            Unit::Megabytes,
            rss,
        );
        Ok(())
    }

    async fn idle(&mut self, pods: &[Started]) -> Result<()> {
        let processes = [
            self.runtime.overhead(pods).await?,
            vec![self.runtime.daemon],
        ]
        .concat();
        let idle = cpu_percent(&processes, tokio::time::sleep(self.effort.idle)).await;
        self.add(
            &format!("cpu, {} idle pods", pods.len()),
            Unit::CpuPercent,
            idle,
        );
        let polled = cpu_percent(&processes, async {
            let polling = async {
                loop {
                    self.list_pods().await?;
                    self.list_containers().await?;
                    tokio::time::sleep(RELIST).await;
                }
            };
            let _: Result<Result<()>, _> = tokio::time::timeout(self.effort.idle, polling).await;
        });
        let polled = polled.await;
        self.add(
            "  while lists are asked for each second",
            Unit::CpuPercent,
            polled,
        );
        Ok(())
    }

    /// How long the kubelet's questions take.
    async fn answers(&mut self, pods: &[Started]) -> Result<()> {
        for round in 0..self.effort.rounds {
            let one = &pods[round % pods.len()];
            let lists = [
                ("ListPodSandbox", timed(self.list_pods()).await?.1),
                ("ListContainers", timed(self.list_containers()).await?.1),
                ("PodSandboxStatus", timed(self.pod_status(one)).await?.1),
                (
                    "ContainerStatus",
                    timed(self.runtime.container_status(&one.container))
                        .await?
                        .1,
                ),
            ];
            for (what, ms) in lists {
                self.add_among(what, pods.len(), ms);
            }
        }
        for _ in 0..self.effort.rounds / 10 {
            // containerd's older releases have no answer to one of them.
            if let Ok(((), ms)) = timed(self.container_stats()).await {
                self.add_among("ListContainerStats", pods.len(), ms);
            }
            if let Ok(((), ms)) = timed(self.pod_stats()).await {
                self.add_among("ListPodSandboxStats", pods.len(), ms);
            }
        }
        Ok(())
    }

    async fn starts(&mut self, count: usize) -> Result<()> {
        for _ in 0..self.effort.rounds / 5 {
            let (started, ms) = timed(self.runtime.start_pod()).await?;
            self.runtime.end_pod(&started).await?;
            self.add_among("pod start", count, ms);
        }
        Ok(())
    }

    async fn list_pods(&self) -> Result<()> {
        let request = ListPodSandboxRequest::default();
        self.runtime.client().list_pod_sandbox(request).await?;
        Ok(())
    }

    async fn list_containers(&self) -> Result<()> {
        let request = ListContainersRequest::default();
        self.runtime.client().list_containers(request).await?;
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

    fn add(&mut self, what: &str, unit: Unit, value: f64) {
        self.samples.add(self.number, what, unit, value);
    }

    fn add_among(&mut self, what: &str, pods: usize, ms: f64) {
        self.add(&format!("{what}, {pods} pods"), Unit::Milliseconds, ms);
    }
}

/// How much of a core processes use while something goes on.
async fn cpu_percent(processes: &[i32], meanwhile: impl Future<Output = ()>) -> f64 {
    let (start, before) = (Instant::now(), cpu_time(processes));
    meanwhile.await;
    let used = cpu_time(processes).saturating_sub(before);
    used.as_secs_f64() / start.elapsed().as_secs_f64() * 100.0
}
