//! Changing the limits of a container in place.

use crate::engine::{Engine, blocking, detached};
use crate::error::{Error, Result};
use crisp_cgroup::CgroupPath;
use crisp_crash::point;
use crisp_model::spec::{linux_resources, merge};
use crisp_model::{ContainerState, Resources};
use std::sync::Arc;

impl Engine {
    /// Puts new limits in force; what `update` leaves out stays as it is.
    ///
    /// # Errors
    /// If the container has ended, or the kernel refuses a limit; the old ones hold then.
    pub async fn update_container(self: &Arc<Self>, id: &str, update: Resources) -> Result<()> {
        let container = self.store.container(id)?;
        let engine = self.clone();
        detached(async move {
            let _operation = container.operation.lock().await;
            if matches!(container.state(), ContainerState::Exited(_)) {
                let message = format!(
                    "container {} has ended; its limits cannot be changed",
                    container.id()
                );
                return Err(Error::FailedPrecondition(message));
            }
            let record = container.record();
            let merged = merge(&record.resources, &update);
            engine.apply_limits(&record.cgroup, merged.clone()).await?;
            point!("update.applied");
            if let Some(score) = update.oom_score_adj {
                engine.set_oom_score_adj(&record, score).await?;
            }
            container.update(|record| record.resources = merged);
            engine.save_container(&container)?;
            point!("update.recorded");
            Ok(())
        })
        .await
    }

    pub(crate) async fn apply_limits(&self, cgroup: &str, resources: Resources) -> Result<()> {
        let cgroup = self.hierarchies.open(&CgroupPath::parse(cgroup)?);
        blocking(move || cgroup.change(&linux_resources(&resources))).await
    }
}
