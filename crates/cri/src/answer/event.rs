//! Something that happened to a pod or container.

use super::{container_status, pod_status, unix_ns};
use crisp_cri_api::v1;
use crisp_engine::{Event, EventKind};

/// The event, with the pod and its containers as they are behind it.
pub(crate) fn event(
    event: &Event,
    image_ref: impl Fn(&str) -> String,
) -> v1::ContainerEventResponse {
    let containers = event.containers.iter();
    v1::ContainerEventResponse {
        container_id: event.id.clone(),
        container_event_type: kind(event.kind).into(),
        created_at: unix_ns(event.at),
        pod_sandbox_status: event.pod.as_ref().map(pod_status),
        containers_statuses: containers
            .map(|container| container_status(container, &image_ref))
            .collect(),
    }
}

fn kind(kind: EventKind) -> v1::ContainerEventType {
    match kind {
        EventKind::Created => v1::ContainerEventType::ContainerCreatedEvent,
        EventKind::Started => v1::ContainerEventType::ContainerStartedEvent,
        EventKind::Stopped => v1::ContainerEventType::ContainerStoppedEvent,
        EventKind::Deleted => v1::ContainerEventType::ContainerDeletedEvent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use std::time::{Duration, SystemTime};

    #[test]
    fn an_event_carries_the_pod_and_its_containers() {
        let (pod, container) = (sample::pod(), sample::container());
        let happened = Event {
            kind: EventKind::Stopped,
            id: container.id.to_string(),
            at: SystemTime::UNIX_EPOCH + Duration::from_nanos(7),
            pod: Some(pod.clone()),
            containers: vec![container.clone()],
        };
        let told = event(&happened, str::to_owned);
        assert_eq!(told.container_id, container.id.as_str());
        assert_eq!(
            told.container_event_type(),
            v1::ContainerEventType::ContainerStoppedEvent
        );
        assert_eq!(told.created_at, 7);
        assert_eq!(told.pod_sandbox_status.unwrap().id, pod.id.as_str());
        assert_eq!(told.containers_statuses[0].id, container.id.as_str());
    }

    #[test]
    fn what_is_deleted_has_no_status() {
        let happened = Event {
            kind: EventKind::Deleted,
            id: "x".to_owned(),
            at: SystemTime::UNIX_EPOCH,
            pod: None,
            containers: Vec::new(),
        };
        assert_eq!(event(&happened, str::to_owned).pod_sandbox_status, None);
    }
}
