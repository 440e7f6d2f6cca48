//! Looks at a pod with its containers.

use super::{Life, Look, Reason, Usage, reasons};
use crate::client::{Client, told};
use crate::facts::{ContainerFacts, PodFacts};
use crate::tasks::Zombies;
use anyhow::{Context, Result};
use crisp_cri_api::node::v1::{InspectReply, InspectRequest};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::mem::discriminant;
use std::time::{Duration, SystemTime};

/// The time between two looks where somebody waits for the second: ten periods of a usual quota.
pub(crate) const WINDOW: Duration = Duration::from_secs(1);

/// A pod at one moment.
#[derive(Debug)]
pub(crate) struct PodLook {
    pub(crate) facts: PodFacts,
    look: Look,
    /// Of each container's name the one that was made last.
    containers: BTreeMap<String, (ContainerFacts, Look)>,
}

/// What everything in a pod used between two looks.
#[derive(Debug)]
pub(crate) struct PodUsage<'a> {
    pub(crate) pod: Usage,
    pub(crate) containers: Vec<(&'a ContainerFacts, Usage)>,
}

/// Asks the daemon for all that it knows of a pod or container; none: it is not known any more.
pub(crate) async fn ask(client: &Client, id: &str) -> Result<Option<InspectReply>> {
    let request = InspectRequest { id: id.to_owned() };
    match client.node().inspect(request).await {
        Ok(answer) => Ok(Some(answer.into_inner())),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
        Err(status) => Err(told(status)),
    }
}

/// Reads what the daemon told.
pub(crate) fn parse<T: DeserializeOwned>(json: &str) -> Result<T> {
    serde_json::from_str(json)
        .context("this crisp does not understand what the daemon tells: their versions differ")
}

impl PodLook {
    /// Looks at a pod; none: it is not known any more.
    pub(crate) async fn take(client: &Client, id: &str, zombies: &Zombies) -> Result<Option<Self>> {
        let Some(reply) = ask(client, id).await? else {
            return Ok(None);
        };
        let facts = parse(&reply.json)?;
        Ok(Some(Self::at(facts, zombies)))
    }

    /// Looks at a pod of which the daemon has just told this.
    pub(crate) fn at(mut facts: PodFacts, zombies: &Zombies) -> Self {
        let mut all = std::mem::take(&mut facts.containers);
        all.sort_by_key(|container| container.config.metadata.attempt);
        // Of several with one name the last stays.
        let containers = all.into_iter().map(|container| {
            let look = Look::at(container.cgroup.clone(), zombies);
            (container.name.clone(), (container, look))
        });
        Self {
            containers: containers.collect(),
            look: Look::at(facts.cgroup.clone(), zombies),
            facts,
        }
    }

    /// What was used since an earlier look. A container that was not there then has used nothing.
    pub(crate) fn since<'a>(&'a self, before: &Self) -> PodUsage<'a> {
        let containers = self.containers.iter().map(|(name, (facts, look))| {
            let same = before
                .containers
                .get(name)
                .filter(|(b, _)| b.id == facts.id);
            let before = same.map_or(look, |(_, look)| look);
            let shares = facts.config.resources.cpu_shares;
            (facts, Usage::between(before, look, shares))
        });
        PodUsage {
            pod: Usage::between(&before.look, &self.look, None),
            containers: containers.collect(),
        }
    }
}

impl<'a> PodUsage<'a> {
    /// What holds the pod's containers back, each with the container, and limits that hold back the pod as a
    /// whole, without one. What a container is told of is not told of the pod again.
    pub(crate) fn reasons(&self) -> Vec<(Option<&'a ContainerFacts>, Reason)> {
        let now = SystemTime::now();
        let of_containers = self.containers.iter().flat_map(|&(facts, ref usage)| {
            let life = Life {
                state: &facts.state,
                restarts: facts.config.metadata.attempt,
                now,
            };
            let all = reasons(usage, Some(&life)).into_iter();
            all.map(move |reason| (Some(facts), reason))
        });
        let mut all: Vec<_> = of_containers.collect();
        let told: Vec<_> = all.iter().map(|(_, reason)| discriminant(reason)).collect();
        let of_pod = reasons(&self.pod, None).into_iter();
        let new =
            of_pod.filter(|reason| reason.is_of_a_limit() && !told.contains(&discriminant(reason)));
        all.extend(new.map(|reason| (None, reason)));
        all
    }

    /// How often its containers were started again.
    pub(crate) fn restarts(&self) -> u32 {
        let attempts = self.containers.iter();
        attempts
            .map(|(facts, _)| facts.config.metadata.attempt)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn container(id: &str, name: &str, attempt: u32, refused_forks: u64) -> Value {
        let mut config = crisp_model::ContainerConfig::default();
        config.metadata.name = name.to_owned();
        config.metadata.attempt = attempt;
        json!({
            "id": id, "sandboxID": "p", "name": name, "pid": null, "state": crisp_model::ContainerState::Created,
            "image": "", "user": {"uid": 0, "gid": 0, "groups": [], "home": ""}, "logPath": null, "config": config,
            "cgroup": {"stats": {"pids": {"current": 1, "refused_forks": refused_forks}}},
        })
    }

    fn pod(containers: &[Value]) -> PodLook {
        let facts = json!({
            "id": "p", "pid": null, "shimPid": null, "processStatus": "ready", "runtimeHandler": "",
            "netNamespace": null, "network": null, "bridge": null, "runDir": "/run",
            "cgroup": {"limits": {"pids_max": 9}, "stats": {"pids": {"current": 9, "refused_forks": 4}}},
            "config": crisp_model::PodConfig::default(), "containers": containers,
        });
        PodLook::at(serde_json::from_value(facts).unwrap(), &Zombies::default())
    }

    fn told(look: &PodLook) -> Vec<(Option<&str>, String)> {
        let reasons = look.since(look).reasons().into_iter();
        let told =
            reasons.map(|(of, reason)| (of.map(|facts| facts.id.as_str()), reason.to_string()));
        told.collect()
    }

    #[test]
    fn the_last_container_of_a_name_and_the_pod_are_told_of() {
        let look = pod(&[
            container("c2", "main", 1, 3),
            container("c1", "main", 0, 100),
        ]);
        let own = "fork failed 3 times at the limit of pids".to_owned();
        let own = (Some("c2"), own);
        let of_pod = (None, "pids 9/9: fork fails".to_owned());
        assert_eq!(told(&look), [own, of_pod]);
        assert_eq!(look.since(&look).restarts(), 1);
    }
}
