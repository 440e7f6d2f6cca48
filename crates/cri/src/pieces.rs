//! Lists in pieces: what the streaming RPCs answer, for nodes whose list outgrows one message.

use tonic::Status;

/// How many items one message has at most; of containers with a kubelet's labels and annotations
/// about a megabyte.
const PIECE_ITEMS_MAX: usize = 512;

/// The same for items that have some ten kilobytes for every container, such as the metrics of a pod.
const PIECE_LARGE_ITEMS_MAX: usize = 16;

/// Messages that each carry some of the items of a list.
pub(crate) type Pieces<M> = tokio_stream::Iter<std::vec::IntoIter<Result<M, Status>>>;

/// The items in messages that `wrap` makes of each piece; an empty list has none.
pub(crate) fn pieces<T, M>(items: Vec<T>, wrap: impl Fn(Vec<T>) -> M) -> Pieces<M> {
    pieces_of(PIECE_ITEMS_MAX, items, wrap)
}

/// The same with fewer items in a message.
pub(crate) fn large_pieces<T, M>(items: Vec<T>, wrap: impl Fn(Vec<T>) -> M) -> Pieces<M> {
    pieces_of(PIECE_LARGE_ITEMS_MAX, items, wrap)
}

fn pieces_of<T, M>(items_max: usize, items: Vec<T>, wrap: impl Fn(Vec<T>) -> M) -> Pieces<M> {
    let mut items = items.into_iter();
    let next = || Some(items.by_ref().take(items_max).collect::<Vec<T>>());
    let messages: Vec<_> = std::iter::from_fn(next)
        .take_while(|piece| !piece.is_empty())
        .map(|piece| Ok(wrap(piece)))
        .collect();
    tokio_stream::iter(messages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt;

    async fn lengths(count: usize) -> Vec<usize> {
        let messages = pieces(vec![(); count], |piece| piece.len());
        messages.map(Result::unwrap).collect().await
    }

    #[tokio::test]
    async fn every_item_is_sent_once_and_no_message_is_empty() {
        assert_eq!(lengths(0).await, [0; 0]);
        assert_eq!(lengths(512).await, [512]);
        assert_eq!(lengths(1025).await, [512, 512, 1]);
        let large = large_pieces(vec![(); 17], |piece| piece.len());
        let lengths: Vec<usize> = large.map(Result::unwrap).collect().await;
        assert_eq!(lengths, [16, 1]);
    }
}
