//! `crisp pod rm`: stop the containers with their grace, then the pod, then take away what
//! `crisp pod run` put beside it.

use super::{logfile, volumes};
use crate::client::{Client, told};
use crate::manifest::{GRACE_ANNOTATION, RUN_ANNOTATION};
use crate::names::{Snapshot, full_name};
use crate::output;
use anyhow::{Context, Result, bail};
use crisp_cri_api::v1;
use crisp_cri_api::v1::{Container, ContainerState, PodSandbox};
use std::path::PathBuf;
use tokio::task::JoinSet;

/// Seconds for containers of pods that nobody gave any.
const DEFAULT_GRACE_S: i64 = 30;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Names, namespace/names or ids.
    #[arg(required = true, value_name = "POD")]
    pods: Vec<String>,
    /// How long containers may take to end before they are killed; without it what the pod says.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i64).range(0..))]
    grace: Option<i64>,
}

pub(super) async fn run(arguments: &Arguments, client: &Client) -> Result<()> {
    let mut failed = 0;
    for name in &arguments.pods {
        match one(client, name, arguments.grace).await {
            Ok(id) => output::line(id)?,
            Err(error) => {
                output::error(&error);
                failed += 1;
            }
        }
    }
    match failed {
        0 => Ok(()),
        _ => bail!(
            "{failed} of {} pods could not be removed",
            arguments.pods.len()
        ),
    }
}

async fn one(client: &Client, name: &str, grace_s: Option<i64>) -> Result<String> {
    let snapshot = Snapshot::take(client).await?;
    let pod = snapshot.pod(name)?;
    let containers: Vec<&Container> = snapshot
        .containers
        .iter()
        .filter(|c| c.pod_sandbox_id == pod.id)
        .collect();
    let logs = match pod.annotations.contains_key(RUN_ANNOTATION) {
        true => log_paths(client, &containers).await?,
        false => Vec::new(),
    };
    let gone = take_down(client, pod, &containers, grace_s).await;
    gone.with_context(|| format!("pod {}", full_name(pod)))?;
    if pod.annotations.contains_key(RUN_ANNOTATION) {
        let uid = pod.metadata.as_ref().map_or("", |metadata| &metadata.uid);
        volumes::remove(&client.directories().await?, uid)?;
        logs.iter().try_for_each(|log| logfile::remove(log))?;
    }
    Ok(pod.id.clone())
}

async fn take_down(
    client: &Client,
    pod: &PodSandbox,
    containers: &[&Container],
    grace_s: Option<i64>,
) -> Result<()> {
    stop_all(client, containers, grace_s).await?;
    client.take_down_pod(&pod.id).await
}

/// Stops containers at the same time, so that the longest grace is all that is waited for.
async fn stop_all(client: &Client, containers: &[&Container], grace_s: Option<i64>) -> Result<()> {
    let mut stopping = JoinSet::new();
    let running = containers
        .iter()
        .filter(|c| c.state() == ContainerState::ContainerRunning);
    for container in running {
        let request = v1::StopContainerRequest {
            container_id: container.id.clone(),
            timeout: grace_s.unwrap_or_else(|| own_grace_s(container)),
        };
        let mut runtime = client.runtime();
        stopping.spawn(async move { runtime.stop_container(request).await });
    }
    for stopped in stopping.join_all().await {
        stopped.map_err(told)?;
    }
    Ok(())
}

fn own_grace_s(container: &Container) -> i64 {
    let given = container.annotations.get(GRACE_ANNOTATION);
    given
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(DEFAULT_GRACE_S)
}

/// Asked for while the containers are there. One that has just gone has left nothing to find.
async fn log_paths(client: &Client, containers: &[&Container]) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for container in containers {
        let status = client.find_container_status(&container.id).await?;
        let path = status.map(|status| status.log_path).unwrap_or_default();
        paths.extend((!path.is_empty()).then(|| path.into()));
    }
    Ok(paths)
}
