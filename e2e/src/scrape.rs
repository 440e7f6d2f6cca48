//! What Prometheus sees of a daemon: its metrics, read as strictly as the format is written.

use crate::net::http_get;
use crate::node::Node;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;

/// One value of a metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// With the suffix that its type gives it.
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// All metrics at one moment.
#[derive(Debug)]
pub struct Scrape {
    /// The metrics' types, by their names.
    pub types: BTreeMap<String, String>,
    pub samples: Vec<Sample>,
}

impl Node {
    /// Reads the daemon's metrics.
    ///
    /// # Errors
    /// It does not serve them, or not in the format of OpenMetrics.
    pub async fn scrape(&self) -> Result<Scrape> {
        let answer = http_get(self.slot().metrics_address(), "/metrics").await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no body")?;
        ensure!(head.starts_with("HTTP/1.0 200 "), "{head}");
        let format = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
        ensure!(head.lines().any(|line| line == format), "{head}");
        Scrape::parse(body)
    }
}

impl Scrape {
    /// The text of OpenMetrics 1.0, of which the daemon uses neither escapes nor timestamps.
    fn parse(text: &str) -> Result<Self> {
        let body = text.strip_suffix("# EOF\n").context("no end")?;
        let (mut types, mut samples) = (BTreeMap::new(), Vec::new());
        let mut family = String::new();
        for line in body.lines() {
            if let Some(typed) = line.strip_prefix("# TYPE ") {
                let (name, kind) = typed.split_once(' ').context("no type")?;
                family = name.to_owned();
                let before = types.insert(family.clone(), kind.to_owned());
                ensure!(before.is_none(), "{line} comes twice");
            } else if !line.starts_with("# ") {
                let sample = Sample::parse(line).with_context(|| line.to_owned())?;
                ensure!(sample.name.starts_with(&family), "{line} below {family}");
                samples.push(sample);
            }
        }
        Ok(Self { types, samples })
    }

    /// The sample of a name that has these labels, and maybe others.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        match self.all(name, labels).as_slice() {
            [sample] => Ok(sample.value),
            found => bail!("{name} with {labels:?}: {found:?}"),
        }
    }

    /// The samples of a name that have these labels, and maybe others.
    #[must_use]
    pub fn all(&self, name: &str, labels: &[(&str, &str)]) -> Vec<&Sample> {
        let has = |sample: &&Sample| {
            let value = |label| sample.labels.get(label).map(String::as_str);
            sample.name == name
                && labels
                    .iter()
                    .all(|(label, wanted)| value(*label) == Some(wanted))
        };
        self.samples.iter().filter(has).collect()
    }
}

impl Sample {
    /// `name{label="value",…} 1.5`
    fn parse(line: &str) -> Result<Self> {
        let (name, value) = line.rsplit_once(' ').context("no value")?;
        let (name, labels) = match name.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').context("no brace")?),
            None => (name, ""),
        };
        let pairs = labels.split(',').filter(|pair| !pair.is_empty());
        let labels = pairs.map(|pair| {
            let (label, value) = pair.split_once('=').context("no =")?;
            let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
            Ok((label.to_owned(), value.context("no quotes")?.to_owned()))
        });
        Ok(Self {
            name: name.to_owned(),
            labels: labels.collect::<Result<_>>()?,
            value: value.parse()?,
        })
    }
}
