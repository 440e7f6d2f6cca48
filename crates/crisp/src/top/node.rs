//! A look at everything on the node.

use crate::client::{Client, told};
use crate::tasks::Zombies;
use crate::usage::PodLook;
use anyhow::Result;
use crisp_cri_api::v1;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// The pods that are ready.
#[derive(Debug)]
pub(super) struct NodeLook {
    at: Instant,
    /// By their ids.
    pub(super) pods: BTreeMap<String, PodLook>,
    traffic: HashMap<String, Traffic>,
}

/// Bytes, as the pod's interface counts them; or bytes in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) received: u64,
    pub(super) sent: u64,
}

impl NodeLook {
    pub(super) async fn take(client: &Client) -> Result<Self> {
        let request = v1::ListPodSandboxStatsRequest::default();
        let answer = client.runtime().list_pod_sandbox_stats(request).await;
        let (at, mut pods) = (Instant::now(), BTreeMap::new());
        let mut counts = HashMap::new();
        let zombies = Zombies::find();
        for stats in answer.map_err(told)?.into_inner().stats {
            let id = stats.attributes.unwrap_or_default().id;
            let network = stats.linux.and_then(|linux| linux.network);
            counts.extend(network.and_then(traffic).map(|count| (id.clone(), count)));
            // One that has gone meanwhile is left out.
            let look = PodLook::take(client, &id, &zombies).await?;
            let running = look.filter(|look| look.facts.pid.is_some());
            pods.extend(running.map(|look| (id, look)));
        }
        Ok(Self {
            at,
            pods,
            traffic: counts,
        })
    }

    /// Bytes of a pod in a second, since an earlier look; none: it is on the host's network, or new.
    pub(super) fn rates_since(&self, before: &Self, pod: &str) -> Option<Traffic> {
        let (first, last) = (before.traffic.get(pod)?, self.traffic.get(pod)?);
        let interval = self.at.duration_since(before.at);
        Some(Traffic {
            received: rate(first.received, last.received, interval),
            sent: rate(first.sent, last.sent, interval),
        })
    }
}

fn traffic(network: v1::NetworkUsage) -> Option<Traffic> {
    let interface = network.default_interface?;
    Some(Traffic {
        received: interface.rx_bytes?.value,
        sent: interface.tx_bytes?.value,
    })
}

fn rate(before: u64, after: u64, interval: Duration) -> u64 {
    let grown = u128::from(after.saturating_sub(before)) * 1000;
    u64::try_from(grown / interval.as_millis().max(1)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_a_second() {
        assert_eq!(rate(100, 1100, Duration::from_millis(500)), 2000);
        assert_eq!(rate(100, 0, Duration::from_secs(1)), 0);
    }
}
