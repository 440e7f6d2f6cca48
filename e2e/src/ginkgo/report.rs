//! What came out of a run: ginkgo's report (ginkgo, types.Report), and the lines made of it.

use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// How the reason begins why a spec is skipped whose neighbour failed (ginkgo, internal/group.go).
const GIVEN_UP: &str = "Spec skipped because an earlier spec";
/// How much of a failure's message is in its line.
const REASON_CHARS: usize = 400;

/// The specs of one run of a suite, each with its verdict.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Report {
    #[serde(rename = "RunTime")]
    run_time_ns: u64,
    suite_config: SuiteConfig,
    special_suite_failure_reasons: Option<Vec<String>>,
    #[serde(default)]
    spec_reports: Vec<Spec>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SuiteConfig {
    random_seed: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    #[serde(default)]
    leaf_node_text: String,
    state: String,
    #[serde(rename = "RunTime")]
    run_time_ns: u64,
    failure: Option<Failure>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
    #[serde(default)]
    forwarded_panic: String,
}

/// What came of a spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Passed,
    Skipped,
    Failed,
}

impl Report {
    /// Reads the file that `--json-report` is written to.
    ///
    /// # Errors
    /// There is none, or it is no report.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| path.display().to_string())?;
        let suites: Vec<Self> = serde_json::from_slice(&text)?;
        suites.into_iter().next().context("a report of no suite")
    }

    /// How long the whole suite took.
    #[must_use]
    pub fn run_time(&self) -> Duration {
        Duration::from_nanos(self.run_time_ns)
    }

    /// What the order of the specs was made of.
    #[must_use]
    pub fn seed(&self) -> i64 {
        self.suite_config.random_seed
    }

    /// How many specs have a verdict.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.specs_with(verdict).count()
    }

    /// Gives those specs that were not to be run, and which there is a reason for, that reason: they are
    /// skipped by it.
    pub fn explain<'r>(&mut self, reason: impl Fn(&str) -> Option<&'r str>) {
        let left_out = self.spec_reports.iter_mut().filter(|spec| {
            spec.leaf_node_type == "It" && spec.state == "skipped" && spec.failure.is_none()
        });
        for spec in left_out {
            spec.failure = reason(&spec.name()).map(Failure::new);
        }
    }

    /// The names of the specs that failed, and of those that were not run because of them.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let failed = self.spec_reports.iter().filter(|spec| spec.is_of_failure());
        failed.map(Spec::name).collect()
    }

    /// Takes over what came of such specs that passed when they ran alone. Their lines tell of both.
    pub fn settle(&mut self, alone: &Self) {
        let passed: BTreeSet<String> = alone.specs_with(Verdict::Passed).map(Spec::name).collect();
        let settled = |spec: &&mut Spec| spec.is_of_failure() && passed.contains(&spec.name());
        for spec in self.spec_reports.iter_mut().filter(settled) {
            let reason = spec.failure.as_ref().map(Failure::to_string);
            let reason = reason.unwrap_or_default();
            spec.failure = Some(Failure::new(&format!("alone; beside others: {reason}")));
            "passed".clone_into(&mut spec.state);
        }
    }

    /// Whether the suite ran to its end without a failure, of a spec or of its own.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.count(Verdict::Failed) == 0 && self.suite_failures().next().is_none()
    }

    fn suite_failures(&self) -> impl Iterator<Item = &String> {
        self.special_suite_failure_reasons.iter().flatten()
    }

    fn specs_with(&self, verdict: Verdict) -> impl Iterator<Item = &Spec> {
        let verdicts = self.verdicts().filter(move |(found, _)| *found == verdict);
        verdicts.map(|(_, spec)| spec)
    }

    fn verdicts(&self) -> impl Iterator<Item = (Verdict, &Spec)> {
        self.spec_reports
            .iter()
            .filter_map(|spec| Some((spec.verdict()?, spec)))
    }
}

impl Failure {
    fn new(message: &str) -> Self {
        Self {
            message: message.to_owned(),
            forwarded_panic: String::new(),
        }
    }
}

