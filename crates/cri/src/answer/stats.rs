//! What containers and pods use.

use super::{container, pod, unix_ns};
use crisp_cgroup::{CpuStats, MemoryStats, Pressure, Stall, Stats};
use crisp_cri_api::v1;
use crisp_engine::{ContainerStats, ContainerView, DiskUsage, PodStats, PodView};
use crisp_model::Resources;
use crisp_network::{InterfaceStatistics, POD_INTERFACE};
use std::time::SystemTime;

/// The kernel counts pressure in microseconds, the CRI in nanoseconds.
const NS_PER_US: u64 = 1000;

/// Usage of a container; of one that does not run only its writable layer.
pub(crate) fn container_stats(stats: &ContainerStats) -> v1::ContainerStats {
    let cgroup = stats.cgroup.as_ref();
    v1::ContainerStats {
        attributes: Some(container_attributes(&stats.container)),
        cpu: cgroup.and_then(|cgroup| cpu(cgroup, stats.cpu_nano_cores)),
        memory: cgroup.and_then(memory),
        writable_layer: stats
            .writable_layer
            .as_ref()
            .map(|layer| disk(layer, stats.at)),
        swap: cgroup.and_then(|cgroup| swap(cgroup, &stats.container.resources)),
        io: cgroup.and_then(io),
    }
}

/// Usage of a pod with all its containers.
pub(crate) fn pod_stats(stats: &PodStats) -> v1::PodSandboxStats {
    let cgroup = stats.cgroup.as_ref();
    let timestamp = unix_ns(stats.at);
    v1::PodSandboxStats {
        attributes: Some(pod_attributes(&stats.pod)),
        linux: Some(v1::LinuxPodSandboxStats {
            cpu: cgroup.and_then(|cgroup| cpu(cgroup, stats.cpu_nano_cores)),
            memory: cgroup.and_then(memory),
            network: stats.network.map(|traffic| v1::NetworkUsage {
                timestamp,
                default_interface: Some(interface(&traffic)),
                interfaces: Vec::new(),
            }),
            process: Some(v1::ProcessUsage {
                timestamp,
                process_count: value(stats.process_count),
            }),
            containers: stats.containers.iter().map(container_stats).collect(),
            io: cgroup.and_then(io),
        }),
        windows: None,
    }
}

fn container_attributes(view: &ContainerView) -> v1::ContainerAttributes {
    v1::ContainerAttributes {
        id: view.id.to_string(),
        metadata: Some(container::metadata(&view.config.metadata)),
        labels: view.config.labels.clone(),
        annotations: view.config.annotations.clone(),
    }
}

fn pod_attributes(view: &PodView) -> v1::PodSandboxAttributes {
    v1::PodSandboxAttributes {
        id: view.id.to_string(),
        metadata: Some(pod::metadata(&view.config.metadata)),
        labels: view.config.labels.clone(),
        annotations: view.config.annotations.clone(),
    }
}

fn cpu(stats: &Stats, nano_cores: Option<u64>) -> Option<v1::CpuUsage> {
    let CpuStats { usage_ns, .. } = stats.cpu?;
    Some(v1::CpuUsage {
        timestamp: unix_ns(stats.read_at),
        usage_core_nano_seconds: value(usage_ns),
        usage_nano_cores: nano_cores.and_then(value),
        psi: stats.pressure.map(|pressure| psi(&pressure.cpu)),
    })
}

fn memory(stats: &Stats) -> Option<v1::MemoryUsage> {
    let memory: MemoryStats = stats.memory?;
    let available = memory
        .limit_bytes
        .map(|limit| limit.saturating_sub(memory.working_set_bytes));
    Some(v1::MemoryUsage {
        timestamp: unix_ns(stats.read_at),
        working_set_bytes: value(memory.working_set_bytes),
        available_bytes: available.and_then(value),
        usage_bytes: value(memory.usage_bytes),
        rss_bytes: value(memory.rss_bytes),
        page_faults: value(memory.page_faults),
        major_page_faults: value(memory.major_page_faults),
        psi: stats.pressure.map(|pressure| psi(&pressure.memory)),
    })
}

/// What may still be swapped is known where both limits are.
fn swap(stats: &Stats, limits: &Resources) -> Option<v1::SwapUsage> {
    let used = stats.memory?.swap_bytes?;
    let limit = match (limits.memory_limit_bytes, limits.memory_swap_limit_bytes) {
        (Some(memory), Some(both)) if memory > 0 => {
            let swap = both.checked_sub(memory);
            swap.and_then(|swap| u64::try_from(swap).ok())
        }
        _ => None,
    };
    Some(v1::SwapUsage {
        timestamp: unix_ns(stats.read_at),
        swap_available_bytes: limit.and_then(|limit| value(limit.saturating_sub(used))),
        swap_usage_bytes: value(used),
    })
}

fn io(stats: &Stats) -> Option<v1::IoUsage> {
    Some(v1::IoUsage {
        timestamp: unix_ns(stats.read_at),
        psi: Some(psi(&stats.pressure?.io)),
    })
}

fn psi(pressure: &Pressure) -> v1::PsiStats {
    v1::PsiStats {
        full: Some(stall(&pressure.full)),
        some: Some(stall(&pressure.some)),
    }
}

