//! What a client has sent on one stream and nobody has taken yet.
//!
//! Large pieces are slices of what was read from the connection, not copies; a small one would hold a
//! whole buffer for itself. Pushing waits when a stream or all streams of a connection together hold
//! too much: the connection is not read meanwhile.

use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// What may wait on one stream before its connection is not read any further.
pub const STREAM_QUEUE_MAX_BYTES: usize = 256 << 10;
/// What may wait on all streams of a connection.
pub const CONNECTION_QUEUE_MAX_BYTES: usize = 4 << 20;
/// What an entry of a queue costs beside its bytes, so that many small ones are bounded too.
const ENTRY_BYTES: usize = 64;
/// Pieces below this are copied: the rest hold at most four times their size.
const SLICE_MIN_BYTES: usize = 16 << 10;

/// What comes out of an inbox.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Data(Bytes),
    /// The client has sent all it had to send.
    End,
    /// The client has given the stream up, or has left.
    Reset,
}

/// The room that the streams of a connection share.
#[derive(Debug, Default)]
pub(crate) struct Room {
    used: AtomicUsize,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<Bytes>,
    used: usize,
    /// What follows when the entries are taken; data until then.
    ending: Option<Ending>,
    /// Nobody will take anything any more.
    abandoned: bool,
}

#[derive(Debug, Clone, Copy)]
enum Ending {
    End,
    Reset,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    arrived: Notify,
    room: Arc<Room>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn free(&self, queue: &mut Queue, bytes: usize) {
        queue.used -= bytes;
        self.room.used.fetch_sub(bytes, Ordering::Relaxed);
        self.room.freed.notify_one();
    }
}

/// The connection's end. The client has left when it is dropped.
#[derive(Debug)]
pub(crate) struct Sender(Arc<Shared>);

/// The end that takes.
#[derive(Debug)]
pub(crate) struct Inbox(Arc<Shared>);

/// An inbox of a connection with this room. Only one task of a connection may push.
pub(crate) fn inbox(room: &Arc<Room>) -> (Sender, Inbox) {
    let shared = Arc::new(Shared {
        queue: Mutex::default(),
        arrived: Notify::new(),
        room: room.clone(),
    });
    (Sender(shared.clone()), Inbox(shared))
}

impl Sender {
    /// Adds bytes when there is room; throws them away when nobody will take them.
    pub(crate) async fn push(&self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        while !self.has_room() {
            self.0.room.freed.notified().await;
        }
        let mut queue = self.0.lock();
        if queue.abandoned || queue.ending.is_some() {
            return;
        }
        let bytes = match bytes.len() {
            ..SLICE_MIN_BYTES => Bytes::copy_from_slice(&bytes),
            _ => bytes,
        };
        let cost = bytes.len() + ENTRY_BYTES;
        queue.used += cost;
        self.0.room.used.fetch_add(cost, Ordering::Relaxed);
        queue.entries.push_back(bytes);
        drop(queue);
        self.0.arrived.notify_one();
    }

    fn has_room(&self) -> bool {
        let queue = self.0.lock();
        queue.abandoned
            || (queue.used < STREAM_QUEUE_MAX_BYTES
                && self.0.room.used.load(Ordering::Relaxed) < CONNECTION_QUEUE_MAX_BYTES)
    }

    /// Nothing more follows.
    pub(crate) fn end(&self) {
        self.finish(Ending::End);
    }

    /// What waits is of no use any more.
    pub(crate) fn reset(&self) {
        self.finish(Ending::Reset);
    }

    fn finish(&self, ending: Ending) {
        let mut queue = self.0.lock();
        if matches!(ending, Ending::Reset) {
            let used = queue.used;
            queue.entries.clear();
            self.0.free(&mut queue, used);
        } else if queue.ending.is_some() {
            return;
        }
        queue.ending = Some(ending);
        drop(queue);
        self.0.arrived.notify_one();
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        if queue.ending.is_none() {
            queue.ending = Some(Ending::Reset);
        }
        drop(queue);
        self.0.arrived.notify_one();
    }
}

