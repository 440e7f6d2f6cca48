//! One output of a container: a pipe or its terminal, read for the log and for attached clients.

use crate::lines::{Lines, Stream};
use crate::log::Log;
use crate::poller::{Event, Interest, Poller, Watched};
use crate::scratch::Scratch;
use nix::errno::Errno;
use nix::unistd::read;
use std::os::fd::OwnedFd;
use std::time::SystemTime;

/// What is read of an ended container's output at most: a pipe and more. Only a process outside of
/// the container that holds the pipe can have written more by then.
const MAX_DRAIN_BYTES: usize = 1024 * 1024;

/// One output, until its end.
#[derive(Debug)]
pub(crate) struct Output {
    source: Option<Watched<OwnedFd>>,
    lines: Lines,
}

/// What came of reading once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadOnce {
    /// So many bytes, which are in the buffer.
    Bytes(usize),
    Nothing,
    End,
}

impl Output {
    /// An output that is not there yet, or never will be.
    pub(crate) fn none(stream: Stream) -> Self {
        Self {
            source: None,
            lines: Lines::new(stream),
        }
    }

    /// Reads from `source`, which does not block.
    pub(crate) fn set_source(
        &mut self,
        poller: &Poller,
        source: OwnedFd,
        event: Event,
    ) -> nix::Result<()> {
        self.source = Some(poller.watch(source, event, Interest::Read)?);
        Ok(())
    }

    /// Whether more may come.
    pub(crate) fn is_open(&self) -> bool {
        self.source.is_some()
    }

    /// Reads what is there, up to a buffer full, writes it to the log, and hands it to `copy`.
    pub(crate) fn turn(
        &mut self,
        log: &mut Log,
        scratch: &mut Scratch,
        copy: impl FnOnce(&[u8]),
    ) -> ReadOnce {
        let Some(source) = &self.source else {
            return ReadOnce::End;
        };
        let (input, lines) = scratch.buffers();
        let outcome = read_once(source, input);
        match outcome {
            ReadOnce::Bytes(count) => {
                self.lines.push(&input[..count], SystemTime::now(), lines);
                log.write(lines);
                copy(&input[..count]);
            }
            ReadOnce::End => {
                self.source = None;
                self.lines.finish(SystemTime::now(), lines);
                log.write(lines);
            }
            ReadOnce::Nothing => {}
        }
        outcome
    }

    /// Reads what an ended container has left, without waiting for whoever still holds the other end.
    pub(crate) fn drain(
        &mut self,
        log: &mut Log,
        scratch: &mut Scratch,
        mut copy: impl FnMut(&[u8]),
    ) {
        let mut drained = 0;
        while let ReadOnce::Bytes(count) = self.turn(log, scratch, &mut copy) {
            drained += count;
            if drained >= MAX_DRAIN_BYTES {
                break;
            }
        }
        self.source = None;
        let (_, lines) = scratch.buffers();
        self.lines.finish(SystemTime::now(), lines);
        log.write(lines);
    }
}

/// A terminal whose other side is closed by all says EIO.
fn read_once(source: &OwnedFd, input: &mut [u8]) -> ReadOnce {
    match read(source, input) {
        Ok(0) => ReadOnce::End,
        Ok(count) => ReadOnce::Bytes(count),
        Err(Errno::EAGAIN | Errno::EINTR) => ReadOnce::Nothing,
        Err(_) => ReadOnce::End,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poller::Keys;
    use std::io::Write;

    #[test]
    fn whole_lines_take_no_memory_on_their_way_and_the_end_of_a_torn_one_little() {
        const READS: u64 = 100;
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        let mut log = Log::open(log.to_str().unwrap()).unwrap();
        let (poller, mut scratch) = (Poller::new().unwrap(), Scratch::default());
        let (source, mut container) = std::io::pipe().unwrap();
        let event = Event::Stdout(Keys::default().next());
        let mut output = Output::none(Stream::Stdout);
        output.set_source(&poller, source.into(), event).unwrap();
        let mut pass = |text: &[u8]| {
            container.write_all(text).unwrap();
            let read = output.turn(&mut log, &mut scratch, |_| ());
            assert_eq!(read, ReadOnce::Bytes(text.len()));
        };
        // The buffers are there as long as there is something to do.
        pass(b"first\n");
        let mut allocations_of = |text: &[u8]| {
            let passed = allocation_counter::measure(|| (0..READS).for_each(|_| pass(text)));
            passed.count_total
        };
        assert_eq!(allocations_of(&b"a line\n".repeat(1000)), 0);
        assert!(allocations_of(b"a line\nand a ha") <= READS);
    }
}
