//! What happens to pods and containers, told to everyone who listens (CRI `GetContainerEvents`).

use crate::engine::Engine;
use crate::view::{ContainerView, PodView};
use crisp_model::PodId;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast};

/// Events that a slow listener may be behind. One that is farther behind is told what has become of
/// everything instead of what it missed.
const BACKLOG: usize = 1024;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Created,
    Started,
    Stopped,
    Deleted,
}

impl EventKind {
    fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Started => "started",
            Self::Stopped => "stopped",
            Self::Deleted => "deleted",
        }
    }
}

/// Something that happened to a container, or to a pod as its clients see it: as one more container.
#[derive(Debug, Clone)]
pub struct Event {
    pub kind: EventKind,
    /// Of the container or pod.
    pub id: String,
    pub at: SystemTime,
    /// None: it is deleted.
    pub pod: Option<PodView>,
    /// The pod's containers after what happened.
    pub containers: Vec<ContainerView>,
}

/// Tells events to listeners.
#[derive(Debug)]
pub(crate) struct Events {
    /// Boxed: the channel has room for all of [`BACKLOG`] from the start.
    sender: broadcast::Sender<Box<Event>>,
    /// Told of each, whoever listens.
    happened: Notify,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            sender: broadcast::channel(BACKLOG).0,
            happened: Notify::new(),
        }
    }
}

impl Events {
    /// How many listen.
    pub(crate) fn listeners(&self) -> usize {
        self.sender.receiver_count()
    }
}

/// Listens to events.
#[derive(Debug)]
pub struct Listening {
    engine: Arc<Engine>,
    receiver: broadcast::Receiver<Box<Event>>,
    /// The containers and pods that it has heard of and that are not deleted, with their pods.
    known: HashMap<String, PodId>,
}

impl Listening {
    /// What is to be heard next: one event, or, when some were missed, those that lead from what was
    /// heard to the present state. They may be followed by older ones, which lead there as well.
    pub async fn next(&mut self) -> Vec<Event> {
        let events = match self.receiver.recv().await {
            Ok(event) => vec![*event],
            Err(RecvError::Lagged(missed)) => {
                self.engine.metrics.events_missed(missed);
                self.engine.present_state(&self.known)
            }
            Err(RecvError::Closed) => unreachable!("the engine, which is held, has the sender"),
        };
        for event in &events {
            self.learn(event);
        }
        events
    }

    fn learn(&mut self, event: &Event) {
        match (event.kind, &event.pod) {
            (EventKind::Deleted, _) => drop(self.known.remove(&event.id)),
            (_, Some(pod)) => drop(self.known.insert(event.id.clone(), pod.id.clone())),
            // Its pod has gone in the meantime: that it is deleted follows.
            (_, None) => {}
        }
    }
}

impl Engine {
    /// Listens to what happens from now on.
    #[must_use]
    pub fn listen(self: &Arc<Self>) -> Listening {
        Listening {
            engine: self.clone(),
            receiver: self.events.sender.subscribe(),
            known: HashMap::new(),
        }
    }

    /// The present state of everything, as events that lead to it from what a listener knows.
    fn present_state(&self, known: &HashMap<String, PodId>) -> Vec<Event> {
        let of_pods = self.pods().map(|pod| {
            let kind = match pod.state {
                crisp_model::PodState::Ready => EventKind::Started,
                _ => EventKind::Stopped,
            };
            self.event(kind, pod.id.to_string(), &pod.id)
        });
        let of_containers = self.containers().map(|container| {
            let kind = match container.state {
                crisp_model::ContainerState::Created => EventKind::Created,
                crisp_model::ContainerState::Running(_) => EventKind::Started,
                crisp_model::ContainerState::Exited(_) => EventKind::Stopped,
            };
            self.event(kind, container.id.to_string(), &container.pod)
        });
        let present: Vec<_> = of_pods.chain(of_containers).collect();
        let ids: HashSet<_> = present.iter().map(|event| event.id.as_str()).collect();
        let gone = known.iter().filter(|(id, _)| !ids.contains(id.as_str()));
        let gone = gone.map(|(id, pod)| self.event(EventKind::Deleted, id.clone(), pod));
        gone.collect::<Vec<_>>()
            .into_iter()
            .chain(present)
            .collect()
    }

    /// Tells what happened to a container or pod. Costs next to nothing when nobody listens.
    pub(crate) fn announce(&self, kind: EventKind, id: &str, pod: &PodId) {
        self.metrics.event(kind.word());
        self.events.happened.notify_one();
        if self.events.listeners() > 0 {
            let event = Box::new(self.event(kind, id.to_owned(), pod));
            // A listener that has gone meanwhile needs nothing.
            let _ = self.events.sender.send(event);
        }
    }

    /// Waits until something has happened to a pod or container, and then nothing for so long at least. For
    /// one at a time.
    pub async fn rested(&self, long: Duration) {
        let happened = &self.events.happened;
        happened.notified().await;
        loop {
            // What happens meanwhile wakes nobody, who would be in its way: whoever asks next is told.
            tokio::time::sleep(long).await;
            let again = tokio::time::timeout(Duration::ZERO, happened.notified());
            if again.await.is_err() {
                return;
            }
        }
    }

    fn event(&self, kind: EventKind, id: String, pod: &PodId) -> Event {
        Event {
            kind,
            id,
            at: SystemTime::now(),
            pod: self.pod(pod.as_str()).ok(),
            containers: self.containers_of(pod).collect(),
        }
    }
}
