//! A terminal on which a table is drawn again and again, and that is as it was afterwards.
//!
//! Control sequences are those of ECMA-48, and of xterm for the alternate screen.

use crate::output;
use crisp_sys::terminal;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::read;
use std::io::{self, stdin, stdout};
use std::os::fd::AsFd;
use std::time::Duration;

/// Keys that end the command: `q`, and what Ctrl-C and Ctrl-D give.
pub(super) const ENDS: [u8; 3] = [b'q', 0x03, 0x04];

/// The other screen, without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// To the first column of the first row.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// The size of a terminal that does not tell.
const USUAL_SIZE: (u16, u16) = (80, 24);

/// The terminal, as long as this lives.
pub(super) struct Screen {
    before: Termios,
}

impl Screen {
    /// Takes the terminal: keys come at once and are not shown.
    pub(super) fn open() -> anyhow::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut silent = before.clone();
        silent
            .local_flags
            .remove(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG);
        tcsetattr(stdin(), SetArg::TCSANOW, &silent)?;
        let screen = Self { before };
        output::result(ENTER)?;
        Ok(screen)
    }

    /// Draws as much of a text as there is room for.
    pub(super) fn draw(&self, text: &str) -> anyhow::Result<()> {
        output::result(frame(text, size()))
    }

    /// Waits for a key, at most so long. A terminal that is gone gives the key that ends.
    pub(super) fn key(&self, patience: Duration) -> io::Result<Option<u8>> {
        let stdin = stdin();
        let mut wanted = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        match poll(&mut wanted, patience) {
            // The window has another size.
            Ok(0) | Err(Errno::EINTR) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut key = [0];
        match read(stdin.as_fd(), &mut key)? {
            0 => Ok(Some(ENDS[0])),
            _ => Ok(Some(key[0])),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = output::result(LEAVE);
        let _ = tcsetattr(stdin(), SetArg::TCSANOW, &self.before);
    }
}

fn size() -> (u16, u16) {
    match terminal::size(stdout()) {
        Ok((0, _) | (_, 0)) | Err(_) => USUAL_SIZE,
        Ok(size) => size,
    }
}

/// The beginning of each line, for as many lines as there are rows.
fn frame(text: &str, (columns, rows): (u16, u16)) -> String {
    let mut frame = HOME.to_owned();
    for (index, line) in text.lines().take(rows.into()).enumerate() {
        // The last line has no end, which would make the screen move.
        frame.push_str(if index > 0 { "\r\n" } else { "" });
        frame.extend(line.chars().take(columns.into()));
        frame.push_str(CLEAR_LINE);
    }
    frame + CLEAR_BELOW
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_never_leaves_the_screen() {
        assert_eq!(
            frame("abcdef\nx\ny\n", (4, 2)),
            "\x1b[Habcd\x1b[K\r\nx\x1b[K\x1b[J"
        );
    }
}
