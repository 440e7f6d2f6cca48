//! Waiting for descriptors, as long as it is worth it.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::BorrowedFd;
use std::time::Instant;

/// Waits until there is something to read; false: nothing came until then. A pidfd can be read when its
/// process has ended (pidfd_open(2)).
///
/// # Errors
/// Those of poll(2), but for interruptions.
pub fn readable(fd: BorrowedFd<'_>, until: Instant) -> nix::Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], left) {
            Err(Errno::EINTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}
