//! What happens to pods and containers, to clients that listen.

use crate::{answer, images};
use crisp_cri_api::v1;
use crisp_engine::{Engine, Event};
use std::sync::Arc;
use tokio::sync::mpsc::{self, Sender};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::Instrument;

/// Events on their way to a client. The engine keeps the others; a client that falls behind all of
/// them is told what has become of everything.
const QUEUE: usize = 16;

/// The answers to one client.
pub(crate) type Events = ReceiverStream<Result<v1::ContainerEventResponse, Status>>;

/// All events from now on, until the client goes.
pub(crate) fn events(engine: Arc<Engine>) -> Events {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(forward(engine, sender).in_current_span());
    ReceiverStream::new(receiver)
}

async fn forward(engine: Arc<Engine>, sender: Sender<Result<v1::ContainerEventResponse, Status>>) {
    let mut listening = engine.listen();
    loop {
        let events = tokio::select! {
            events = listening.next() => events,
            () = sender.closed() => return,
        };
        for event in &events {
            if sender.send(Ok(told(&engine, event))).await.is_err() {
                return;
            }
        }
    }
}

fn told(engine: &Engine, event: &Event) -> v1::ContainerEventResponse {
    answer::event(event, images::by_digest(engine.images()))
}
