//! A stream of decisions that a seed repeats: splitmix64 (Steele, Lea and Flood, "Fast splittable
//! pseudorandom number generators", 2014).

use std::time::Duration;

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// Who has one decides by it alone, so that others do not change what it decides.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The stream of one of those who decide under a seed.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut streams = Self(seed);
        let start = streams.next();
        Self(start ^ mix(stream.wrapping_mul(GAMMA)))
    }

    /// A stream of its own for something that takes as many decisions as time brings about: whoever has it
    /// decides the same afterwards.
    pub(crate) fn fork(&mut self) -> Self {
        Self(mix(self.next()))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        mix(self.0)
    }

    /// At least `low` and less than `high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.between(0, 100) < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.index(choices.len())]
    }

    /// Of a list that is not empty.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        let bound = u64::try_from(length).expect("a length fits 64 bits");
        usize::try_from(self.between(0, bound)).expect("less than a length")
    }

    pub(crate) fn milliseconds(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }
}

fn mix(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_decisions_and_streams_differ() {
        let take = |seed, stream| {
            let mut random = Random::new(seed, stream);
            (0..8).map(|_| random.between(0, 1000)).collect::<Vec<_>>()
        };
        assert_eq!(take(1, 2), take(1, 2));
        assert_ne!(take(1, 2), take(1, 3));
        assert_ne!(take(1, 2), take(2, 2));
    }

    #[test]
    fn what_a_fork_decides_changes_nothing_for_others() {
        let after_fork = |decisions| {
            let mut random = Random::new(1, 2);
            let mut fork = random.fork();
            for _ in 0..decisions {
                fork.next();
            }
            random.next()
        };
        assert_eq!(after_fork(0), after_fork(5));
        let mut random = Random::new(1, 2);
        assert_ne!(random.fork().next(), random.fork().next());
    }
}
