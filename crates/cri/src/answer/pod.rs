//! A pod, in a list and in full.

use super::unix_ns;
use crisp_cri_api::v1;
use crisp_engine::PodView;
use crisp_model::{IdMapping, NamespaceMode, NamespaceModes, PodMetadata, PodState, UserNamespace};
use std::net::IpAddr;

/// A pod in a list.
pub(crate) fn pod(pod: &PodView) -> v1::PodSandbox {
    v1::PodSandbox {
        id: pod.id.to_string(),
        metadata: Some(metadata(&pod.config.metadata)),
        state: state(pod.state).into(),
        created_at: unix_ns(pod.created_at),
        labels: pod.config.labels.clone(),
        annotations: pod.config.annotations.clone(),
        runtime_handler: pod.handler.clone(),
    }
}

/// A pod in full.
pub(crate) fn pod_status(pod: &PodView) -> v1::PodSandboxStatus {
    let options = namespaces(&pod.config.security.namespaces);
    v1::PodSandboxStatus {
        id: pod.id.to_string(),
        metadata: Some(metadata(&pod.config.metadata)),
        state: state(pod.state).into(),
        created_at: unix_ns(pod.created_at),
        network: Some(network(&pod.addresses)),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace {
                options: Some(options),
            }),
        }),
        labels: pod.config.labels.clone(),
        annotations: pod.config.annotations.clone(),
        runtime_handler: pod.handler.clone(),
    }
}

pub(super) fn metadata(metadata: &PodMetadata) -> v1::PodSandboxMetadata {
    v1::PodSandboxMetadata {
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        namespace: metadata.namespace.clone(),
        attempt: metadata.attempt,
    }
}

/// Containers can be made in a pod that is ready, and in no other.
pub(crate) fn state(state: PodState) -> v1::PodSandboxState {
    match state {
        PodState::Ready => v1::PodSandboxState::SandboxReady,
        PodState::Starting | PodState::NotReady => v1::PodSandboxState::SandboxNotready,
    }
}

fn network(addresses: &[IpAddr]) -> v1::PodSandboxNetworkStatus {
    let mut addresses = addresses.iter().map(IpAddr::to_string);
    v1::PodSandboxNetworkStatus {
        ip: addresses.next().unwrap_or_default(),
        additional_ips: addresses.map(|ip| v1::PodIp { ip }).collect(),
    }
}

/// Where the namespaces come from.
pub(crate) fn namespaces(modes: &NamespaceModes) -> v1::NamespaceOption {
    let target_id = match &modes.pid {
        NamespaceMode::Target(container) => container.to_string(),
        _ => String::new(),
    };
    v1::NamespaceOption {
        network: mode(&modes.network).into(),
        pid: mode(&modes.pid).into(),
        ipc: mode(&modes.ipc).into(),
        target_id,
        userns_options: modes.user.as_ref().map(user),
    }
}

fn mode(mode: &NamespaceMode) -> v1::NamespaceMode {
    match mode {
        NamespaceMode::Pod => v1::NamespaceMode::Pod,
        NamespaceMode::Container => v1::NamespaceMode::Container,
        NamespaceMode::Node => v1::NamespaceMode::Node,
        NamespaceMode::Target(_) => v1::NamespaceMode::Target,
    }
}

fn user(namespace: &UserNamespace) -> v1::UserNamespace {
    v1::UserNamespace {
        mode: v1::NamespaceMode::Pod.into(),
        uids: vec![id_mapping(&namespace.uids)],
        gids: vec![id_mapping(&namespace.gids)],
    }
}

pub(super) fn id_mapping(mapping: &IdMapping) -> v1::IdMapping {
    v1::IdMapping {
        host_id: mapping.host_id,
        container_id: mapping.container_id,
        length: mapping.length,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn a_pod_shows_what_it_was_given() {
        let view = sample::pod();
        let listed = pod(&view);
        let status = pod_status(&view);
        assert_eq!(listed.id, view.id.as_str());
        assert_eq!(listed.metadata, status.metadata);
        assert_eq!(listed.metadata.unwrap().namespace, "default");
        assert_eq!(listed.labels, view.config.labels);
        assert_eq!(status.annotations, view.config.annotations);
        assert_eq!((listed.created_at, status.created_at), (300, 300));
        assert_eq!(status.runtime_handler, "batch");
    }

    #[test]
    fn the_first_address_is_the_pods_and_the_others_are_additional() {
        let mut view = sample::pod();
        let network = pod_status(&view).network.unwrap();
        assert_eq!(network.ip, "10.1.0.7");
        assert_eq!(network.additional_ips[0].ip, "fd00::7");
        view.addresses.clear();
        assert_eq!(pod_status(&view).network, Some(Default::default()));
    }

    #[test]
    fn only_a_ready_pod_is_ready() {
        for (given, told) in [
            (PodState::Starting, v1::PodSandboxState::SandboxNotready),
            (PodState::Ready, v1::PodSandboxState::SandboxReady),
            (PodState::NotReady, v1::PodSandboxState::SandboxNotready),
        ] {
            assert_eq!(state(given), told);
        }
    }
}
