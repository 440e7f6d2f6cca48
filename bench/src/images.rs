//! The images that runtimes are measured with, made here: the same bytes on every machine but for the
//! programs in them.

use crisp_e2e::{Containerd, Entry, Image, Layer, PackedLayer, Registry, catalog, tools};
use serde_json::json;
use std::fs;

/// Whose images they are said to be.
pub(crate) const REGISTRY: &str = "docker.io";
/// busybox, the [`WORKLOAD`] and [`LINES`].
pub(crate) const WORK: &str = "docker.io/bench/work:1";
/// Five layers of [`BIG_MB`] together, and nothing to run.
pub(crate) const BIG: &str = "docker.io/bench/big:1";

/// The command of containers that wait.
pub(crate) const WORKLOAD: [&str; 2] = ["/bin/workload", "pause"];
/// A file with lines of a hundred bytes.
pub(crate) const LINES: &str = "/lines";
pub(crate) const LINES_BYTES: usize = LINES_COUNT * LINE_BYTES;
const LINES_COUNT: usize = 80_000;
const LINE_BYTES: usize = 100;

/// The size of [`BIG`]'s layers before compression, in MB.
pub(crate) const BIG_MB: usize = 500;
const BIG_LAYERS: usize = 5;
const BIG_FILE_BYTES: usize = 40_000;

/// Makes the registry of the harness serve them.
pub(crate) fn publish() {
    let registry = Registry::shared();
    let shim = fs::read(tools::program("dist/crisp-shim")).expect("the shim can be read");
    let work = Layer::new([
        Entry::program("bin/workload", shim.clone()),
        Entry::file(LINES.trim_start_matches('/'), lines()),
    ]);
    let image = Image::new(vec![catalog::busybox_layer(), work.gzip()]);
    // A process that has just been started as PID 1 does not heed others yet.
    let image = image.with("StopSignal", json!("SIGKILL"));
    registry.publish("bench/work", "1", &image);

    // A process as small as crisp's own, for runtimes that need an image for that.
    let pause = Layer::new([Entry::program("pause", shim)]);
    let pause = Image::new(vec![pause.gzip()]);
    let pause = pause.with("Cmd", json!(["/pause", "pause"]));
    let (repository, tag) = Containerd::PAUSE
        .trim_start_matches("registry.k8s.io/")
        .split_once(':')
        .expect("the reference has a tag");
    registry.publish(repository, tag, &pause);

    let layers = (0..BIG_LAYERS).map(big_layer).collect();
    registry.publish("bench/big", "1", &Image::new(layers));
}

pub(crate) fn lines() -> Vec<u8> {
    let line = |number| format!("{number:<width$}\n", width = LINE_BYTES - 1).into_bytes();
    (0..LINES_COUNT).flat_map(line).collect()
}

/// Files that gzip makes about half as large, as it does those of usual images.
fn big_layer(number: usize) -> PackedLayer {
    let files = BIG_MB * 1_000_000 / BIG_LAYERS / BIG_FILE_BYTES;
    let mut random = Random(number as u64 + 1);
    let directory = format!("data{number}");
    let file = |file: usize| Entry::file(&format!("{directory}/{file}"), content(&mut random));
    let entries = [Entry::directory(&directory)];
    let files: Vec<Entry> = (0..files).map(file).collect();
    Layer::new(entries.into_iter().chain(files)).gzip()
}

/// Random bytes among runs of a word that compresses away.
fn content(random: &mut Random) -> Vec<u8> {
    let mut content = Vec::with_capacity(BIG_FILE_BYTES);
    while content.len() < BIG_FILE_BYTES {
        let number = random.next();
        content.extend(number.to_le_bytes());
        content.extend(&b"instruction"[..(number % 12) as usize]);
    }
    content
}

/// Xorshift (Marsaglia, 2003): alike on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
