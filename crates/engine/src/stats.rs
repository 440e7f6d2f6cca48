//! Figures of containers and pods, read from the kernel when they are asked for.

use crate::engine::Engine;
use crate::error::chain;
use crate::view::{ContainerStats, ContainerView, DiskUsage, PodStats, PodView};
use crisp_cgroup::{CgroupPath, Extent, Stats};
use crisp_model::{ContainerState, PodId, PodState};
use crisp_network::{InterfaceStatistics, Traffic};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Two looks that are closer than this give no rate of their own: the last one is told again.
const RATE_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Threads that read figures at a time, for one request.
const THREADS_MAX: usize = 4;
/// For fewer it takes no further thread.
const SHARE_MIN: usize = 16;

/// The rates at which cgroups use cpu time, from look to look.
#[derive(Debug, Default)]
pub(crate) struct CpuRates {
    samples: Mutex<HashMap<String, Sample>>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: SystemTime,
    usage_ns: u64,
    nano_cores: Option<u64>,
}

impl CpuRates {
    /// Nanoseconds of cpu time per second since the last look; none at the first.
    fn rate(&self, cgroup: &str, at: SystemTime, usage_ns: u64) -> Option<u64> {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let last = samples.get(cgroup).copied();
        let interval = last.and_then(|last| at.duration_since(last.at).ok());
        let nano_cores = match (last, interval) {
            (Some(last), Some(interval)) if interval < RATE_INTERVAL_MIN => return last.nano_cores,
            (Some(last), Some(interval)) => {
                Some(nano_cores(usage_ns.saturating_sub(last.usage_ns), interval))
            }
            _ => None,
        };
        samples.insert(
            cgroup.to_owned(),
            Sample {
                at,
                usage_ns,
                nano_cores,
            },
        );
        nano_cores
    }

    /// For a cgroup that is removed.
    pub(crate) fn forget(&self, cgroup: &str) {
        self.samples
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(cgroup);
    }
}

fn nano_cores(used_ns: u64, interval: Duration) -> u64 {
    let per_second = u128::from(used_ns) * 1_000_000_000 / interval.as_nanos().max(1);
    u64::try_from(per_second).unwrap_or(u64::MAX)
}

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
        self.pod_figures(pods, Extent::Usage).await
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
        let mut containers = HashMap::<PodId, Vec<ContainerView>>::new();
        for container in self.containers() {
            let of_pod = containers.entry(container.pod.clone()).or_default();
            of_pod.push(container);
        }
        let parts = pods.into_iter().map(|pod| {
            let containers = containers.remove(&pod.id).unwrap_or_default();
            (pod, containers)
        });
        let engine = self.clone();
        let mut figures = in_threads(parts.collect(), move |(pod, containers)| {
            engine.stats_of_pod(pod, containers, extent)
        })
        .await;
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

    fn stats_of_pod(
        &self,
        pod: PodView,
        containers: Vec<ContainerView>,
        extent: Extent,
    ) -> PodStats {
        let at = SystemTime::now();
        let cgroup = match pod.state {
            PodState::Ready => self.cgroup_stats(&pod.cgroup, extent),
            _ => None,
        };
        let running = containers
            .into_iter()
            .filter(|c| matches!(c.state, ContainerState::Running(_)));
        PodStats {
            at,
            cpu_nano_cores: self.cpu_rate(&pod.cgroup, cgroup.as_ref()),
            process_count: cgroup
                .as_ref()
                .and_then(|c| c.pids)
                .map_or(0, |p| p.current),
            cgroup,
            network: None,
            containers: running
                .map(|c| self.stats_of_container(c, extent))
                .collect(),
            pod,
        }
    }

    fn stats_of_container(&self, container: ContainerView, extent: Extent) -> ContainerStats {
        let cgroup = match container.state {
            ContainerState::Running(_) => self.cgroup_stats(&container.cgroup, extent),
            _ => None,
        };
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
            cpu_nano_cores: self.cpu_rate(&container.cgroup, cgroup.as_ref()),
            cgroup,
            writable_layer,
            container,
        }
    }

    /// None while the cgroup goes.
    fn cgroup_stats(&self, path: &str, extent: Extent) -> Option<Stats> {
        let path = CgroupPath::parse(path).ok()?;
        match self.hierarchies.open(&path).stats(extent) {
            Ok(stats) => Some(stats),
            Err(error) => {
                tracing::debug!(cgroup = path.as_str(), error = chain(&error), "no figures");
                None
            }
        }
    }

    fn cpu_rate(&self, cgroup: &str, stats: Option<&Stats>) -> Option<u64> {
        let stats = stats?;
        self.cpu_rates
            .rate(cgroup, stats.read_at, stats.cpu?.usage_ns)
    }
}

/// Looks at each, in several threads if there are many; what was seen is in the order given. The work is
/// the kernel's for the most part, which does it for several cgroups at a time.
async fn in_threads<T, S>(all: Vec<T>, look: impl Fn(T) -> S + Clone + Send + 'static) -> Vec<S>
where
    T: Send + 'static,
    S: Send + 'static,
{
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = all.len().div_ceil(threads.min(THREADS_MAX)).max(SHARE_MIN);
    let mut rest = all.into_iter();
    let mut shares = Vec::new();
    while rest.len() > 0 {
        let (part, look) = (rest.by_ref().take(share).collect::<Vec<_>>(), look.clone());
        let look = move || part.into_iter().map(look).collect::<Vec<_>>();
        shares.push(tokio::task::spawn_blocking(look));
    }
    let mut seen = Vec::new();
    for share in shares {
        // The work does not panic; a runtime that ends has no use for figures.
        seen.extend(share.await.unwrap_or_default());
    }
    seen
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

    #[test]
    fn a_rate_is_what_was_used_from_look_to_look() {
        let rates = CpuRates::default();
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        assert_eq!(rates.rate("c", at(0), 0), None);
        assert_eq!(rates.rate("c", at(2000), 1_000_000_000), Some(500_000_000));
        assert_eq!(rates.rate("c", at(2001), 2_000_000_000), Some(500_000_000));
        assert_eq!(rates.rate("c", at(3000), 1_000_000_000), Some(0));
        // After the clock was set back, or a counter began anew, it takes two looks again.
        assert_eq!(rates.rate("c", at(1000), 1_000_000_000), None);
        assert_eq!(rates.rate("c", at(2000), 0), Some(0));
        rates.forget("c");
        assert_eq!(rates.rate("c", at(4000), 0), None);
    }
}
