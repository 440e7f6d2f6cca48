//! What happens to pods and containers, told to everyone who listens (CRI `GetContainerEvents`).

use crate::engine::Engine;
use crate::view::{ContainerView, PodView};
use crisp_model::PodId;
use std::time::SystemTime;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// Events that a slow listener may be behind. One that is farther behind is told the present state of
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
    sender: broadcast::Sender<Event>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            sender: broadcast::channel(BACKLOG).0,
        }
    }
}

/// Listens to events.
#[derive(Debug)]
pub struct Listening {
    receiver: broadcast::Receiver<Event>,
}

/// What a listener hears.
#[derive(Debug)]
pub enum Heard {
    Event(Box<Event>),
    /// It was too slow and missed some.
    Missed,
}

impl Listening {
    /// The next thing to hear; none: the daemon ends.
    pub async fn next(&mut self) -> Option<Heard> {
        match self.receiver.recv().await {
            Ok(event) => Some(Heard::Event(Box::new(event))),
            Err(RecvError::Lagged(_)) => Some(Heard::Missed),
            Err(RecvError::Closed) => None,
        }
    }
}

impl Engine {
    /// Listens to what happens from now on.
    #[must_use]
    pub fn listen(&self) -> Listening {
        Listening {
            receiver: self.events.sender.subscribe(),
        }
    }

    /// The present state of everything, as events that lead to it.
    #[must_use]
    pub fn present_state(&self) -> Vec<Event> {
        let pods = self.pods().into_iter();
        let of_pods = pods.map(|pod| {
            let kind = match pod.state {
                crisp_model::PodState::Ready => EventKind::Started,
                _ => EventKind::Stopped,
            };
            self.event(kind, pod.id.to_string(), &pod.id)
        });
        let containers = self.containers().into_iter();
        let of_containers = containers.map(|container| {
            let kind = match container.state {
                crisp_model::ContainerState::Created => EventKind::Created,
                crisp_model::ContainerState::Running(_) => EventKind::Started,
                crisp_model::ContainerState::Exited(_) => EventKind::Stopped,
            };
            self.event(kind, container.id.to_string(), &container.pod)
        });
        of_pods.chain(of_containers).collect()
    }

    /// Tells what happened to a container or pod. Costs nothing when nobody listens.
    pub(crate) fn announce(&self, kind: EventKind, id: &str, pod: &PodId) {
        if self.events.sender.receiver_count() > 0 {
            // A listener that has gone meanwhile needs nothing.
            let _ = self
                .events
                .sender
                .send(self.event(kind, id.to_owned(), pod));
        }
    }

    fn event(&self, kind: EventKind, id: String, pod: &PodId) -> Event {
        Event {
            kind,
            id,
            at: SystemTime::now(),
            pod: self.pod(pod.as_str()).ok(),
            containers: self.containers_of(pod),
        }
    }

    /// The containers of a pod.
    #[must_use]
    pub fn containers_of(&self, pod: &PodId) -> Vec<ContainerView> {
        let made = self
            .store
            .containers_of(pod)
            .into_iter()
            .filter(|c| c.making.finished());
        made.map(|container| container.view()).collect()
    }
}
