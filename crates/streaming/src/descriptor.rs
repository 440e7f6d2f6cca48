//! Reading and writing pipes, sockets and terminals without blocking.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::io;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One direction of a process's standard streams.
#[derive(Debug)]
pub(crate) struct Descriptor(AsyncFd<OwnedFd>);

impl Descriptor {
    pub(crate) fn to_read(fd: OwnedFd) -> io::Result<Self> {
        Self::new(fd, Interest::READABLE)
    }

    pub(crate) fn to_write(fd: OwnedFd) -> io::Result<Self> {
        Self::new(fd, Interest::WRITABLE)
    }

    fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        if !flags.contains(OFlag::O_NONBLOCK) {
            fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        }
        #[expect(
            deprecated,
            reason = "safe for an OwnedFd, which stays open while it is registered; what replaces it is unsafe"
        )]
        let registered = AsyncFd::with_interest(fd, interest)?;
        Ok(Self(registered))
    }

    /// Reads what there is, waiting for something. 0 at the end, which a terminal says with `EIO`.
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = |fd: &OwnedFd| uninterrupted(|| nix::unistd::read(fd, buffer));
        match self.0.async_io(Interest::READABLE, read).await {
            Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => Ok(0),
            result => result,
        }
    }

    /// Writes all of `bytes`.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let write = |fd: &OwnedFd| uninterrupted(|| nix::unistd::write(fd, bytes));
            let count = self.0.async_io(Interest::WRITABLE, write).await?;
            bytes = &bytes[count..];
        }
        Ok(())
    }
}

fn uninterrupted(mut call: impl FnMut() -> nix::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::pty::openpty;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn a_pipe_holds_its_writer_and_ends_when_that_is_gone() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let writer = Descriptor::to_write(writer).unwrap();
        let reader = Descriptor::to_read(reader).unwrap();
        let sent = vec![5; 1 << 20];
        let held = timeout(Duration::from_millis(50), writer.write_all(&sent));
        assert!(held.await.is_err(), "nobody reads");
        drop(writer);
        let mut received = 0;
        let mut buffer = [0; 4096];
        loop {
            match reader.read(&mut buffer).await.unwrap() {
                0 => break,
                count => received += count,
            }
        }
        assert!(received > 0 && received < sent.len());
    }

    #[tokio::test]
    async fn writing_to_nobody_fails() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        drop(reader);
        let writer = Descriptor::to_write(writer).unwrap();
        let error = writer.write_all(b"x").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_terminal_that_everybody_has_closed_is_at_its_end() {
        let terminal = openpty(None, None).unwrap();
        let master = Descriptor::to_read(terminal.master).unwrap();
        nix::unistd::write(&terminal.slave, b"bye").unwrap();
        drop(terminal.slave);
        let mut buffer = [0; 64];
        assert_eq!(master.read(&mut buffer).await.unwrap(), 3);
        assert_eq!(master.read(&mut buffer).await.unwrap(), 0);
    }

    #[test]
    fn files_that_cannot_be_waited_for_are_refused() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _entered = runtime.enter();
        let file = tempfile::tempfile().unwrap();
        assert!(Descriptor::to_read(file.into()).is_err());
    }
}
