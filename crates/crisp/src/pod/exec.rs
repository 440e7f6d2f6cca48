//! `crisp pod exec`: one command, its output and its exit code. There is no standard input and no
//! terminal: for those a client with streams, such as crictl, is needed.

use super::exit_code;
use crate::client::{Client, told};
use crate::names::Snapshot;
use crate::output;
use anyhow::Result;
use crisp_cri_api::v1;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A name, namespace/name or id.
    pod: String,
    /// The container, when the pod has several.
    #[arg(short, long, value_name = "CONTAINER")]
    container: Option<String>,
    /// End the command after this time; without it it may take as long as it wants.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 0,
        hide_default_value = true
    )]
    timeout: u32,
    /// The command with its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) async fn run(arguments: &Arguments, client: &Client) -> Result<ExitCode> {
    let snapshot = Snapshot::take(client).await?;
    let pod = snapshot.pod(&arguments.pod)?;
    let container = snapshot.container(pod, arguments.container.as_deref())?;
    let request = v1::ExecSyncRequest {
        container_id: container.id.clone(),
        cmd: arguments.command.clone(),
        timeout: arguments.timeout.into(),
    };
    let done = client
        .runtime()
        .exec_sync(request)
        .await
        .map_err(told)?
        .into_inner();
    output::stdout(&done.stdout)?;
    output::stderr(&done.stderr)?;
    Ok(exit_code(done.exit_code))
}
