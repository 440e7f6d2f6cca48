//! The sizes that a client gives a terminal: JSON objects one after the other, however they are cut.

use crate::inbox::{Inbox, Received};
use crate::request::{Resize, TerminalSize};
use serde::Deserialize;

/// The longest piece of an object that is kept until the rest comes, in bytes.
const OBJECT_MAX_BYTES: usize = 1 << 10;

#[derive(Debug, Deserialize)]
struct Size {
    #[serde(alias = "Width")]
    width: u16,
    #[serde(alias = "Height")]
    height: u16,
}

/// Gives a terminal the sizes that come, until no more do. Garbage ends it too: then the terminal keeps
/// its size, and the session goes on.
pub(crate) async fn serve(mut inbox: Inbox, resize: Resize) {
    let mut text = Vec::new();
    while let Received::Data(bytes) = inbox.next().await {
        text.extend_from_slice(&bytes);
        while text.len() <= OBJECT_MAX_BYTES
            && let Some(Received::Data(bytes)) = inbox.try_next()
        {
            text.extend_from_slice(&bytes);
        }
        match take_last(&mut text) {
            Ok(Some(size)) => resize(size).await,
            Ok(None) => {}
            Err(Garbage) => return,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Garbage;

/// Takes the whole objects from the front of `text`, and gives the last one.
fn take_last(text: &mut Vec<u8>) -> Result<Option<TerminalSize>, Garbage> {
    let mut last = None;
    let mut objects = serde_json::Deserializer::from_slice(text).into_iter::<Size>();
    let mut taken = 0;
    for object in objects.by_ref() {
        match object {
            Ok(size) => last = Some(size),
            Err(error) if error.is_eof() => break,
            Err(_) => return Err(Garbage),
        }
    }
    taken += objects.byte_offset();
    text.drain(..taken);
    if text.len() > OBJECT_MAX_BYTES {
        return Err(Garbage);
    }
    Ok(last.map(|size| TerminalSize {
        columns: size.width,
        rows: size.height,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_taken_whole_and_the_last_one_counts() {
        let mut text =
            b"{\"Width\":80,\"Height\":24}\n{\"width\":100,\"height\":30}{\"Wid".to_vec();
        let size = TerminalSize {
            columns: 100,
            rows: 30,
        };
        assert_eq!(take_last(&mut text), Ok(Some(size)));
        assert_eq!(take_last(&mut text), Ok(None));
        text.extend_from_slice(b"th\":1,\"Height\":2}\n");
        let size = TerminalSize {
            columns: 1,
            rows: 2,
        };
        assert_eq!(take_last(&mut text), Ok(Some(size)));
        assert_eq!(take_last(&mut text), Ok(None));
    }

    #[test]
    fn garbage_is_told_apart_from_what_is_not_whole() {
        for garbage in [
            "}",
            "{\"Width\":-1,\"Height\":2}",
            "{\"Width\":70000,\"Height\":2}",
            "[1]",
        ] {
            assert_eq!(take_last(&mut garbage.into()), Err(Garbage), "{garbage}");
        }
        let endless = format!("{{\"{}", "x".repeat(OBJECT_MAX_BYTES));
        assert_eq!(take_last(&mut endless.into()), Err(Garbage));
    }
}
