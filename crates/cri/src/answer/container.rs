//! A container, in a list and in full.

use super::pod::id_mapping;
use super::{resources, unix_ns};
use crisp_cri_api::v1;
use crisp_engine::ContainerView;
use crisp_model::signal::signal_number;
use crisp_model::{
    ContainerMetadata, ContainerState, Exited, ImageSpec, Mount, MountPropagation, ResolvedUser,
};
use std::time::SystemTime;

/// A container in a list. `image_ref` is its image by digest, or the image's id.
pub(crate) fn container(container: &ContainerView, image_ref: String) -> v1::Container {
    v1::Container {
        id: container.id.to_string(),
        pod_sandbox_id: container.pod.to_string(),
        metadata: Some(metadata(&container.config.metadata)),
        image: Some(image(&container.config.image)),
        image_ref,
        state: state(&container.state).into(),
        created_at: unix_ns(container.created_at),
        labels: container.config.labels.clone(),
        annotations: container.config.annotations.clone(),
        image_id: container.image_id.clone(),
    }
}

/// A container in full. `image_ref` gives an image by digest, or its id as it is.
pub(crate) fn container_status(
    container: &ContainerView,
    image_ref: impl Fn(&str) -> String,
) -> v1::ContainerStatus {
    let config = &container.config;
    let times = times(&container.state);
    let end = end(&container.state);
    v1::ContainerStatus {
        id: container.id.to_string(),
        metadata: Some(metadata(&config.metadata)),
        state: state(&container.state).into(),
        created_at: unix_ns(container.created_at),
        started_at: times.0.map(unix_ns).unwrap_or_default(),
        finished_at: times.1.map(unix_ns).unwrap_or_default(),
        exit_code: end.map_or(0, |end| end.reason.exit_code()),
        image: Some(image(&config.image)),
        image_ref: image_ref(&container.image_id),
        reason: end.map_or_else(String::new, |end| end.reason.word().to_owned()),
        message: end.map_or_else(String::new, |end| end.message.clone()),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: config.mounts.iter().map(|m| mount(m, &image_ref)).collect(),
        log_path: log_path(container),
        resources: Some(v1::ContainerResources {
            linux: Some(resources(&container.resources)),
            windows: None,
        }),
        image_id: container.image_id.clone(),
        user: Some(user(&container.user)),
        stop_signal: signal(container.stop_signal).into(),
    }
}

pub(super) fn metadata(metadata: &ContainerMetadata) -> v1::ContainerMetadata {
    v1::ContainerMetadata {
        name: metadata.name.clone(),
        attempt: metadata.attempt,
    }
}

/// The image by the name that the user wrote, which the Pod's status shows, rather than by its id.
fn image(image: &ImageSpec) -> v1::ImageSpec {
    v1::ImageSpec {
        image: image.name().to_owned(),
        ..echo(image)
    }
}

fn echo(image: &ImageSpec) -> v1::ImageSpec {
    v1::ImageSpec {
        image: image.image.clone(),
        annotations: image.annotations.clone(),
        user_specified_image: image.user_specified_image.clone(),
        runtime_handler: image.runtime_handler.clone(),
        image_ref: String::new(),
    }
}

/// The state that a filter compares with. crisp never loses track of one: what nobody saw end has
/// exited for an unknown reason.
pub(crate) fn state(state: &ContainerState) -> v1::ContainerState {
    match state {
        ContainerState::Created => v1::ContainerState::ContainerCreated,
        ContainerState::Running(_) => v1::ContainerState::ContainerRunning,
        ContainerState::Exited(_) => v1::ContainerState::ContainerExited,
    }
}

/// When it started and when it finished.
fn times(state: &ContainerState) -> (Option<SystemTime>, Option<SystemTime>) {
    match state {
        ContainerState::Created => (None, None),
        ContainerState::Running(running) => (Some(running.started_at), None),
        ContainerState::Exited(exited) => (exited.started_at, Some(exited.finished_at)),
    }
}

fn end(state: &ContainerState) -> Option<&Exited> {
    match state {
        ContainerState::Exited(exited) => Some(exited),
        _ => None,
    }
}

fn log_path(container: &ContainerView) -> String {
    let path = container.log_path.as_deref();
    path.map(|path| path.display().to_string())
        .unwrap_or_default()
}

fn user(user: &ResolvedUser) -> v1::ContainerUser {
    v1::ContainerUser {
        linux: Some(v1::LinuxContainerUser {
            uid: user.uid.into(),
            gid: user.gid.into(),
            supplemental_groups: user.groups.iter().map(|gid| i64::from(*gid)).collect(),
        }),
    }
}

/// A mount as it was asked for; `image_ref` gives the image of an image mount by digest.
pub(crate) fn mount(mount: &Mount, image_ref: impl Fn(&str) -> String) -> v1::Mount {
    v1::Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        readonly: mount.readonly,
        selinux_relabel: mount.selinux_relabel,
        propagation: propagation(mount.propagation).into(),
        uid_mappings: mount.uid_mappings.iter().map(id_mapping).collect(),
        gid_mappings: mount.gid_mappings.iter().map(id_mapping).collect(),
        recursive_read_only: mount.recursive_read_only,
        image: mount.image.as_ref().map(|image| v1::ImageSpec {
            image_ref: image_ref(&image.image),
            ..echo(image)
        }),
        image_sub_path: mount.image_sub_path.clone(),
    }
}

