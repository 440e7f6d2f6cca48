//! What a container is going to be: its record, from its configuration, its pod and its image.

use crate::engine::Engine;
use crate::error::{Error, Kind, Result};
use crate::pod::Pod;
use crate::record::{ContainerRecord, current_version};
use crisp_image::Image;
use crisp_model::signal::{SIGTERM, signal_number};
use crisp_model::spec::ImageDefaults;
use crisp_model::{ContainerConfig, ContainerId, ContainerState, NamespaceMode, PodConfig};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

impl Engine {
    pub(super) fn image_of(&self, config: &ContainerConfig) -> Result<Arc<Image>> {
        let name = &config.image.image;
        if name.is_empty() {
            return Err(Error::invalid("image.image", "is empty"));
        }
        let missing = || Error::NotFound {
            kind: Kind::Image,
            id: name.clone(),
        };
        self.images.find(name)?.ok_or_else(missing)
    }

    pub(super) async fn plan_container(
        &self,
        pod: &Pod,
        config: ContainerConfig,
        image: &Arc<Image>,
    ) -> Result<ContainerRecord> {
        let id = ContainerId::generate();
        let defaults = image_defaults(image);
        let user = self
            .users
            .resolve(&self.images, image, &config.security, &defaults.user)
            .await?;
        let pod_record = pod.record();
        Ok(ContainerRecord {
            version: current_version(),
            pod: pod.id().clone(),
            image_id: image.id.to_string(),
            stop_signal: stop_signal(&config, &defaults)?,
            log_path: log_path(&pod_record.config, &config)?,
            cgroup: pod.container_cgroup(&id),
            resources: config.resources.clone(),
            config: Arc::new(config),
            image: Arc::new(defaults),
            user,
            created_at: SystemTime::now(),
            state: ContainerState::Created,
            stop: None,
            id,
        })
    }
}

/// The configuration with what the pod decides for all its containers.
pub(super) fn of_pod(mut config: ContainerConfig, pod: &PodConfig) -> ContainerConfig {
    let (modes, of_pod) = (&mut config.security.namespaces, &pod.security.namespaces);
    modes.network = of_pod.network.clone();
    modes.ipc = of_pod.ipc.clone();
    modes.user = of_pod.user.clone();
    if modes.pid == NamespaceMode::Pod && of_pod.pid == NamespaceMode::Node {
        modes.pid = NamespaceMode::Node;
    }
    config
}

pub(super) fn check(config: &ContainerConfig) -> Result<()> {
    if config.metadata.name.is_empty() {
        return Err(Error::invalid("config.metadata.name", "is empty"));
    }
    Ok(())
}

/// What an image says of how it is run.
fn image_defaults(image: &Image) -> ImageDefaults {
    let config = &image.config;
    ImageDefaults {
        entrypoint: config.entrypoint.clone(),
        command: config.cmd.clone(),
        environment: config.env.clone(),
        working_dir: config.working_dir.clone(),
        user: config.user.clone(),
        stop_signal: config.stop_signal.clone().unwrap_or_default(),
        volumes: config.volumes.clone(),
    }
}

fn stop_signal(config: &ContainerConfig, image: &ImageDefaults) -> Result<i32> {
    match &config.stop_signal {
        Some(name) => signal_number(name).ok_or_else(|| {
            Error::invalid("config.stop_signal", format!("{name:?} is not a signal"))
        }),
        None => Ok(signal_number(&image.stop_signal).unwrap_or(SIGTERM)),
    }
}

/// The log's absolute path, which stays below the pod's log directory.
fn log_path(pod: &PodConfig, config: &ContainerConfig) -> Result<Option<PathBuf>> {
    let Some(directory) = pod
        .log_directory
        .as_ref()
        .filter(|_| !config.log_path.is_empty())
    else {
        return Ok(None);
    };
    let relative = Path::new(&config.log_path);
    if !relative
        .components()
        .all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
    {
        let reason = format!("{:?} leaves the pod's log directory", config.log_path);
        return Err(Error::invalid("config.log_path", reason));
    }
    Ok(Some(directory.join(relative)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_stays_in_the_log_directory_of_its_pod() {
        let pod = PodConfig {
            log_directory: Some("/logs/p".into()),
            ..PodConfig::default()
        };
        let path = |log_path: &str| {
            log_path_of(&pod, log_path).map(|p| p.map(|p| p.display().to_string()))
        };
        assert_eq!(path("c/0.log").unwrap().unwrap(), "/logs/p/c/0.log");
        assert_eq!(path("").unwrap(), None);
        assert!(path("../x").is_err() && path("/etc/passwd").is_err());
    }

    fn log_path_of(pod: &PodConfig, log_path: &str) -> Result<Option<PathBuf>> {
        let config = ContainerConfig {
            log_path: log_path.to_owned(),
            ..ContainerConfig::default()
        };
        super::log_path(pod, &config)
    }

    #[test]
    fn the_stop_signal_is_the_configurations_then_the_images() {
        let image = ImageDefaults {
            stop_signal: "SIGQUIT".into(),
            ..ImageDefaults::default()
        };
        let mut config = ContainerConfig::default();
        assert_eq!(
            stop_signal(&config, &ImageDefaults::default()).unwrap(),
            SIGTERM
        );
        assert_eq!(stop_signal(&config, &image).unwrap(), 3);
        config.stop_signal = Some("SIGUSR1".into());
        assert_eq!(stop_signal(&config, &image).unwrap(), 10);
        config.stop_signal = Some("SIGNOPE".into());
        assert!(stop_signal(&config, &image).is_err());
    }
}
