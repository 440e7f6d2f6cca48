//! What was asked for on the command line.

use crate::measure::{Effort, Group};
use crate::runtime::Runtime;
use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Measures container runtimes side by side, through the CRI.
#[derive(Debug, Parser)]
#[command(name = "hack/bench.sh")]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Another runtime, which listens there already; may be repeated.
    #[arg(long, value_name = "[NAME=]unix:///PATH")]
    endpoint: Vec<String>,
    /// Where those runtimes look for <registry>/hosts.toml: it is written there for docker.io and other
    /// public registries.
    #[arg(long, value_name = "DIR")]
    mirrors: Option<PathBuf>,
    /// Another build of crisp: a directory with crisp and crisp-shim; may be repeated.
    #[arg(long, value_name = "DIR")]
    crisp: Vec<PathBuf>,
    /// Debian's containerd with runc and CNI plugins, in directories of its own.
    #[arg(long)]
    containerd: bool,
    /// Not the crisp of this tree, which is measured otherwise, and first.
    #[arg(long)]
    others_only: bool,
    /// What to measure; everything, if not said.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Group>,
    /// The most pods at a time.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pods: usize,
    /// A fifth of the samples, and ten seconds instead of a minute to be idle.
    #[arg(long)]
    quick: bool,
    /// Where all figures are kept, for `draw`.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The bare system calls of the start of a pod with one container, as JSON.
    Floor {
        #[arg(long, default_value_t = 100)]
        rounds: usize,
    },
    /// Draws figures that --json has kept.
    Draw { json: PathBuf, svg: PathBuf },
}

impl Options {
    pub(crate) fn groups(&self) -> Vec<Group> {
        if self.only.is_empty() {
            Group::ALL.to_vec()
        } else {
            self.only.clone()
        }
    }

    pub(crate) fn effort(&self) -> Effort {
        Effort::new(self.quick, self.pods)
    }

    /// All that are measured, this tree's first.
    pub(crate) async fn start_runtimes(&self) -> Result<Vec<Runtime>> {
        let mut runtimes = Vec::new();
        if !self.others_only {
            let program = crisp_e2e::tools::program("dist/crisp");
            runtimes.push(Runtime::crisp("crisp".to_owned(), program).await?);
        }
        for (number, dir) in (2..).zip(&self.crisp) {
            let name = format!("crisp {number}");
            runtimes.push(Runtime::crisp(name, dir.join("crisp")).await?);
        }
        if self.containerd {
            runtimes.push(Runtime::containerd().await?);
        }
        if let Some(dir) = &self.mirrors {
            crisp_e2e::Registry::shared().mirror(dir)?;
        }
        for endpoint in &self.endpoint {
            runtimes.push(Runtime::endpoint(endpoint).await?);
        }
        Ok(runtimes)
    }
}
