//! A layer, as it comes out of its compression, unpacked: a hundred files of 16 KiB.

use crisp_image::fuzz;
use std::fs::File;
use std::os::fd::OwnedFd;

const FILES: usize = 100;
const FILE_BYTES: usize = 16 * 1024;

fn main() {
    divan::main();
}

#[divan::bench(sample_count = 20)]
fn unpack(bencher: divan::Bencher<'_, '_>) {
    let layer = layer();
    let counted = bencher.counter(divan::counter::BytesCount::new(layer.len()));
    let into = || tempfile::tempdir().expect("a directory can be made");
    counted.with_inputs(into).bench_local_refs(|directory| {
        let directory = File::open(directory.path()).expect("it is there");
        fuzz::layer(&layer, OwnedFd::from(directory)).expect("it is a layer")
    });
}

fn layer() -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    for number in 0..FILES {
        let mut header = tar::Header::new_gnu();
        header.set_size(FILE_BYTES as u64);
        header.set_mode(0o644);
        let path = format!("usr/share/{number}");
        let added = layer.append_data(&mut header, path, &[7; FILE_BYTES][..]);
        added.expect("memory takes all");
    }
    layer.into_inner().expect("memory takes all")
}
