//! Wiring a pod, and taking it off the network again: by the built-in network or by CNI plugins.

use super::{Pod, bandwidth, cni, netns};
use crate::engine::Engine;
use crate::error::{Error, Result, chain};
use crate::plugins::Choice;
use crate::record::PodRecord;
use crate::wiring::Wiring;
use crisp_cni::Attachment;
use crisp_crash::point;
use crisp_model::{NamespaceMode, PodConfig, PodId, PortMapping, Protocol};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

impl Engine {
    /// The place that a pod is to have in the network; none with the host's.
    pub(super) fn plan_wiring(&self, pod: &Pod) -> Result<Option<Wiring>> {
        let config = pod.config();
        if config.security.namespaces.network == NamespaceMode::Node {
            return Ok(None);
        }
        let wiring = match self.plugins.choose()? {
            Choice::BuiltIn => {
                // The address of a pod whose end is not on disk is free; taken again, it would have two
                // holders for the next daemon.
                self.save_pods()?;
                let limits = bandwidth::asked(&config.annotations)?;
                let ports = &config.port_mappings;
                Wiring::BuiltIn(self.network.allocate(pod.id(), ports, limits)?)
            }
            Choice::Plugins(network) => {
                self.plugins.require(&network)?;
                let netns = netns::path(&self.config().netns_dir, pod.id());
                let cni = Arc::new(cni::attachment(network, pod.id(), &config, netns)?);
                Wiring::Plugins { cni }
            }
        };
        Ok(Some(wiring))
    }

    /// Shows the pod's network namespace and connects it.
    pub(super) async fn wire(&self, pod: &Pod, mut fds: Vec<OwnedFd>) -> Result<()> {
        let Some(wiring) = pod.record().network else {
            return Ok(());
        };
        if fds.len() != 2 {
            return Err(Error::Shim(
                "did not give the pod's network namespace".to_owned(),
            ));
        }
        let socket = fds.remove(1);
        let namespace = fds.remove(0);
        netns::pin(&namespace, &netns::path(&self.config().netns_dir, pod.id()))?;
        match wiring {
            Wiring::BuiltIn(attachment) => self
                .network
                .attach(&attachment, namespace.as_fd(), socket)
                .await
                .map_err(Error::from),
            Wiring::Plugins { cni } => {
                self.network.loopback_up(socket).await?;
                self.wire_by_plugins(pod, &cni).await
            }
        }
    }

    async fn wire_by_plugins(&self, pod: &Pod, planned: &Attachment) -> Result<()> {
        let cni = Arc::new(self.plugins.add(planned).await?);
        let made = Wiring::Plugins { cni: cni.clone() };
        pod.update(|record| record.network = Some(made));
        pod.save(&self.records)?;
        point!("cni.recorded");
        self.check_by_plugins(pod, &cni).await;
        Ok(())
    }

    /// Has plugins look whether a pod is wired as they made it. What they find is told in the log and
    /// ends no pod: plugins are in use that find fault with what they have just made, such as portmap
    /// up to 1.1.1 with addresses of both families.
    pub(crate) async fn check_by_plugins(&self, pod: &Pod, cni: &Attachment) {
        if let Err(error) = self.plugins.check(cni).await {
            tracing::warn!(pod = %pod.id(), error = chain(&error), "CNI plugins do not find the pod wired as they should");
        }
    }

    /// Takes a pod off the network, whatever of it was made, and away its namespace's file. Plugins need
    /// the namespace for what they do, so that the file stays until they have done it.
    pub(super) async fn unwire(&self, record: &PodRecord) -> Result<()> {
        match &record.network {
            Some(Wiring::BuiltIn(attachment)) => self.network.detach(attachment).await?,
            Some(Wiring::Plugins { cni }) => self.plugins.delete(cni).await?,
            None => {}
        }
        point!("teardown.unwired");
        netns::unpin(&netns::path(&self.config().netns_dir, &record.id))
    }

    /// The same for a pod without a record. Nobody knows what wired it: plugins are told to take it off the
    /// network that they make now; the built-in network looks for what has no pod by itself.
    pub(crate) async fn unwire_orphan(&self, pod: &PodId) -> Result<()> {
        let netns = netns::path(&self.config().netns_dir, pod);
        if let Ok(Choice::Plugins(network)) = self.plugins.choose() {
            let config = unknown_config();
            let attachment = cni::attachment(network, pod, &config, netns.clone())?;
            self.plugins.delete(&attachment).await?;
        }
        netns::unpin(&netns)
    }
}

/// What plugins are told of a pod of which nobody knows anything. They take away what they have by the pod's
/// id, but portmap up to 1.1.1 does only when it is told of any port.
fn unknown_config() -> PodConfig {
    let any_port = PortMapping {
        protocol: Protocol::Tcp,
        container_port: 1,
        host_port: 1,
        host_ip: None,
    };
    PodConfig {
        port_mappings: vec![any_port],
        ..PodConfig::default()
    }
}
