//! Memory for passing output on, which is given back whenever the shim has nothing to do.

/// The most that is read at once: what a pipe holds.
pub(crate) const READ_BYTES: usize = 64 * 1024;

/// Buffers that one handler of an event uses at a time.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    input: Vec<u8>,
    lines: Vec<u8>,
}

impl Scratch {
    /// A buffer to read into, and an empty one to put log lines in. The latter grows to 48 times the
    /// former at most, when all that was read is newlines.
    pub(crate) fn buffers(&mut self) -> (&mut [u8], &mut Vec<u8>) {
        if self.input.is_empty() {
            self.input = vec![0; READ_BYTES];
            self.lines.reserve(READ_BYTES + READ_BYTES / 2);
        }
        self.lines.clear();
        (&mut self.input, &mut self.lines)
    }

    /// Whether there is memory to give back.
    pub(crate) fn is_held(&self) -> bool {
        !self.input.is_empty()
    }

    pub(crate) fn release(&mut self) {
        *self = Self::default();
    }
}
