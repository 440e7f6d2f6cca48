//! What a field means that [`super::schema`] does not have.

/// Whether a pod would be another one without the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It is for the scheduler, for controllers, or tells of the past.
    Cluster,
    /// It would change what runs.
    Unsupported,
}

/// Fields that mean nothing without a cluster, with all that is below them. Readiness decides only
/// whether a Service sends traffic; termination messages are for a status that nobody keeps.
const CLUSTER: [&str; 30] = [
    "status",
    "metadata.creationTimestamp",
    "metadata.deletionGracePeriodSeconds",
    "metadata.deletionTimestamp",
    "metadata.finalizers",
    "metadata.generation",
    "metadata.managedFields",
    "metadata.ownerReferences",
    "metadata.resourceVersion",
    "metadata.selfLink",
    "spec.affinity",
    "spec.automountServiceAccountToken",
    "spec.enableServiceLinks",
    "spec.nodeName",
    "spec.nodeSelector",
    "spec.os",
    "spec.preemptionPolicy",
    "spec.priority",
    "spec.priorityClassName",
    "spec.readinessGates",
    "spec.schedulerName",
    "spec.schedulingGates",
    "spec.serviceAccount",
    "spec.serviceAccountName",
    "spec.tolerations",
    "spec.topologySpreadConstraints",
    "spec.containers[].ports[].name",
    "spec.containers[].readinessProbe",
    "spec.containers[].terminationMessagePath",
    "spec.containers[].terminationMessagePolicy",
];

/// What the field at a path such as `spec.containers[0].env` means.
pub(super) fn meaning(path: &str) -> Meaning {
    let path = without_indices(path).replace("spec.initContainers[]", "spec.containers[]");
    let below = |field: &str| {
        let rest = path.strip_prefix(field);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    match CLUSTER.into_iter().any(below) {
        true => Meaning::Cluster,
        false => Meaning::Unsupported,
    }
}

fn without_indices(path: &str) -> String {
    path.chars()
        .filter(|c| !c.is_ascii_digit() || !path.contains('['))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_cluster_are_told_from_those_that_change_what_runs() {
        for path in [
            "status",
            "status.phase",
            "spec.tolerations[0].key",
            "spec.containers[12].readinessProbe",
            "spec.initContainers[0].terminationMessagePath",
        ] {
            assert_eq!(meaning(path), Meaning::Cluster, "{path}");
        }
        for path in [
            "spec.prioritized",
            "spec.containers[0].livenessProbe",
            "spec.initContainers[0].restartPolicy",
            "metadata.generateName",
            "spec.imagePullSecrets",
        ] {
            assert_eq!(meaning(path), Meaning::Unsupported, "{path}");
        }
    }
}