impl Inbox {
    /// Takes what has come, waiting for it. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Received {
        loop {
            if let Some(received) = self.try_next() {
                return received;
            }
            self.0.arrived.notified().await;
        }
    }

    /// Takes what has come, if anything.
    pub(crate) fn try_next(&mut self) -> Option<Received> {
        let mut queue = self.0.lock();
        if let Some(bytes) = queue.entries.pop_front() {
            self.0.free(&mut queue, bytes.len() + ENTRY_BYTES);
            return Some(Received::Data(bytes));
        }
        queue.entries = VecDeque::new();
        match queue.ending? {
            Ending::End => Some(Received::End),
            Ending::Reset => Some(Received::Reset),
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.abandoned = true;
        let used = queue.used;
        queue.entries = VecDeque::new();
        self.0.free(&mut queue, used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    const MOMENT: Duration = Duration::from_millis(50);

    fn bytes(count: usize) -> Bytes {
        Bytes::from(vec![7; count])
    }

    #[tokio::test]
    async fn bytes_come_out_in_order_and_the_end_after_them() {
        let (sender, mut inbox) = inbox(&Arc::default());
        sender.push(Bytes::from_static(b"a")).await;
        sender.push(Bytes::new()).await;
        sender.push(Bytes::from_static(b"b")).await;
        sender.end();
        sender.push(Bytes::from_static(b"late")).await;
        drop(sender);
        assert_eq!(inbox.next().await, Received::Data(Bytes::from_static(b"a")));
        assert_eq!(inbox.next().await, Received::Data(Bytes::from_static(b"b")));
        assert_eq!(inbox.next().await, Received::End);
        assert_eq!(inbox.next().await, Received::End);
    }

    #[tokio::test]
    async fn a_reset_overtakes_what_waits_and_leaving_does_not() {
        let room = Arc::default();
        let (sender, mut reset) = inbox(&room);
        sender.push(bytes(9)).await;
        sender.reset();
        assert_eq!(reset.next().await, Received::Reset);
        let (sender, mut left) = inbox(&room);
        sender.push(bytes(9)).await;
        drop(sender);
        assert_eq!(left.next().await, Received::Data(bytes(9)));
        assert_eq!(left.next().await, Received::Reset);
        assert_eq!(room.used.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_stream_holds_its_sender_until_something_is_taken_or_nobody_will() {
        let room = Arc::default();
        let (sender, mut full) = inbox(&room);
        let (other, _other_inbox) = inbox(&room);
        sender.push(bytes(STREAM_QUEUE_MAX_BYTES)).await;
        assert!(timeout(MOMENT, sender.push(bytes(1))).await.is_err());
        timeout(MOMENT, other.push(bytes(1))).await.unwrap();
        let (pushed, _) = tokio::join!(timeout(MOMENT, sender.push(bytes(1))), full.next());
        pushed.unwrap();
        sender.push(bytes(STREAM_QUEUE_MAX_BYTES)).await;
        let ((), ()) = tokio::join!(sender.push(bytes(1)), async { drop(full) });
        timeout(MOMENT, sender.push(bytes(1))).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn streams_share_the_room_of_their_connection() {
        let room = Arc::default();
        let mut streams = Vec::new();
        for _ in 0..=CONNECTION_QUEUE_MAX_BYTES / STREAM_QUEUE_MAX_BYTES {
            let (sender, inbox) = inbox(&room);
            let push = sender.push(bytes(STREAM_QUEUE_MAX_BYTES));
            if timeout(MOMENT, push).await.is_err() {
                break;
            }
            streams.push((sender, inbox));
        }
        assert_eq!(
            streams.len(),
            CONNECTION_QUEUE_MAX_BYTES / STREAM_QUEUE_MAX_BYTES
        );
        streams.pop();
        let (sender, _inbox) = inbox(&room);
        timeout(MOMENT, sender.push(bytes(1))).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn many_small_entries_are_bounded_by_their_cost() {
        let (sender, _inbox) = inbox(&Arc::default());
        let push = async {
            for _ in 0..STREAM_QUEUE_MAX_BYTES {
                sender.push(bytes(1)).await;
            }
        };
        assert!(timeout(MOMENT, push).await.is_err());
        assert!(sender.0.lock().entries.len() <= STREAM_QUEUE_MAX_BYTES / ENTRY_BYTES);
    }
}
