//! GetContainerEvents: what subscribers hear, quick ones and slow ones, and across restarts.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::MAX_MESSAGE_BYTES;
use crisp_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use crisp_cri_api::v1::*;
use crisp_e2e::{Node, Pod, sh, until};
use std::collections::HashMap;
use std::time::Duration;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use ContainerEventType::{
    ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted,
    ContainerStartedEvent as Started, ContainerStoppedEvent as Stopped,
};

pub(crate) type Events = Streaming<ContainerEventResponse>;

pub(crate) async fn subscribe(mut client: RuntimeServiceClient<Channel>) -> Result<Events> {
    let answer = client.get_container_events(GetEventsRequest {}).await?;
    Ok(answer.into_inner())
}

/// The next event, which comes within a minute.
pub(crate) async fn next(events: &mut Events) -> Result<ContainerEventResponse> {
    let event = tokio::time::timeout(Duration::from_secs(60), events.message()).await??;
    event.context("the stream ended")
}

/// All events up to one.
async fn heard_until(
    events: &mut Events,
    last: (&str, ContainerEventType),
) -> Result<Vec<ContainerEventResponse>> {
    let mut heard = Vec::new();
    loop {
        let event = next(events).await?;
        let found = (event.container_id.as_str(), event.container_event_type()) == last;
        heard.push(event);
        if found {
            return Ok(heard);
        }
    }
}

fn kinds(heard: &[ContainerEventResponse], id: &str) -> Vec<ContainerEventType> {
    let own = heard.iter().filter(|event| event.container_id == id);
    own.map(ContainerEventResponse::container_event_type)
        .collect()
}

