//! Requests and limits → what the kernel is told, as the kubelet computes it (pkg/kubelet/cm,
//! pkg/kubelet/qos).

use super::Invalid;
use super::schema::{Pod, Resources};
use crisp_cri_api::v1;
use crisp_model::Quantity;
use std::collections::BTreeMap;

/// cgroup v1's smallest and largest cpu weight.
const SHARES_MIN: u64 = 2;
const SHARES_MAX: u64 = 262_144;
/// The weight of one whole cpu.
const SHARES_PER_CPU: u64 = 1024;
/// The kernel's default period, which the kubelet keeps.
const PERIOD_US: u64 = 100_000;
/// The kernel's smallest quota.
const QUOTA_MIN_US: u64 = 1000;

/// The OOM scores of the two outer classes.
const GUARANTEED_OOM_SCORE: i64 = -997;
const BEST_EFFORT_OOM_SCORE: i64 = 1000;

const CPU: &str = "cpu";
const MEMORY: &str = "memory";
const HUGEPAGES: &str = "hugepages-";

/// How sure a pod may be of what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Guaranteed,
    Burstable,
    BestEffort,
}

/// The resources of a container that are not supported, by field.
pub(super) fn unsupported(resources: &Resources, field: &str) -> Vec<String> {
    let known = |name: &str| name == CPU || name == MEMORY || page_size(name).is_some();
    let sides = [
        ("requests", &resources.requests),
        ("limits", &resources.limits),
    ];
    let unknown = |(side, amounts): (&str, &BTreeMap<String, Quantity>)| {
        let names = amounts.keys().filter(|name| !known(name));
        names
            .map(|name| format!("{field}.{side}.{name}"))
            .collect::<Vec<_>>()
    };
    sides.into_iter().flat_map(unknown).collect()
}

/// Refuses requests above their limits.
pub(super) fn check(resources: &Resources, field: &str) -> Result<(), Invalid> {
    for (name, limit) in &resources.limits {
        let request = resources.requests.get(name);
        if request.is_some_and(|request| request > limit) {
            return Err(Invalid::new(
                format!("{field}.requests.{name}"),
                "is more than its limit",
            ));
        }
    }
    Ok(())
}

/// The class of a pod, by its containers.
pub(super) fn class(pod: &Pod) -> Class {
    let all = || {
        pod.spec
            .all_containers()
            .map(|container| &container.resources)
    };
    let promised = |resources: &Resources| {
        [CPU, MEMORY]
            .iter()
            .any(|name| !request(resources, name).is_zero())
    };
    let guaranteed = |resources: &Resources| {
        [CPU, MEMORY].iter().all(|name| {
            let limit = limit(resources, name);
            !limit.is_zero() && request(resources, name) == limit
        })
    };
    match (all().all(guaranteed), all().any(promised)) {
        (true, _) => Class::Guaranteed,
        (false, true) => Class::Burstable,
        (false, false) => Class::BestEffort,
    }
}

/// The limits of a container.
pub(super) fn of_container(
    resources: &Resources,
    class: Class,
    memory_bytes: u64,
) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        oom_score_adj: oom_score(resources, class, memory_bytes),
        hugepage_limits: hugepage_limits(resources),
        ..basic(
            request(resources, CPU),
            limit(resources, CPU),
            limit(resources, MEMORY),
        )
    }
}

/// The limits of a pod's cgroup: those that every container has, added up. Init containers run one
/// at a time and before the others.
pub(super) fn of_pod(pod: &Pod) -> v1::LinuxContainerResources {
    let requests = most(pod, |resources| Some(request(resources, CPU)));
    let bounded = |name: &'static str| {
        let given = |resources: &Resources| Some(limit(resources, name)).filter(|l| !l.is_zero());
        most(pod, given).unwrap_or_default()
    };
    basic(requests.unwrap_or_default(), bounded(CPU), bounded(MEMORY))
}

