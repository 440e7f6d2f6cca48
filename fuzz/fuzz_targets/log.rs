//! A container's log file, of which the last lines are wanted. The first byte says how many.
#![no_main]

use crisp_model::log::{Entry, Tail};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((lines_max, log)) = input.split_first() else {
        return;
    };
    let mut tail = Tail::new(usize::from(*lines_max));
    let mut all = Vec::new();
    for line in log.split(|byte| *byte == b'\n') {
        tail.push(line);
        all.extend(Entry::parse(line));
    }
    let kept: Vec<_> = tail.entries().collect();
    assert!(all.ends_with(&kept));
    let whole = kept.iter().filter(|entry| entry.whole).count();
    assert!(whole <= usize::from(*lines_max));
});
