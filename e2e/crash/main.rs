//! Kills the daemon and the shim at every crash point that a kubelet's requests lead to, and sees whether
//! anything is lost, leaked or stuck by it. `e2e/crash.sh` builds what it needs and explains its options.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the verdicts are for whoever runs it")]

mod finding;
mod kubelet;
mod model;
mod options;
mod report;
mod stories;
mod workers;

use crate::finding::Finding;
use crate::kubelet::{Kubelet, Steps};
use crate::options::{Extent, Options};
use crate::report::{Report, Verdict};
use crate::stories::{QUIET, Story};
use crate::workers::work_off;
use anyhow::{Result, anyhow, bail};
use crisp_e2e::exit_code;
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

/// How often a story is told before a point in it counts as not reached.
const TELLINGS: usize = 3;

/// One death: where, and in which step of which story.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Case {
    story: Story,
    step: &'static str,
    point: String,
    /// The how manieth time in that step that a process comes to the point.
    nth: usize,
}

fn main() -> ExitCode {
    let options = Options::parse(std::env::args().skip(1));
    exit_code(options.and_then(|options| test(&options)))
}

/// Whether nothing was lost, leaked or stuck, and every point was reached.
fn test(options: &Options) -> Result<bool> {
    let cases = plan(options)?;
    let mut report = Report::new(cases.len(), options.is_whole());
    work_off(cases, options.parallel, run, |case, verdict| {
        report.add(&case, verdict);
    })?;
    Ok(report.finish())
}

/// Plays each story once without a death, to see what there is to die at.
fn plan(options: &Options) -> Result<Vec<Case>> {
    let stories = Story::ALL.to_vec();
    let mut played = Ok(BTreeMap::new());
    work_off(stories, options.parallel, rehearse, |story, steps| {
        match (&mut played, steps) {
            (Ok(played), Ok(steps)) => drop(played.insert(story, steps)),
            (Ok(_), Err(error)) => {
                played = Err(error.context(format!("{story} without a death")));
            }
            (Err(_), _) => {}
        }
    })?;
    Ok(cases(&played?, options))
}

/// The points that a story's steps come to, in order.
async fn rehearse(story: &Story) -> Result<Steps> {
    let mut kubelet = Kubelet::start(*story, None).await?;
    match story.play(&mut kubelet).await {
        Ok(()) => kubelet
            .finish()
            .await
            .map_err(|finding| anyhow!("{finding}")),
        Err(finding) => {
            let log = kubelet.log();
            kubelet.abandon();
            bail!("{finding}\n{log}")
        }
    }
}

/// A later story adds what the ones before it have not, and what it is told for.
fn cases(stories: &BTreeMap<Story, Steps>, options: &Options) -> Vec<Case> {
    let mut known = BTreeSet::new();
    let mut cases = Vec::new();
    for (&story, steps) in stories {
        for (step, points) in steps.iter().filter(|(step, _)| *step != QUIET) {
            let mut times: BTreeMap<&str, usize> = BTreeMap::new();
            for point in points.iter().filter(|point| options.wants(point)) {
                let nth = times.entry(point).or_default();
                *nth += 1;
                let (name, is_elsewhere) = match options.extent {
                    Extent::Once => ((point.as_str(), "", 1), false),
                    Extent::EachStep => ((point.as_str(), *step, 1), story.is_about(step)),
                    Extent::EachTime => ((point.as_str(), *step, *nth), story.is_about(step)),
                };
                let is_new = known.insert(name);
                if is_new || is_elsewhere && *nth == 1 {
                    cases.push(Case {
                        story,
                        step,
                        point: point.clone(),
                        nth: *nth,
                    });
                }
            }
        }
    }
    cases
}

/// Somebody dies there. Where two things happen at once, which one comes first decides whether a point is
/// passed: a story is told again until it is.
async fn run(case: &Case) -> Verdict {
    let mut verdict = tell(case).await;
    for _ in 1..TELLINGS {
        if !matches!(verdict, Verdict::NotReached) {
            break;
        }
        verdict = tell(case).await;
    }
    verdict
}

async fn tell(case: &Case) -> Verdict {
    let mut kubelet = match Kubelet::start(case.story, Some(case.clone())).await {
        Ok(kubelet) => kubelet,
        Err(error) => return Verdict::Found(Finding::Stuck(format!("{error:#}")), String::new()),
    };
    let played = case.story.play(&mut kubelet).await;
    let (has_died, log) = (kubelet.has_died(), kubelet.log());
    let held = match played {
        Ok(()) if has_died => kubelet.finish().await.map(drop),
        played => {
            kubelet.abandon();
            played
        }
    };
    match held {
        Ok(()) if has_died => Verdict::Held,
        Ok(()) => Verdict::NotReached,
        Err(finding) => Verdict::Found(finding, log),
    }
}
