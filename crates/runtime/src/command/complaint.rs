//! What a runtime says when it refuses, and what it means.

use super::program::LOG_FILE;
use super::workspace::tail;
use crate::error::{Reason, StartError};
use crisp_sys::process::ExitStatus;
use nix::errno::Errno;
use oci_spec::runtime::Process;
use std::path::PathBuf;

/// As much of the end of a log as is looked through for an error.
const MAX_LOG_BYTES: u64 = 64 << 10;

/// A line of the log, of which a runtime may say more.
#[derive(Debug, serde::Deserialize)]
struct Line {
    level: String,
    msg: String,
}

/// The last error in the log, or else how the program ended.
pub(super) fn last_error(status: ExitStatus) -> String {
    let log = String::from_utf8_lossy(&tail(LOG_FILE, MAX_LOG_BYTES)).into_owned();
    last_error_in(&log).unwrap_or_else(|| match status {
        ExitStatus::Exited(code) => format!("exit status {code}, without an error in its log"),
        ExitStatus::Killed(signal) => format!("killed by signal {signal}"),
    })
}

fn last_error_in(log: &str) -> Option<String> {
    let lines = log
        .lines()
        .rev()
        .filter_map(|line| serde_json::from_str(line).ok());
    let mut errors = lines.filter(|line: &Line| matches!(line.level.as_str(), "error" | "fatal"));
    errors.next().map(|line| line.msg)
}

/// Tells from a runtime's words whether what was asked for cannot be executed: then it is the same error
/// as the embedded runtime's.
pub(super) fn explain(error: StartError, process: &Process) -> StartError {
    let StartError::Refused { message, .. } = &error else {
        return error;
    };
    let text = message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    // runc makes a working directory that is missing; crun goes to the one that there is.
    let [mkdir, chdir] = [("mkdir ", ":"), ("chdir `", "`")].map(|(before, after)| {
        format!("{before}{}{after}", process.cwd().display()).to_ascii_lowercase()
    });
    if says(&["chdir to", "set in config.json failed", &mkdir, &chdir]) {
        let path = process.cwd().clone();
        let reason = Reason::WorkingDirectory(errno_in(&text).unwrap_or(Errno::ENOENT));
        return StartError::NotExecutable { path, reason };
    }
    let about_program = [
        "exec: \"",
        "executable file",
        "open executable",
        "exec format",
    ];
    if !says(&about_program) {
        return error;
    }
    let first = process.args().iter().flatten().next();
    let path = first.map(PathBuf::from).unwrap_or_default();
    let is_name = path.components().count() == 1 && path.is_relative();
    let reason = match errno_in(&text) {
        // crun says so of paths as well.
        _ if is_name && says(&["not found in $path"]) => Reason::NotInPath,
        Some(errno) => Reason::of_exec(errno),
        None if says(&["not found"]) => Reason::NotFound,
        None => return error,
    };
    StartError::NotExecutable { path, reason }
}

/// The error number that a text ends with, in the words of strerror(3).
fn errno_in(text: &str) -> Option<Errno> {
    let known = [
        Errno::ENOENT,
        Errno::EACCES,
        Errno::EPERM,
        Errno::ENOTDIR,
        Errno::EISDIR,
        Errno::ENOEXEC,
        Errno::ELOOP,
    ];
    let mut known = known.into_iter();
    known.find(|errno| text.contains(&errno.desc().to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(message: &str) -> StartError {
        let process = serde_json::json!({
            "cwd": "/work", "args": ["nope"], "user": { "uid": 0, "gid": 0 },
        });
        let refused = StartError::Refused {
            program: "/usr/bin/runc".into(),
            message: format!("create: {message}"),
        };
        explain(refused, &serde_json::from_value(process).unwrap())
    }

    #[test]
    fn the_last_error_of_a_log_is_what_went_wrong() {
        let log = "{\"level\":\"error\",\"msg\":\"first\"}\n{\"level\":\"error\",\"msg\":\"last\",\"time\":\"x\"}\n\
                   {\"level\":\"warning\",\"msg\":\"later\"}\nno json\n";
        assert_eq!(last_error_in(log).as_deref(), Some("last"));
        assert_eq!(last_error_in(""), None);
    }

    #[test]
    fn a_program_that_cannot_be_executed_is_told_from_a_runtime_that_fails() {
        for (message, expected) in [
            (
                "unable to start container process: exec: \"nope\": executable file not found in $PATH",
                "exec nope: executable file not found in $PATH",
            ),
            (
                "unable to start container process: exec: \"nope\": stat nope: no such file or directory",
                "exec nope: no such file or directory",
            ),
            (
                "executable file `nope` not found: No such file or directory",
                "exec nope: no such file or directory",
            ),
            (
                "open executable: Permission denied",
                "exec nope: permission denied",
            ),
            (
                "chdir to cwd (\"/work\") set in config.json failed: not a directory",
                "change to working directory /work: not a directory",
            ),
            (
                "chdir `/work`: Not a directory",
                "change to working directory /work: not a directory",
            ),
            (
                "error during container init: mkdir /work: not a directory",
                "change to working directory /work: not a directory",
            ),
            (
                "cgroup is not empty",
                "/usr/bin/runc: create: cgroup is not empty",
            ),
        ] {
            assert_eq!(explained(message).to_string(), expected);
        }
    }
}
