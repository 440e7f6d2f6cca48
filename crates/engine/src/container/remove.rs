//! Removing a container: everything that was made for it, whatever came of it.

use super::Container;
use crate::engine::{Engine, detached};
use crate::error::{Error, Result};
use crate::events::EventKind;
use crate::files::remove_dir;
use crisp_crash::point;
use crisp_shim_api::message::{RemoveContainer, request};
use std::sync::Arc;

impl Engine {
    /// Removes a container, ending it first if it runs. One that is not known is removed. Its log
    /// stays: the kubelet owns it.
    ///
    /// # Errors
    /// If something could not be taken away; asked again, it goes on with what is left.
    pub async fn remove_container(self: &Arc<Self>, id: &str) -> Result<()> {
        let Some(container) = self.store.container_if_known(id)? else {
            return Ok(());
        };
        let engine = self.clone();
        detached(async move { engine.remove_known_container(&container).await }).await
    }

    pub(crate) async fn remove_known_container(&self, container: &Arc<Container>) -> Result<()> {
        self.kill_container(container).await?;
        point!("remove.killed");
        let _operation = container.operation.lock().await;
        if !self.store.has_container(container) {
            return Ok(());
        }
        self.take_away(container).await?;
        let _telling = container.telling();
        self.announce(EventKind::Deleted, container.id().as_str(), container.pod());
        Ok(())
    }

    /// Takes away every effect of a container that does not run, then its record. Idempotent.
    pub(crate) async fn take_away(&self, container: &Container) -> Result<()> {
        let record = container.record();
        let shim = self
            .store
            .pod(record.pod.as_str())
            .ok()
            .and_then(|pod| pod.shim());
        if let Some(shim) = shim {
            let request = RemoveContainer {
                container_id: record.id.to_string(),
            };
            match shim.call(request::Body::RemoveContainer(request)).await {
                // Never started, or the shim is gone and with it what it knew.
                Ok(_) | Err(Error::UnknownToShim(_) | Error::Shim(_)) => {}
                Err(error) => return Err(error),
            }
        }
        point!("remove.shim-forgot");
        drop(container.take_root());
        self.remove_cgroup(&record.cgroup).await?;
        point!("remove.cgroup-removed");
        self.images.remove_snapshot(&record.id).await?;
        point!("remove.snapshot-removed");
        remove_dir(&self.bundle_dir(&record.pod, &record.id))?;
        point!("remove.bundle-removed");
        container.erase(&self.records)?;
        point!("remove.record-removed");
        self.store.remove_container(container);
        Ok(())
    }
}