impl Spec {
    /// None for what was not to be run.
    fn verdict(&self) -> Option<Verdict> {
        match (self.leaf_node_type.as_str(), self.state.as_str()) {
            ("It", "passed") => Some(Verdict::Passed),
            // What focus and skip leave out is skipped without a reason.
            ("It", "skipped") => self.failure.as_ref().map(|_| Verdict::Skipped),
            (_, "passed" | "skipped" | "pending") => None,
            _ => Some(Verdict::Failed),
        }
    }

    /// Whether it failed, or was given up because one failed that comes before it.
    fn is_of_failure(&self) -> bool {
        let reason = self.failure.as_ref().map(|failure| &failure.message);
        match self.verdict() {
            Some(Verdict::Failed) => true,
            Some(Verdict::Skipped) => reason.is_some_and(|reason| reason.starts_with(GIVEN_UP)),
            _ => false,
        }
    }

    fn name(&self) -> String {
        let around = self.container_hierarchy_texts.iter().flatten();
        let words: Vec<&str> = around
            .chain([&self.leaf_node_text])
            .map(|text| text.trim())
            .filter(|text| !text.is_empty())
            .collect();
        match words.as_slice() {
            [] => self.leaf_node_type.clone(),
            words => words.join(" "),
        }
    }
}

/// A line for each spec, failures last, and how many there were of each kind.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut verdicts: Vec<(Verdict, String, &Spec)> = self
            .verdicts()
            .map(|(verdict, spec)| (verdict, spec.name(), spec))
            .collect();
        verdicts.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
        for (verdict, name, spec) in verdicts {
            let seconds = Duration::from_nanos(spec.run_time_ns).as_secs_f32();
            write!(f, "{verdict} {seconds:6.2} s  {name}")?;
            if let Some(failure) = &spec.failure {
                write!(f, "  # {failure}")?;
            }
            writeln!(f)?;
        }
        for reason in self.suite_failures() {
            writeln!(f, "{} the suite  # {reason}", Verdict::Failed)?;
        }
        let [passed, failed, skipped] =
            [Verdict::Passed, Verdict::Failed, Verdict::Skipped].map(|verdict| self.count(verdict));
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "PASS",
            Self::Skipped => "SKIP",
            Self::Failed => "FAIL",
        })
    }
}

/// Its beginning, in one line: matchers print the whole of what they have got after it.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = self.message.split_whitespace();
        let words: Vec<&str> = message
            .chain(self.forwarded_panic.split_whitespace())
            .collect();
        let beginning = words
            .join(" ")
            .chars()
            .take(REASON_CHARS)
            .collect::<String>();
        f.write_str(&beginning)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn report(specs: &[(&str, &str)]) -> Report {
        let spec = |(name, state): &(&str, &str)| {
            let failure = match *state {
                "failed" => json!({"Message": "too late"}),
                "skipped" => {
                    json!({"Message": format!("{GIVEN_UP} in an ordered container failed")})
                }
                _ => Value::Null,
            };
            json!({"LeafNodeType": "It", "LeafNodeText": name, "State": state, "RunTime": 1, "Failure": failure})
        };
        let specs: Vec<Value> = specs.iter().map(spec).collect();
        let suite = json!({"RunTime": 1, "SuiteConfig": {"RandomSeed": 1}, "SpecReports": specs});
        serde_json::from_value(suite).unwrap()
    }

    #[test]
    fn what_fails_beside_others_passes_only_when_it_does_alone() {
        let mut all = report(&[
            ("one", "failed"),
            ("next", "skipped"),
            ("two", "failed"),
            ("three", "passed"),
        ]);
        assert_eq!(all.failures(), ["one", "next", "two"]);
        all.settle(&report(&[
            ("one", "passed"),
            ("next", "passed"),
            ("two", "failed"),
        ]));
        assert_eq!(all.failures(), ["two"]);
        let told = all.to_string();
        assert!(
            told.contains("one  # alone; beside others: too late"),
            "{told}"
        );
        assert!(told.ends_with("3 passed, 1 failed, 0 skipped"), "{told}");
    }
}
