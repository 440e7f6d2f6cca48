//! A manifest's container as the CRI has it.

use super::environment::{expand, variables};
use super::schema::{Container, Pod};
use super::{GRACE_ANNOTATION, Host, label, pod, resources, security, volume};
use crisp_cri_api::v1;
use std::collections::BTreeMap;

/// The configuration of one of the pod's containers, with the id of its image.
pub(crate) fn container_config(
    pod: &Pod,
    container: &Container,
    image_id: &str,
    host: &Host,
) -> v1::ContainerConfig {
    let known = variables(&container.env);
    let texts = |texts: &[String]| texts.iter().map(|text| expand(text, &known)).collect();
    let class = resources::class(pod);
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: container.name.clone(),
            attempt: 0,
        }),
        image: Some(v1::ImageSpec {
            image: image_id.to_owned(),
            user_specified_image: container.image.clone(),
            runtime_handler: pod.spec.runtime_class_name.clone(),
            ..Default::default()
        }),
        command: texts(&container.command),
        args: texts(&container.args),
        working_dir: container.working_dir.clone(),
        envs: envs(container, &known),
        mounts: volume::mounts(&container.volume_mounts, pod, host),
        labels: labels(pod, container),
        annotations: annotations(pod),
        log_path: format!("{}/0.log", container.name),
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources::of_container(
                &container.resources,
                class,
                host.memory_bytes,
            )),
            security_context: Some(security::of_container(container, &pod.spec)),
        }),
        ..Default::default()
    }
}

/// In the manifest's order; of a name that is there twice the last value counts.
fn envs(container: &Container, known: &BTreeMap<String, String>) -> Vec<v1::KeyValue> {
    let mut envs: Vec<v1::KeyValue> = Vec::new();
    for variable in &container.env {
        if envs.iter().all(|env| env.key != variable.name) {
            envs.push(v1::KeyValue {
                key: variable.name.clone(),
                value: known.get(&variable.name).cloned().unwrap_or_default(),
            });
        }
    }
    envs
}

fn labels(pod: &Pod, container: &Container) -> BTreeMap<String, String> {
    let mut labels = pod::labels(&pod.metadata);
    // The pod's own labels are the pod's alone.
    labels.retain(|key, _| {
        !pod.metadata.labels.contains_key(key) || key.starts_with("io.kubernetes.")
    });
    labels.insert(label::CONTAINER_NAME.to_owned(), container.name.clone());
    labels
}

fn annotations(pod: &Pod) -> BTreeMap<String, String> {
    let grace = pod.spec.termination_grace_period_seconds.to_string();
    [(GRACE_ANNOTATION.to_owned(), grace)].into()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{host, sample};
    use super::*;

    #[test]
    fn a_container_is_what_the_kubelet_would_make_of_it() {
        let pod = sample();
        let config = container_config(&pod, &pod.spec.containers[0], "sha256:ab", &host());
        let image = config.image.unwrap();
        assert_eq!(
            (image.image.as_str(), image.user_specified_image.as_str()),
            ("sha256:ab", "busybox:1")
        );
        assert_eq!(config.args, ["serve", "8080"]);
        let envs: Vec<_> = config
            .envs
            .iter()
            .map(|e| format!("{}={}", e.key, e.value))
            .collect();
        assert_eq!(envs, ["PORT=8080", "URL=http://:8080/"]);
        assert_eq!(config.log_path, "main/0.log");
        assert_eq!(config.labels["io.kubernetes.container.name"], "main");
        assert!(!config.labels.contains_key("app"));
        assert_eq!(config.annotations[GRACE_ANNOTATION], "7");
        let resources = config.linux.unwrap().resources.unwrap();
        assert_eq!(resources.memory_limit_in_bytes, 64 << 20);
    }

    #[test]
    fn volumes_are_mounted_from_where_they_are() {
        let pod = sample();
        let config = container_config(&pod, &pod.spec.containers[0], "", &host());
        let mounts: Vec<_> = config
            .mounts
            .iter()
            .map(|m| (m.host_path.as_str(), m.container_path.as_str(), m.readonly))
            .collect();
        assert_eq!(
            mounts,
            [
                ("/run/x/volumes/u-1/tmp", "/tmp", false),
                ("/srv", "/srv", true)
            ]
        );
        assert_eq!(
            config.mounts[1].propagation(),
            v1::MountPropagation::PropagationHostToContainer
        );
    }
}