/// The sum over the containers, or the amount of an init container that is more; none when one of them
/// has none.
fn most(pod: &Pod, amount: impl Fn(&Resources) -> Option<Quantity>) -> Option<Quantity> {
    let mut sum = Quantity::default();
    for container in &pod.spec.containers {
        sum = sum.plus(amount(&container.resources)?);
    }
    for container in &pod.spec.init_containers {
        sum = sum.max(amount(&container.resources)?);
    }
    Some(sum)
}

fn basic(
    cpu_request: Quantity,
    cpu_limit: Quantity,
    memory_limit: Quantity,
) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_shares: signed(shares(cpu_request.milli())),
        cpu_quota: signed(quota_us(cpu_limit.milli())),
        cpu_period: signed(PERIOD_US),
        memory_limit_in_bytes: signed(memory_limit.whole()),
        ..Default::default()
    }
}

fn shares(milli_cpu: u64) -> u64 {
    (milli_cpu.saturating_mul(SHARES_PER_CPU) / 1000).clamp(SHARES_MIN, SHARES_MAX)
}

/// Zero: no quota.
fn quota_us(milli_cpu: u64) -> u64 {
    match milli_cpu {
        0 => 0,
        milli => (milli.saturating_mul(PERIOD_US) / 1000).max(QUOTA_MIN_US),
    }
}

/// A burstable container is killed the later, the more of the host's memory it was promised.
fn oom_score(resources: &Resources, class: Class, memory_bytes: u64) -> i64 {
    match class {
        Class::Guaranteed => GUARANTEED_OOM_SCORE,
        Class::BestEffort => BEST_EFFORT_OOM_SCORE,
        Class::Burstable => {
            let promised = u128::from(request(resources, MEMORY).whole());
            let share = (1000 * promised) / u128::from(memory_bytes.max(1));
            let score = 1000 - i64::try_from(share).unwrap_or(1000);
            score.clamp(1000 + GUARANTEED_OOM_SCORE, BEST_EFFORT_OOM_SCORE - 1)
        }
    }
}

fn hugepage_limits(resources: &Resources) -> Vec<v1::HugepageLimit> {
    let limits = resources.limits.iter();
    let limits = limits.filter_map(|(name, limit)| Some((page_size(name)?, limit.whole())));
    limits
        .map(|(page_size, limit)| v1::HugepageLimit { page_size, limit })
        .collect()
}

/// The size in the name of a huge page resource, `hugepages-2Mi`, as the kernel writes it: `2MB`.
fn page_size(name: &str) -> Option<String> {
    let size = name.strip_prefix(HUGEPAGES)?;
    let digits = size.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match size.strip_prefix(digits)? {
        "Ki" => "KB",
        "Mi" => "MB",
        "Gi" => "GB",
        _ => return None,
    };
    digits
        .parse::<u32>()
        .ok()
        .map(|number| format!("{number}{unit}"))
}

/// What is promised; the limit where only that is said.
fn request(resources: &Resources, name: &str) -> Quantity {
    let asked = resources.requests.get(name).copied();
    asked.unwrap_or_else(|| limit(resources, name))
}

