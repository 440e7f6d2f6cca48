//! What no record speaks of: a record cannot be read, say, or somebody has removed it.
//!
//! What is this daemon's beyond doubt is ended and removed: what carries the id of a pod or container that
//! a directory of its own or the command line of a shim names. What may as well be another daemon's of this
//! host is named in the log, and left.

use super::{PLUGINS_PATIENCE, wait_for};
use crate::engine::{Engine, blocking};
use crate::error::{Error, Result, chain};
use crate::files::{names, remove_dir};
use crate::pod::{Pod, kill_shim, netns};
use crate::shim::Shim;
use crisp_cgroup::CgroupPath;
use crisp_crash::point;
use crisp_model::{ContainerId, PodId, PodState};
use crisp_shim_api::ShimPid;
use crisp_shim_api::message::{Process, RemoveContainer, request};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long a look at the command lines of shims may take: that of a process whose memory is locked, which
/// a file system that hangs can do, is not told.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// The time between two tries to remove what could not be.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// How often a shim is asked to forget a container that was killed, of whose end it is yet to hear, and
/// the pause before the next time.
const FORGET_ATTEMPTS: u32 = 100;
const FORGET_PAUSE: Duration = Duration::from_millis(20);

/// How many of what is left are named.
const NAMED_MAX: usize = 16;

/// What there is of a pod without a record.
#[derive(Debug)]
struct Orphan {
    id: PodId,
    shims: Vec<ShimPid>,
    cgroups: Vec<CgroupPath>,
}

impl Engine {
    /// Ends and removes pods that no record speaks of, and what else is in the daemon's own directories.
    pub(super) async fn remove_orphans(&self) -> Result<()> {
        let mut ends = JoinSet::new();
        let orphans = self.orphans().await?;
        let ids: HashSet<PodId> = orphans.iter().map(|orphan| orphan.id.clone()).collect();
        for orphan in orphans {
            tracing::warn!(pod = %orphan.id, "a pod of which there is no record is taken down");
            let engine = self.this();
            ends.spawn(async move { engine.end_orphan_or_tell(&orphan).await });
        }
        wait_for(ends, PLUGINS_PATIENCE).await;
        point!("recover.orphans-removed");
        self.name_strangers(&ids);
        let pods = self.store.pods();
        let live = pods.iter().filter(|pod| pod.state() == PodState::Ready);
        let live = live.map(|pod| pod.id().clone()).collect();
        Ok(self.network.collect_garbage(&live).await?)
    }

    async fn orphans(&self) -> Result<Vec<Orphan>> {
        let (records, runs) = (self.records.dir(), self.config().run_dir.join("pods"));
        let mut shims = shims(&runs).await;
        let mut ids: BTreeSet<PodId> = shims.keys().cloned().collect();
        for dir in [records, &runs] {
            for name in names(dir)? {
                match name.parse() {
                    Ok(id) => drop(ids.insert(id)),
                    // Nobody else puts anything there.
                    Err(_) => remove_stray(&dir.join(&name)),
                }
            }
        }
        ids.retain(|id| {
            self.store
                .pod_if_known(id.as_str())
                .is_ok_and(|pod| pod.is_none())
        });
        let mut cgroups = self.cgroups_of(&ids).await?;
        let orphan = |id: PodId| Orphan {
            shims: shims.remove(&id).unwrap_or_default(),
            cgroups: cgroups.remove(&id).unwrap_or_default(),
            id,
        };
        Ok(ids.into_iter().map(orphan).collect())
    }

    /// The cgroups of pods without a record, wherever they are. One that a record speaks of is none, even if
    /// its name were that of another pod, too.
    async fn cgroups_of(&self, pods: &BTreeSet<PodId>) -> Result<BTreeMap<PodId, Vec<CgroupPath>>> {
        if pods.is_empty() {
            return Ok(BTreeMap::new());
        }
        let by_name: BTreeMap<_, _> = pods.iter().map(|id| (Pod::cgroup_name(id), id)).collect();
        let (hierarchies, wanted) = (self.hierarchies.clone(), by_name.keys().cloned().collect());
        let found = blocking(move || Ok::<_, Error>(hierarchies.find(&wanted))).await?;
        let pods = self.store.pods().into_iter();
        let recorded: HashSet<String> = pods.map(|pod| pod.record().cgroup).collect();
        let mut cgroups: BTreeMap<PodId, Vec<CgroupPath>> = BTreeMap::new();
        for path in found {
            if let Some(&id) = by_name.get(path.name())
                && !recorded.contains(path.as_str())
            {
                cgroups.entry(id.clone()).or_default().push(path);
            }
        }
        Ok(cgroups)
    }

