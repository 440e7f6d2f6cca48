//! Figures of containers and pods, read from the kernel when they are asked for.

use crate::engine::Engine;
use crate::gauge::Reading;
use crate::view::{ContainerStats, ContainerView, DiskUsage, PodStats, PodView};
use crisp_cgroup::{Extent, Stats};
use crisp_model::{ContainerState, PodId, PodState};
use crisp_network::{InterfaceStatistics, Traffic};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Threads that read figures at a time, for one request.
const THREADS_MAX: usize = 4;
/// For fewer it takes no further thread.
const SHARE_MIN: usize = 16;

impl Engine {
    /// Figures of containers, in the order given.
    pub async fn container_stats(
        self: &Arc<Self>,
        containers: Vec<ContainerView>,
    ) -> Vec<ContainerStats> {
        let engine = self.clone();
        in_threads(containers, move |container| {
            engine.stats_of_container(container, Extent::Usage)
        })
        .await
    }

    /// Figures of pods with their containers, in the order given.
    pub async fn pod_stats(self: &Arc<Self>, pods: Vec<PodView>) -> Vec<PodStats> {
        self.pod_figures(pods, Extent::UsageAndProcesses).await
    }

    /// The same, with as much of cgroups as is asked for.
    pub(crate) async fn pod_figures(
        self: &Arc<Self>,
        pods: Vec<PodView>,
        extent: Extent,
    ) -> Vec<PodStats> {
        let counted = pods
            .iter()
            .filter_map(|pod| Some((pod.id.clone(), self.counted(pod)?)));
        let counted = counted.collect();
        let traffic = tokio::task::spawn_blocking(move || traffic(counted));
        let engine = self.clone();
        let mut figures = in_threads(pods, move |pod| engine.stats_of_pod(pod, extent)).await;
        // The work does not panic; a runtime that ends has no use for figures.
        let mut traffic = traffic.await.unwrap_or_default();
        for of_pod in &mut figures {
            of_pod.network = traffic.remove(&of_pod.pod.id);
        }
        figures
    }

    /// Where the traffic of a pod is counted; none: nowhere by itself.
    fn counted(&self, pod: &PodView) -> Option<Counted> {
        if pod.state != PodState::Ready {
            return None;
        }
        if let Some(interface) = &pod.host_interface {
            return Some(Counted::Outside(interface.clone()));
        }
        let pause_pid = pod.pause_pid?;
        let record = self.store.pod(pod.id.as_str()).ok()?.record();
        let interface = record.network?.interface().to_owned();
        Some(Counted::Inside {
            pause_pid,
            interface,
        })
    }

    fn stats_of_pod(&self, pod: PodView, extent: Extent) -> PodStats {
        let at = SystemTime::now();
        let known = match pod.state {
            PodState::Ready => self.store.pod(pod.id.as_str()).ok(),
            _ => None,
        };
        let reading =
            known.and_then(|known| known.gauge.read(&self.hierarchies, &pod.cgroup, extent));
        let (cgroup, cpu_nano_cores) = parts(reading);
        let running = self
            .containers_of(&pod.id)
            .filter(|c| matches!(c.state, ContainerState::Running(_)));
        let of_each = match extent {
            Extent::Usage | Extent::UsageAndProcesses => Extent::Usage,
            Extent::All => Extent::All,
        };
        PodStats {
            at,
            cpu_nano_cores,
            process_count: cgroup
                .as_ref()
                .and_then(|c| c.pids)
                .map_or(0, |p| p.current),
            cgroup,
            network: None,
            containers: running
                .map(|c| self.stats_of_container(c, of_each))
                .collect(),
            pod,
        }
    }

    fn stats_of_container(&self, container: ContainerView, extent: Extent) -> ContainerStats {
        let known = match container.state {
            ContainerState::Running(_) => self.store.container(container.id.as_str()).ok(),
            _ => None,
        };
        let reading = known.and_then(|known| {
            known
                .gauge
                .read(&self.hierarchies, &container.cgroup, extent)
        });
        let (cgroup, cpu_nano_cores) = parts(reading);
        let writable_layer =
            self.images
                .snapshot_usage(&container.id)
                .ok()
                .map(|usage| DiskUsage {
                    mountpoint: usage.path,
                    used_bytes: usage.bytes,
                    used_inodes: usage.inodes,
                });
        ContainerStats {
            at: SystemTime::now(),
            cpu_nano_cores,
            cgroup,
            writable_layer,
            container,
        }
    }
}

fn parts(reading: Option<Reading>) -> (Option<Stats>, Option<u64>) {
    reading.map_or((None, None), |reading| {
        (Some(reading.stats), reading.cpu_nano_cores)
    })
}

/// Looks at each, in several threads if there are many; what was seen is in the order given. The work is
/// the kernel's for the most part, which does it for several cgroups at a time. A thread takes the next when it
/// is done with one: some begin late, on a cpu that another has.
async fn in_threads<T, S>(all: Vec<T>, look: impl Fn(T) -> S + Clone + Send + 'static) -> Vec<S>
where
    T: Send + 'static,
    S: Send + 'static,
{
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = all.len().div_ceil(SHARE_MIN).min(cpus).min(THREADS_MAX);
    let mut seen: Vec<Option<S>> = all.iter().map(|_| None).collect();
    let all = Arc::new(Mutex::new(all.into_iter().enumerate()));
    let looks = (0..threads).map(|_| {
        let (all, look) = (all.clone(), look.clone());
        tokio::task::spawn_blocking(move || {
            let next = || all.lock().unwrap_or_else(PoisonError::into_inner).next();
            let seen = std::iter::from_fn(next).map(|(place, one)| (place, look(one)));
            seen.collect::<Vec<_>>()
        })
    });
    for look in looks.collect::<Vec<_>>() {
        // The work does not panic; a runtime that ends has no use for figures.
        for (place, one) in look.await.unwrap_or_default() {
            seen[place] = Some(one);
        }
    }
    seen.into_iter().flatten().collect()
}

/// Where the traffic of a pod is counted.
#[derive(Debug)]
enum Counted {
    /// At the host's end of its pair.
    Outside(String),
    /// In its namespace only: the host's end, if there is one, is not crisp's.
    Inside { pause_pid: u32, interface: String },
}

/// The traffic of pods. Blocks: each namespace tells of all its interfaces at once.
fn traffic(counted: Vec<(PodId, Counted)>) -> HashMap<PodId, InterfaceStatistics> {
    let of_host = Traffic::here().unwrap_or_else(|error| {
        tracing::warn!(%error, "the traffic of interfaces cannot be read");
        Traffic::default()
    });
    let seen = counted.into_iter().filter_map(|(pod, counted)| {
        let seen = match counted {
            Counted::Outside(interface) => of_host.of_peer(&interface)?,
            Counted::Inside {
                pause_pid,
                interface,
            } => Traffic::around(pause_pid).ok()?.of(&interface)?,
        };
        Some((pod, seen))
    });
    seen.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_several_threads_see_is_in_order() {
        for count in [0, 1, SHARE_MIN, 100 * THREADS_MAX + 1] {
            let all: Vec<usize> = (0..count).collect();
            let doubled: Vec<usize> = all.iter().map(|number| number * 2).collect();
            assert_eq!(in_threads(all, |number| number * 2).await, doubled);
        }
    }
}
