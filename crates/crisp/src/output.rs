//! What the commands print: the one module that writes to standard output and standard error.
//!
//! Results go to standard output, everything that is about them to standard error. A reader that has
//! gone, as `head` does, is an error here, which [`is_reader_gone`] tells from others.

use crate::text::printable;
use anyhow::Result;
use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};

/// Writes a result as it is.
pub(crate) fn result(text: impl Display) -> Result<()> {
    let mut stdout = io::stdout().lock();
    write!(stdout, "{text}")?;
    Ok(stdout.flush()?)
}

/// Writes a result and ends the line.
pub(crate) fn line(text: impl Display) -> Result<()> {
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}

/// Writes what a container wrote.
pub(crate) fn stdout(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    Ok(stdout.flush()?)
}

/// Writes what a container wrote to its standard error.
pub(crate) fn stderr(bytes: &[u8]) -> Result<()> {
    Ok(io::stderr().lock().write_all(bytes)?)
}

/// Tells the person something beside the result.
pub(crate) fn note(text: impl Display) {
    // Whom it could be told to is gone.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Tells an error with its causes; none of them can write to the terminal, whoever worded it.
pub(crate) fn error(error: &anyhow::Error) {
    note(format_args!("crisp: {}", wording(error)));
}

fn wording(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let lines: Vec<_> = text.lines().map(printable).collect();
    lines.join("\n")
}

/// Whether notes are read by a person who can watch them change.
pub(crate) fn notes_go_to_a_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Rewrites the line of notes that the cursor is in; an empty text clears it.
pub(crate) fn rewrite_note(text: &str) {
    let mut stderr = io::stderr().lock();
    // As above; the sequence erases to the end of the line (ECMA-48, EL).
    let _ = write!(stderr, "\r{text}\x1b[K").and_then(|()| stderr.flush());
}

/// Whether an error is that nobody reads the output any more.
pub(crate) fn is_reader_gone(error: &anyhow::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_their_lines_and_cannot_write_to_the_terminal() {
        let error = anyhow::anyhow!("no\x1b[2Jsuch image\r\nask for another").context("pull");
        assert_eq!(
            wording(&error),
            "pull: no\u{fffd}[2Jsuch image\nask for another"
        );
    }
}
