//! `crisp inspect`: all that is known of a pod or container, for a person.
//!
//! The daemon tells its part as JSON ([`facts`]); what processes there are, in which namespaces and
//! with which mounts, is read from /proc here ([`processes`], [`namespaces`], [`mounts`]). `report`
//! puts both together. What holds a pod back now takes a second look to see.

mod limits;
mod mounts;
mod namespaces;
mod processes;
mod report;

use crate::client::{Client, Target};
use crate::facts::{ContainerFacts, PodFacts};
use crate::names::Snapshot;
use crate::output;
use crate::usage::{PodLook, WINDOW, ask, parse};
use anyhow::{Context, Result};
use crisp_cri_api::node::v1::{InspectReply, Kind};
use serde_json::Value;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A pod's name, namespace/name or id; or a container's name, pod/name or id.
    #[arg(value_name = "POD|CONTAINER")]
    name: String,
    /// Print what the daemon tells, as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments, target: &Target) -> Result<ExitCode> {
    let text = Client::with(target, async |client| {
        let snapshot = Snapshot::take(&client).await?;
        let reply = known(&client, snapshot.any(&arguments.name)?.id()).await?;
        match (arguments.json, reply.kind()) {
            (true, _) => pretty(&reply.json),
            (false, Kind::Pod) => {
                let pod: PodFacts = parse(&reply.json)?;
                let held = held_back(&client, &pod.id, None).await?;
                Ok(report::pod(&pod, &held))
            }
            (false, _) => {
                let container: ContainerFacts = parse(&reply.json)?;
                let pod: PodFacts = parse(&known(&client, &container.sandbox_id).await?.json)?;
                let held = held_back(&client, &pod.id, Some(&container.name)).await?;
                Ok(report::container(&container, &pod, &held))
            }
        }
    })?;
    output::result(text)?;
    Ok(ExitCode::SUCCESS)
}

async fn known(client: &Client, id: &str) -> Result<InspectReply> {
    let found = ask(client, id).await?;
    found.with_context(|| format!("{id} has just been removed"))
}

/// What holds a pod back, or one of its containers: a line for each reason. None: it does not run.
async fn held_back(client: &Client, pod: &str, container: Option<&str>) -> Result<report::Held> {
    let first = PodLook::take(client, pod).await?;
    let Some(first) = first.filter(|look| look.facts.pid.is_some()) else {
        return Ok(None);
    };
    tokio::time::sleep(WINDOW).await;
    let Some(last) = PodLook::take(client, pod).await? else {
        return Ok(None);
    };
    let reasons = last.since(&first).reasons().into_iter();
    // What holds the pod back holds each of its containers back.
    let wanted = reasons.filter(|(of, _)| container.is_none_or(|name| of.is_empty() || of == name));
    let told = wanted.map(|(of, reason)| match (of.as_str(), container) {
        ("", None) => reason.to_string(),
        ("", Some(_)) => format!("the pod: {reason}"),
        (_, Some(_)) => reason.to_string(),
        (of, None) => format!("{of}: {reason}"),
    });
    Ok(Some(told.collect()))
}

fn pretty(json: &str) -> Result<String> {
    let value: Value = parse(json)?;
    Ok(format!("{}\n", serde_json::to_string_pretty(&value)?))
}
