//! What was asked for on the command line.

use anyhow::{Context, Result, bail, ensure};
use crisp_crash::POINTS;

/// Nodes at a time, unless somebody says another number: they wait more than they compute.
const PARALLEL: usize = 6;

#[derive(Debug)]
pub(crate) struct Options {
    /// The beginnings of the names of points; none: all.
    points: Vec<String>,
    pub(crate) parallel: usize,
    pub(crate) extent: Extent,
}

/// When somebody dies at a point that several steps pass, or one step several times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// The first time of all.
    Once,
    /// The first time in each step.
    EachStep,
    EachTime,
}

impl Options {
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            points: Vec::new(),
            parallel: PARALLEL,
            extent: Extent::EachStep,
        };
        while let Some(argument) = arguments.next() {
            let mut number = || -> Result<usize> {
                let value = arguments.next();
                let value = value.with_context(|| format!("{argument} needs a number"))?;
                value
                    .parse()
                    .with_context(|| format!("{argument} {value}: no number"))
            };
            match argument.as_str() {
                "--parallel" => options.parallel = number()?.max(1),
                "--once" => options.extent = Extent::Once,
                "--each-time" => options.extent = Extent::EachTime,
                option if option.starts_with('-') => bail!("unknown option {option}"),
                point => options.points.push(point.to_owned()),
            }
        }
        for wanted in &options.points {
            let is_one = POINTS.iter().any(|point| point.starts_with(wanted));
            ensure!(is_one, "no crash point begins with {wanted:?}");
        }
        Ok(options)
    }

    pub(crate) fn wants(&self, point: &str) -> bool {
        self.is_whole() || self.points.iter().any(|wanted| point.starts_with(wanted))
    }

    /// Whether no point is left out.
    pub(crate) fn is_whole(&self) -> bool {
        self.points.is_empty()
    }
}