fn propagation(propagation: MountPropagation) -> v1::MountPropagation {
    match propagation {
        MountPropagation::Private => v1::MountPropagation::PropagationPrivate,
        MountPropagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer,
        MountPropagation::Bidirectional => v1::MountPropagation::PropagationBidirectional,
    }
}

/// A signal of this host in the CRI's numbering. Of those with two names the usual one comes first;
/// one that the CRI has no name for is told as its default.
pub(crate) fn signal(number: i32) -> v1::Signal {
    (1..)
        .map_while(|value| v1::Signal::try_from(value).ok())
        .find(|signal| signal_number(signal.as_str_name()) == Some(number))
        .unwrap_or(v1::Signal::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use crisp_model::{ExitReason, Running};
    use std::sync::Arc;
    use std::time::Duration;

    fn at(ns: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(ns)
    }

    fn status(view: &ContainerView) -> v1::ContainerStatus {
        container_status(view, |id| format!("busybox@{id}"))
    }

    fn exited(reason: ExitReason) -> ContainerState {
        ContainerState::Exited(Exited {
            started_at: Some(at(5)),
            finished_at: at(9),
            reason,
            message: "why".to_owned(),
        })
    }

    #[test]
    fn a_container_shows_what_it_was_given_and_whom_it_runs_as() {
        let view = sample::container();
        let listed = container(&view, "busybox@sha256:ab".to_owned());
        let status = status(&view);
        assert_eq!(listed.pod_sandbox_id, view.pod.as_str());
        assert_eq!(listed.metadata, status.metadata);
        assert_eq!(listed.image_id, "sha256:ab");
        assert_eq!(status.image_id, "sha256:ab");
        assert_eq!(status.image_ref, "busybox@sha256:ab");
        assert_eq!(status.log_path, "/var/log/pods/web/0.log");
        let user = status.user.unwrap().linux.unwrap();
        assert_eq!((user.uid, user.gid), (33, 34));
        assert_eq!(user.supplemental_groups, [34, 50]);
        assert_eq!(status.stop_signal, i32::from(v1::Signal::Sigquit));
        let limits = status.resources.unwrap().linux.unwrap();
        assert_eq!(limits.cpu_shares, 512);
    }

    #[test]
    fn an_image_is_told_by_the_name_that_the_user_wrote() {
        let mut view = sample::container();
        let image = status(&view).image.unwrap();
        assert_eq!(image.image, "busybox:1.36");
        assert_eq!(image.user_specified_image, "busybox:1.36");
        Arc::make_mut(&mut view.config)
            .image
            .user_specified_image
            .clear();
        assert_eq!(status(&view).image.unwrap().image, "sha256:ab");
    }

    #[test]
    fn each_state_has_its_times_code_and_reason() {
        let running = ContainerState::Running(Running {
            pid: 7,
            started_at: at(5),
        });
        let never_started = ContainerState::Exited(Exited {
            started_at: None,
            finished_at: at(9),
            reason: ExitReason::StartError,
            message: "no such file: /x".to_owned(),
        });
        use v1::ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};
        for (state, told, times, code, reason) in [
            (ContainerState::Created, ContainerCreated, (0, 0), 0, ""),
            (running, ContainerRunning, (5, 0), 0, ""),
            (
                exited(ExitReason::Code(0)),
                ContainerExited,
                (5, 9),
                0,
                "Completed",
            ),
            (
                exited(ExitReason::Code(3)),
                ContainerExited,
                (5, 9),
                3,
                "Error",
            ),
            (
                exited(ExitReason::Signal(15)),
                ContainerExited,
                (5, 9),
                143,
                "Error",
            ),
            (
                exited(ExitReason::OomKilled(137)),
                ContainerExited,
                (5, 9),
                137,
                "OOMKilled",
            ),
            (
                exited(ExitReason::Unknown),
                ContainerExited,
                (5, 9),
                255,
                "Unknown",
            ),
            (never_started, ContainerExited, (0, 9), 128, "StartError"),
        ] {
            let view = ContainerView {
                state,
                ..sample::container()
            };
            let status = status(&view);
            assert_eq!(status.state(), told);
            assert_eq!((status.started_at, status.finished_at), times);
            assert_eq!((status.exit_code, status.reason.as_str()), (code, reason));
        }
    }

    #[test]
    fn an_image_mount_tells_which_image_it_is() {
        let asked = Mount {
            container_path: "/model".to_owned(),
            image: Some(ImageSpec {
                image: "sha256:cd".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let told = mount(&asked, |id| format!("model@{id}")).image.unwrap();
        assert_eq!(told.image, "sha256:cd");
        assert_eq!(told.image_ref, "model@sha256:cd");
    }

    #[test]
    fn signals_have_the_numbers_of_the_cri() {
        for (number, signal_of_cri) in [
            (15, v1::Signal::Sigterm),
            (6, v1::Signal::Sigabrt),
            (17, v1::Signal::Sigchld),
            (29, v1::Signal::Sigio),
            (34, v1::Signal::Sigrtmin),
            (49, v1::Signal::Sigrtminplus15),
            (50, v1::Signal::Sigrtmaxminus14),
            (64, v1::Signal::Sigrtmax),
            (0, v1::Signal::RuntimeDefault),
        ] {
            assert_eq!(signal(number), signal_of_cri);
        }
    }
}
