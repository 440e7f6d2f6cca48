//! Requests that are refused when something is made already: nothing of it stays.

use super::requests::*;
use super::{Story, life, lost};
use crate::finding::{Finding, stuck};
use crate::kubelet::{Kubelet, Outcome};
use crate::model::{ContainerModel, Flux, Known};
use crisp_cri_api::v1::*;
use crisp_e2e::catalog::BUSYBOX;
use crisp_e2e::{Node, image_spec};
use std::fs;

const STORY: Story = Story::Refusals;

pub(super) async fn play(k: &mut Kubelet) -> Result<(), Finding> {
    pull(k, QUIET).await?;
    let run = async |node: &Node| {
        node.run_pod("life", |config| {
            let sysctls = &mut config.linux.get_or_insert_default().sysctls;
            // The kernel says so when the pod's namespaces are made.
            sysctls.insert("net.core.somaxconn".to_owned(), "nonsense".to_owned());
        })
        .await
        .map(drop)
    };
    k.refused_step("RunPodSandbox, refused", Flux::Pod, run)
        .await?;
    k.settle().await?;
    refused_by_a_plugin(k).await?;
    run_pod(k, QUIET, STORY).await?;
    if let Outcome::PodLost = refused_container(k).await? {
        return lost::play(k, STORY).await;
    }
    if let Outcome::PodLost = refused_start(k).await? {
        return lost::play(k, STORY).await;
    }
    life::remove_pod(k, "RemovePodSandbox of a pod that runs").await
}

/// The network is of plugins for this one pod only.
async fn refused_by_a_plugin(k: &mut Kubelet) -> Result<(), Finding> {
    Story::Plugins.prepare(&k.node).map_err(stuck)?;
    let refuse = k.node.scratch().map_err(stuck)?.join("refuse");
    fs::write(&refuse, "").map_err(stuck)?;
    let run = async |node: &Node| node.run_pod("life", |_| ()).await.map(drop);
    k.refused_step("RunPodSandbox, refused by a plugin", Flux::Pod, run)
        .await?;
    fs::remove_file(k.node.cni_config()).map_err(stuck)?;
    k.settle().await
}

async fn refused_container(k: &mut Kubelet) -> Result<Outcome<()>, Finding> {
    let pod = known_pod(k)?;
    let create = async |node: &Node| {
        let pod = pod.handle(node);
        let create = pod.create("refused", |config| {
            config.mounts.push(Mount {
                container_path: "/image".to_owned(),
                image: Some(image_spec(BUSYBOX)),
                image_sub_path: "no/such/path".to_owned(),
                ..Mount::default()
            });
        });
        create.await.map(drop)
    };
    k.refused_step(
        "CreateContainer, refused",
        Flux::Container("refused"),
        create,
    )
    .await
}

async fn refused_start(k: &mut Kubelet) -> Result<Outcome<()>, Finding> {
    let pod = known_pod(k)?;
    let created = pod
        .handle(&k.node)
        .create("refused", |config| {
            config.command = vec!["/no/such/program".to_owned()];
        })
        .await;
    let id = created.map_err(stuck)?.id;
    let state = Known::Created;
    pod_of(k)?.containers.insert(
        "refused",
        ContainerModel {
            id: id.clone(),
            state,
        },
    );
    let start = async |node: &Node| {
        let container = pod.handle(node).container("refused", id.clone());
        container.start().await
    };
    let step = "StartContainer, refused";
    let outcome = k
        .refused_step(step, Flux::Container("refused"), start)
        .await?;
    if let Outcome::Done(()) = outcome {
        set_state(k, "refused", Known::Exited { code: 128 })?;
        k.settle().await?;
    }
    Ok(outcome)
}
