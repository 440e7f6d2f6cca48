//! `crisp check`: what this host offers and lacks for pods.
//!
//! Each probe is a function that gives findings and changes nothing that lasts; how they are shown is
//! [`render`]'s.

mod cgroups;
mod files;
mod handlers;
mod identity;
mod install;
mod kernel;
mod network;
mod node;
mod render;
mod security;
mod store;

use crate::client::Target;
use crate::output;
use anyhow::Result;
use crisp_engine::Config;
use std::process::ExitCode;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    subject: &'static str,
    verdict: Verdict,
    /// What there is, or is not.
    fact: String,
}

/// What it means for pods.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// As it should be.
    Fine,
    /// Pods run, but not all of them as well as they could.
    Note(Advice),
    /// Without it no pod runs.
    Missing(Advice),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Advice {
    consequence: String,
    remedy: String,
}

impl Finding {
    fn fine(subject: &'static str, fact: impl Into<String>) -> Self {
        Self {
            subject,
            verdict: Verdict::Fine,
            fact: fact.into(),
        }
    }

    fn note(
        subject: &'static str,
        fact: impl Into<String>,
        consequence: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            subject,
            verdict: Verdict::Note(Advice::new(consequence, remedy)),
            fact: fact.into(),
        }
    }

    fn missing(
        subject: &'static str,
        fact: impl Into<String>,
        consequence: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            subject,
            verdict: Verdict::Missing(Advice::new(consequence, remedy)),
            fact: fact.into(),
        }
    }

    fn is_missing(&self) -> bool {
        matches!(self.verdict, Verdict::Missing(_))
    }
}

impl Advice {
    fn new(consequence: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            consequence: consequence.into(),
            remedy: remedy.into(),
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Look instead whether what is on disk of images and containers is what was put there; asks the
    /// daemon, which serves pods meanwhile.
    #[arg(long)]
    store: bool,
    /// Fetch what is damaged of images again.
    #[arg(long, requires = "store")]
    repair: bool,
}

pub(crate) fn run(arguments: &Arguments, target: &Target) -> Result<ExitCode> {
    if arguments.store {
        return store::run(arguments.repair, target);
    }
    let findings = findings(target);
    output::result(render::report(&findings))?;
    Ok(match findings.iter().any(Finding::is_missing) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

fn findings(target: &Target) -> Vec<Finding> {
    // A configuration that cannot be read is a finding; the others are then about the default one.
    let configured = target.config();
    let default = Config::default();
    let config = configured.as_ref().unwrap_or(&default);
    let parts = [
        kernel::findings(),
        identity::findings(),
        cgroups::findings(config),
        files::findings(config),
        network::findings(config),
        security::findings(),
        handlers::findings(config),
        node::findings(config),
        install::findings(&configured, config, target),
    ];
    parts.concat()
}
