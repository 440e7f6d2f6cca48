//! All figures of a run, with what they depend on: as a table and as JSON.

use crate::conmon::Conmon;
use crate::figure::{Figure, Row, three_digits};
use crate::runtime::Runtime;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs;

/// Columns of the table.
const WHAT_WIDTH: usize = 44;
const FIGURE_WIDTH: usize = 34;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) runtimes: Vec<Named>,
    /// A list for each group of measurements.
    pub(crate) groups: Vec<Vec<Row>>,
}

/// What figures depend on beside the runtimes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    /// Of a minute, before the run.
    load: f64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) version: String,
}

impl Report {
    pub(crate) fn new(runtimes: &[Runtime], conmon: Option<&Conmon>) -> Result<Self> {
        let named = |runtime: &Runtime| Named {
            name: runtime.name.clone(),
            version: runtime.version.clone(),
        };
        // What only the start of pods has figures for.
        let kernel = Named {
            name: "kernel".to_owned(),
            version: "bare system calls".to_owned(),
        };
        // And what only logs have.
        let conmon = conmon.map(|conmon| Named {
            name: "conmon".to_owned(),
            version: conmon.version.clone(),
        });
        let named = runtimes.iter().map(named).chain([kernel]).chain(conmon);
        Ok(Self {
            machine: Machine::this()?,
            runtimes: named.collect(),
            groups: Vec::new(),
        })
    }

    pub(crate) fn add(&mut self, rows: Vec<Row>) {
        self.groups.push(rows);
    }

    /// The machine, the runtimes, and the titles of the columns.
    pub(crate) fn head(&self) -> String {
        let mut text = format!("{}\n", self.machine);
        for runtime in &self.runtimes {
            text += &format!("{}: {}\n", runtime.name, runtime.version);
        }
        text += "median (quartiles, p99 of twenty or more); of others, times the first one's\n";
        let titles = self
            .runtimes
            .iter()
            .map(|runtime| format!("{:<FIGURE_WIDTH$}", runtime.name));
        text + &line(&format!("\n{:<WHAT_WIDTH$} unit  ", ""), titles)
    }

    pub(crate) fn table_of_last(&self) -> String {
        let rows = self.groups.last().map(Vec::as_slice).unwrap_or_default();
        rows.iter()
            .map(|row| format!("{}\n", row_line(row)))
            .collect()
    }
}

fn row_line(row: &Row) -> String {
    let first = row.figures.first().copied().flatten();
    let figures = row.figures.iter().enumerate().map(|(place, figure)| {
        let base = if place == 0 { None } else { first };
        format!("{:<FIGURE_WIDTH$}", shown(*figure, base))
    });
    line(
        &format!("{:<WHAT_WIDTH$} {:<5} ", row.what, row.unit),
        figures,
    )
}

/// A figure, and how many times the base it is.
fn shown(figure: Option<Figure>, base: Option<Figure>) -> String {
    let Some(figure) = figure else {
        return "–".to_owned();
    };
    match base {
        Some(base) if base.median > 0.0 => {
            format!("{figure}  ×{}", three_digits(figure.median / base.median))
        }
        _ => figure.to_string(),
    }
}

fn line(start: &str, columns: impl Iterator<Item = String>) -> String {
    let columns: Vec<String> = columns.collect();
    format!("{start}{}", columns.join(" "))
        .trim_end()
        .to_owned()
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cpu,
            cores,
            kernel,
            load,
        } = self;
        write!(f, "{cores} cores of {cpu}, Linux {kernel}, load {load}")
    }
}

impl Machine {
    fn this() -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name"));
        let load = fs::read_to_string("/proc/loadavg")?;
        let minute = load.split(' ').next().unwrap_or_default();
        Ok(Self {
            cpu: model
                .unwrap_or_default()
                .trim_matches(['\t', ':', ' '])
                .to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
            load: minute.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_ratios_to_the_first_runtime() {
        let row = Row {
            what: "pod start".to_owned(),
            unit: crate::figure::Unit::Milliseconds,
            figures: vec![Figure::of(&[2.0]), Figure::of(&[5.0]), None],
        };
        let line = row_line(&row);
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words, ["pod", "start", "ms", "2.00", "5.00", "×2.50", "–"]);
    }
}