/// Zero: none.
fn limit(resources: &Resources, name: &str) -> Quantity {
    resources.limits.get(name).copied().unwrap_or_default()
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const GIB: u64 = 1 << 30;

    fn resources(requests: Value, limits: Value) -> Resources {
        serde_json::from_value(json!({"requests": requests, "limits": limits})).unwrap()
    }

    fn pod(init: &[Value], containers: &[Value]) -> Pod {
        let list = |all: &[Value]| -> Vec<Value> {
            let container = |(index, resources)| json!({"name": format!("c{index}"), "image": "a", "resources": resources});
            all.iter().enumerate().map(container).collect()
        };
        serde_json::from_value(json!({
            "metadata": {"name": "a"},
            "spec": {"initContainers": list(init), "containers": list(containers)},
        }))
        .unwrap()
    }

    #[test]
    fn cpu_becomes_shares_and_quota() {
        for (milli, expected) in [
            (0, 2),
            (1, 2),
            (100, 102),
            (1000, 1024),
            (1_000_000, 262_144),
        ] {
            assert_eq!(shares(milli), expected);
        }
        for (milli, expected) in [
            (0, 0),
            (1, 1000),
            (10, 1000),
            (500, 50_000),
            (2000, 200_000),
        ] {
            assert_eq!(quota_us(milli), expected);
        }
    }

    #[test]
    fn a_container_gets_what_it_asks_for() {
        let asked = resources(
            json!({"cpu": "100m", "memory": "16Mi"}),
            json!({"cpu": "500m", "memory": "64Mi", "hugepages-2Mi": "4Mi"}),
        );
        let limits = of_container(&asked, Class::Burstable, GIB);
        assert_eq!(limits.cpu_shares, 102);
        assert_eq!((limits.cpu_quota, limits.cpu_period), (50_000, 100_000));
        assert_eq!(limits.memory_limit_in_bytes, 64 << 20);
        assert_eq!(limits.oom_score_adj, 1000 - 15);
        let pages = &limits.hugepage_limits[0];
        assert_eq!((pages.page_size.as_str(), pages.limit), ("2MB", 4 << 20));
    }

    #[test]
    fn the_class_follows_from_all_containers() {
        let both = json!({"limits": {"cpu": 1, "memory": "1Gi"}});
        let less = json!({"requests": {"memory": "1Mi"}, "limits": {"cpu": 1, "memory": "1Gi"}});
        for (init, containers, expected) in [
            (vec![], vec![json!({})], Class::BestEffort),
            (vec![], vec![both.clone()], Class::Guaranteed),
            (vec![], vec![both.clone(), json!({})], Class::Burstable),
            (vec![], vec![less], Class::Burstable),
            (vec![json!({})], vec![both], Class::Burstable),
            (
                vec![],
                vec![json!({"limits": {"hugepages-2Mi": "2Mi"}})],
                Class::BestEffort,
            ),
        ] {
            assert_eq!(class(&pod(&init, &containers)), expected, "{containers:?}");
        }
    }

    #[test]
    fn oom_scores_are_the_kubelets() {
        let none = Resources::default();
        let asked = |memory: &str| resources(json!({"memory": memory}), json!({}));
        for (resources, class, expected) in [
            (&none, Class::Guaranteed, -997),
            (&none, Class::BestEffort, 1000),
            (&none, Class::Burstable, 999),
            (&asked("512Mi"), Class::Burstable, 500),
            (&asked("1Gi"), Class::Burstable, 3),
            (&asked("100Gi"), Class::Burstable, 3),
        ] {
            assert_eq!(oom_score(resources, class, GIB), expected);
        }
    }

    #[test]
    fn a_pod_is_bounded_when_all_its_containers_are() {
        let bounded = json!({"limits": {"cpu": 1, "memory": "1Mi"}});
        let both = of_pod(&pod(
            &[json!({"limits": {"cpu": 3, "memory": "1Mi"}})],
            &[bounded.clone(), bounded.clone()],
        ));
        assert_eq!(both.cpu_shares, 3 * 1024);
        assert_eq!(both.cpu_quota, 300_000);
        assert_eq!(both.memory_limit_in_bytes, 2 << 20);
        let one = of_pod(&pod(&[], &[bounded, json!({})]));
        assert_eq!((one.cpu_quota, one.memory_limit_in_bytes), (0, 0));
        assert_eq!(one.cpu_shares, 1024);
    }

    #[test]
    fn requests_above_limits_and_unknown_resources_are_told_by_field() {
        let invalid = check(&resources(json!({"cpu": 2}), json!({"cpu": 1})), "r").unwrap_err();
        assert_eq!(invalid.field, "r.requests.cpu");
        let unknown = resources(
            json!({"ephemeral-storage": 2, "cpu": 1}),
            json!({"hugepages-2M": 2, "hugepages-1Gi": 1}),
        );
        assert_eq!(
            unsupported(&unknown, "r"),
            ["r.requests.ephemeral-storage", "r.limits.hugepages-2M"]
        );
    }
}
