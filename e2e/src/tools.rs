//! Where the programs are that the tests run.

use std::path::PathBuf;

/// What cargo and `hack/` put beside the tests' own binary, `<target>/<profile>/deps/<test>`.
fn target_dir() -> PathBuf {
    let test = std::env::current_exe().expect("the test's binary has a path");
    let target = test
        .ancestors()
        .nth(3)
        .expect("cargo runs tests three levels below its target directory");
    target.to_owned()
}

/// A program below the target directory.
///
/// # Panics
/// It is not there; the message says what brings it.
pub(crate) fn program(path: &str) -> PathBuf {
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
