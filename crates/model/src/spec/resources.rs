//! Limits: what a client asked for as OCI resources, and how a partial update is merged.

use crate::Resources;
use oci_spec::runtime::{
    LinuxCpu, LinuxHugepageLimit, LinuxHugepageLimitBuilder, LinuxMemory, LinuxPids,
    LinuxPidsBuilder, LinuxResources,
};

/// The OCI form of what was asked for; what was not asked for is left out, so that applying it to a
/// cgroup changes nothing else.
#[must_use]
pub fn linux_resources(asked: &Resources) -> LinuxResources {
    let mut out = LinuxResources::default();
    let cpu = cpu(asked);
    if cpu != LinuxCpu::default() {
        out.set_cpu(Some(cpu));
    }
    let memory = memory(asked);
    if memory != LinuxMemory::default() {
        out.set_memory(Some(memory));
    }
    let hugepages: Vec<_> = asked.hugepage_limits.iter().filter_map(hugepages).collect();
    if !hugepages.is_empty() {
        out.set_hugepage_limits(Some(hugepages));
    }
    if !asked.unified.is_empty() {
        out.set_unified(Some(asked.unified.clone().into_iter().collect()));
    }
    out
}

fn cpu(asked: &Resources) -> LinuxCpu {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(asked.cpu_shares);
    cpu.set_quota(asked.cpu_quota_us);
    cpu.set_period(asked.cpu_period_us);
    cpu.set_cpus(asked.cpuset_cpus.clone());
    cpu.set_mems(asked.cpuset_mems.clone());
    cpu
}

/// Without a limit on swap the limit on memory holds for both together, so that a container cannot
/// swap its way past it.
fn memory(asked: &Resources) -> LinuxMemory {
    let mut memory = LinuxMemory::default();
    memory.set_limit(asked.memory_limit_bytes);
    memory.set_swap(asked.memory_swap_limit_bytes.or(asked.memory_limit_bytes));
    memory
}

fn hugepages(limit: &crate::HugepageLimit) -> Option<LinuxHugepageLimit> {
    LinuxHugepageLimitBuilder::default()
        .page_size(limit.page_size.clone())
        .limit(i64::try_from(limit.limit_bytes).unwrap_or(i64::MAX))
        .build()
        .ok()
}

pub(super) fn pids(limit: i64) -> LinuxPids {
    LinuxPidsBuilder::default()
        .limit(limit)
        .build()
        .expect("every field is set")
}

/// `current` with what `update` asks for put over it (CRI `UpdateContainerResources`): what an update
/// leaves out stays as it is.
#[must_use]
pub fn merge(current: &Resources, update: &Resources) -> Resources {
    let mut hugepage_limits = current.hugepage_limits.clone();
    for limit in &update.hugepage_limits {
        hugepage_limits.retain(|l| l.page_size != limit.page_size);
        hugepage_limits.push(limit.clone());
    }
    let mut unified = current.unified.clone();
    unified.extend(update.unified.clone());
    Resources {
        cpu_period_us: update.cpu_period_us.or(current.cpu_period_us),
        cpu_quota_us: update.cpu_quota_us.or(current.cpu_quota_us),
        cpu_shares: update.cpu_shares.or(current.cpu_shares),
        memory_limit_bytes: update.memory_limit_bytes.or(current.memory_limit_bytes),
        memory_swap_limit_bytes: update
            .memory_swap_limit_bytes
            .or(current.memory_swap_limit_bytes),
        oom_score_adj: update.oom_score_adj.or(current.oom_score_adj),
        cpuset_cpus: update
            .cpuset_cpus
            .clone()
            .or_else(|| current.cpuset_cpus.clone()),
        cpuset_mems: update
            .cpuset_mems
            .clone()
            .or_else(|| current.cpuset_mems.clone()),
        hugepage_limits,
        unified,
    }
}
