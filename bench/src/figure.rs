//! Samples, and the figures that stand for them.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a figure counts. More of it is better where it is a speed, worse otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Unit {
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "s")]
    Seconds,
    #[serde(rename = "1/s")]
    PerSecond,
    #[serde(rename = "MB")]
    Megabytes,
    #[serde(rename = "MB/s")]
    MegabytesPerSecond,
    #[serde(rename = "ms/MB")]
    MillisecondsPerMegabyte,
    /// Of one core.
    #[serde(rename = "% cpu")]
    CpuPercent,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
            Self::PerSecond => "1/s",
            Self::Megabytes => "MB",
            Self::MegabytesPerSecond => "MB/s",
            Self::MillisecondsPerMegabyte => "ms/MB",
            Self::CpuPercent => "% cpu",
        })
    }
}

/// What samples of one thing come to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) samples: usize,
    pub(crate) median: f64,
    /// The quartiles between which half of the samples are.
    pub(crate) p25: f64,
    pub(crate) p75: f64,
    pub(crate) p99: f64,
}

impl Figure {
    /// None without samples.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |percent| sorted.get(nearest_rank(sorted.len(), percent)).copied();
        Some(Self {
            samples: sorted.len(),
            median: at(50)?,
            p25: at(25)?,
            p75: at(75)?,
            p99: at(99)?,
        })
    }

    /// The p99, of so many samples that it says more than one of them.
    pub(crate) fn tail(&self) -> Option<f64> {
        (self.samples >= 20).then_some(self.p99)
    }
}

/// The index of a percentile among sorted samples.
fn nearest_rank(samples: usize, percent: usize) -> usize {
    (samples * percent).div_ceil(100).saturating_sub(1)
}

impl fmt::Display for Figure {
    /// The median with its quartiles, and the p99 of enough samples.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = three_digits(self.median);
        if self.samples > 1 {
            text += &format!(" ({}–{}", three_digits(self.p25), three_digits(self.p75));
            if let Some(p99) = self.tail() {
                text += &format!(", p99 {}", three_digits(p99));
            }
            text.push(')');
        }
        f.pad(&text)
    }
}

/// As many decimals as make three digits.
pub(crate) fn three_digits(number: f64) -> String {
    let decimals = match number.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{number:.decimals$}")
}

/// A thing that was measured, with a figure for each runtime; none: the runtime does not do it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: Unit,
    pub(crate) figures: Vec<Option<Figure>>,
}

/// Samples of several things for several runtimes, in the order of their first samples.
#[derive(Debug)]
pub(crate) struct Samples {
    runtimes: usize,
    rows: Vec<(String, Unit, Vec<Vec<f64>>)>,
}

impl Samples {
    pub(crate) fn new(runtimes: usize) -> Self {
        Self {
            runtimes,
            rows: Vec::new(),
        }
    }

    /// `runtime` is a runtime's place among them.
    pub(crate) fn add(&mut self, runtime: usize, what: &str, unit: Unit, value: f64) {
        let known = self.rows.iter().position(|(name, ..)| name == what);
        let row = known.unwrap_or_else(|| {
            let none = vec![Vec::new(); self.runtimes];
            self.rows.push((what.to_owned(), unit, none));
            self.rows.len() - 1
        });
        self.rows[row].2[runtime].push(value);
    }

    pub(crate) fn into_rows(self) -> Vec<Row> {
        let row = |(what, unit, samples): (String, Unit, Vec<Vec<f64>>)| Row {
            what,
            unit,
            figures: samples.iter().map(|samples| Figure::of(samples)).collect(),
        };
        self.rows.into_iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let figure = Figure::of(&hundred).unwrap();
        let got = (figure.p25, figure.median, figure.p75, figure.p99);
        assert_eq!(got, (25.0, 50.0, 75.0, 99.0));
    }

    #[test]
    fn one_sample_is_all_percentiles_and_none_is_no_figure() {
        let figure = Figure::of(&[7.0]).unwrap();
        assert_eq!((figure.p25, figure.median, figure.p99), (7.0, 7.0, 7.0));
        assert_eq!(Figure::of(&[]), None);
    }

    #[test]
    fn what_a_runtime_does_not_do_has_no_figure() {
        let mut samples = Samples::new(2);
        samples.add(1, "start", Unit::Milliseconds, 3.0);
        let rows = samples.into_rows();
        assert!(rows[0].figures[0].is_none() && rows[0].figures[1].is_some());
    }

    #[test]
    fn numbers_have_three_digits() {
        let shown = [0.0123, 1.5, 12.34, 123.4].map(three_digits);
        assert_eq!(shown, ["0.012", "1.50", "12.3", "123"]);
    }
}
