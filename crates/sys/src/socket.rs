//! Messages with file descriptors over unix sockets (`SCM_RIGHTS`, unix(7)).

use libc::{CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN, CMSG_NXTHDR, CMSG_SPACE};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Most file descriptors that one message may carry; the kernel's own bound is 253.
pub const MAX_FDS: usize = 16;

/// Room for the control data of `MAX_FDS` descriptors: a header of 16 bytes and 4 bytes each.
const CONTROL_BYTES: usize = 16 + MAX_FDS * size_of::<RawFd>();

/// The control buffer, aligned as its header needs.
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// Whether a call may wait for its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Until the message is sent or has come.
    Block,
    /// Not at all: the error is [`io::ErrorKind::WouldBlock`].
    Never,
}

/// A message that came from a socket.
#[derive(Debug)]
pub struct Received {
    /// How much of the buffer it fills; zero also when the peer has closed the connection.
    pub bytes: usize,
    /// Descriptors that came with it, each closed on exec.
    pub fds: Vec<OwnedFd>,
    /// The message or its descriptors did not fit, and what did not is lost.
    pub truncated: bool,
}

/// Sends one message. A peer that has gone is [`io::ErrorKind::BrokenPipe`], never SIGPIPE.
///
/// # Errors
/// Of sendmsg(2); [`io::ErrorKind::InvalidInput`] when there are more than [`MAX_FDS`] descriptors.
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    wait: Wait,
) -> io::Result<usize> {
    if fds.len() > MAX_FDS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut control = Control([0; CONTROL_BYTES]);
    let mut data = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut header = message_header(&mut data, &mut control);
    write_fds(&mut header, fds);
    let flags = libc::MSG_NOSIGNAL | flag(wait);
    loop {
        // SAFETY: `header` points to `data` and `control`, which live in this frame; the kernel only
        // reads what `data` points to.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags) };
        if let Some(sent) = done(sent)? {
            return Ok(sent);
        }
    }
}

/// The length in bytes of the message that is to be received next, which stays where it is; zero also when
/// the peer has closed the connection. For sockets that keep messages apart.
///
/// # Errors
/// Of recv(2).
pub fn next_length(socket: BorrowedFd<'_>, wait: Wait) -> io::Result<usize> {
    let flags = libc::MSG_PEEK | libc::MSG_TRUNC | flag(wait);
    loop {
        // SAFETY: the kernel writes nothing to a buffer that has no length.
        let length = unsafe { libc::recv(socket.as_raw_fd(), std::ptr::null_mut(), 0, flags) };
        if let Some(length) = done(length)? {
            return Ok(length);
        }
    }
}

/// Receives one message into `buffer`.
///
/// # Errors
/// Of recvmsg(2).
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], wait: Wait) -> io::Result<Received> {
    let mut control = Control([0; CONTROL_BYTES]);
    let mut data = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut header = message_header(&mut data, &mut control);
    let flags = libc::MSG_CMSG_CLOEXEC | flag(wait);
    loop {
        // SAFETY: `header` points to `data` and `control`, which live in this frame, and `data` to
        // `buffer`, which is borrowed mutably; all lengths are theirs.
        let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
        if let Some(bytes) = done(received)? {
            return Ok(Received {
                bytes,
                fds: take_fds(&header),
                truncated: header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
            });
        }
    }
}

/// The socket that whoever executed this program left at a descriptor. It is a duplicate, closed on
/// exec, because the number may have an owner already.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] when it is no socket, else those of fcntl(2).
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: duplicating takes nothing from the owner of `number`, if there is one.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the duplicate is new and owned by nobody else.
    let copy = unsafe { OwnedFd::from_raw_fd(copy) };
    let kind = nix::sys::stat::fstat(&copy)?.st_mode & libc::S_IFMT;
    match kind {
        libc::S_IFSOCK => Ok(copy),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn flag(wait: Wait) -> libc::c_int {
    match wait {
        Wait::Block => 0,
        Wait::Never => libc::MSG_DONTWAIT,
    }
}

/// The count of bytes that a call returned; none when a signal interrupted it.
fn done(returned: libc::ssize_t) -> io::Result<Option<usize>> {
    usize::try_from(returned).map(Some).or_else(|_| {
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        }
    })
}

fn message_header(data: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: `msghdr` is plain data, for which all zeroes mean "nothing".
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = data;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_BYTES as _;
    header
}

