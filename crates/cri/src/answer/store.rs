//! What a check of the store has seen.

use crisp_cri_api::node::v1;
use crisp_cri_api::node::v1::store_fault::Owner as To;
use crisp_image::{Fault, Outcome, Owner, Report};

/// The report of a check.
pub(crate) fn store_report(report: Report) -> v1::StoreReport {
    let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    v1::StoreReport {
        images: number(report.images),
        layers: number(report.layers),
        containers: number(report.containers),
        layers_without_sums: number(report.layers_without_sums),
        faults: report.faults.into_iter().map(fault).collect(),
    }
}

fn fault(fault: Fault) -> v1::StoreFault {
    let (outcome, why_not) = match fault.outcome {
        Outcome::Found => (v1::StoreOutcome::Found, String::new()),
        Outcome::Repaired => (v1::StoreOutcome::Repaired, String::new()),
        Outcome::NotRepaired(why) => (v1::StoreOutcome::NotRepaired, why),
    };
    let owner = match fault.owner {
        Owner::Container(id) => To::ContainerId(id.to_string()),
        Owner::Image(id, names) => To::Image(v1::StoredImage {
            id: id.to_string(),
            names,
        }),
    };
    v1::StoreFault {
        owner: Some(owner),
        reason: fault.reason,
        outcome: outcome.into(),
        why_not,
    }
}
