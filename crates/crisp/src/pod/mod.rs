//! `crisp pod`: pods without a kubelet, through the CRI.

mod exec;
mod list;
mod logfile;
mod logs;
mod remove;
mod run;
mod start;
mod volumes;

use crate::client::{Client, Target};
use anyhow::Result;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Run(run::Arguments),
    /// List pods.
    Ls,
    /// Stop and remove pods, with the logs and volumes of those that `crisp pod run` made.
    Rm(remove::Arguments),
    /// Show what a container wrote.
    Logs(logs::Arguments),
    /// Run a command in a container; its exit code becomes that of crisp.
    Exec(exec::Arguments),
}

pub(crate) fn run(arguments: &Arguments, target: &Target) -> Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match &arguments.command {
        Command::Run(run) => run::run(run, target),
        Command::Ls => Client::with(target, async |client| list::run(&client).await.map(done)),
        Command::Rm(rm) => Client::with(target, async |client| {
            remove::run(rm, &client).await.map(done)
        }),
        Command::Logs(logs) => Client::with(target, async |client| {
            logs::run(logs, &client).await.map(done)
        }),
        Command::Exec(exec) => Client::with(target, async |client| exec::run(exec, &client).await),
    }
}

/// An exit code of a container as one of ours, of which the kernel keeps eight bits.
fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(code.to_le_bytes()[0])
}
