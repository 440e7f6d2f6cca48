//! What was asked for on the command line.

use crate::images::REGISTRY;
use crate::measure::{Effort, Group};
use crate::runtime::Runtime;
use anyhow::Result;
use clap::{Parser, Subcommand};
use crisp_e2e::Mirror;
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
    /// Where those runtimes look for <registry>/hosts.toml: there is one for docker.io meanwhile, and must
    /// not be one before.
    #[arg(long, value_name = "DIR")]
    mirrors: Option<PathBuf>,
    /// Another build of crisp: a directory with crisp and crisp-shim; may be repeated.
    #[arg(long, value_name = "DIR")]
    crisp: Vec<PathBuf>,
    /// containerd with runc and CNI plugins, in directories of its own.
    #[arg(long)]
    containerd: bool,
    /// conmon with runc: of what it does, its logs.
    #[arg(long)]
    pub(crate) conmon: bool,
    /// Not the crisp of this tree, which is measured otherwise, and first.
    #[arg(long)]
    others_only: bool,
    /// What to measure; everything, if not said.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Group>,
    /// The most pods at a time of the first runtime.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pods: usize,
    /// The most pods at a time of each other.
    #[arg(long, value_name = "N", default_value_t = 100)]
    peer_pods: usize,
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
    /// Prints figures that --json has kept as a table in Markdown, and puts it into a page, in place of
    /// the one between the lines <!-- figures --> and <!-- end of figures -->.
    Table { json: PathBuf, page: PathBuf },
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
        Effort::new(self.quick, self.pods, self.peer_pods)
    }

    /// What leads the runtimes of `--endpoint` to the images, as long as it is kept.
    pub(crate) fn mirror(&self) -> Result<Option<Mirror>> {
        let put = |certs_dir: &PathBuf| Mirror::put(certs_dir, &[REGISTRY]);
        self.mirrors.as_ref().map(put).transpose()
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
        for endpoint in &self.endpoint {
            runtimes.push(Runtime::endpoint(endpoint).await?);
        }
        Ok(runtimes)
    }
}
