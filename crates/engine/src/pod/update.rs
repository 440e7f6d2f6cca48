//! Changing what a pod as a whole may use.

use crate::engine::{Engine, detached};
use crate::error::Result;
use crisp_crash::point;
use crisp_model::spec::merge;
use crisp_model::{PodState, Resources};
use std::sync::Arc;

impl Engine {
    /// Puts new resources of a pod on record, and in force where the pod's cgroup is crisp's own. The
    /// kubelet keeps the limits of its pods in the cgroup that it makes for them, and calls this before
    /// it changes them.
    ///
    /// # Errors
    /// If the pod is not known or was stopped, or the kernel refuses a limit; the old ones hold then.
    pub async fn update_pod(
        self: &Arc<Self>,
        id: &str,
        overhead: Option<Resources>,
        resources: Option<Resources>,
    ) -> Result<()> {
        let pod = self.store.pod(id)?;
        let engine = self.clone();
        detached(async move {
            let _operation = pod.operation.lock().await;
            if pod.state() != PodState::Ready {
                return Err(pod.not_ready());
            }
            let mut config = (*pod.config()).clone();
            if let Some(update) = resources {
                let merged = merge(&config.resources.unwrap_or_default(), &update);
                if config.cgroup_parent.is_none() {
                    engine
                        .apply_limits(&pod.record().cgroup, merged.clone())
                        .await?;
                }
                point!("update-pod.applied");
                config.resources = Some(merged);
            }
            config.overhead = overhead.or(config.overhead);
            pod.update(|record| record.config = Arc::new(config));
            engine.save_pod(&pod)?;
            point!("update-pod.recorded");
            Ok(())
        })
        .await
    }
}
