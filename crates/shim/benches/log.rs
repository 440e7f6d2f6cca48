//! Output of a container as lines of its log.

use crisp_shim::bench::Log;
use divan::counter::BytesCount;

/// What a pipe holds.
const READ_BYTES: usize = 64 * 1024;

fn main() {
    divan::main();
}

#[divan::bench(args = [10, 100, 1000, 20_000])]
fn lines_of_bytes(bencher: divan::Bencher<'_, '_>, line_bytes: usize) {
    let line = [vec![b'x'; line_bytes - 1], vec![b'\n']].concat();
    let output: Vec<u8> = line.into_iter().cycle().take(READ_BYTES).collect();
    let mut log = Log::default();
    let counted = bencher.counter(BytesCount::new(output.len()));
    counted.bench_local(|| log.take(&output));
}