/// Writes `fds` (at most [`MAX_FDS`]) into the control buffer of a header that is to be sent.
fn write_fds(header: &mut libc::msghdr, fds: &[BorrowedFd<'_>]) {
    if fds.is_empty() {
        header.msg_control = std::ptr::null_mut();
        header.msg_controllen = 0;
        return;
    }
    let length = u32::try_from(size_of_val(fds)).expect("MAX_FDS descriptors are few bytes");
    // SAFETY: `msg_control` points to CONTROL_BYTES zeroed and aligned bytes, which hold the header
    // and MAX_FDS descriptors; `fds` are no more than that (checked by `send`).
    unsafe {
        header.msg_controllen = CMSG_SPACE(length) as _;
        let message = CMSG_FIRSTHDR(header);
        (*message).cmsg_level = libc::SOL_SOCKET;
        (*message).cmsg_type = libc::SCM_RIGHTS;
        (*message).cmsg_len = CMSG_LEN(length) as _;
        let numbers: *mut RawFd = CMSG_DATA(message).cast();
        for (index, fd) in fds.iter().enumerate() {
            numbers.add(index).write_unaligned(fd.as_raw_fd());
        }
    }
}

/// Takes the descriptors out of the control buffer of a header that the kernel has filled in.
fn take_fds(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the kernel wrote `msg_controllen` bytes of well formed control messages; each
    // descriptor in SCM_RIGHTS is new in this process and owned by nobody else.
    unsafe {
        let mut message = CMSG_FIRSTHDR(header);
        while !message.is_null() {
            if (*message).cmsg_level == libc::SOL_SOCKET && (*message).cmsg_type == libc::SCM_RIGHTS
            {
                let length = (*message).cmsg_len - CMSG_LEN(0) as usize;
                let numbers: *const RawFd = CMSG_DATA(message).cast();
                for index in 0..length / size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(numbers.add(index).read_unaligned()));
                }
            }
            message = CMSG_NXTHDR(header, message);
        }
    }
    fds
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn descriptors_travel_with_a_message_and_close_on_exec() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        send(ours.as_fd(), b"hello", &[writer.as_fd()], Wait::Block).unwrap();
        drop(writer);

        let mut buffer = [0; 16];
        let mut received = receive(theirs.as_fd(), &mut buffer, Wait::Block).unwrap();
        assert_eq!(&buffer[..received.bytes], b"hello");
        assert!(!received.truncated);
        let fd = received.fds.pop().unwrap();
        let flags =
            std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
        assert!(
            flags.contains("flags:\t02"),
            "O_CLOEXEC is missing in {flags}"
        );
        File::from(fd).write_all(b"x").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }

    #[test]
    fn a_message_too_long_for_the_buffer_is_marked() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        send(ours.as_fd(), b"hello", &[], Wait::Block).unwrap();
        let received = receive(theirs.as_fd(), &mut [0; 2], Wait::Block).unwrap();
        assert!(received.truncated);
    }

    #[test]
    fn the_length_of_a_message_is_known_before_it_is_received() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let (reader, _writer) = std::io::pipe().unwrap();
        send(ours.as_fd(), b"hello", &[reader.as_fd()], Wait::Block).unwrap();
        assert_eq!(next_length(theirs.as_fd(), Wait::Never).unwrap(), 5);
        let received = receive(theirs.as_fd(), &mut [0; 5], Wait::Never).unwrap();
        assert_eq!((received.bytes, received.fds.len()), (5, 1));
        let error = next_length(theirs.as_fd(), Wait::Never).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn nothing_to_receive_does_not_wait() {
        let (_ours, theirs) = UnixDatagram::pair().unwrap();
        let error = receive(theirs.as_fd(), &mut [0; 2], Wait::Never).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn only_a_socket_is_inherited() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let copy = inherited(ours.as_raw_fd()).unwrap();
        send(copy.as_fd(), b"x", &[], Wait::Block).unwrap();
        assert_eq!(
            receive(theirs.as_fd(), &mut [0], Wait::Block)
                .unwrap()
                .bytes,
            1
        );
        let (reader, _writer) = std::io::pipe().unwrap();
        let error = inherited(reader.as_raw_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn more_descriptors_than_allowed_are_refused() {
        let (ours, _theirs) = UnixDatagram::pair().unwrap();
        let many = vec![ours.as_fd(); MAX_FDS + 1];
        let error = send(ours.as_fd(), b"x", &many, Wait::Block).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
