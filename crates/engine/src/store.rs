//! Every pod and container of the node in memory, found by id, by a unique prefix of one, or by name.

use crate::container::Container;
use crate::error::{Error, Kind, Result};
use crate::pod::Pod;
use crisp_model::{ContainerMetadata, PodId, PodMetadata};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// All pods and containers. Nothing is done under its lock but looking up and changing the tables.
#[derive(Debug, Default)]
pub(crate) struct Store {
    tables: RwLock<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    pods: BTreeMap<String, Arc<Pod>>,
    pod_names: HashMap<PodMetadata, PodId>,
    containers: BTreeMap<String, Arc<Container>>,
    /// Of each pod that has any, by name.
    of_pods: HashMap<PodId, BTreeMap<ContainerMetadata, Arc<Container>>>,
}

/// What came of putting something under a name.
pub(crate) enum Reserved<T> {
    New,
    /// Somebody has the name.
    Taken(Arc<T>),
}

impl Store {
    /// Adds a pod unless its name is taken.
    pub(crate) fn insert_pod(&self, pod: &Arc<Pod>) -> Reserved<Pod> {
        let mut tables = self.write();
        let name = pod.metadata();
        if let Some(holder) = tables
            .pod_names
            .get(&name)
            .and_then(|id| tables.pods.get(id.as_str()))
        {
            return Reserved::Taken(holder.clone());
        }
        tables.pod_names.insert(name, pod.id().clone());
        tables.pods.insert(pod.id().to_string(), pod.clone());
        Reserved::New
    }

    /// Adds a container unless its name is taken in its pod.
    pub(crate) fn insert_container(&self, container: &Arc<Container>) -> Reserved<Container> {
        let mut tables = self.write();
        let of_pod = tables.of_pods.entry(container.pod().clone()).or_default();
        match of_pod.entry(container.metadata()) {
            Entry::Occupied(holder) => return Reserved::Taken(holder.get().clone()),
            Entry::Vacant(free) => free.insert(container.clone()),
        };
        tables
            .containers
            .insert(container.id().to_string(), container.clone());
        Reserved::New
    }

    pub(crate) fn remove_pod(&self, pod: &Pod) {
        let mut tables = self.write();
        tables.pods.remove(pod.id().as_str());
        tables.pod_names.remove(&pod.metadata());
    }

    pub(crate) fn remove_container(&self, container: &Container) {
        let mut tables = self.write();
        tables.containers.remove(container.id().as_str());
        let Some(of_pod) = tables.of_pods.get_mut(container.pod()) else {
            return;
        };
        of_pod.remove(&container.metadata());
        if of_pod.is_empty() {
            tables.of_pods.remove(container.pod());
        }
    }

    pub(crate) fn pods(&self) -> Vec<Arc<Pod>> {
        self.read().pods.values().cloned().collect()
    }

    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        self.read().containers.values().cloned().collect()
    }

    /// Those of one pod, by name.
    pub(crate) fn containers_of(&self, pod: &PodId) -> Vec<Arc<Container>> {
        let tables = self.read();
        let of_pod = tables.of_pods.get(pod);
        of_pod.map_or_else(Vec::new, |of_pod| of_pod.values().cloned().collect())
    }

    /// A pod by id or unique prefix.
    pub(crate) fn pod(&self, id: &str) -> Result<Arc<Pod>> {
        find(&self.read().pods, Kind::Pod, id)
    }

    /// A container by id or unique prefix.
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>> {
        find(&self.read().containers, Kind::Container, id)
    }

    /// Whether a pod is still there, for one who has waited for its turn with it.
    pub(crate) fn has_pod(&self, pod: &Pod) -> bool {
        self.read().pods.contains_key(pod.id().as_str())
    }

    /// The same for a container.
    pub(crate) fn has_container(&self, container: &Container) -> bool {
        let id = container.id().as_str();
        self.read().containers.contains_key(id)
    }

    /// A pod that may be gone already.
    pub(crate) fn pod_if_known(&self, id: &str) -> Result<Option<Arc<Pod>>> {
        if_known(self.pod(id))
    }

    /// A container that may be gone already.
    pub(crate) fn container_if_known(&self, id: &str) -> Result<Option<Arc<Container>>> {
        if_known(self.container(id))
    }

    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn if_known<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Err(Error::NotFound { .. }) => Ok(None),
        found => found.map(Some),
    }
}

/// Looks up a key by itself or by a prefix that only one key has.
fn find<T>(table: &BTreeMap<String, Arc<T>>, kind: Kind, id: &str) -> Result<Arc<T>> {
    let not_found = || Error::NotFound {
        kind,
        id: id.to_owned(),
    };
    if id.is_empty() {
        return Err(Error::invalid(
            match kind {
                Kind::Pod => "pod_sandbox_id",
                _ => "container_id",
            },
            "is empty",
        ));
    }
    let mut matches = table
        .range(id.to_owned()..)
        .take_while(|(key, _)| key.starts_with(id));
    let (key, first) = matches.next().ok_or_else(not_found)?;
    if key.len() > id.len() && matches.next().is_some() {
        return Err(Error::Ambiguous {
            kind,
            prefix: id.to_owned(),
        });
    }
    Ok(first.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_whole_or_by_a_unique_prefix() {
        let mut table = BTreeMap::new();
        for key in ["aa1", "aa2", "b"] {
            table.insert(key.to_owned(), Arc::new(key));
        }
        let find = |id| find(&table, Kind::Pod, id);
        assert_eq!(*find("aa1").unwrap(), "aa1");
        assert_eq!(*find("b").unwrap(), "b");
        assert!(matches!(find("aa"), Err(Error::Ambiguous { .. })));
        assert!(matches!(find("c"), Err(Error::NotFound { .. })));
        assert!(matches!(find(""), Err(Error::Invalid { .. })));
    }
}
