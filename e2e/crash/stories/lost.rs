//! The end of a story whose pod's shim has died.

use super::Story;
use super::requests::{internal, known_pod, try_run_pod};
use crate::finding::{Finding, stuck};
use crate::kubelet::Kubelet;
use crate::model::{Known, PodModel};
use crisp_cri_api::v1::{ContainerState, PodSandboxState};
use crisp_e2e::{Node, until};

/// The pod is taken down and reported as not ready, its containers as exited, and another attempt of it
/// can be started.
pub(super) async fn play(k: &mut Kubelet, story: Story) -> Result<(), Finding> {
    let pod = known_pod(k)?;
    is_reported(&k.node, &pod).await?;
    let audit = k.node.audit_records().await;
    audit.map_err(|error| Finding::of_audit(&error))?;
    pod.handle(&k.node).stop().await.map_err(stuck)?;
    let next = try_run_pod(&k.node, story, 1).await.map_err(stuck)?;
    let container = next.handle(&k.node).start("last", |_| ()).await;
    let said = container.map_err(stuck)?.sh("echo anew").await;
    if said.map_err(stuck)? != "anew" {
        return Err(stuck("a container of the pod's next attempt"));
    }
    next.handle(&k.node).remove().await.map_err(stuck)?;
    pod.handle(&k.node).remove().await.map_err(stuck)?;
    k.model.pod = None;
    Ok(())
}

/// Waits until a pod that has lost its shim is reported as it is.
pub(super) async fn is_reported(node: &Node, pod: &PodModel) -> Result<(), Finding> {
    until("the pod is reported as not ready", async || {
        let status = pod.handle(node).status().await.ok()?;
        let ended = node
            .containers()
            .await
            .ok()?
            .iter()
            .all(|it| it.state == i32::from(ContainerState::ContainerExited));
        (status.state() == PodSandboxState::SandboxNotready && ended).then_some(())
    })
    .await
    .map_err(stuck)?;
    for (name, container) in &pod.containers {
        let handle = pod.handle(node).container(name, container.id.clone());
        let status = handle.status().await.map_err(internal).map_err(stuck)?;
        if let Known::Exited { code } = container.state
            && status.exit_code != code
        {
            return Err(Finding::Lost(format!(
                "exit code {code} of container {name} became {}",
                status.exit_code
            )));
        }
    }
    Ok(())
}
