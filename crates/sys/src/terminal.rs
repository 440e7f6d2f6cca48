//! Pseudoterminals (pty(7), ioctl_tty(2)), from the devpts instance that the caller names.

use crate::process::owned_fd;
use nix::errno::Errno;
use std::ffi::{c_int, c_long};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Unlocks the other side of a master and opens it, by the kernel's own link and not by a path.
/// It does not become the caller's controlling terminal.
///
/// # Errors
/// `ENOTTY` for what is no master, `EIO` when it has no other side.
pub fn open_peer(master: impl AsFd) -> nix::Result<OwnedFd> {
    let master = master.as_fd().as_raw_fd();
    let unlocked: c_int = 0;
    // SAFETY: TIOCSPTLCK reads an int, which lives in this frame.
    Errno::result(unsafe { libc::ioctl(master, libc::TIOCSPTLCK, &raw const unlocked) })?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes the flags of open(2) by value.
    let peer = unsafe { libc::ioctl(master, libc::TIOCGPTPEER, flags) };
    owned_fd(c_long::from(peer))
}

/// Sets the size of a terminal in characters; the foreground process group gets SIGWINCH when it
/// changes.
///
/// # Errors
/// `ENOTTY` for what is no terminal.
pub fn set_size(terminal: impl AsFd, columns: u16, rows: u16) -> nix::Result<()> {
    let size = libc::winsize {
        ws_col: columns,
        ws_row: rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads a winsize, which lives in this frame.
    let result = unsafe {
        libc::ioctl(
            terminal.as_fd().as_raw_fd(),
            libc::TIOCSWINSZ,
            &raw const size,
        )
    };
    Errno::result(result).map(drop)
}

/// The size of a terminal in characters: columns and rows, zero where it is not known.
///
/// # Errors
/// `ENOTTY` for what is no terminal.
pub fn size(terminal: impl AsFd) -> nix::Result<(u16, u16)> {
    let mut size = libc::winsize {
        ws_col: 0,
        ws_row: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ fills a winsize, which lives in this frame.
    let result = unsafe {
        libc::ioctl(
            terminal.as_fd().as_raw_fd(),
            libc::TIOCGWINSZ,
            &raw mut size,
        )
    };
    Errno::result(result).map(|_| (size.ws_col, size.ws_row))
}

/// Makes a terminal that no session has the controlling one of the caller, a session leader without
/// one.
///
/// # Errors
/// `EPERM` when that is not so.
pub fn make_controlling(terminal: impl AsFd) -> nix::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer: 0 never steals the terminal of another session.
    let result = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) };
    Errno::result(result).map(drop)
}
