//! Measures container runtimes side by side, by what a kubelet asks of them. `hack/bench.sh` prepares
//! what it needs.
//!
//! * [`runtime`] is a runtime that is measured, and what is asked of it; [`images`] is what it runs.
//! * [`measure`] has a module for each group of measurements. Several runtimes take turns of a few
//!   samples, so that whatever else the machine does meets all alike, and what one of them leaves behind to
//!   be done falls on itself.
//! * [`floor`] does the bare system calls that no runtime can do without; [`conmon`] logs what others have it log.
//! * [`figure`] makes figures of samples, [`report`] shows and keeps them, [`chart`] draws them, and
//!   [`table`] has those of a page.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the figures are for whoever runs it"
)]

mod chart;
mod conmon;
mod figure;
mod floor;
mod images;
mod measure;
mod options;
mod processes;
mod report;
mod runtime;
mod table;
mod websocket;

use anyhow::{Context, Result};
use clap::Parser;
use conmon::Conmon;
use crisp_e2e::unless_interrupted;
use options::{Command, Options};
use report::Report;
use runtime::Runtime;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match &options.command {
        // Before there is any other thread, which could not be cloned.
        Some(Command::Floor { rounds }) => measure_floor(*rounds),
        Some(Command::Draw { json, svg }) => draw(json, svg),
        Some(Command::Table { json, page }) => renew_table(json, page),
        None => measure(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure_floor(rounds: usize) -> Result<()> {
    println!("{}", serde_json::to_string(&floor::measure(rounds)?)?);
    Ok(())
}

fn draw(json: &Path, svg: &Path) -> Result<()> {
    Ok(fs::write(svg, chart::draw(&read_report(json)?))?)
}

fn renew_table(json: &Path, page: &Path) -> Result<()> {
    let figures = table::draw(&read_report(json)?);
    println!("{figures}");
    let text = fs::read_to_string(page).with_context(|| page.display().to_string())?;
    let text = table::put(&figures, &text).with_context(|| page.display().to_string())?;
    Ok(fs::write(page, text)?)
}

fn read_report(json: &Path) -> Result<Report> {
    let text = fs::read_to_string(json).with_context(|| json.display().to_string())?;
    Ok(serde_json::from_str(&text)?)
}

#[tokio::main(flavor = "current_thread")]
async fn measure(options: &Options) -> Result<()> {
    images::publish();
    let _mirror = options.mirror()?;
    let conmon = options.conmon.then(Conmon::prepare).transpose()?;
    let runtimes = unless_interrupted(options.start_runtimes()).await??;
    let measured = measure_all(options, &runtimes, conmon.as_ref());
    let measured = unless_interrupted(measured).await;
    let mut result = measured.and_then(|done| done);
    for runtime in runtimes {
        let ended = match &result {
            Ok(()) => unless_interrupted(runtime.finish()).await,
            Err(_) => unless_interrupted(runtime.abandon()).await.map(Ok),
        };
        result = result.and(ended.and_then(|done| done));
    }
    result
}

async fn measure_all(
    options: &Options,
    runtimes: &[Runtime],
    conmon: Option<&Conmon>,
) -> Result<()> {
    let mut report = Report::new(runtimes, conmon)?;
    println!("{}", report.head());
    for group in options.groups() {
        let rows = measure::group(group, runtimes, conmon, &options.effort()).await;
        report.add(rows.with_context(|| format!("{group:?}"))?);
        println!("{}", report.table_of_last());
        if let Some(path) = &options.json {
            fs::write(path, serde_json::to_string_pretty(&report)?)?;
        }
    }
    Ok(())
}
