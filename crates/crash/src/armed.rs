//! What a point is in a test build.

use crate::{DIRECTORY, KILL_AT, TRACE};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::env;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What this process has seen of the file [`KILL_AT`].
static SEEN: Mutex<Seen> = Mutex::new(Seen {
    order: String::new(),
    times: 0,
});

struct Seen {
    order: String,
    /// How often the process has been at the order's point since then.
    times: u32,
}

/// Ends the process if it was told to end here.
pub fn reached(point: &'static str) {
    let Some(dir) = env::var_os(DIRECTORY).map(PathBuf::from) else {
        return;
    };
    // Held to the end: whoever comes to a point meanwhile comes no further than this one.
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    // One write for a line, so that those of several processes do not mix.
    let _ = File::options()
        .append(true)
        .create(true)
        .open(dir.join(TRACE))
        .and_then(|mut trace| trace.write_all(format!("{point}\n").as_bytes()));
    if seen.is_ordered(&dir, point) {
        let _ = kill(Pid::this(), Signal::SIGKILL);
    }
}

impl Seen {
    /// Whether this process is to die here. Of several only one is: the one that takes the order away.
    fn is_ordered(&mut self, dir: &Path, point: &str) -> bool {
        let path = dir.join(KILL_AT);
        let order = fs::read_to_string(&path).unwrap_or_default();
        if order != self.order {
            *self = Self { order, times: 0 };
        }
        let (name, nth) = parse(&self.order);
        if name != point {
            return false;
        }
        self.times += 1;
        self.times == nth && fs::remove_file(path).is_ok()
    }
}

fn parse(order: &str) -> (&str, u32) {
    match order.split_once(':') {
        Some((name, nth)) => (name, nth.parse().unwrap_or(1)),
        None => (order, 1),
    }
}

/// What a process hands to those it starts, `NAME=value` each, so that they die too where it was told to.
#[must_use]
pub fn environment() -> Vec<CString> {
    let dir = env::var(DIRECTORY).ok();
    dir.and_then(|dir| CString::new(format!("{DIRECTORY}={dir}")).ok())
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_dies_at_the_nth_time_after_the_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut one = Seen {
            order: String::new(),
            times: 0,
        };
        assert!(!one.is_ordered(dir.path(), "a.b"));
        fs::write(dir.path().join(KILL_AT), "a.b:2").unwrap();
        let mut other = Seen {
            order: String::new(),
            times: 1,
        };
        assert!(!one.is_ordered(dir.path(), "a.b"));
        assert!(!one.is_ordered(dir.path(), "a.c"));
        assert!(!other.is_ordered(dir.path(), "a.b"));
        assert!(one.is_ordered(dir.path(), "a.b"));
        assert!(!other.is_ordered(dir.path(), "a.b"));
        fs::write(dir.path().join(KILL_AT), "a.b").unwrap();
        assert!(other.is_ordered(dir.path(), "a.b"));
    }
}