fn stall(stall: &Stall) -> v1::PsiData {
    v1::PsiData {
        total: stall.total_us.saturating_mul(NS_PER_US),
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    }
}

fn disk(usage: &DiskUsage, at: SystemTime) -> v1::FilesystemUsage {
    v1::FilesystemUsage {
        timestamp: unix_ns(at),
        fs_id: Some(v1::FilesystemIdentifier {
            mountpoint: usage.mountpoint.display().to_string(),
        }),
        used_bytes: value(usage.used_bytes),
        inodes_used: value(usage.used_inodes),
    }
}

fn interface(traffic: &InterfaceStatistics) -> v1::NetworkInterfaceUsage {
    v1::NetworkInterfaceUsage {
        name: POD_INTERFACE.to_owned(),
        rx_bytes: value(traffic.rx_bytes),
        rx_errors: value(traffic.rx_errors),
        tx_bytes: value(traffic.tx_bytes),
        tx_errors: value(traffic.tx_errors),
    }
}

fn value(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use crisp_cgroup::PressureStats;
    use std::time::Duration;

    fn figures() -> Stats {
        let memory = MemoryStats {
            usage_bytes: 100,
            working_set_bytes: 60,
            limit_bytes: Some(80),
            rss_bytes: 50,
            swap_bytes: Some(10),
            page_faults: 7,
            major_page_faults: 2,
            ..MemoryStats::default()
        };
        let mut pressure = PressureStats::default();
        pressure.io.some.total_us = 3;
        Stats {
            read_at: SystemTime::UNIX_EPOCH + Duration::from_nanos(40),
            cpu: Some(CpuStats {
                usage_ns: 9,
                ..CpuStats::default()
            }),
            memory: Some(memory),
            pids: None,
            io: None,
            hugetlb: Vec::new(),
            pressure: Some(pressure),
        }
    }

    fn of_container(cgroup: Option<Stats>) -> ContainerStats {
        ContainerStats {
            container: sample::container(),
            at: SystemTime::UNIX_EPOCH + Duration::from_nanos(50),
            cgroup,
            cpu_nano_cores: Some(11),
            writable_layer: Some(DiskUsage {
                mountpoint: "/var/lib/crisp".into(),
                used_bytes: 4096,
                used_inodes: 3,
            }),
        }
    }

    fn number(value: Option<v1::UInt64Value>) -> u64 {
        value.expect("the figure is there").value
    }

    #[test]
    fn the_figures_of_a_running_container_are_told() {
        let told = container_stats(&of_container(Some(figures())));
        let cpu = told.cpu.unwrap();
        assert_eq!(cpu.timestamp, 40);
        assert_eq!(number(cpu.usage_core_nano_seconds), 9);
        assert_eq!(number(cpu.usage_nano_cores), 11);
        let memory = told.memory.unwrap();
        assert_eq!(number(memory.available_bytes), 20);
        assert_eq!(number(memory.working_set_bytes), 60);
        assert_eq!(number(memory.major_page_faults), 2);
        assert_eq!(told.io.unwrap().psi.unwrap().some.unwrap().total, 3000);
        let layer = told.writable_layer.unwrap();
        assert_eq!(layer.fs_id.unwrap().mountpoint, "/var/lib/crisp");
        assert_eq!((layer.timestamp, number(layer.inodes_used)), (50, 3));
    }

    #[test]
    fn available_swap_is_told_where_it_is_limited() {
        let mut stats = of_container(Some(figures()));
        let told = container_stats(&stats).swap.unwrap();
        assert_eq!(told.swap_available_bytes, None);
        assert_eq!(number(told.swap_usage_bytes), 10);
        stats.container.resources.memory_limit_bytes = Some(80);
        stats.container.resources.memory_swap_limit_bytes = Some(110);
        let told = container_stats(&stats).swap.unwrap();
        assert_eq!(number(told.swap_available_bytes), 20);
    }

    #[test]
    fn one_that_does_not_run_has_its_layer_only() {
        let told = container_stats(&of_container(None));
        assert_eq!(told.attributes.unwrap().metadata.unwrap().name, "web");
        assert!(told.writable_layer.is_some());
        assert_eq!((told.cpu, told.memory, told.swap), (None, None, None));
    }

    #[test]
    fn a_pod_has_its_traffic_processes_and_containers() {
        let stats = PodStats {
            pod: sample::pod(),
            at: SystemTime::UNIX_EPOCH + Duration::from_nanos(50),
            cgroup: Some(figures()),
            cpu_nano_cores: None,
            network: Some(InterfaceStatistics {
                rx_bytes: 1,
                tx_errors: 4,
                ..InterfaceStatistics::default()
            }),
            process_count: 5,
            containers: vec![of_container(None)],
        };
        let told = pod_stats(&stats).linux.unwrap();
        assert_eq!(told.cpu.unwrap().usage_nano_cores, None);
        let network = told.network.unwrap();
        let interface = network.default_interface.unwrap();
        assert_eq!(interface.name, "eth0");
        assert_eq!(number(interface.rx_bytes), 1);
        assert_eq!(number(interface.tx_errors), 4);
        assert_eq!(number(told.process.unwrap().process_count), 5);
        assert_eq!(told.containers.len(), 1);
    }
}
