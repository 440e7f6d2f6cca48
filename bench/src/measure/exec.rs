//! Commands in a container.

use super::{Effort, TURN, in_turns};
use crate::figure::{Row, Samples, Unit};
use crate::runtime::{Runtime, timed};
use crate::websocket;
use anyhow::{Result, ensure};
use crisp_cri_api::v1::{ExecRequest, ExecSyncRequest};

pub(super) async fn measure(runtimes: &[Runtime], effort: &Effort) -> Result<Vec<Row>> {
    let mut samples = Samples::new(runtimes.len());
    let mut pods = Vec::new();
    for runtime in runtimes {
        pods.push(runtime.start_pod().await?);
    }
    in_turns(runtimes, effort.rounds, TURN, async |number, runtime| {
        let container = &pods[number].container;
        let ((), sync_ms) = timed(exec_sync(runtime, container)).await?;
        samples.add(number, "ExecSync true", Unit::Milliseconds, sync_ms);
        let ((), stream_ms) = timed(exec_stream(runtime, container)).await?;
        let what = "Exec echo, to its first output";
        samples.add(number, what, Unit::Milliseconds, stream_ms);
        Ok(())
    })
    .await?;
    for (runtime, started) in runtimes.iter().zip(&pods) {
        runtime.end_pod(started).await?;
    }
    Ok(samples.into_rows())
}

async fn exec_sync(runtime: &Runtime, container: &str) -> Result<()> {
    let request = ExecSyncRequest {
        container_id: container.to_owned(),
        cmd: vec!["/bin/true".to_owned()],
        timeout: 10,
    };
    let answer = runtime.client().exec_sync(request).await?.into_inner();
    ensure!(
        answer.exit_code == 0,
        "true ended with {}",
        answer.exit_code
    );
    Ok(())
}

async fn exec_stream(runtime: &Runtime, container: &str) -> Result<()> {
    let request = ExecRequest {
        container_id: container.to_owned(),
        cmd: ["/bin/echo", "here"].map(str::to_owned).to_vec(),
        stdout: true,
        stderr: true,
        ..ExecRequest::default()
    };
    let url = runtime.client().exec(request).await?.into_inner().url;
    let output = websocket::first_output(&url).await?;
    ensure!(output == b"here\n", "echo said {output:?}");
    Ok(())
}
