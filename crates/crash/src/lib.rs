//! Named points at which a test has the daemon or a shim killed, to see that nothing is lost by it.
//!
//! [`point!`] marks one; its name is one of [`POINTS`], which the compiler checks. Without the feature
//! `armed` that is all: no code is left of it. With it, processes that have [`DIRECTORY`] in their
//! environment write there which points they reach, and the first that comes to the one that is named
//! in [`KILL_AT`] ends itself by SIGKILL.

#![forbid(unsafe_code)]

#[cfg(feature = "armed")]
mod armed;
mod points;

#[cfg(feature = "armed")]
pub use armed::{environment, reached};
pub use points::{POINTS, is_listed};

/// The environment variable that names the directory of the two files below.
pub const DIRECTORY: &str = "CRISP_CRASH_DIR";

/// Where to die: `<point>`, or `<point>:<n>` for the nth time that a process comes there after this was
/// written. The process that dies of it removes the file before.
pub const KILL_AT: &str = "kill-at";

/// Which points were reached, a line for each.
pub const TRACE: &str = "trace";

/// Marks the point of this name.
#[macro_export]
macro_rules! point {
    ($name:literal) => {{
        const { assert!($crate::is_listed($name), "not in crisp_crash::POINTS") };
        $crate::reached($name);
    }};
}

/// Does nothing: this is no test build.
#[cfg(not(feature = "armed"))]
#[inline(always)]
pub fn reached(_point: &'static str) {}

/// What a process hands to those it starts, `NAME=value` each. Nothing: this is no test build.
#[cfg(not(feature = "armed"))]
#[inline(always)]
#[must_use]
pub fn environment() -> Vec<std::ffi::CString> {
    Vec::new()
}
