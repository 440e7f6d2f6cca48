//! Who is on the node: what those may look for who only see ids, the monkey and the lists.

use anyhow::{Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A pod from the answer that it runs to the request that removes it.
#[derive(Debug)]
pub(crate) struct Resident {
    pub(crate) id: String,
    doomed: AtomicBool,
    lodgers: Mutex<Vec<Arc<Lodger>>>,
}

/// A container, likewise.
#[derive(Debug)]
pub(crate) struct Lodger {
    pub(crate) id: String,
    /// Zero: it was not seen running.
    pid: AtomicI32,
    killed: AtomicBool,
}

impl Resident {
    /// Said before its shim or its pause process is killed: from here on it may end at any time.
    pub(crate) fn doom(&self) {
        self.doomed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::SeqCst)
    }

    pub(crate) fn lodgers(&self) -> MutexGuard<'_, Vec<Arc<Lodger>>> {
        self.lodgers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lodger {
    pub(crate) fn new(id: &str) -> Arc<Self> {
        Arc::new(Self {
            id: id.to_owned(),
            pid: AtomicI32::new(0),
            killed: AtomicBool::new(false),
        })
    }

    pub(crate) fn set_pid(&self, pid: i32) {
        self.pid.store(pid, Ordering::SeqCst);
    }

    pub(crate) fn pid(&self) -> Option<i32> {
        Some(self.pid.load(Ordering::SeqCst)).filter(|pid| *pid > 0)
    }

    /// Said before its first process is killed.
    pub(crate) fn kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::SeqCst)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Population {
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    pods: BTreeMap<String, Arc<Resident>>,
    addresses: BTreeMap<IpAddr, String>,
    /// Of pods and containers that were removed.
    gone: BTreeSet<String>,
}

/// Ids at one moment.
#[derive(Debug, Default)]
pub(crate) struct Census {
    pub(crate) pods: BTreeSet<String>,
    /// Of the pods.
    pub(crate) doomed: BTreeSet<String>,
    pub(crate) containers: BTreeSet<String>,
    pub(crate) gone: BTreeSet<String>,
}

impl Population {
    /// Adds a pod with its addresses, which nobody else may have.
    pub(crate) fn admit(&self, id: &str, addresses: &[IpAddr]) -> Result<Arc<Resident>> {
        let resident = Arc::new(Resident {
            id: id.to_owned(),
            doomed: AtomicBool::new(false),
            lodgers: Mutex::default(),
        });
        let mut tables = self.lock();
        for address in addresses {
            let holder = tables.addresses.insert(*address, id.to_owned());
            ensure!(
                holder.is_none(),
                "{address} of pod {id} is that of pod {holder:?} too"
            );
        }
        let before = tables.pods.insert(id.to_owned(), resident.clone());
        ensure!(before.is_none(), "pod {id} was given to two clients");
        Ok(resident)
    }

    /// Before the pod gives its addresses back.
    pub(crate) fn release_addresses(&self, id: &str) {
        self.lock().addresses.retain(|_, holder| holder != id);
    }

    /// Before the removal is asked for.
    pub(crate) fn leave(&self, pod: &Resident) {
        self.release_addresses(&pod.id);
        self.lock().pods.remove(&pod.id);
    }

    /// After the removal.
    pub(crate) fn bury(&self, id: &str) {
        self.lock().gone.insert(id.to_owned());
    }

    pub(crate) fn residents(&self) -> Vec<Arc<Resident>> {
        self.lock().pods.values().cloned().collect()
    }

    pub(crate) fn census(&self) -> Census {
        let tables = self.lock();
        let containers = tables.pods.values().flat_map(|pod| {
            let lodgers = pod.lodgers();
            lodgers
                .iter()
                .map(|lodger| lodger.id.clone())
                .collect::<Vec<_>>()
        });
        let doomed = tables.pods.values().filter(|pod| pod.is_doomed());
        Census {
            pods: tables.pods.keys().cloned().collect(),
            doomed: doomed.map(|pod| pod.id.clone()).collect(),
            containers: containers.collect(),
            gone: tables.gone.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
