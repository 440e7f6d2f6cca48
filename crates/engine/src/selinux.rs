//! SELinux: the labels of pods and containers, where the kernel and the configuration want them.
//!
//! The level of a pod, with its own pair of categories, stands in the pod's record from before anything
//! is labelled with it until the record is removed: the records are what is in use.

mod relabel;

pub(crate) use relabel::{label_own, relabel};

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::pod::Pod;
use crate::record::PodRecord;
use crisp_model::{
    ContainerConfig, ContainerContexts, ContainerLabels, NamespaceMode, NamespaceModes, PodId,
    Separation, level_count,
};
use crisp_sys::xattr;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The attribute that holds a file's label.
pub(crate) const ATTRIBUTE: &std::ffi::CStr = c"security.selinux";

/// The host's SELinux.
#[derive(Debug)]
pub(crate) struct Selinux {
    /// None: nothing is labelled.
    contexts: Option<ContainerContexts>,
    /// Held while a level is chosen.
    choosing: Mutex<()>,
}

impl Selinux {
    /// `etc` is the host's `/etc/selinux`.
    ///
    /// # Errors
    /// If labels are wanted and the kernel has SELinux, but its policy knows no containers.
    pub(crate) fn open(wanted: bool, kernel: &Path, etc: &Path) -> Result<Self> {
        let contexts = match wanted && kernel.join("enforce").exists() {
            true => Some(read_contexts(etc)?),
            false => None,
        };
        Ok(Self {
            contexts,
            choosing: Mutex::default(),
        })
    }

    /// Labels the program of the pause process, which is executed with the label of its pod: a policy lets
    /// containers execute their own files alone.
    pub(crate) fn label_program(&self, program: impl AsFd) -> Result<()> {
        let Some(contexts) = &self.contexts else {
            return Ok(());
        };
        let label = contexts.files.to_string();
        xattr::set(program, ATTRIBUTE, label.as_bytes())
            .map_err(|errno| Error::io("label", "the shim's program")(errno.into()))
    }

    /// The labels of a container or, without one, of the pause process of a pod; none: nothing is
    /// labelled.
    fn labels(
        &self,
        pod: &PodRecord,
        container: Option<&ContainerConfig>,
    ) -> Option<ContainerLabels> {
        let contexts = self.contexts.as_ref()?;
        let asked = container.and_then(|container| container.security.selinux.as_ref());
        let asked = asked.or(pod.config.security.selinux.as_ref());
        let level = pod.selinux_level.as_deref().unwrap_or_default();
        let (privileged, namespaces) = match container.map(|container| &container.security) {
            Some(security) => (security.privileged, &security.namespaces),
            None => (
                pod.config.security.privileged,
                &pod.config.security.namespaces,
            ),
        };
        let separation = separation(privileged, namespaces);
        Some(contexts.labels(asked, level, separation))
    }

    pub(crate) fn of_container(
        &self,
        pod: &PodRecord,
        container: &ContainerConfig,
    ) -> Option<ContainerLabels> {
        self.labels(pod, Some(container))
    }

    pub(crate) fn of_pod(&self, pod: &PodRecord) -> Option<ContainerLabels> {
        self.labels(pod, None)
    }
}

impl Engine {
    /// Gives a pod its level: the one that it asks for, or one that no other pod has.
    pub(crate) fn choose_level(&self, pod: &Pod) -> Result<()> {
        let Some(contexts) = &self.selinux.contexts else {
            return Ok(());
        };
        let _choosing = self
            .selinux
            .choosing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let config = pod.config();
        let asked = config
            .security
            .selinux
            .as_ref()
            .map(|label| label.level.clone());
        let level = match asked.filter(|level| !level.is_empty()) {
            Some(level) => level,
            None => {
                let pods = self.store.pods();
                let used = pods.iter().filter_map(|pod| pod.record().selinux_level);
                free_level(contexts, &used.collect(), pod.id()).ok_or_else(|| {
                    Error::Exhausted("every pair of SELinux categories is in use".to_owned())
                })?
            }
        };
        pod.update(|record| record.selinux_level = Some(level));
        Ok(())
    }
}

/// Looks from a place that the pod's random id names, so that the levels of pods that come and go
/// differ.
fn free_level(contexts: &ContainerContexts, used: &HashSet<String>, pod: &PodId) -> Option<String> {
    let mut hasher = DefaultHasher::new();
    pod.as_str().hash(&mut hasher);
    let count = level_count();
    let first = u32::try_from(hasher.finish() % u64::from(count)).unwrap_or(0);
    let mut levels = (0..count).map(|step| contexts.level((first + step) % count));
    // Without levels all pods share that there are none.
    levels.find(|level| level.is_empty() || !used.contains(level))
}

/// As CRI-O has it.
fn separation(privileged: bool, namespaces: &NamespaceModes) -> Separation {
    let of_host = |mode: &NamespaceMode| *mode == NamespaceMode::Node;
    match privileged || of_host(&namespaces.pid) || of_host(&namespaces.ipc) {
        true => Separation::Host,
        false => Separation::Own,
    }
}

/// The contexts of the policy that selinux_config(5) names.
fn read_contexts(etc: &Path) -> Result<ContainerContexts> {
    let config = etc.join("config");
    let text = std::fs::read_to_string(&config).map_err(Error::io("read", &config))?;
    let policy = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("SELINUXTYPE="));
    let path: PathBuf = etc
        .join(policy.unwrap_or("targeted").trim())
        .join("contexts/lxc_contexts");
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    ContainerContexts::parse(&text).map_err(|error| {
        Error::FailedPrecondition(format!(
            "enable_selinux: the policy's {} is of no use: {error}",
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let contexts = dir.path().join("default/contexts");
        std::fs::create_dir_all(&contexts).unwrap();
        std::fs::write(dir.path().join("config"), "# x\nSELINUXTYPE=default\n").unwrap();
        std::fs::write(
            contexts.join("lxc_contexts"),
            "process = \"u:r:container_t:s0\"\nfile = \"u:object_r:container_file_t:s0\"\n",
        )
        .unwrap();
        std::fs::write(dir.path().join("enforce"), "1").unwrap();
        dir
    }

    #[test]
    fn labels_need_both_the_kernel_and_the_configuration() {
        let (host, none) = (policy(), tempfile::tempdir().unwrap());
        let is_on = |wanted, kernel: &Path, etc: &Path| {
            Selinux::open(wanted, kernel, etc).map(|selinux| selinux.contexts.is_some())
        };
        let (host, none) = (host.path(), none.path());
        assert!(is_on(true, host, host).unwrap());
        assert!(!is_on(false, host, host).unwrap());
        assert!(!is_on(true, none, host).unwrap());
        assert!(is_on(true, host, none).is_err());
    }

    #[test]
    fn a_level_is_given_once_until_none_is_left() {
        let host = policy();
        let contexts = read_contexts(host.path()).unwrap();
        let mut used = HashSet::new();
        for _ in 0..1000 {
            let level = free_level(&contexts, &used, &PodId::generate()).unwrap();
            assert!(used.insert(level));
        }
        let all = (0..level_count())
            .map(|number| contexts.level(number))
            .collect();
        assert_eq!(free_level(&contexts, &all, &PodId::generate()), None);
    }
}
