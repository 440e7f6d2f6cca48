//! Output of a container as lines of a CRI log.
//!
//! `<RFC 3339 time> <stdout|stderr> <P|F> <text>\n`: a line longer than [`MAX_TEXT_BYTES`] is cut into
//! parts, all but the last marked `P`; text without a newline at the end of the output is `P` too.

use crisp_shim_api::timestamp::{self, Timestamp};
use std::time::SystemTime;

/// The longest text of one log line, as in containerd.
pub(crate) const MAX_TEXT_BYTES: usize = 16 * 1024;

/// Which of its outputs a container wrote to. A terminal is all standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static [u8; 6] {
        match self {
            Self::Stdout => b"stdout",
            Self::Stderr => b"stderr",
        }
    }
}

/// What begins all lines made at one time.
struct Heading {
    time: Timestamp,
    stream: Stream,
}

/// Whether a log line ends a line of the output.
#[derive(Clone, Copy)]
enum Tag {
    Full,
    Partial,
}

/// Cuts one stream into lines.
#[derive(Debug)]
pub(crate) struct Lines {
    stream: Stream,
    /// Text of the line that has no end yet; without memory of its own when there is none.
    unfinished: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            unfinished: Vec::new(),
        }
    }

    /// Appends to `log` the lines that `text`, read at `now`, completes.
    pub(crate) fn push(&mut self, mut text: &[u8], now: SystemTime, log: &mut Vec<u8>) {
        let heading = self.heading(now);
        while let Some(end) = memchr::memchr(b'\n', text) {
            let rest = self.cut(&text[..end], &heading, log);
            heading.write(Tag::Full, &[&self.unfinished, rest], log);
            self.unfinished.clear();
            text = &text[end + 1..];
        }
        let rest = self.cut(text, &heading, log);
        self.unfinished.extend_from_slice(rest);
        if self.unfinished.is_empty() {
            self.unfinished = Vec::new();
        }
    }

    /// Appends to `log` what has no newline, when the stream has ended.
    pub(crate) fn finish(&mut self, now: SystemTime, log: &mut Vec<u8>) {
        let text = std::mem::take(&mut self.unfinished);
        if !text.is_empty() {
            self.heading(now).write(Tag::Partial, &[&text], log);
        }
    }

    fn heading(&self, now: SystemTime) -> Heading {
        Heading {
            time: timestamp::format(now),
            stream: self.stream,
        }
    }

    /// Writes full parts of a line as long as it is too long with `text`; returns the rest of `text`.
    fn cut<'t>(&mut self, mut text: &'t [u8], heading: &Heading, log: &mut Vec<u8>) -> &'t [u8] {
        while self.unfinished.len() + text.len() > MAX_TEXT_BYTES {
            let (part, rest) = text.split_at(MAX_TEXT_BYTES - self.unfinished.len());
            heading.write(Tag::Partial, &[&self.unfinished, part], log);
            self.unfinished.clear();
            text = rest;
        }
        text
    }
}

impl Heading {
    fn write(&self, tag: Tag, text: &[&[u8]], log: &mut Vec<u8>) {
        log.extend_from_slice(&self.time);
        log.push(b' ');
        log.extend_from_slice(self.stream.name());
        log.extend_from_slice(match tag {
            Tag::Full => b" F ",
            Tag::Partial => b" P ",
        });
        for part in text {
            log.extend_from_slice(part);
        }
        log.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    /// Feeds pieces of output; returns the log with the time cut off, and each text as its length when
    /// it is long.
    fn log_of(stream: Stream, pieces: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::new(stream);
        let mut log = Vec::new();
        for piece in pieces {
            lines.push(piece, UNIX_EPOCH, &mut log);
        }
        lines.finish(UNIX_EPOCH, &mut log);
        let log = String::from_utf8(log).unwrap();
        assert!(log.is_empty() || log.ends_with('\n'));
        log.split_terminator('\n').map(shorten).collect()
    }

    fn shorten(line: &str) -> String {
        let rest = line
            .strip_prefix("1970-01-01T00:00:00.000000000Z ")
            .unwrap();
        let (heading, text) = rest.split_at(9);
        if text.len() > 100 {
            format!("{heading}{} bytes", text.len())
        } else {
            rest.to_owned()
        }
    }

    #[test]
    fn whole_lines_are_full() {
        let log = log_of(Stream::Stdout, &[b"one\ntwo\n\n"]);
        assert_eq!(log, ["stdout F one", "stdout F two", "stdout F "]);
    }

    #[test]
    fn a_line_that_comes_in_pieces_is_one_line() {
        let log = log_of(Stream::Stderr, &[b"o", b"n", b"e\ntw", b"o\n"]);
        assert_eq!(log, ["stderr F one", "stderr F two"]);
    }

    #[test]
    fn text_without_a_newline_at_the_end_is_partial() {
        assert_eq!(
            log_of(Stream::Stdout, &[b"one\ntwo"]),
            ["stdout F one", "stdout P two"]
        );
        assert!(log_of(Stream::Stdout, &[]).is_empty());
    }

    #[test]
    fn a_terminals_carriage_return_stays_in_the_text() {
        assert_eq!(log_of(Stream::Stdout, &[b"one\r\n"]), ["stdout F one\r"]);
    }

    #[test]
    fn lines_are_cut_where_they_get_too_long_and_not_before() {
        let full = vec![b'x'; MAX_TEXT_BYTES];
        assert_eq!(
            log_of(Stream::Stdout, &[&full, b"\n"]),
            ["stdout F 16384 bytes"]
        );
        assert_eq!(log_of(Stream::Stdout, &[&full]), ["stdout P 16384 bytes"]);
        assert_eq!(
            log_of(Stream::Stdout, &[&full, b"y\n"]),
            ["stdout P 16384 bytes", "stdout F y"]
        );
        let long = vec![b'x'; 3 * MAX_TEXT_BYTES + 5];
        assert_eq!(
            log_of(Stream::Stdout, &[&long, b"\nz\n"]),
            [
                "stdout P 16384 bytes",
                "stdout P 16384 bytes",
                "stdout P 16384 bytes",
                "stdout F xxxxx",
                "stdout F z"
            ]
        );
    }

    #[test]
    fn however_the_output_is_cut_the_text_is_the_same() {
        let mut output = Vec::new();
        for length in [0, 1, 16_383, 16_384, 16_385, 40_000, 3] {
            output.extend(std::iter::repeat_n(b'a', length));
            output.push(b'\n');
        }
        let whole = log_of(Stream::Stdout, &[&output]);
        for size in [1, 7, 4096, 16_384, 65_536] {
            let pieces: Vec<&[u8]> = output.chunks(size).collect();
            assert_eq!(log_of(Stream::Stdout, &pieces), whole, "{size}");
        }
    }

    #[test]
    fn an_idle_stream_keeps_no_memory() {
        let mut lines = Lines::new(Stream::Stdout);
        lines.push(b"half", UNIX_EPOCH, &mut Vec::new());
        lines.push(b" line\n", UNIX_EPOCH, &mut Vec::new());
        assert_eq!(lines.unfinished.capacity(), 0);
    }
}
