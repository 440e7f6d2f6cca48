//! The shim's own log, on standard error: one line for each event, and bounded.

use crisp_shim_api::timestamp;
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::ftruncate;
use std::fmt::{self, Write as _};
use std::io::{Write as _, stderr};
use std::time::SystemTime;

/// The log begins anew when it has become this long.
const MAX_LOG_BYTES: i64 = 256 * 1024;

/// The longest line; the rest is cut off.
const MAX_LINE_BYTES: usize = 2048;

/// Writes one line, `2006-01-02T15:04:05.000000000Z <text>`. A log that cannot be written is not
/// worth failing for.
pub(crate) fn write(text: fmt::Arguments<'_>) {
    let mut line = Line(Vec::with_capacity(256));
    line.0
        .extend_from_slice(&timestamp::format(SystemTime::now()));
    // The only error is that the line is cut.
    let _ = write!(line, " {text}");
    line.0.push(b'\n');
    begin_anew_when_long();
    let _ = stderr().write_all(&line.0);
}

/// Writes a line to the shim's log, formatted as by [`format!`].
macro_rules! journal {
    ($($text:tt)*) => { $crate::journal::write(format_args!($($text)*)) };
}
pub(crate) use journal;

/// The file is open for appending, so that cutting it is all there is to do.
fn begin_anew_when_long() {
    if let Ok(stat) = fstat(stderr())
        && SFlag::from_bits_truncate(stat.st_mode).contains(SFlag::S_IFREG)
        && stat.st_size > MAX_LOG_BYTES
    {
        let _ = ftruncate(stderr(), 0);
    }
}

/// Text on one line: newlines in ids or messages that came from elsewhere become spaces.
struct Line(Vec<u8>);

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.0.len() >= MAX_LINE_BYTES {
                return Err(fmt::Error);
            }
            self.0
                .push(if byte.is_ascii_control() { b' ' } else { byte });
        }
        Ok(())
    }
}

/// An error with its causes.
pub(crate) struct Chain<'e>(pub(crate) &'e dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