/// The event of a kind about a container or pod.
fn event<'a>(
    heard: &'a [ContainerEventResponse],
    id: &str,
    kind: ContainerEventType,
) -> Result<&'a ContainerEventResponse> {
    let found = heard
        .iter()
        .find(|event| event.container_id == id && event.container_event_type() == kind);
    found.with_context(|| format!("no {kind:?} of {id}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_events_reach_every_subscriber_with_the_statuses() -> Result<()> {
    let node = Node::start().await?;
    let mut subscribers = [
        subscribe(node.runtime()).await?,
        subscribe(node.runtime()).await?,
    ];
    let pod = node.run_pod("events", |_| ()).await?;
    let container = pod
        .start("main", |config| config.command = sh("exit 3"))
        .await?;
    container.wait_exit().await?;
    container.remove().await?;
    pod.stop().await?;
    pod.remove().await?;
    for events in &mut subscribers {
        let heard = heard_until(events, (&pod.id, Deleted)).await?;
        for id in [&pod.id, &container.id] {
            let kinds = kinds(&heard, id);
            ensure!(kinds == [Created, Started, Stopped, Deleted], "{kinds:?}");
        }
        let started = event(&heard, &pod.id, Started)?;
        let status = started.pod_sandbox_status.as_ref().context("no status")?;
        ensure!(
            status.state() == PodSandboxState::SandboxReady,
            "{status:?}"
        );
        ensure!(status.metadata == pod.config.metadata, "{status:?}");
        let stopped = event(&heard, &container.id, Stopped)?;
        ensure!(stopped.pod_sandbox_status.is_some(), "{stopped:?}");
        let [status] = stopped.containers_statuses.as_slice() else {
            anyhow::bail!("one container has ended: {stopped:?}");
        };
        ensure!(
            (status.id.as_str(), status.exit_code) == (container.id.as_str(), 3),
            "{status:?}"
        );
        ensure!(
            heard.is_sorted_by(|a, b| a.created_at <= b.created_at),
            "events are not in the order of their times"
        );
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_removal_that_is_asked_for_twice_is_told_once() -> Result<()> {
    let node = Node::start().await?;
    let mut events = subscribe(node.runtime()).await?;
    let pod = node.run_pod("twice", |_| ()).await?;
    let container = pod.start("main", |_| ()).await?;
    let (one, other) = tokio::join!(container.remove(), container.remove());
    one.and(other)?;
    let (one, other) = tokio::join!(pod.remove(), pod.remove());
    one.and(other)?;
    // Its name is free, and whoever takes it keeps it.
    let next = node.run_pod("twice", |_| ()).await?;
    next.remove().await?;
    let heard = heard_until(&mut events, (&next.id, Deleted)).await?;
    for id in [&pod.id, &container.id] {
        let kinds = kinds(&heard, id);
        ensure!(kinds == [Created, Started, Stopped, Deleted], "{kinds:?}");
    }
    node.finish().await
}

/// A subscriber that takes next to nothing as long as it does not read.
async fn subscribe_with_little_room(node: &Node) -> Result<Events> {
    let channel = Endpoint::from_shared(format!("unix://{}", node.socket().display()))?
        .initial_stream_window_size(1 << 14)
        .initial_connection_window_size(1 << 16)
        .connect()
        .await?;
    let client = RuntimeServiceClient::new(channel);
    subscribe(client.max_decoding_message_size(MAX_MESSAGE_BYTES)).await
}

/// Creates and removes containers, two events each.
async fn flood(pod: &Pod<'_>, lane: &str, containers: usize) -> Result<()> {
    for index in 0..containers {
        let container = pod.create(&format!("{lane}-{index}"), |_| ()).await?;
        container.remove().await?;
    }
    Ok(())
}

/// What each container and pod came to, as far as it was heard.
fn last_states(heard: &[ContainerEventResponse]) -> HashMap<&str, &ContainerEventResponse> {
    heard
        .iter()
        .map(|event| (event.container_id.as_str(), event))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_slow_subscriber_hears_the_last_state_of_everything() -> Result<()> {
    let node = Node::start().await?;
    let mut slow = subscribe_with_little_room(&node).await?;
    let mut quick = subscribe(node.runtime()).await?;
    // Events as large as this fill what is on the way to the slow one soon.
    let pod = node.run_pod("flooded", |config| {
        let large = "x".repeat(16 << 10);
        config.annotations.insert("large".to_owned(), large);
    });
    let pod = pod.await?;
    let goes = pod.create("goes", |_| ()).await?;
    let ends = pod.start("ends", |_| ()).await?;
    let stays = pod.start("stays", |_| ()).await?;
    flood(&pod, "before", 60).await?;
    goes.remove().await?;
    ends.stop(0).await?;
    // More events than the daemon keeps for one that is behind.
    tokio::try_join!(
        flood(&pod, "a", 140),
        flood(&pod, "b", 140),
        flood(&pod, "c", 140),
        flood(&pod, "d", 140),
    )?;
    let last = pod.create("last", |_| ()).await?;

    let mut all = heard_until(&mut quick, (&last.id, Created)).await?;
    let mut behind = heard_until(&mut slow, (&last.id, Created)).await?;
    // What a slow one catches up with has no order: this comes behind all of it.
    last.remove().await?;
    all.extend(heard_until(&mut quick, (&last.id, Deleted)).await?);
    behind.extend(heard_until(&mut slow, (&last.id, Deleted)).await?);
    ensure!(
        behind.len() < all.len(),
        "the slow one missed nothing: this test shows nothing"
    );
    let told = last_states(&behind);
    for (id, expected) in [
        (&pod.id, Started),
        (&goes.id, Deleted),
        (&ends.id, Stopped),
        (&stays.id, Started),
    ] {
        let kind = told
            .get(id.as_str())
            .map(|event| event.container_event_type());
        ensure!(kind == Some(expected), "{kind:?} instead of {expected:?}");
    }
    let alive = told
        .iter()
        .filter(|(_, e)| e.container_event_type() != Deleted);
    let mut alive: Vec<&str> = alive.map(|(id, _)| *id).collect();
    let mut expected = [&pod.id, &ends.id, &stays.id].map(String::as_str);
    alive.sort_unstable();
    expected.sort_unstable();
    ensure!(alive == expected, "{} are taken to be there", alive.len());
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_events_are_heard_again_after_a_restart() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("events", |_| ()).await?;
    let container = pod.start("main", |_| ()).await?;
    let mut before = subscribe(node.runtime()).await?;
    node.kill()?;
    until("the subscription ends with the daemon", async || {
        before.message().await.err()
    })
    .await?;
    node.restart().await?;
    let mut after = subscribe(node.runtime()).await?;
    container.stop(0).await?;
    let heard = heard_until(&mut after, (&container.id, Stopped)).await?;
    let status = &event(&heard, &container.id, Stopped)?.containers_statuses[0];
    ensure!(status.exit_code == 137, "{status:?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_nothing_is_told_of_a_container_after_its_removal() -> Result<()> {
    let node = Node::start().await?;
    let mut events = subscribe(node.runtime()).await?;
    // The pod is taken down while its containers are removed.
    for round in 0..10 {
        let pod = node.run_pod(&format!("lost-{round}"), |_| ()).await?;
        let create = async |name: &str| pod.create(name, |_| ()).await;
        let (first, second) = (create("first").await?, create("second").await?);
        node.shim(&pod.id)?.kill();
        tokio::try_join!(first.remove(), second.remove())?;
        pod.remove().await?;
        let heard = heard_until(&mut events, (&pod.id, Deleted)).await?;
        for id in [&first.id, &second.id] {
            let kinds = kinds(&heard, id);
            let told = [&[Created, Deleted][..], &[Created, Stopped, Deleted]];
            ensure!(told.contains(&kinds.as_slice()), "{kinds:?}");
        }
    }
    node.finish().await
}
