//! What came of the deaths, for a person.

use crate::Case;
use crate::finding::Finding;
use crisp_crash::POINTS;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// How many of a daemon's last lines are shown.
const LOG_LINES: usize = 30;

/// What came of one.
#[derive(Debug)]
pub(crate) enum Verdict {
    Held,
    /// What does not hold, and what the daemon had to say.
    Found(Finding, String),
    /// Nobody came to the point again.
    NotReached,
}

#[derive(Debug)]
pub(crate) struct Report {
    begun: Instant,
    /// Whether every point should have been reached.
    is_whole: bool,
    deaths: usize,
    points: BTreeSet<String>,
    found: BTreeMap<&'static str, usize>,
    not_reached: usize,
}

impl Report {
    pub(crate) fn new(deaths: usize, is_whole: bool) -> Self {
        println!("{deaths} deaths");
        Self {
            begun: Instant::now(),
            is_whole,
            deaths,
            points: BTreeSet::new(),
            found: BTreeMap::new(),
            not_reached: 0,
        }
    }

    pub(crate) fn add(&mut self, case: &Case, verdict: Verdict) {
        let Case {
            story,
            step,
            point,
            nth,
        } = case;
        let name = format!("{point}:{nth} in {step} of {story}");
        match verdict {
            Verdict::Held => {
                self.points.insert(point.clone());
            }
            Verdict::NotReached => {
                println!("NOT REACHED {name}");
                self.not_reached += 1;
            }
            Verdict::Found(finding, log) => {
                self.points.insert(point.clone());
                let lines: Vec<&str> = log.lines().collect();
                let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
                println!("{name}\n{finding}\n    {}", last.join("\n    "));
                *self.found.entry(finding.word()).or_default() += 1;
            }
        }
    }

    /// Prints the sums, and says whether all is well.
    pub(crate) fn finish(self) -> bool {
        let mut unreached = self.not_reached;
        if self.is_whole {
            for point in POINTS {
                if !self.points.contains(*point) {
                    println!("NOT REACHED {point} in any story");
                    unreached += 1;
                }
            }
        }
        let count = |word| self.found.get(word).copied().unwrap_or(0);
        let (lost, leaked, stuck) = (count("lost"), count("leaked"), count("stuck"));
        println!(
            "{} deaths at {} points in {} s, {unreached} not reached",
            self.deaths,
            self.points.len(),
            self.begun.elapsed().as_secs()
        );
        println!(
            "points {}, lost {lost}, leaked {leaked}, stuck {stuck}",
            self.points.len()
        );
        self.found.is_empty() && unreached == 0
    }
}
