//! The node's network as CNI plugins make it: whether they are who wires pods, and whether they can.
//!
//! What is known for `Status` is in memory. It is looked at again behind a `Status` that finds it old: a
//! kubelet asks often enough, and a node that nobody asks about has nothing to look at.

use crate::engine::Engine;
use crate::error::chain;
use crate::view::CniStatus;
use crisp_cni::{Attachment, Client, Error as CniError, Network};
use crisp_network::{Mode, Settings};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::RwLock;

/// How long what is known is told without a new look.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// How long the daemon's start waits for what the plugins say of themselves.
const FIRST_LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// What pods to come are wired with.
#[derive(Debug)]
pub(crate) enum Choice {
    BuiltIn,
    Plugins(Arc<Network>),
}

/// CNI plugins and what is known of them.
#[derive(Debug)]
pub(crate) struct Plugins {
    client: Client,
    settings: Settings,
    known: Mutex<Known>,
    /// Whoever collects garbage has it alone: what is added meanwhile would be taken for garbage.
    adding: RwLock<()>,
}

#[derive(Debug)]
struct Known {
    status: Arc<CniStatus>,
    /// When the last look began; none: nobody has looked.
    looked_at: Option<Instant>,
    looking: bool,
}

impl Plugins {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            client: Client::new(settings.cni.bin_dirs.clone()),
            settings: settings.clone(),
            known: Mutex::new(Known {
                status: Arc::new(CniStatus::Unknown),
                looked_at: None,
                looking: false,
            }),
            adding: RwLock::default(),
        }
    }

    /// By the configuration as it is now.
    pub(crate) fn choose(&self) -> Result<Choice, CniError> {
        let dir = &self.settings.cni.conf_dir;
        let optional = match self.settings.mode {
            Mode::Bridge | Mode::Macvlan | Mode::Ipvlan => return Ok(Choice::BuiltIn),
            Mode::Auto => true,
            Mode::Cni => false,
        };
        match Network::load(dir)? {
            Some(network) => Ok(Choice::Plugins(Arc::new(network))),
            None if optional => Ok(Choice::BuiltIn),
            None => Err(CniError::NoConfig { dir: dir.clone() }),
        }
    }

    /// Refuses a network that has nobody to make it: nobody could take it away again either.
    pub(crate) fn require(&self, network: &Network) -> Result<(), CniError> {
        self.client.require(network)
    }

    /// Connects a pod.
    pub(crate) async fn add(&self, attachment: &Attachment) -> Result<Attachment, CniError> {
        let _with_others = self.adding.read().await;
        self.client.add(attachment).await
    }

    pub(crate) async fn check(&self, attachment: &Attachment) -> Result<(), CniError> {
        self.client.check(attachment).await
    }

    pub(crate) async fn delete(&self, attachment: &Attachment) -> Result<(), CniError> {
        self.client.delete(attachment).await
    }

    /// What was found at the last look.
    pub(crate) fn status(&self) -> Arc<CniStatus> {
        self.known().status.clone()
    }

    /// Looks at the configuration, and asks the plugins.
    async fn look(&self) {
        let status = match self.choose() {
            Ok(Choice::BuiltIn) => CniStatus::Unused,
            Ok(Choice::Plugins(network)) => {
                let failure = self.client.status(&network).await.err();
                let failure = failure.map(|error| chain(&error));
                CniStatus::Used { network, failure }
            }
            Err(error) => CniStatus::Unusable(chain(&error)),
        };
        let mut known = self.known();
        if *known.status != status {
            tell(&status);
            known.status = Arc::new(status);
        }
    }

    /// Whether it is time for another look, which the caller then begins.
    fn is_due(&self) -> bool {
        let mut known = self.known();
        let recent = known
            .looked_at
            .is_some_and(|at| at.elapsed() < LOOK_INTERVAL);
        if known.looking || recent {
            return false;
        }
        known.looking = true;
        known.looked_at = Some(Instant::now());
        true
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(status: &CniStatus) {
    match status {
        CniStatus::Unknown | CniStatus::Unused => {
            tracing::info!("pods are wired by the built-in network");
        }
        CniStatus::Used {
            network,
            failure: None,
        } => {
            tracing::info!(network = %network.name, source = %network.source.display(), "pods are wired by CNI plugins");
        }
        CniStatus::Used {
            failure: Some(error),
            ..
        }
        | CniStatus::Unusable(error) => {
            tracing::warn!(error, "CNI plugins cannot wire pods");
        }
    }
}

impl Engine {
    /// At the daemon's start: what is known from then on, and what nobody needs any more.
    pub(crate) async fn begin_with_plugins(&self) {
        // It goes on at the next request for the status.
        let _ = tokio::time::timeout(FIRST_LOOK_TIMEOUT, self.plugins.look()).await;
        let engine = self.this();
        tokio::spawn(async move { engine.look_after_plugins().await });
    }

    /// Has another look taken in the background, if the last one is old.
    pub(crate) fn look_at_plugins(&self) {
        if !self.plugins.is_due() {
            return;
        }
        let engine = self.this();
        tokio::spawn(async move {
            engine.plugins.look().await;
            engine.plugins.known().looking = false;
        });
    }

    /// Garbage that a daemon left which is gone, and pods whose wiring somebody took away meanwhile.
    async fn look_after_plugins(&self) {
        if let Ok(Choice::Plugins(network)) = self.plugins.choose()
            && let Err(error) = self.collect_plugins_garbage(&network).await
        {
            tracing::warn!(
                error = chain(&error),
                "CNI plugins may keep what no pod has"
            );
        }
        for pod in self.store.pods() {
            // One that somebody works on is looked at by who wires it.
            let Ok(_operation) = pod.operation.try_lock() else {
                continue;
            };
            let record = pod.record();
            let ready = record.state == crisp_model::PodState::Ready;
            let wiring = record.network.filter(|_| ready);
            let Some(attachment) = wiring.as_ref().and_then(|w| w.plugins()) else {
                continue;
            };
            self.check_by_plugins(&pod, attachment).await;
        }
    }

    async fn collect_plugins_garbage(&self, network: &Network) -> Result<(), CniError> {
        let _alone = self.plugins.adding.write().await;
        let wirings = self
            .store
            .pods()
            .into_iter()
            .filter_map(|pod| pod.record().network);
        let attachments: Vec<_> = wirings.filter_map(|w| w.plugins().cloned()).collect();
        let of_network = attachments
            .iter()
            .filter(|a| a.network.name == network.name);
        let valid: Vec<&Attachment> = of_network.map(Arc::as_ref).collect();
        self.plugins.client.collect_garbage(network, &valid).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Modes that have nothing to do with plugins.
    const BUILT_IN: [Mode; 3] = [Mode::Bridge, Mode::Macvlan, Mode::Ipvlan];

    fn plugins(mode: Mode, conf_dir: &std::path::Path) -> Plugins {
        let mut settings = Settings {
            mode,
            ..Settings::default()
        };
        settings.cni.conf_dir = conf_dir.to_owned();
        settings.cni.bin_dirs = vec![conf_dir.to_owned()];
        Plugins::new(&settings)
    }

    #[test]
    fn a_configuration_is_what_auto_goes_by_and_cni_needs() {
        let dir = tempfile::tempdir().unwrap();
        let choose = |mode| plugins(mode, dir.path()).choose();
        assert!(matches!(choose(Mode::Auto), Ok(Choice::BuiltIn)));
        assert!(matches!(choose(Mode::Cni), Err(CniError::NoConfig { .. })));
        let path = dir.path().join("1.conf");
        fs::write(
            &path,
            r#"{"cniVersion": "1.0.0", "name": "n", "type": "t"}"#,
        )
        .unwrap();
        for mode in [Mode::Auto, Mode::Cni] {
            assert!(matches!(choose(mode), Ok(Choice::Plugins(_))));
        }
        for mode in BUILT_IN {
            assert!(matches!(choose(mode), Ok(Choice::BuiltIn)));
        }
        fs::write(&path, "{").unwrap();
        for mode in [Mode::Auto, Mode::Cni] {
            assert!(matches!(choose(mode), Err(CniError::InvalidConfig { .. })));
        }
        for mode in BUILT_IN {
            assert!(matches!(choose(mode), Ok(Choice::BuiltIn)));
        }
    }

    #[tokio::test]
    async fn a_look_tells_what_wires_pods_and_why_it_cannot() {
        let dir = tempfile::tempdir().unwrap();
        let plugins = plugins(Mode::Auto, dir.path());
        assert_eq!(*plugins.status(), CniStatus::Unknown);
        plugins.look().await;
        assert_eq!(*plugins.status(), CniStatus::Unused);
        let path = dir.path().join("1.conf");
        fs::write(&path, "{").unwrap();
        plugins.look().await;
        assert!(plugins.status().not_ready().unwrap().contains("1.conf"));
        fs::write(
            &path,
            r#"{"cniVersion": "1.0.0", "name": "n", "type": "t"}"#,
        )
        .unwrap();
        plugins.look().await;
        let status = plugins.status();
        assert!(status.not_ready().unwrap().contains("\"t\" is not in"));
        fs::write(dir.path().join("t"), "").unwrap();
        plugins.look().await;
        assert_eq!(plugins.status().not_ready(), None);
    }

    #[test]
    fn one_look_is_taken_at_a_time_and_not_too_often() {
        let plugins = plugins(Mode::Auto, std::path::Path::new("/no/such/dir"));
        assert!(plugins.is_due());
        assert!(!plugins.is_due());
        plugins.known().looking = false;
        assert!(!plugins.is_due());
        plugins.known().looked_at = None;
        assert!(plugins.is_due());
    }
}
