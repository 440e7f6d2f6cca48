use super::*;
use crate::sample;
use crisp_cgroup::{
    CpuStats, HugetlbStats, IoStats, IoTimes, Limits, MemoryStats, PidsStats, PressureStats, Stats,
};
use crisp_engine::{DiskUsage, FileSystem, PodStats, Processes, TaskStates};
use crisp_model::{ContainerState, Running};
use crisp_network::InterfaceStatistics;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

/// Every name that KEP-2371 or one of the two other runtimes has, without its prefix `container_`.
const NAMES: &str = "
    cpu_user_seconds_total cpu_system_seconds_total cpu_usage_seconds_total
    cpu_cfs_periods_total cpu_cfs_throttled_periods_total cpu_cfs_throttled_seconds_total
    memory_cache memory_rss memory_kernel_usage memory_mapped_file memory_swap memory_failcnt
    memory_usage_bytes memory_max_usage_bytes memory_working_set_bytes memory_failures_total
    memory_total_active_file_bytes memory_total_inactive_file_bytes oom_events_total
    fs_inodes_free fs_inodes_total fs_limit_bytes fs_usage_bytes
    fs_reads_bytes_total fs_reads_total fs_writes_bytes_total fs_writes_total
    fs_io_current fs_io_time_seconds_total fs_io_time_weighted_seconds_total
    fs_read_seconds_total fs_write_seconds_total fs_reads_merged_total fs_writes_merged_total
    fs_sector_reads_total fs_sector_writes_total blkio_device_usage_total
    network_receive_bytes_total network_receive_packets_total
    network_receive_packets_dropped_total network_receive_errors_total
    network_transmit_bytes_total network_transmit_packets_total
    network_transmit_packets_dropped_total network_transmit_errors_total
    processes file_descriptors sockets threads threads_max ulimits_soft tasks_state
    last_seen start_time_seconds scrape_error
    spec_cpu_period spec_cpu_shares spec_cpu_quota
    spec_memory_limit_bytes spec_memory_reservation_limit_bytes spec_memory_swap_limit_bytes
    hugetlb_usage_bytes hugetlb_max_usage_bytes hugetlb_failcnt
    pressure_cpu_stalled_seconds_total pressure_cpu_waiting_seconds_total
    pressure_memory_stalled_seconds_total pressure_memory_waiting_seconds_total
    pressure_io_stalled_seconds_total pressure_io_waiting_seconds_total
";

const SECOND_NS: u64 = 1_000_000_000;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 900)
}

fn stats() -> Stats {
    let mut pressure = PressureStats::default();
    pressure.cpu.full.total_us = 1_999_999;
    pressure.cpu.some.total_us = 2_000_000;
    pressure.memory.full.total_us = 3_000_000;
    pressure.memory.some.total_us = 4_000_000;
    pressure.io.full.total_us = 5_000_000;
    pressure.io.some.total_us = 6_000_000;
    Stats {
        read_at: at(50),
        cpu: Some(CpuStats {
            usage_ns: 12 * SECOND_NS - 1,
            user_ns: Some(7 * SECOND_NS),
            system_ns: Some(4 * SECOND_NS),
            periods: Some(21),
            throttled_periods: Some(22),
            throttled_ns: Some(23 * SECOND_NS),
        }),
        memory: Some(MemoryStats {
            usage_bytes: 31,
            max_usage_bytes: Some(32),
            working_set_bytes: 33,
            limit_bytes: None,
            rss_bytes: 34,
            cache_bytes: 35,
            mapped_file_bytes: 36,
            active_file_bytes: 37,
            inactive_file_bytes: 38,
            kernel_bytes: Some(39),
            swap_bytes: Some(40),
            page_faults: 41,
            major_page_faults: 42,
            limit_hits: Some(43),
            oom_kills: Some(44),
        }),
        pids: Some(PidsStats {
            current: 51,
            max: None,
            refused_forks: None,
        }),
        io: Some(vec![IoStats {
            major: 8,
            minor: 0,
            read_bytes: 1024,
            write_bytes: 2048,
            read_operations: 63,
            write_operations: 64,
        }]),
        hugetlb: vec![HugetlbStats {
            page_size: "2MB".to_owned(),
            usage_bytes: 71,
            max_usage_bytes: Some(72),
            limit_hits: 73,
        }],
        pressure: Some(pressure),
    }
}

fn details() -> Details {
    Details {
        limits: Some(Limits {
            cpu_shares: Some(1024),
            cpu_quota_us: Some(81),
            cpu_period_us: Some(82),
            memory_limit_bytes: Some(83),
            memory_swap_limit_bytes: Some(84),
            ..Limits::default()
        }),
        io_times: vec![IoTimes {
            major: 8,
            minor: 16,
            queued: 91,
            read_ns: 92 * SECOND_NS,
            write_ns: 93 * SECOND_NS,
            service_ns: 94 * SECOND_NS,
            wait_ns: 6 * SECOND_NS,
            reads_merged: 96,
            writes_merged: 97,
        }],
        device_names: [((8, 0), "/dev/sda".to_owned())].into(),
        processes: Some(Processes {
            count: 101,
            file_descriptors: 102,
            sockets: 103,
            tasks: TaskStates {
                running: 104,
                sleeping: 105,
                uninterruptible: 106,
                stopped: 107,
            },
            open_files_soft: Some(108),
        }),
        file_system: Some(FileSystem {
            device: "/dev/sda".to_owned(),
            size_bytes: 111,
            inodes: 112,
            inodes_free: 113,
        }),
    }
}

