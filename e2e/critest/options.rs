//! What was asked for on the command line.

use crate::suite::{self, Transport};
use anyhow::{Context, Result, bail, ensure};
use std::path::PathBuf;

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) target: Target,
    pub(crate) times: u32,
    pub(crate) suite: suite::Options,
}

/// What is tested.
#[derive(Debug)]
pub(crate) enum Target {
    /// A daemon that is started for it.
    Own,
    /// What listens there. It reads the directories of registries in `mirrors`, if any.
    Endpoint {
        endpoint: String,
        mirrors: Option<PathBuf>,
    },
}

impl Options {
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut suite = suite::Options::default();
        let (mut endpoint, mut mirrors, mut times) = (None, None, 1);
        let mut arguments = arguments.into_iter();
        while let Some(option) = arguments.next() {
            let mut value = || {
                let value = arguments.next();
                value.with_context(|| format!("{option} is followed by a value"))
            };
            match option.as_str() {
                "--endpoint" => endpoint = Some(value()?),
                "--mirrors" => mirrors = Some(PathBuf::from(value()?)),
                "--times" => {
                    times = value()?
                        .parse()
                        .context("--times is followed by a number")?
                }
                "--focus" => suite.focus = Some(value()?),
                "--skip" => suite.skip = Some(value()?),
                "--seed" => suite.seed = Some(value()?),
                "--handler" => suite.handler = Some(value()?),
                // critest runs itself when it is told to be parallel, even with nobody: it refuses 1.
                "--parallel" => suite.parallel = Some(value()?).filter(|number| number != "1"),
                "--websocket" => suite.transport = Transport::WebSocket,
                _ => bail!("unknown option '{option}'"),
            }
        }
        ensure!(
            mirrors.is_none() || endpoint.is_some(),
            "--mirrors is for a runtime that --endpoint names"
        );
        let target = match endpoint {
            Some(endpoint) => Target::Endpoint { endpoint, mirrors },
            None => Target::Own,
        };
        Ok(Self {
            target,
            times,
            suite,
        })
    }
}
