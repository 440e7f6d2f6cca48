//! A container's log file: its entries as they are shown, and its removal.

use crate::output;
use anyhow::{Context, Result};
use crisp_model::log::{Entry, Stream};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// Puts entries together again as they were written, and shows them.
#[derive(Debug)]
pub(super) struct Printer {
    timestamps: Timestamps,
    /// Whether a line of standard output, and of standard error, goes on.
    goes_on: [bool; 2],
}

/// Whether each line is told with its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timestamps {
    Shown,
    Hidden,
}

impl Printer {
    pub(super) fn new(timestamps: Timestamps) -> Self {
        Self {
            timestamps,
            goes_on: [false; 2],
        }
    }

    /// Shows an entry on the stream that it came by.
    pub(super) fn print(&mut self, entry: &Entry<'_>) -> Result<()> {
        let text = self.written(entry);
        match entry.stream {
            Stream::Stdout => output::stdout(&text),
            Stream::Stderr => output::stderr(&text),
        }
    }

    fn written(&mut self, entry: &Entry<'_>) -> Vec<u8> {
        let goes_on = &mut self.goes_on[match entry.stream {
            Stream::Stdout => 0,
            Stream::Stderr => 1,
        }];
        let mut text = Vec::with_capacity(entry.text.len() + 1);
        if self.timestamps == Timestamps::Shown && !*goes_on {
            text.extend_from_slice(entry.timestamp.as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(entry.text);
        if entry.whole {
            text.push(b'\n');
        }
        *goes_on = !entry.whole;
        text
    }
}

/// Removes a log file, and the directories of its container and pod if they are empty then.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", path.display()));
        }
        _ => {}
    }
    for dir in path.ancestors().skip(1).take(2) {
        if fs::remove_dir(dir).is_err() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crisp_model::log::Tail;

    const LINES: [&[u8]; 5] = [
        b"t1 stdout F one",
        b"t2 stdout P two ",
        b"t3 stderr F oops",
        b"t4 stdout F goes on",
        b"t5 stdout F ",
    ];

    fn shown(entries: &[Entry<'_>], timestamps: Timestamps) -> String {
        let mut printer = Printer::new(timestamps);
        let written = entries.iter().flat_map(|entry| printer.written(entry));
        String::from_utf8(written.collect()).unwrap()
    }

    fn entries() -> Vec<Entry<'static>> {
        LINES.iter().filter_map(|line| Entry::parse(line)).collect()
    }

    #[test]
    fn parts_of_a_line_are_joined_within_their_stream() {
        assert_eq!(
            shown(&entries(), Timestamps::Hidden),
            "one\ntwo oops\ngoes on\n\n"
        );
        assert_eq!(
            shown(&entries(), Timestamps::Shown),
            "t1 one\nt2 two t3 oops\ngoes on\nt5 \n"
        );
    }

    #[test]
    fn the_tail_counts_lines_and_not_entries() {
        for (lines_max, expected) in [
            (0, ""),
            (1, "\n"),
            (2, "goes on\n\n"),
            (9, "one\ntwo oops\ngoes on\n\n"),
        ] {
            let mut tail = Tail::new(lines_max);
            LINES.iter().for_each(|line| tail.push(line));
            let kept: Vec<_> = tail.entries().collect();
            assert_eq!(shown(&kept, Timestamps::Hidden), expected, "{lines_max}");
        }
    }

    #[test]
    fn a_removed_log_takes_its_empty_directories_along() {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("pod/main/0.log");
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        fs::create_dir(root.path().join("pod/side")).unwrap();
        fs::write(&log, "").unwrap();
        remove(&log).unwrap();
        assert!(root.path().join("pod").exists() && !root.path().join("pod/main").exists());
        remove(&root.path().join("pod/side/0.log")).unwrap();
        assert!(!root.path().join("pod").exists());
    }
}
