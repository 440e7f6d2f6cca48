//! crisp: the daemon and its command line.
//!
//! Wiring only: what a command does is in the module of its name.

#![forbid(unsafe_code)]

mod check;
mod client;
mod config;
mod containerd;
mod facts;
mod image;
mod info;
mod inspect;
mod manifest;
mod names;
mod output;
mod pod;
mod reload;
mod serve;
mod shutdown;
mod tasks;
mod text;
mod top;
mod usage;

use clap::{Parser, Subcommand};
use client::Target;
use std::process::ExitCode;

/// A Kubernetes container runtime.
#[derive(Debug, Parser)]
#[command(name = "crisp", version, arg_required_else_help = true)]
struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon.
    Serve(serve::Arguments),
    /// Tell what this host offers and lacks for pods, with each thing's consequence and remedy.
    Check(check::Arguments),
    /// Show or check configurations.
    Config(config::Arguments),
    /// Run, list and remove pods, see their logs and run commands in them.
    Pod(pod::Arguments),
    /// Show what the daemon says of itself: whether it is ready, and what it can.
    Info(info::Arguments),
    /// Show all that is known of a pod or container: what holds it back, processes, network, mounts, limits, usage.
    Inspect(inspect::Arguments),
    /// Show what pods and containers use, and what holds them back, anew every few seconds.
    Top(top::Arguments),
    /// List, fetch, import, export, name and remove images.
    #[command(visible_alias = "images")]
    Image(image::Arguments),
}

fn main() -> ExitCode {
    let done = match containerd::Program::called() {
        Some(program) => program.run(),
        None => run(Arguments::parse()),
    };
    match done {
        Ok(code) => code,
        Err(error) if output::is_reader_gone(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(Arguments { target, command }: Arguments) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(arguments) => serve::run(&arguments, &target).map(|()| ExitCode::SUCCESS),
        Command::Check(arguments) => check::run(&arguments, &target),
        Command::Config(arguments) => config::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Pod(arguments) => pod::run(&arguments, &target),
        Command::Info(arguments) => info::run(&arguments, &target),
        Command::Inspect(arguments) => inspect::run(&arguments, &target),
        Command::Top(arguments) => top::run(&arguments, &target),
        Command::Image(arguments) => image::run(&arguments, &target),
    }
}
