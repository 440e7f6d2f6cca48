//! Which pods, containers and images a client wants listed. What a filter leaves out matches all.

use crate::answer;
use crisp_cri_api::v1;
use crisp_engine::{ContainerView, PodView};
use crisp_model::StringMap;

/// Whether a pod is listed.
pub(crate) fn pod(filter: &v1::PodSandboxFilter, pod: &PodView) -> bool {
    let state = i32::from(answer::pod_state(pod.state));
    pod.id.as_str().starts_with(&filter.id)
        && filter.state.is_none_or(|wanted| wanted.state == state)
        && labels(&filter.label_selector, &pod.config.labels)
}

/// Whether a container is listed.
pub(crate) fn container(filter: &v1::ContainerFilter, container: &ContainerView) -> bool {
    let state = i32::from(answer::container_state(&container.state));
    container.id.as_str().starts_with(&filter.id)
        && container.pod.as_str().starts_with(&filter.pod_sandbox_id)
        && filter.state.is_none_or(|wanted| wanted.state == state)
        && labels(&filter.label_selector, &container.config.labels)
}

/// Whether a container is measured: only those that run are.
pub(crate) fn container_stats(
    filter: &v1::ContainerStatsFilter,
    container: &ContainerView,
) -> bool {
    container.state.pid().is_some()
        && container.id.as_str().starts_with(&filter.id)
        && container.pod.as_str().starts_with(&filter.pod_sandbox_id)
        && labels(&filter.label_selector, &container.config.labels)
}

/// Whether a pod is measured: only those that are ready are.
pub(crate) fn pod_stats(filter: &v1::PodSandboxStatsFilter, pod: &PodView) -> bool {
    answer::pod_state(pod.state) == v1::PodSandboxState::SandboxReady
        && pod.id.as_str().starts_with(&filter.id)
        && labels(&filter.label_selector, &pod.config.labels)
}

/// All labels that are wanted are there with the same values.
fn labels(wanted: &StringMap, labels: &StringMap) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use crisp_model::{ContainerState, PodState, Running};
    use std::time::SystemTime;

    fn selector(key: &str, value: &str) -> StringMap {
        [(key.to_owned(), value.to_owned())].into()
    }

    fn running() -> ContainerView {
        ContainerView {
            state: ContainerState::Running(Running {
                pid: 7,
                started_at: SystemTime::UNIX_EPOCH,
            }),
            ..sample::container()
        }
    }

    #[test]
    fn a_pod_matches_by_prefix_state_and_labels_together() {
        let view = sample::pod();
        let all = v1::PodSandboxFilter {
            id: view.id.as_str()[..12].to_owned(),
            state: Some(v1::PodSandboxStateValue {
                state: v1::PodSandboxState::SandboxReady.into(),
            }),
            label_selector: selector("app", "web"),
        };
        assert!(pod(&v1::PodSandboxFilter::default(), &view));
        assert!(pod(&all, &view));
        for wrong in [
            v1::PodSandboxFilter {
                id: "zz".to_owned(),
                ..all.clone()
            },
            v1::PodSandboxFilter {
                label_selector: selector("app", "db"),
                ..all.clone()
            },
            v1::PodSandboxFilter {
                label_selector: selector("none", ""),
                ..all.clone()
            },
        ] {
            assert!(!pod(&wrong, &view));
        }
        let stopped = PodView {
            state: PodState::NotReady,
            ..view
        };
        assert!(!pod(&all, &stopped));
    }

    #[test]
    fn a_container_matches_by_prefix_pod_state_and_labels_together() {
        let view = running();
        let all = v1::ContainerFilter {
            id: view.id.as_str()[..5].to_owned(),
            state: Some(v1::ContainerStateValue {
                state: v1::ContainerState::ContainerRunning.into(),
            }),
            pod_sandbox_id: view.pod.as_str()[..13].to_owned(),
            label_selector: selector("tier", "front"),
        };
        assert!(container(&all, &view));
        for wrong in [
            v1::ContainerFilter {
                pod_sandbox_id: "zz".to_owned(),
                ..all.clone()
            },
            v1::ContainerFilter {
                state: Some(v1::ContainerStateValue { state: 0 }),
                ..all.clone()
            },
            v1::ContainerFilter {
                label_selector: selector("tier", "back"),
                ..all
            },
        ] {
            assert!(!container(&wrong, &view));
        }
    }

    #[test]
    fn only_what_runs_is_measured() {
        let any = v1::ContainerStatsFilter::default();
        assert!(container_stats(&any, &running()));
        assert!(!container_stats(&any, &sample::container()));
        let any = v1::PodSandboxStatsFilter::default();
        assert!(pod_stats(&any, &sample::pod()));
        let stopped = PodView {
            state: PodState::NotReady,
            ..sample::pod()
        };
        assert!(!pod_stats(&any, &stopped));
    }
}
