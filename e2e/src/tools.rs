//! Where the programs are that the tests run.

use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::Command;

/// A program that `hack/` put into cargo's target directory, which this program is somewhere below of.
///
/// # Panics
/// It is not there; the message says what brings it.
#[must_use]
pub fn program(path: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a running program has a path");
    own.ancestors()
        .map(|dir| dir.join(path))
        .find(|program| program.exists())
        .unwrap_or_else(|| panic!("target/{path} is missing: run hack/test.sh --prepare"))
}

/// Runs a program to its end.
///
/// # Errors
/// It cannot be started, or fails; the message has what it printed.
pub fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {output:?}");
    Ok(())
}

/// A program of a Debian package that was unpacked, not installed.
pub(crate) fn debian(path: &str) -> PathBuf {
    program("tools/debian").join(path)
}

/// Debian's `runc` or `crun`.
#[must_use]
pub fn oci_runtime(name: &str) -> PathBuf {
    program("tools/oci/bin").join(name)
}

/// criu of a Debian release that knows the kernels that tests run on.
#[must_use]
pub fn criu() -> PathBuf {
    program("tools/criu/bin/criu")
}
