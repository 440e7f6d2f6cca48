//! Metrics of pods and containers under the names that cAdvisor gave them, so that what scrapes a kubelet
//! finds the same ones whether the kubelet asks the runtime or cAdvisor (KEP-2371).
//!
//! One table has every metric in a row: its name, what it says, its labels beside the common ones, and a
//! function from [`Figures`] to its samples. What is not known of a pod or container, or not counted by
//! the kernel, has no sample. Values on the wire are whole numbers: seconds are rounded down.
//!
//! ```text
//!  label      of a container           of a pod
//!  id         its cgroup               its cgroup
//!  name       its id                   its id
//!  image      as the user named it     empty
//!  namespace  the pod's                its own
//!  pod        the pod's name           its own
//!  container  its name                 empty, so that no sum over containers counts a pod too
//! ```

mod cpu;
mod disk;
mod figures;
mod memory;
mod network;
mod process;
mod spec;

use crisp_cri_api::v1;
use crisp_engine::{ContainerStats, Details, PodMetrics, PodView};
use figures::Figures;

/// The labels that every metric has.
const COMMON_LABELS: [&str; 6] = ["id", "name", "image", "namespace", "pod", "container"];

/// All metrics.
const TABLE: [&[Metric]; 6] = [
    cpu::METRICS,
    memory::METRICS,
    disk::METRICS,
    network::METRICS,
    process::METRICS,
    spec::METRICS,
];

/// A row of the table.
struct Metric {
    name: &'static str,
    help: &'static str,
    kind: v1::MetricType,
    samples: Samples,
}

/// The samples of a metric that a pod or container has.
enum Samples {
    /// One or none.
    One(fn(&Figures<'_>) -> Option<u64>),
    /// One for each set of values of these labels.
    Each(&'static [&'static str], fn(&Figures<'_>) -> Vec<Labelled>),
}

/// Values of a metric's own labels, and of the metric.
type Labelled = (Vec<String>, u64);

/// A metric that only grows.
const fn counter(name: &'static str, help: &'static str, samples: Samples) -> Metric {
    Metric {
        name,
        help,
        kind: v1::MetricType::Counter,
        samples,
    }
}

/// A metric that goes up and down.
const fn gauge(name: &'static str, help: &'static str, samples: Samples) -> Metric {
    Metric {
        name,
        help,
        kind: v1::MetricType::Gauge,
        samples,
    }
}

fn table() -> impl Iterator<Item = &'static Metric> {
    TABLE.into_iter().flatten()
}

/// What can be asked for.
pub(crate) fn descriptors() -> Vec<v1::MetricDescriptor> {
    table().map(Metric::descriptor).collect()
}

/// All samples of a pod and its containers.
pub(crate) fn of_pod(metrics: &PodMetrics) -> v1::PodSandboxMetrics {
    let pod = &metrics.pod.pod;
    let figures = Figures::of_pod(&metrics.pod, &metrics.details);
    let containers = metrics.containers.iter();
    v1::PodSandboxMetrics {
        pod_sandbox_id: pod.id.to_string(),
        metrics: samples(&figures, &pod_labels(pod)),
        container_metrics: containers
            .map(|(stats, details)| of_container(pod, stats, details))
            .collect(),
    }
}

fn of_container(pod: &PodView, stats: &ContainerStats, details: &Details) -> v1::ContainerMetrics {
    let figures = Figures::of_container(stats, details);
    v1::ContainerMetrics {
        container_id: stats.container.id.to_string(),
        metrics: samples(&figures, &container_labels(pod, stats)),
    }
}

fn pod_labels(pod: &PodView) -> [&str; 6] {
    let metadata = &pod.config.metadata;
    [
        &pod.cgroup,
        pod.id.as_str(),
        "",
        &metadata.namespace,
        &metadata.name,
        "",
    ]
}

fn container_labels<'a>(pod: &'a PodView, stats: &'a ContainerStats) -> [&'a str; 6] {
    let container = &stats.container;
    [
        &container.cgroup,
        container.id.as_str(),
        container.config.image.name(),
        &pod.config.metadata.namespace,
        &pod.config.metadata.name,
        &container.config.metadata.name,
    ]
}

fn samples(figures: &Figures<'_>, labels: &[&str; 6]) -> Vec<v1::Metric> {
    table()
        .flat_map(|metric| metric.samples(figures, labels))
        .collect()
}

impl Metric {
    fn descriptor(&self) -> v1::MetricDescriptor {
        let own = match self.samples {
            Samples::One(_) => [].as_slice(),
            Samples::Each(labels, _) => labels,
        };
        let keys = COMMON_LABELS.iter().chain(own);
        v1::MetricDescriptor {
            name: self.name.to_owned(),
            help: self.help.to_owned(),
            label_keys: keys.copied().map(str::to_owned).collect(),
        }
    }

    fn samples(&self, figures: &Figures<'_>, labels: &[&str; 6]) -> Vec<v1::Metric> {
        let values = match self.samples {
            Samples::One(read) => read(figures)
                .map(|value| (Vec::new(), value))
                .into_iter()
                .collect(),
            Samples::Each(_, read) => read(figures),
        };
        let sample = |(own, value): Labelled| v1::Metric {
            name: self.name.to_owned(),
            timestamp: 0,
            metric_type: self.kind.into(),
            label_values: labels.iter().map(|&l| l.to_owned()).chain(own).collect(),
            value: Some(v1::UInt64Value { value }),
        };
        values.into_iter().map(sample).collect()
    }
}

#[cfg(test)]
mod tests;
