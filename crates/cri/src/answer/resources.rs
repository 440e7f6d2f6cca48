//! Limits in force.

use crisp_cri_api::v1;
use crisp_model::{HugepageLimit, Resources};

/// The limits as the wire has them, where zero stands for none.
pub(crate) fn resources(limits: &Resources) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_period: signed(limits.cpu_period_us),
        cpu_quota: limits.cpu_quota_us.unwrap_or_default(),
        cpu_shares: signed(limits.cpu_shares),
        memory_limit_in_bytes: limits.memory_limit_bytes.unwrap_or_default(),
        oom_score_adj: limits.oom_score_adj.unwrap_or_default().into(),
        cpuset_cpus: limits.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: limits.cpuset_mems.clone().unwrap_or_default(),
        hugepage_limits: limits.hugepage_limits.iter().map(hugepage_limit).collect(),
        unified: limits.unified.clone(),
        memory_swap_limit_in_bytes: limits.memory_swap_limit_bytes.unwrap_or_default(),
    }
}

fn signed(value: Option<u64>) -> i64 {
    i64::try_from(value.unwrap_or_default()).unwrap_or(i64::MAX)
}

fn hugepage_limit(limit: &HugepageLimit) -> v1::HugepageLimit {
    v1::HugepageLimit {
        page_size: limit.page_size.clone(),
        limit: limit.limit_bytes,
    }
}
