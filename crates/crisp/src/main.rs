//! crisp: the daemon and its command line.
//!
//! Wiring only: what a command does is in the module of its name.

#![forbid(unsafe_code)]

mod check;
mod client;
mod config;
mod facts;
mod image;
mod inspect;
mod manifest;
mod names;
mod output;
mod pod;
mod reload;
mod serve;
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
    /// Show all that is known of a pod or container: what holds it back, processes, network, mounts, limits, usage.
    Inspect(inspect::Arguments),
    /// Show what pods and containers use, and what holds them back, anew every few seconds.
    Top(top::Arguments),
    /// List, fetch, import and remove images.
    Image(image::Arguments),
}

fn main() -> ExitCode {
    let Arguments { target, command } = Arguments::parse();
    let done = match command {
        Command::Serve(arguments) => serve::run(&arguments, &target).map(|()| ExitCode::SUCCESS),
        Command::Check(arguments) => check::run(&arguments, &target),
        Command::Config(arguments) => config::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Pod(arguments) => pod::run(&arguments, &target),
        Command::Inspect(arguments) => inspect::run(&arguments, &target),
        Command::Top(arguments) => top::run(&arguments, &target),
        Command::Image(arguments) => image::run(&arguments, &target),
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
