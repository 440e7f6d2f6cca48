//! Log files in the format of the CRI, which the shim writes:
//!
//! ```text
//! 2026-01-02T03:04:05.678901234Z stdout F a whole line
//! 2026-01-02T03:04:05.678901234Z stderr P a part of a line, which the next entry of its stream continues
//! ```

use crate::output;
use anyhow::{Context, Result};
use std::collections::VecDeque;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// One entry of a log file, without its newline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) timestamp: &'a str,
    pub(super) stream: Stream,
    pub(super) whole: bool,
    pub(super) text: &'a [u8],
}

/// Where a container wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl<'a> Entry<'a> {
    /// None: the line is no entry.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        let mut words = line.splitn(4, |b| *b == b' ');
        let timestamp = std::str::from_utf8(words.next()?).ok()?;
        let stream = match words.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        // There may be more tags, parted by colons.
        let whole = words.next()?.split(|b| *b == b':').next()? == b"F";
        let text = words.next().unwrap_or_default();
        Some(Self {
            timestamp,
            stream,
            whole,
            text,
        })
    }
}

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

/// The last lines of a log, kept while it is read.
#[derive(Debug)]
pub(super) struct Tail {
    lines_max: usize,
    /// Each a line of the file, with how many lines of the container end up to it.
    kept: VecDeque<Vec<u8>>,
    whole: usize,
}

impl Tail {
    pub(super) fn new(lines_max: usize) -> Self {
        Self {
            lines_max,
            kept: VecDeque::new(),
            whole: 0,
        }
    }

    pub(super) fn push(&mut self, line: &[u8]) {
        let ends = |line: &[u8]| Entry::parse(line).is_some_and(|entry| entry.whole);
        self.kept.push_back(line.to_owned());
        self.whole += usize::from(ends(line));
        while self.lines() > self.lines_max
            && let Some(dropped) = self.kept.pop_front()
        {
            self.whole -= usize::from(ends(&dropped));
        }
    }

    /// Lines that ended, and one that goes on.
    fn lines(&self) -> usize {
        let last = self.kept.back().and_then(|line| Entry::parse(line));
        self.whole + usize::from(last.is_some_and(|entry| !entry.whole))
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.kept.iter().filter_map(|line| Entry::parse(line))
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
    fn an_entry_has_four_parts() {
        let entry = Entry::parse(b"t1 stderr P:x a b").unwrap();
        assert_eq!(
            (entry.timestamp, entry.stream, entry.whole),
            ("t1", Stream::Stderr, false)
        );
        assert_eq!(entry.text, b"a b");
        for bad in [&b""[..], b"t1", b"t1 stdin F x", b"t1 stdout"] {
            assert_eq!(Entry::parse(bad), None);
        }
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
