//! Log files in the format of the CRI, which the shim writes:
//!
//! ```text
//! 2026-01-02T03:04:05.678901234Z stdout F a whole line
//! 2026-01-02T03:04:05.678901234Z stderr P a part of a line, which the next entry of its stream continues
//! ```

use std::collections::VecDeque;

/// One entry of a log file, without its newline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    pub timestamp: &'a str,
    pub stream: Stream,
    pub whole: bool,
    pub text: &'a [u8],
}

/// Where a container wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl<'a> Entry<'a> {
    /// None: the line is no entry.
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Option<Self> {
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

/// The last lines of a log, kept while it is read.
#[derive(Debug)]
pub struct Tail {
    lines_max: usize,
    /// Each a line of the file, with how many lines of the container end up to it.
    kept: VecDeque<Vec<u8>>,
    whole: usize,
}

impl Tail {
    /// For that many lines at most.
    #[must_use]
    pub fn new(lines_max: usize) -> Self {
        Self {
            lines_max,
            kept: VecDeque::new(),
            whole: 0,
        }
    }

    /// Takes the file's next line, without its newline. What is no entry is kept as long as its neighbours are.
    pub fn push(&mut self, line: &[u8]) {
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

    /// What was kept.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.kept.iter().filter_map(|line| Entry::parse(line))
    }
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
    fn the_tail_counts_lines_and_not_entries() {
        for (lines_max, expected) in [(0, 5), (1, 4), (2, 3), (9, 0)] {
            let mut tail = Tail::new(lines_max);
            LINES.iter().for_each(|line| tail.push(line));
            let kept: Vec<_> = tail.entries().map(|entry| entry.timestamp).collect();
            assert_eq!(
                kept,
                ["t1", "t2", "t3", "t4", "t5"][expected..],
                "{lines_max}"
            );
        }
    }
}
