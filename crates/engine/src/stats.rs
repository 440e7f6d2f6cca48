//! Figures of containers and pods, read from the kernel when they are asked for.

use crate::engine::Engine;
use crate::error::chain;
use crate::net_dev;
use crate::view::{ContainerStats, ContainerView, DiskUsage, PodStats, PodView};
use crate::wiring::Wiring;
use crisp_cgroup::{CgroupPath, Stats};
use crisp_model::{ContainerState, PodId, PodState};
use crisp_network::InterfaceStatistics;
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
            engine.stats_of_container(container)
        })
        .await
    }

    /// Figures of pods with their containers, in the order given.
    pub async fn pod_stats(self: &Arc<Self>, pods: Vec<PodView>) -> Vec<PodStats> {
        let mut networks = self.network_stats(&pods).await;
        let mut containers = HashMap::<PodId, Vec<ContainerView>>::new();
        for container in self.containers() {
            let of_pod = containers.entry(container.pod.clone()).or_default();
            of_pod.push(container);
        }
        let parts = pods.into_iter().map(|pod| {
            let network = networks.remove(&pod.id);
            let containers = containers.remove(&pod.id).unwrap_or_default();
            (pod, network, containers)
        });
        let engine = self.clone();
        in_threads(parts.collect(), move |(pod, network, containers)| {
            engine.stats_of_pod(pod, network, containers)
        })
        .await
    }

    async fn network_stats(&self, pods: &[PodView]) -> HashMap<PodId, InterfaceStatistics> {
        let ready = pods.iter().filter(|pod| pod.state == PodState::Ready);
        let (mut on_bridge, mut others) = (Vec::new(), Vec::new());
        for pod in ready {
            let wiring = self.store.pod(pod.id.as_str()).ok();
            match wiring.and_then(|pod| pod.record().network) {
                Some(Wiring::BuiltIn(attachment)) if attachment.uplink.is_none() => {
                    on_bridge.push(attachment);
                }
                Some(wiring) => {
                    others.extend(pod.pause_pid.map(|pid| (pod.id.clone(), pid, wiring)))
                }
                None => {}
            }
        }
        let statistics = self.network.statistics(&on_bridge).await;
        let mut statistics = statistics.unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), "network figures cannot be read");
            HashMap::new()
        });
        statistics.extend(seen_from_inside(others).await);
        statistics
    }

    fn stats_of_pod(
        &self,
        pod: PodView,
        network: Option<InterfaceStatistics>,
        containers: Vec<ContainerView>,
    ) -> PodStats {
        let at = SystemTime::now();
        let cgroup = match pod.state {
            PodState::Ready => self.cgroup_stats(&pod.cgroup),
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
            network,
            containers: running.map(|c| self.stats_of_container(c)).collect(),
            pod,
        }
    }

    fn stats_of_container(&self, container: ContainerView) -> ContainerStats {
        let cgroup = match container.state {
            ContainerState::Running(_) => self.cgroup_stats(&container.cgroup),
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
    fn cgroup_stats(&self, path: &str) -> Option<Stats> {
        let path = CgroupPath::parse(path).ok()?;
        match self.hierarchies.open(&path).stats() {
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

/// The traffic of pods whose host's end, if there is one, is not crisp's. In a thread: the kernel walks
/// through all interfaces of each namespace.
async fn seen_from_inside(pods: Vec<(PodId, u32, Wiring)>) -> Vec<(PodId, InterfaceStatistics)> {
    if pods.is_empty() {
        return Vec::new();
    }
    let work = tokio::task::spawn_blocking(move || {
        let seen = pods.into_iter().filter_map(|(id, pause, wiring)| {
            let seen = net_dev::statistics(pause, wiring.interface())?;
            Some((id, seen))
        });
        seen.collect()
    });
    work.await.unwrap_or_default()
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
