//! `crisp pod ls`.

use crate::client::{Client, told};
use crate::names::Snapshot;
use crate::output;
use crate::text::{Table, age, short};
use anyhow::Result;
use crisp_cri_api::v1;
use crisp_cri_api::v1::{Container, ContainerState, PodSandbox, PodSandboxState};
use std::time::{Duration, SystemTime};

pub(super) async fn run(client: &Client) -> Result<()> {
    let snapshot = Snapshot::take(client).await?;
    let mut table = Table::titled(&[
        "NAME",
        "NAMESPACE",
        "STATE",
        "ADDRESS",
        "CONTAINERS",
        "AGE",
        "ID",
    ]);
    for pod in &snapshot.pods {
        let address = address(client, &pod.id).await?;
        let containers: Vec<&Container> = snapshot.containers_of(pod).collect();
        table.row(row(pod, &containers, address, SystemTime::now()));
    }
    output::result(table.render(0))
}

fn row(
    pod: &PodSandbox,
    containers: &[&Container],
    address: String,
    now: SystemTime,
) -> [String; 7] {
    let metadata = pod.metadata.clone().unwrap_or_default();
    let state = match pod.state() {
        PodSandboxState::SandboxReady => "Ready",
        PodSandboxState::SandboxNotready => "NotReady",
    };
    let address = if address.is_empty() {
        "-".to_owned()
    } else {
        address
    };
    let created = Duration::from_nanos(u64::try_from(pod.created_at).unwrap_or(0));
    let old = now
        .duration_since(SystemTime::UNIX_EPOCH + created)
        .unwrap_or_default();
    [
        metadata.name,
        metadata.namespace,
        state.to_owned(),
        address,
        states(containers),
        age(old),
        short(&pod.id).to_owned(),
    ]
}

/// How many containers are in which state: `1/2 running, 1 exited`.
fn states(containers: &[&Container]) -> String {
    let number = |state: ContainerState| containers.iter().filter(|c| c.state() == state).count();
    let running = number(ContainerState::ContainerRunning);
    let mut text = format!("{running}/{} running", containers.len());
    for (state, word) in [
        (ContainerState::ContainerCreated, "created"),
        (ContainerState::ContainerExited, "exited"),
        (ContainerState::ContainerUnknown, "unknown"),
    ] {
        match number(state) {
            0 => {}
            number => text.push_str(&format!(", {number} {word}")),
        }
    }
    text
}

/// The pod's first address. A pod that has just gone has none, and neither has one on the host's
/// network.
pub(super) async fn address(client: &Client, id: &str) -> Result<String> {
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: id.to_owned(),
        verbose: false,
    };
    match client.runtime().pod_sandbox_status(request).await {
        Ok(answer) => {
            let status = answer.into_inner().status.unwrap_or_default();
            Ok(status.network.unwrap_or_default().ip)
        }
        Err(status) if status.code() == tonic::Code::NotFound => Ok(String::new()),
        Err(status) => Err(told(status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(state: ContainerState) -> Container {
        Container {
            state: state.into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_row_tells_what_a_person_looks_for() {
        let pod = PodSandbox {
            id: "0123456789abcdef".to_owned(),
            metadata: Some(v1::PodSandboxMetadata {
                name: "web".to_owned(),
                namespace: "shop".to_owned(),
                ..Default::default()
            }),
            created_at: 1_000_000_000,
            ..Default::default()
        };
        let running = container(ContainerState::ContainerRunning);
        let exited = container(ContainerState::ContainerExited);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(121);
        assert_eq!(
            row(&pod, &[&running, &exited], String::new(), now),
            [
                "web",
                "shop",
                "Ready",
                "-",
                "1/2 running, 1 exited",
                "2m",
                "0123456789ab"
            ]
        );
    }
}