fn container_stats() -> ContainerStats {
    let mut container = sample::container();
    container.state = ContainerState::Running(Running {
        pid: 7,
        started_at: at(40),
    });
    ContainerStats {
        container,
        at: at(50),
        cgroup: Some(stats()),
        cpu_nano_cores: None,
        writable_layer: Some(DiskUsage {
            mountpoint: "/layers".into(),
            used_bytes: 121,
            used_inodes: 122,
        }),
    }
}

fn pod_stats() -> PodStats {
    PodStats {
        pod: sample::pod(),
        at: at(50),
        cgroup: Some(stats()),
        cpu_nano_cores: None,
        network: Some(InterfaceStatistics {
            rx_bytes: 1,
            rx_packets: 2,
            rx_errors: 3,
            rx_dropped: 4,
            tx_bytes: 5,
            tx_packets: 6,
            tx_errors: 7,
            tx_dropped: 8,
        }),
        process_count: 0,
        containers: Vec::new(),
    }
}

/// The figures of a pod have no details that only containers have.
fn pod_metrics() -> PodMetrics {
    PodMetrics {
        pod: pod_stats(),
        details: Details {
            processes: None,
            file_system: None,
            ..details()
        },
        containers: vec![(container_stats(), details())],
    }
}

/// A sample's own labels, joined, follow its metric's name: `tasks_state stopped`.
fn values(metrics: &[v1::Metric]) -> HashMap<String, u64> {
    let key = |metric: &v1::Metric| {
        let name = metric.name.strip_prefix("container_").unwrap();
        let own = metric.label_values[COMMON_LABELS.len()..].join(" ");
        format!("{name} {own}").trim_end().to_owned()
    };
    let value = |metric: &v1::Metric| metric.value.unwrap().value;
    metrics.iter().map(|m| (key(m), value(m))).collect()
}

#[test]
fn every_metric_of_the_list_is_described_once_and_no_other_is() {
    let described: Vec<String> = table().map(|metric| metric.name.to_owned()).collect();
    let wanted: BTreeSet<String> = NAMES
        .split_whitespace()
        .map(|name| format!("container_{name}"))
        .collect();
    assert_eq!(described.iter().cloned().collect::<BTreeSet<_>>(), wanted);
    assert_eq!(described.len(), wanted.len());
}

#[test]
fn what_is_told_is_described_with_as_many_labels() {
    let descriptors = descriptors();
    let labels: HashMap<_, _> = descriptors
        .iter()
        .map(|d| (d.name.as_str(), d.label_keys.len()))
        .collect();
    let told = of_pod(&pod_metrics());
    let of_containers = told.container_metrics.iter().flat_map(|c| &c.metrics);
    let mut seen = BTreeSet::new();
    for metric in told.metrics.iter().chain(of_containers) {
        assert_eq!(metric.label_values.len(), labels[metric.name.as_str()]);
        assert_eq!(metric.timestamp, 0);
        seen.insert(metric.name.as_str());
    }
    assert_eq!(seen, labels.keys().copied().collect());
    assert!(descriptors.iter().all(|d| d.help.ends_with('.')));
}

#[test]
fn totals_are_counters_and_the_rest_are_gauges() {
    let counted = ["container_memory_failcnt", "container_hugetlb_failcnt"];
    for metric in table() {
        let counts = metric.name.ends_with("_total") && !metric.name.ends_with("inodes_total")
            || counted.contains(&metric.name);
        assert_eq!(
            counts,
            metric.kind == v1::MetricType::Counter,
            "{}",
            metric.name
        );
    }
}

