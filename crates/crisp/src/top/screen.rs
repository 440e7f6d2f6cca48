//! A terminal on which a table is drawn again and again, and that is as it was afterwards.
//!
//! Control sequences are those of ECMA-48, and of xterm for the alternate screen.

use crate::output;
use crisp_sys::terminal;
use nix::sys::termios::SpecialCharacterIndices::{VQUIT, VSUSP};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::read;
use std::io::{stdin, stdout};
use std::thread;
use tokio::sync::mpsc::{self, Receiver, Sender};

/// Keys that end the command: `q`, and what Ctrl-D gives. Ctrl-C gives SIGINT.
pub(super) const ENDS: [u8; 2] = [b'q', 0x04];

/// Keys that wait until they are asked for; more wait in the terminal.
const KEYS_MAX: usize = 16;

/// For a key that a terminal is to have no meaning for (termios(3)).
const DISABLED: u8 = 0;

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
    keys: Receiver<u8>,
    before: Termios,
}

impl Screen {
    /// Takes the terminal: keys come at once and are not shown. Of those that give a signal Ctrl-C stays;
    /// the others would leave the terminal as it is then.
    pub(super) fn open() -> anyhow::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut silent = before.clone();
        silent
            .local_flags
            .remove(LocalFlags::ICANON | LocalFlags::ECHO);
        for key in [VQUIT, VSUSP] {
            silent.control_chars[key as usize] = DISABLED;
        }
        tcsetattr(stdin(), SetArg::TCSANOW, &silent)?;
        let (sender, keys) = mpsc::channel(KEYS_MAX);
        let screen = Self { keys, before };
        // The terminal is also the shell's, and so one whose reader blocks. The thread ends with the command.
        thread::spawn(move || read_keys(&sender));
        output::result(ENTER)?;
        Ok(screen)
    }

    /// Draws as much of a text as there is room for.
    pub(super) fn draw(&self, text: &str) -> anyhow::Result<()> {
        output::result(frame(text, size()))
    }

    /// Waits for a key. A terminal that is gone gives the key that ends.
    pub(super) async fn key(&mut self) -> u8 {
        self.keys.recv().await.unwrap_or(ENDS[0])
    }
}

fn read_keys(keys: &Sender<u8>) {
    let mut key = [0];
    while let Ok(1) = read(stdin(), &mut key)
        && keys.blocking_send(key[0]).is_ok()
    {}
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
