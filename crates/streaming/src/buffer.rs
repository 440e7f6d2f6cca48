//! Memory for bytes on their way: room for headers in front, and no more than the traffic needs.

/// What is read at once when there is much to read, in bytes: what a pipe holds by default.
const LARGE: usize = 64 << 10;
/// What is read at once otherwise: keystrokes and their echo.
const SMALL: usize = 1 << 10;
/// So many small reads in a row say that the traffic has become small.
const CALM: u8 = 16;

/// How much to read next: learned from what came, so that an idle stream holds little memory.
#[derive(Debug, Default)]
pub(crate) struct ReadSize {
    large: bool,
    small_reads: u8,
}

impl ReadSize {
    pub(crate) fn bytes(&self) -> usize {
        if self.large { LARGE } else { SMALL }
    }

    /// Takes note of what a read gave.
    pub(crate) fn learn(&mut self, count: usize) {
        if count > SMALL {
            self.small_reads = 0;
            return;
        }
        if count == SMALL {
            self.large = true;
            self.small_reads = 0;
            return;
        }
        self.small_reads = (self.small_reads + 1).min(CALM);
        if self.small_reads == CALM {
            self.large = false;
        }
    }
}

/// Room in front of a payload, in bytes: for the header of a WebSocket frame (10), a channel (1) and
/// the header of a SPDY frame (8).
const HEADROOM: usize = 32;

/// Bytes to be sent, with room for headers in front of them.
#[derive(Debug)]
pub(crate) struct Chunk {
    memory: Vec<u8>,
    start: usize,
    end: usize,
}

impl Chunk {
    pub(crate) fn with_capacity(payload: usize) -> Self {
        Self {
            memory: vec![0; HEADROOM + payload],
            start: HEADROOM,
            end: HEADROOM,
        }
    }

    pub(crate) fn copy_of(payload: &[u8]) -> Self {
        let mut chunk = Self::with_capacity(payload.len());
        chunk.space().copy_from_slice(payload);
        chunk.set_len(payload.len());
        chunk
    }

    /// How large a payload can be.
    pub(crate) fn capacity(&self) -> usize {
        self.memory.len() - HEADROOM
    }

    /// Empties it, and gives where a payload can be written.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        self.start = HEADROOM;
        self.end = HEADROOM;
        &mut self.memory[HEADROOM..]
    }

    /// How much has been written.
    pub(crate) fn set_len(&mut self, payload: usize) {
        self.end = HEADROOM + payload;
    }

    /// Puts a header in front of what is there.
    pub(crate) fn prepend(&mut self, header: &[u8]) {
        let start = self.start - header.len();
        self.memory[start..self.start].copy_from_slice(header);
        self.start = start;
    }

    /// The payload, behind the headers that it has by now.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_grow_with_the_traffic_and_shrink_when_it_calms_down() {
        let mut size = ReadSize::default();
        assert_eq!(size.bytes(), SMALL);
        size.learn(SMALL);
        assert_eq!(size.bytes(), LARGE);
        for _ in 0..100 {
            size.learn(4);
            size.learn(4);
            size.learn(32 << 10);
        }
        assert_eq!(size.bytes(), LARGE, "headers between large payloads");
        for _ in 0..CALM {
            size.learn(1);
        }
        assert_eq!(size.bytes(), SMALL);
    }

    #[test]
    fn headers_stand_in_front_of_the_payload() {
        let mut chunk = Chunk::copy_of(b"payload");
        chunk.prepend(b"inner ");
        chunk.prepend(b"outer ");
        assert_eq!(chunk.as_bytes(), b"outer inner payload");
        assert_eq!(chunk.space().len(), chunk.capacity());
        assert_eq!(chunk.as_bytes(), b"");
    }
}