#[test]
fn a_container_has_its_figures_in_their_units() {
    let told = of_pod(&pod_metrics());
    let [container] = told.container_metrics.as_slice() else {
        panic!("there is one container");
    };
    let expected = [
        ("cpu_usage_seconds_total total", 11),
        ("cpu_user_seconds_total", 7),
        ("cpu_system_seconds_total", 4),
        ("cpu_cfs_periods_total", 21),
        ("cpu_cfs_throttled_periods_total", 22),
        ("cpu_cfs_throttled_seconds_total", 23),
        ("memory_usage_bytes", 31),
        ("memory_max_usage_bytes", 32),
        ("memory_working_set_bytes", 33),
        ("memory_rss", 34),
        ("memory_cache", 35),
        ("memory_mapped_file", 36),
        ("memory_total_active_file_bytes", 37),
        ("memory_total_inactive_file_bytes", 38),
        ("memory_kernel_usage", 39),
        ("memory_swap", 40),
        ("memory_failures_total pgfault container", 41),
        ("memory_failures_total pgfault hierarchy", 41),
        ("memory_failures_total pgmajfault container", 42),
        ("memory_failures_total pgmajfault hierarchy", 42),
        ("memory_failcnt", 43),
        ("oom_events_total", 44),
        ("threads", 51),
        ("threads_max", 0),
        ("fs_reads_bytes_total /dev/sda", 1024),
        ("fs_writes_bytes_total /dev/sda", 2048),
        ("fs_sector_reads_total /dev/sda", 2),
        ("fs_sector_writes_total /dev/sda", 4),
        ("fs_reads_total /dev/sda", 63),
        ("fs_writes_total /dev/sda", 64),
        ("blkio_device_usage_total /dev/sda 8 0 Read", 1024),
        ("blkio_device_usage_total /dev/sda 8 0 Write", 2048),
        ("hugetlb_usage_bytes 2MB", 71),
        ("hugetlb_max_usage_bytes 2MB", 72),
        ("hugetlb_failcnt 2MB", 73),
        ("pressure_cpu_stalled_seconds_total", 1),
        ("pressure_cpu_waiting_seconds_total", 2),
        ("pressure_memory_stalled_seconds_total", 3),
        ("pressure_memory_waiting_seconds_total", 4),
        ("pressure_io_stalled_seconds_total", 5),
        ("pressure_io_waiting_seconds_total", 6),
        ("spec_cpu_shares", 512),
        ("spec_cpu_quota", 81),
        ("spec_cpu_period", 82),
        ("spec_memory_limit_bytes", 83),
        ("spec_memory_swap_limit_bytes", 84),
        ("spec_memory_reservation_limit_bytes", 0),
        ("fs_io_current 8:16", 91),
        ("fs_read_seconds_total 8:16", 92),
        ("fs_write_seconds_total 8:16", 93),
        ("fs_io_time_seconds_total 8:16", 94),
        ("fs_io_time_weighted_seconds_total 8:16", 100),
        ("fs_reads_merged_total 8:16", 96),
        ("fs_writes_merged_total 8:16", 97),
        ("processes", 101),
        ("file_descriptors", 102),
        ("sockets", 103),
        ("tasks_state running", 104),
        ("tasks_state sleeping", 105),
        ("tasks_state uninterruptible", 106),
        ("tasks_state stopped", 107),
        ("ulimits_soft max_open_files", 108),
        ("fs_limit_bytes /dev/sda", 111),
        ("fs_inodes_total /dev/sda", 112),
        ("fs_inodes_free /dev/sda", 113),
        ("fs_usage_bytes /dev/sda", 121),
        ("start_time_seconds", 40),
        ("last_seen", 50),
        ("scrape_error", 0),
    ];
    let expected = expected.map(|(key, value)| (key.to_owned(), value));
    assert_eq!(values(&container.metrics), HashMap::from(expected));
}

#[test]
fn a_pod_has_the_traffic_and_what_its_cgroup_counts() {
    let told = values(&of_pod(&pod_metrics()).metrics);
    let expected = [
        ("network_receive_bytes_total eth0", 1),
        ("network_receive_packets_total eth0", 2),
        ("network_receive_errors_total eth0", 3),
        ("network_receive_packets_dropped_total eth0", 4),
        ("network_transmit_bytes_total eth0", 5),
        ("network_transmit_packets_total eth0", 6),
        ("network_transmit_errors_total eth0", 7),
        ("network_transmit_packets_dropped_total eth0", 8),
        ("memory_working_set_bytes", 33),
        ("spec_cpu_shares", 1024),
        ("start_time_seconds", 0),
        ("scrape_error", 0),
    ];
    for (key, value) in expected {
        assert_eq!(told.get(key), Some(&value), "{key}");
    }
    assert!(!told.contains_key("processes"));
}

#[test]
fn labels_say_whose_a_sample_is() {
    let metrics = pod_metrics();
    let told = of_pod(&metrics);
    let common = |metrics: &[v1::Metric]| metrics[0].label_values[..COMMON_LABELS.len()].to_vec();
    let pod = metrics.pod.pod.id.as_str();
    assert_eq!(told.pod_sandbox_id, pod);
    assert_eq!(
        common(&told.metrics),
        ["/crisp", pod, "", "default", "web", ""]
    );
    let container = metrics.containers[0].0.container.id.as_str();
    let of_container = &told.container_metrics[0];
    assert_eq!(of_container.container_id, container);
    assert_eq!(
        common(&of_container.metrics),
        [
            "/crisp/x",
            container,
            "busybox:1.36",
            "default",
            "web",
            "web"
        ]
    );
}

#[test]
fn what_cannot_be_read_has_no_sample_but_says_so() {
    let mut metrics = pod_metrics();
    metrics.containers = vec![(
        ContainerStats {
            cgroup: None,
            writable_layer: None,
            ..container_stats()
        },
        Details::default(),
    )];
    let told = of_pod(&metrics);
    let expected = [
        ("start_time_seconds", 40),
        ("last_seen", 50),
        ("scrape_error", 1),
        ("spec_cpu_shares", 512),
    ];
    let expected = expected.map(|(key, value)| (key.to_owned(), value));
    assert_eq!(
        values(&told.container_metrics[0].metrics),
        HashMap::from(expected)
    );
}
