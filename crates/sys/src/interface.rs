//! Network interfaces, as a socket of their namespace tells of them (netdevice(7)).

use nix::errno::Errno;
use std::ffi::c_char;
use std::os::fd::{AsFd, AsRawFd};

/// The index of an interface in the network namespace that a socket of any kind belongs to. Unlike netlink's
/// answer this waits for no lock.
///
/// # Errors
/// `ENODEV` when there is none of that name.
pub fn index_of(socket: impl AsFd, name: &str) -> nix::Result<u32> {
    // SAFETY: ifreq is made of integers, and of unions of them, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let room = request.ifr_name.len() - 1;
    if name.len() > room {
        return Err(Errno::ENODEV);
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = c_char::from_ne_bytes([byte]);
    }
    // SAFETY: SIOCGIFINDEX reads the name and writes the index of a live ifreq.
    let result = unsafe {
        libc::ioctl(
            socket.as_fd().as_raw_fd(),
            libc::SIOCGIFINDEX,
            &raw mut request,
        )
    };
    Errno::result(result)?;
    // SAFETY: that request has filled in this field.
    let index = unsafe { request.ifr_ifru.ifru_ifindex };
    Ok(u32::try_from(index).expect("the kernel's indices are positive"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

    #[test]
    fn a_netlink_socket_tells_indices_by_names() {
        let (family, protocol) = (AddressFamily::Netlink, SockProtocol::NetlinkRoute);
        let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).unwrap();
        assert_eq!(index_of(&socket, "lo"), Ok(1));
        for name in ["", "no-such-name", "a-name-that-is-too-long-for-any"] {
            assert_eq!(index_of(&socket, name), Err(Errno::ENODEV), "{name:?}");
        }
    }
}
