//! Traces that go on in the daemon, as an OpenTelemetry collector receives them.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::{RunPodSandboxRequest, StopPodSandboxRequest, VersionRequest};
use crisp_e2e::{Collector, Node, Pod, Span, attribute, until};
use opentelemetry_proto::tonic::trace::v1::{span::SpanKind, status::StatusCode};
use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::TcpSocket;
use toml::toml;
use tonic::{Code, Request};

/// The span of a kubelet that calls: what it sends of it is [`Caller::header`].
struct Caller {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    recorded: bool,
}

impl Caller {
    fn new(number: u8, recorded: bool) -> Self {
        Self {
            trace_id: [number; 16],
            span_id: [0xa0 | number; 8],
            recorded,
        }
    }

    /// `traceparent` of W3C Trace Context.
    fn header(&self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let flags = u8::from(self.recorded);
        format!(
            "00-{}-{}-{flags:02x}",
            hex(&self.trace_id),
            hex(&self.span_id)
        )
    }

    fn asks<T>(&self, message: T) -> Result<Request<T>> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("traceparent", self.header().parse()?);
        Ok(request)
    }
}

async fn traced_node(endpoint: &str) -> Result<Node> {
    let tracing = toml! { endpoint = endpoint };
    Node::start_with(|config| drop(config.insert("tracing".to_owned(), tracing.into()))).await
}

async fn run_pod<'a>(node: &'a Node, name: &str, caller: &Caller) -> Result<Pod<'a>> {
    let config = node.pod_config(name);
    fs::create_dir_all(&config.log_directory)?;
    let request = caller.asks(RunPodSandboxRequest {
        config: Some(config.clone()),
        ..RunPodSandboxRequest::default()
    })?;
    let answer = node.runtime().run_pod_sandbox(request).await?.into_inner();
    Ok(Pod::new(node, answer.pod_sandbox_id, config))
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_trace_of_a_kubelet_goes_on_in_the_phases_of_a_start() -> Result<()> {
    let collector = Collector::start().await?;
    let node = traced_node(collector.endpoint()).await?;
    let (caller, unrecorded) = (Caller::new(1, true), Caller::new(2, false));
    run_pod(&node, "unrecorded", &unrecorded).await?;
    let pod = run_pod(&node, "recorded", &caller).await?;

    let spans = until("the span of the RPC has come", async || {
        let spans = collector.trace(&caller.trace_id);
        let is_rpc = |(_, span): &(_, Span)| span.parent_span_id == caller.span_id;
        spans.iter().any(is_rpc).then_some(spans)
    })
    .await?;
    let (of_caller, inner): (Vec<_>, Vec<_>) = spans
        .iter()
        .partition(|(_, span)| span.parent_span_id == caller.span_id);
    let [(daemon, rpc)] = of_caller.as_slice() else {
        anyhow::bail!("{of_caller:?}");
    };
    ensure!(rpc.name == "RunPodSandbox", "{rpc:?}");
    ensure!(rpc.kind() == SpanKind::Server, "{rpc:?}");
    ensure!(attribute(&rpc.attributes, "rpc.method") == Some("RunPodSandbox"));
    ensure!(
        attribute(&rpc.attributes, "pod") == Some(&pod.id),
        "{rpc:?}"
    );
    ensure!(attribute(&daemon.attributes, "service.name") == Some("crisp"));
    let phases: BTreeSet<_> = inner.iter().map(|(_, span)| span.name.as_str()).collect();
    let expected = [
        "namespaces",
        "network",
        "pod_cgroups",
        "pod_files",
        "pod_record",
        "shim",
    ];
    ensure!(phases == BTreeSet::from(expected), "{phases:?}");
    for (_, phase) in &inner {
        ensure!(phase.parent_span_id == rpc.span_id, "{phase:?}");
        let within = rpc.start_time_unix_nano..=rpc.end_time_unix_nano;
        ensure!(within.contains(&phase.start_time_unix_nano), "{phase:?}");
        ensure!(within.contains(&phase.end_time_unix_nano), "{phase:?}");
    }
    ensure!(collector.trace(&unrecorded.trace_id).is_empty());
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_trace_says_that_an_rpc_failed_and_ends_with_the_daemon() -> Result<()> {
    let collector = Collector::start().await?;
    let node = traced_node(collector.endpoint()).await?;
    let caller = Caller::new(3, true);
    let request = caller.asks(RunPodSandboxRequest::default())?;
    let refused = node.runtime().run_pod_sandbox(request).await;
    ensure!(refused.is_err_and(|status| status.code() == Code::InvalidArgument));
    // What waits to be sent is sent before its end.
    node.terminate().await?;
    let spans = collector.trace(&caller.trace_id);
    let [(_, rpc)] = spans.as_slice() else {
        anyhow::bail!("{spans:?}");
    };
    let status = rpc.status.clone().context("no status")?;
    ensure!(status.code() == StatusCode::Error, "{status:?}");
    node.restart().await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_collector_that_is_away_or_metadata_that_lies_holds_up_nobody() -> Result<()> {
    // Nobody else can take the port, and whoever calls is refused.
    let silent = TcpSocket::new_v4()?;
    silent.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let node = traced_node(&format!("http://{}", silent.local_addr()?)).await?;
    let pod = run_pod(&node, "pod", &Caller::new(4, true)).await?;
    for lie in [
        "",
        "00-zz",
        "00-00000000000000000000000000000000-0000000000000000-01",
    ] {
        let mut request = Request::new(VersionRequest::default());
        request.metadata_mut().insert("traceparent", lie.parse()?);
        node.runtime().version(request).await?;
    }
    let request = StopPodSandboxRequest {
        pod_sandbox_id: pod.id.clone(),
    };
    node.runtime()
        .stop_pod_sandbox(Caller::new(4, true).asks(request)?)
        .await?;
    until(
        "the daemon tells that nobody takes its traces",
        async || node.log().contains("takes no traces").then_some(()),
    )
    .await?;
    node.finish().await
}
