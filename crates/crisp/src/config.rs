//! `crisp config`: the default configuration, and whether a file is one.

use crate::output;
use anyhow::Result;
use clap::Subcommand;
use crisp_engine::config::{Config, DEFAULT, DEFAULT_PATH};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the default configuration, with every setting explained.
    Default,
    /// Check a configuration file.
    Check {
        /// The file.
        #[arg(default_value = DEFAULT_PATH)]
        file: PathBuf,
    },
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.command {
        Command::Default => output::result(DEFAULT),
        Command::Check { file } => {
            Config::load(file)?;
            output::line(format_args!("{}: good", file.display()))
        }
    }
}
