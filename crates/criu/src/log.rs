//! What a program says last.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// How much of the end of a log is read, in bytes.
const TAIL_BYTES: u64 = 16 << 10;
/// Lines that are told.
const LINES_MAX: usize = 3;
/// The longest line that is told whole, in characters.
const LINE_CHARS_MAX: usize = 400;

/// The last lines of the logs that speak of an error, or else the last lines; empty: there are none.
pub(crate) fn last_words(logs: &[&Path]) -> String {
    let text: String = logs.iter().filter_map(|log| tail(log)).collect();
    let errors: Vec<_> = text.lines().filter(|line| is_error(line)).collect();
    let lines = match errors.is_empty() {
        true => text.lines().collect(),
        false => errors,
    };
    let first = lines.len().saturating_sub(LINES_MAX);
    let told = lines[first..].iter();
    let told = told.map(|line| line.chars().take(LINE_CHARS_MAX).collect::<String>());
    told.collect::<Vec<_>>().join("; ")
}

fn is_error(line: &str) -> bool {
    line.contains("Error") || line.contains("error")
}

fn tail(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))
        .ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_errors_are_told_or_else_the_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        assert_eq!(last_words(&[&one, &two]), "");
        std::fs::write(&one, "a\nb\nc\nd\n").unwrap();
        assert_eq!(last_words(&[&one, &two]), "b; c; d");
        std::fs::write(&two, "Error (x.c:1): first\nfine\nError (x.c:2): second").unwrap();
        assert_eq!(
            last_words(&[&one, &two]),
            "Error (x.c:1): first; Error (x.c:2): second"
        );
    }
}
