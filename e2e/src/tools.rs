//! Where the programs are that the tests run.

use std::path::PathBuf;

/// Where cargo put this program, and `hack/` what it runs: cargo marks the directory for backup programs
/// (bford.info/cachedir).
#[must_use]
pub fn target_dir() -> PathBuf {
    let program = std::env::current_exe().expect("a running program has a path");
    let target = program
        .ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").exists())
        .expect("cargo built this in its target directory");
    target.to_owned()
}

/// A program below the target directory.
///
/// # Panics
/// It is not there; the message says what brings it.
#[must_use]
pub fn program(path: &str) -> PathBuf {
    let program = target_dir().join(path);
    assert!(
        program.exists(),
        "{} is missing: run hack/test.sh --prepare",
        program.display()
    );
    program
}

/// A program of a Debian package that was unpacked, not installed.
pub(crate) fn debian(path: &str) -> PathBuf {
    program("tools/debian").join(path)
}
