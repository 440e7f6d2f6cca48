//! A layer of an image, unpacked into a directory. Nothing beside the directory may change.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::fs::{self, File};
use std::path::Path;

fuzz_target!(|input: &[u8]| {
    // In memory, where making and removing files is cheap.
    let dir = tempfile::tempdir_in("/dev/shm").expect("there is shared memory");
    let (inside, beside) = (dir.path().join("inside"), dir.path().join("beside"));
    fs::create_dir(&inside).expect("the directory is new");
    fs::write(&beside, "beside").expect("the directory can be written");
    let root = File::open(&inside).expect("it was just made");
    let _ = crisp_image::fuzz::layer(input, root.into());
    assert_eq!(fs::read(&beside).expect("it is still there"), b"beside");
    assert_eq!(names(dir.path()), ["beside", "inside"]);
});

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("the directory is there");
    let name = |entry: std::io::Result<fs::DirEntry>| {
        let name = entry.expect("it can be read").file_name();
        name.to_string_lossy().into_owned()
    };
    let mut names: Vec<_> = entries.map(name).collect();
    names.sort();
    names
}
