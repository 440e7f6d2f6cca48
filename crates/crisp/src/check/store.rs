//! `crisp check --store`: whether the disk still has what was put there. The daemon looks, because the
//! store is its own.

use crate::client::{Client, Target, told};
use crate::image::progress::{Moment, Progress};
use crate::output;
use crate::text::{count, number};
use anyhow::{Result, bail};
use crisp_cri_api::node::v1::store_fault::Owner;
use crisp_cri_api::node::v1::{
    CheckStoreRequest, StoreFault, StoreOutcome, StoreProgress, StoreReport,
};
use std::process::ExitCode;

/// Where what is told of a fault begins.
const INDENT: &str = "         ";

pub(super) fn run(repair: bool, target: &Target) -> Result<ExitCode> {
    let report = Client::with(target, async |client| check(&client, repair).await)?;
    output::result(text(&report))?;
    Ok(match report.faults.iter().all(is_repaired) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

async fn check(client: &Client, repair: bool) -> Result<StoreReport> {
    let mut progress = Progress::begin("checking the store");
    let request = CheckStoreRequest { repair };
    let answers = client.node().check_store(request).await.map_err(told)?;
    let mut answers = answers.into_inner();
    while let Some(StoreProgress { read_bytes, report }) = answers.message().await.map_err(told)? {
        match report {
            Some(report) => return Ok(report),
            None => progress.show(&Moment {
                done_bytes: read_bytes,
                ..Moment::default()
            }),
        }
    }
    bail!("the daemon ended before the store was checked")
}

fn is_repaired(fault: &StoreFault) -> bool {
    fault.outcome() == StoreOutcome::Repaired
}

/// All faults, and what they come to.
fn text(report: &StoreReport) -> String {
    let mut text: String = report.faults.iter().map(fault).collect();
    if report.layers_without_sums > 0 {
        text.push_str(&format!(
            "note     {}: an older crisp has unpacked them, and left nothing to compare their files with\n",
            number(report.layers_without_sums, "layer")
        ));
    }
    let all = [
        (report.images, "image"),
        (report.layers, "layer"),
        (report.containers, "container"),
    ]
    .map(|(n, word)| number(n, word))
    .join(", ");
    let (repaired, left): (Vec<_>, Vec<_>) = report.faults.iter().partition(|f| is_repaired(f));
    let outcome = match (repaired.len(), left.len()) {
        (0, 0) => "all is as it was put there".to_owned(),
        (repaired, 0) => format!("{} repaired", count(repaired, "fault")),
        (0, left) => count(left, "fault"),
        (repaired, left) => format!("{}, {repaired} more repaired", count(left, "fault")),
    };
    text.push_str(&format!("{all}: {outcome}.\n"));
    text
}

fn fault(fault: &StoreFault) -> String {
    let (word, remedy) = match fault.outcome() {
        StoreOutcome::Repaired => ("repaired", String::new()),
        StoreOutcome::NotRepaired => (
            "damaged",
            format!("{INDENT}not repaired: {}\n", fault.why_not),
        ),
        StoreOutcome::Found | StoreOutcome::Unspecified => (
            "damaged",
            format!("{INDENT}do: crisp check --store --repair\n"),
        ),
    };
    let owner = match &fault.owner {
        Some(Owner::Image(image)) => {
            let name = image.names.first().unwrap_or(&image.id);
            format!("image {name}")
        }
        Some(Owner::ContainerId(id)) => format!("container {id}"),
        None => "something".to_owned(),
    };
    format!("{word:<8} {owner}\n{INDENT}{}\n{remedy}", fault.reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crisp_cri_api::node::v1::StoredImage;

    fn of_image(outcome: StoreOutcome, why_not: &str) -> StoreFault {
        StoreFault {
            owner: Some(Owner::Image(StoredImage {
                id: "sha256:1".to_owned(),
                names: vec!["r.example/a:1".to_owned()],
            })),
            reason: "layer sha256:2: etc/passwd: its content is another".to_owned(),
            outcome: outcome.into(),
            why_not: why_not.to_owned(),
        }
    }

    #[test]
    fn faults_are_told_with_what_became_of_them() {
        let mut report = StoreReport {
            images: 2,
            layers: 3,
            containers: 1,
            ..StoreReport::default()
        };
        assert_eq!(
            text(&report),
            "2 images, 3 layers, 1 container: all is as it was put there.\n"
        );
        report.layers_without_sums = 1;
        report.faults = vec![
            of_image(StoreOutcome::Repaired, ""),
            of_image(StoreOutcome::NotRepaired, "r.example is unavailable"),
            StoreFault {
                owner: Some(Owner::ContainerId("abc".to_owned())),
                reason: "layer 7: it is missing".to_owned(),
                outcome: StoreOutcome::Found.into(),
                why_not: String::new(),
            },
        ];
        assert_eq!(
            text(&report),
            "\
repaired image r.example/a:1
         layer sha256:2: etc/passwd: its content is another
damaged  image r.example/a:1
         layer sha256:2: etc/passwd: its content is another
         not repaired: r.example is unavailable
damaged  container abc
         layer 7: it is missing
         do: crisp check --store --repair
note     1 layer: an older crisp has unpacked them, and left nothing to compare their files with
2 images, 3 layers, 1 container: 2 faults, 1 more repaired.
"
        );
    }
}
