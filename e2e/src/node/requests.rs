//! What clients ask of a node most, in one call each.

use super::Node;
use crate::kernel::Process;
use crate::pod::{Pod, pod_config};
use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::image_service_client::ImageServiceClient;
use crisp_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use crisp_cri_api::v1::*;
use std::fs;
use tonic::Status;
use tonic::transport::Channel;

impl Node {
    /// The service for pods and containers.
    #[must_use]
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        crisp_cri_api::runtime_client(self.channel.clone())
    }

    /// The service for images.
    #[must_use]
    pub fn images(&self) -> ImageServiceClient<Channel> {
        crisp_cri_api::image_client(self.channel.clone())
    }

    /// Pulls an image; the answer is its id.
    ///
    /// # Errors
    /// PullImage's.
    pub async fn pull(&self, image: &str) -> Result<String, Status> {
        let request = PullImageRequest {
            image: Some(image_spec(image)),
            ..PullImageRequest::default()
        };
        Ok(self
            .images()
            .pull_image(request)
            .await?
            .into_inner()
            .image_ref)
    }

    /// What the daemon says about an image; nothing when it has none of that name.
    ///
    /// # Errors
    /// ImageStatus's.
    pub async fn image(&self, image: &str) -> Result<Option<Image>, Status> {
        let request = ImageStatusRequest {
            image: Some(image_spec(image)),
            verbose: false,
        };
        Ok(self
            .images()
            .image_status(request)
            .await?
            .into_inner()
            .image)
    }

    /// # Errors
    /// RemoveImage's.
    pub async fn remove_image(&self, image: &str) -> Result<(), Status> {
        let request = RemoveImageRequest {
            image: Some(image_spec(image)),
        };
        self.images().remove_image(request).await.map(drop)
    }

    /// Starts a pod. Its configuration is a usual one, as `edit` changes it.
    ///
    /// # Errors
    /// RunPodSandbox's.
    pub async fn run_pod(
        &self,
        name: &str,
        edit: impl FnOnce(&mut PodSandboxConfig),
    ) -> Result<Pod<'_>, Status> {
        self.run_pod_with_handler(name, &default_handler(), edit)
            .await
    }

    /// The same, by a runtime handler.
    ///
    /// # Errors
    /// RunPodSandbox's.
    pub async fn run_pod_with_handler(
        &self,
        name: &str,
        runtime_handler: &str,
        edit: impl FnOnce(&mut PodSandboxConfig),
    ) -> Result<Pod<'_>, Status> {
        let mut config = self.pod_config(name);
        edit(&mut config);
        // As the kubelet does.
        fs::create_dir_all(&config.log_directory)?;
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: runtime_handler.to_owned(),
        };
        let id = self
            .runtime()
            .run_pod_sandbox(request)
            .await?
            .into_inner()
            .pod_sandbox_id;
        Ok(Pod::new(self, id, config))
    }

    /// As the kubelet sends it for a pod without wishes.
    #[must_use]
    pub fn pod_config(&self, name: &str) -> PodSandboxConfig {
        pod_config(name, &self.log_dir(), &self.cgroup_parent())
    }

    /// All pods there are.
    ///
    /// # Errors
    /// ListPodSandbox's.
    pub async fn pods(&self) -> Result<Vec<PodSandbox>, Status> {
        let answer = self
            .runtime()
            .list_pod_sandbox(ListPodSandboxRequest::default())
            .await?;
        Ok(answer.into_inner().items)
    }

    /// All containers there are.
    ///
    /// # Errors
    /// ListContainers's.
    pub async fn containers(&self) -> Result<Vec<crisp_cri_api::v1::Container>, Status> {
        let answer = self
            .runtime()
            .list_containers(ListContainersRequest::default())
            .await?;
        Ok(answer.into_inner().containers)
    }

    /// The first process of a running container.
    ///
    /// # Errors
    /// ContainerStatus's; or it does not run.
    pub async fn process_of(&self, container_id: &str) -> Result<Process> {
        let request = ContainerStatusRequest {
            container_id: container_id.to_owned(),
            verbose: true,
        };
        let answer = self.runtime().container_status(request).await?.into_inner();
        let info: serde_json::Value =
            serde_json::from_str(answer.info.get("info").context("no verbose info")?)?;
        let pid = info["pid"]
            .as_i64()
            .with_context(|| format!("no pid in {info}"))?;
        ensure!(pid > 0, "no process: {info}");
        Ok(Process(i32::try_from(pid)?))
    }

    /// Stops all pods and removes them.
    ///
    /// # Errors
    /// StopPodSandbox's or RemovePodSandbox's.
    pub async fn remove_pods(&self) -> Result<()> {
        for pod in self.pods().await? {
            let pod_sandbox_id = pod.id;
            let stop = StopPodSandboxRequest {
                pod_sandbox_id: pod_sandbox_id.clone(),
            };
            self.runtime()
                .stop_pod_sandbox(stop)
                .await
                .context("StopPodSandbox")?;
            let remove = RemovePodSandboxRequest { pod_sandbox_id };
            self.runtime()
                .remove_pod_sandbox(remove)
                .await
                .context("RemovePodSandbox")?;
        }
        Ok(())
    }
}

/// The handler that runs the pods of tests that name none: to see that they pass with any.
pub(super) fn default_handler() -> String {
    std::env::var("CRISP_E2E_HANDLER").unwrap_or_default()
}

/// An image by a name.
#[must_use]
pub fn image_spec(image: &str) -> ImageSpec {
    ImageSpec {
        image: image.to_owned(),
        ..ImageSpec::default()
    }
}