    async fn end_orphan_or_tell(&self, orphan: &Orphan) {
        while let Err(error) = self.end_orphan(orphan).await {
            tracing::error!(pod = %orphan.id, error = chain(&error), "a pod of which there is no record is not taken down whole");
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    /// Takes down every effect of a pod, and last what names it.
    async fn end_orphan(&self, orphan: &Orphan) -> Result<()> {
        orphan.shims.iter().try_for_each(kill_shim)?;
        for cgroup in &orphan.cgroups {
            self.remove_cgroup(cgroup.as_str()).await?;
        }
        point!("recover.orphan-ended");
        self.unwire_orphan(&orphan.id).await?;
        remove_dir(&self.pod_run_dir(&orphan.id))?;
        point!("recover.orphan-run-dir-removed");
        self.records.remove_pod(&orphan.id)
    }

    /// Ends and removes containers of a pod that no record speaks of: those its shim has, and those that
    /// have a bundle.
    pub(super) async fn remove_orphaned_containers(
        &self,
        pod: &Pod,
        shim: &Shim,
        processes: &[Process],
    ) -> Result<()> {
        let bundles = self.pod_run_dir(pod.id()).join("containers");
        let of_shim = processes.iter().map(|it| it.container_id.clone());
        let ids: BTreeSet<String> = of_shim.chain(names(&bundles)?).collect();
        for id in ids.iter().filter_map(|id| id.parse::<ContainerId>().ok()) {
            if self.store.container_if_known(id.as_str())?.is_none() {
                tracing::warn!(container = %id, pod = %pod.id(), "a container of which there is no record is removed");
                self.end_orphaned_container(pod, shim, &id).await?;
            }
        }
        Ok(())
    }

    async fn end_orphaned_container(&self, pod: &Pod, shim: &Shim, id: &ContainerId) -> Result<()> {
        self.remove_cgroup(&pod.container_cgroup(id)).await?;
        point!("recover.orphan-container-ended");
        let remove = RemoveContainer {
            container_id: id.to_string(),
        };
        let mut attempts = 0;
        while let Err(error) = shim
            .call(request::Body::RemoveContainer(remove.clone()))
            .await
        {
            match error {
                Error::UnknownToShim(_) => break,
                // It has not heard of the end yet.
                Error::Invalid { .. } if attempts < FORGET_ATTEMPTS => attempts += 1,
                error => return Err(error),
            }
            tokio::time::sleep(FORGET_PAUSE).await;
        }
        remove_dir(&self.bundle_dir(pod.id(), id))
    }

    /// Tells of what looks as if it were this daemon's and may be another's. Orphans may not be taken down
    /// whole yet.
    fn name_strangers(&self, orphans: &HashSet<PodId>) {
        let config = self.config();
        let is_unknown = |id: &PodId| matches!(self.store.pod_if_known(id.as_str()), Ok(None));
        let is_strange = |id: &PodId| is_unknown(id) && !orphans.contains(id);
        let namespaces = names(&config.netns_dir).unwrap_or_default();
        let namespaces = namespaces
            .into_iter()
            .filter(|name| netns::pod_of(name).is_some_and(|id| is_strange(&id)))
            .take(NAMED_MAX)
            .collect::<Vec<_>>();
        if !namespaces.is_empty() {
            tracing::warn!(dir = %config.netns_dir.display(), ?namespaces, "network namespaces are another daemon's, or left of pods that nothing else tells of; they stay");
        }
    }
}

/// Removes what is no pod's, and does without where that cannot be.
fn remove_stray(dir: &Path) {
    if let Err(error) = remove_dir(dir) {
        tracing::warn!(error = chain(&error), "what belongs to no pod stays");
    }
}

/// The shims of all pods whose runtime directories are, or were, in a directory.
async fn shims(runs: &Path) -> BTreeMap<PodId, Vec<ShimPid>> {
    let dir = runs.to_owned();
    let look = tokio::task::spawn_blocking(move || ShimPid::find_all(&dir));
    let found = match tokio::time::timeout(LOOK_TIMEOUT, look).await {
        Ok(Ok(found)) => found,
        Ok(Err(_)) | Err(_) => {
            tracing::warn!(
                "the command line of a process cannot be read; shims without a record may go on"
            );
            Vec::new()
        }
    };
    let mut shims: BTreeMap<PodId, Vec<ShimPid>> = BTreeMap::new();
    for (name, shim) in found {
        if let Ok(id) = name.parse() {
            shims.entry(id).or_default().push(shim);
        }
    }
    shims
}
