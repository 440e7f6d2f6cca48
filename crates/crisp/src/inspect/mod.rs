//! `crisp inspect`: all that is known of a pod or container, for a person.
//!
//! The daemon tells its part as JSON ([`facts`]); what processes there are, in which namespaces and
//! with which mounts, is read from /proc here ([`processes`], [`namespaces`], [`mounts`]). `report`
//! puts both together.

mod facts;
mod limits;
mod mounts;
mod namespaces;
mod processes;
mod report;

use crate::client::{Client, Target, told};
use crate::names::Snapshot;
use crate::output;
use anyhow::{Context, Result};
use crisp_cri_api::node::v1::{InspectReply, InspectRequest, Kind};
use facts::{ContainerFacts, PodFacts};
use serde::de::DeserializeOwned;
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
        let reply = ask(&client, snapshot.any(&arguments.name)?.id()).await?;
        match (arguments.json, reply.kind()) {
            (true, _) => pretty(&reply.json),
            (false, Kind::Pod) => Ok(report::pod(&parse(&reply.json)?)),
            (false, _) => {
                let container: ContainerFacts = parse(&reply.json)?;
                let pod: PodFacts = parse(&ask(&client, &container.sandbox_id).await?.json)?;
                Ok(report::container(&container, &pod))
            }
        }
    })?;
    output::result(text)?;
    Ok(ExitCode::SUCCESS)
}

async fn ask(client: &Client, id: &str) -> Result<InspectReply> {
    let request = InspectRequest { id: id.to_owned() };
    Ok(client
        .node()
        .inspect(request)
        .await
        .map_err(told)?
        .into_inner())
}

fn parse<T: DeserializeOwned>(json: &str) -> Result<T> {
    serde_json::from_str(json)
        .context("this crisp does not understand what the daemon tells: their versions differ")
}

fn pretty(json: &str) -> Result<String> {
    let value: Value = parse(json)?;
    Ok(format!("{}\n", serde_json::to_string_pretty(&value)?))
}
