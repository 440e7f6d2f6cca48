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
use crate::facts::ContainerFacts;
use crate::names::Snapshot;
use crate::output;
use crate::tasks::Zombies;
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
                let held = held_back(&client, &reply, None).await?;
                Ok(report::pod(&parse(&reply.json)?, &held))
            }
            (false, _) => {
                let container: ContainerFacts = parse(&reply.json)?;
                let pod = known(&client, &container.sandbox_id).await?;
                let held = held_back(&client, &pod, Some(&container.id)).await?;
                Ok(report::container(&container, &parse(&pod.json)?, &held))
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

/// What holds a pod back of which this has just been told, or its container of this id: a line for each
/// reason. None: it does not run.
async fn held_back(
    client: &Client,
    pod: &InspectReply,
    container: Option<&str>,
) -> Result<report::Held> {
    let first = PodLook::at(parse(&pod.json)?, &Zombies::find());
    if first.facts.pid.is_none() {
        return Ok(None);
    }
    tokio::time::sleep(WINDOW).await;
    let Some(last) = PodLook::take(client, &pod.id, &Zombies::find()).await? else {
        return Ok(None);
    };
    let reasons = last.since(&first).reasons().into_iter();
    // What holds the pod back holds each of its containers back.
    let wanted =
        reasons.filter(|(of, _)| container.is_none_or(|id| of.is_none_or(|facts| facts.id == id)));
    let told = wanted.map(|(of, reason)| match (of, container) {
        (None, None) | (Some(_), Some(_)) => reason.to_string(),
        (None, Some(_)) => format!("the pod: {reason}"),
        (Some(of), None) => format!("{}: {reason}", of.name),
    });
    Ok(Some(told.collect()))
}

fn pretty(json: &str) -> Result<String> {
    let value: Value = parse(json)?;
    Ok(format!("{}\n", serde_json::to_string_pretty(&value)?))
}
