//! A pod and a container for the tests of this crate.

use crisp_engine::{ContainerView, PodView};
use crisp_model::{
    ContainerConfig, ContainerId, ContainerMetadata, ContainerState, ImageSpec, PodConfig, PodId,
    PodMetadata, PodState, ResolvedUser, Resources, StringMap,
};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

fn labels() -> StringMap {
    [("app", "web"), ("tier", "front")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

fn created_at() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(300)
}

/// A ready pod with two addresses.
pub(crate) fn pod() -> PodView {
    let config = PodConfig {
        metadata: PodMetadata {
            name: "web".to_owned(),
            uid: "u-1".to_owned(),
            namespace: "default".to_owned(),
            attempt: 1,
        },
        labels: labels(),
        annotations: [("note".to_owned(), "x".to_owned())].into(),
        ..PodConfig::default()
    };
    PodView {
        id: PodId::generate(),
        config: Arc::new(config),
        handler: "batch".to_owned(),
        created_at: created_at(),
        state: PodState::Ready,
        addresses: ["10.1.0.7", "fd00::7"].map(|ip| ip.parse().unwrap()).into(),
        pause_pid: Some(10),
        shim_pid: Some(9),
        netns: None,
        host_interface: None,
        cgroup: "/crisp".to_owned(),
    }
}

/// A container of a busybox that was never started.
pub(crate) fn container() -> ContainerView {
    let config = ContainerConfig {
        metadata: ContainerMetadata {
            name: "web".to_owned(),
            attempt: 0,
        },
        image: ImageSpec {
            image: "sha256:ab".to_owned(),
            user_specified_image: "busybox:1.36".to_owned(),
            ..ImageSpec::default()
        },
        labels: labels(),
        ..ContainerConfig::default()
    };
    ContainerView {
        id: ContainerId::generate(),
        pod: PodId::generate(),
        config: Arc::new(config),
        image_id: "sha256:ab".to_owned(),
        created_at: created_at(),
        state: ContainerState::Created,
        log_path: Some("/var/log/pods/web/0.log".into()),
        user: ResolvedUser {
            uid: 33,
            gid: 34,
            groups: vec![34, 50],
            home: "/".to_owned(),
        },
        resources: Resources {
            cpu_shares: Some(512),
            ..Resources::default()
        },
        stop_signal: 3,
        cgroup: "/crisp/x".to_owned(),
    }
}
