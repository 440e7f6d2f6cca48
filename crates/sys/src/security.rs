//! Capabilities, seccomp, no_new_privs and what else confines a process.

use nix::errno::Errno;
use nix::unistd::{Gid, Uid};
use std::ffi::{c_int, c_long, c_uint, c_ulong};

/// A set of capabilities; bit n is capability number n (linux/capability.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// Every number there could be.
    pub const ALL: Self = Self(u64::MAX);

    /// Those that this kernel knows, by asking for each number in turn.
    #[must_use]
    pub fn known() -> Self {
        (0..64)
            .take_while(|&number| prctl(libc::PR_CAPBSET_READ, number.into(), 0).is_ok())
            .fold(Self::default(), |set, number| set.with(number))
    }

    #[must_use]
    pub fn with(self, number: u32) -> Self {
        Self(self.0 | 1 << number)
    }

    #[must_use]
    pub fn contains(self, number: u32) -> bool {
        self.0 & 1 << number != 0
    }

    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The numbers in the set, ascending.
    pub fn numbers(self) -> impl Iterator<Item = u32> {
        (0..64).filter(move |&number| self.contains(number))
    }
}

/// The sets that capget(2) and capset(2) deal in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CapabilitySets {
    pub effective: Capabilities,
    pub permitted: Capabilities,
    pub inheritable: Capabilities,
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: c_int,
}

/// The low halves of the three sets, then the high ones.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// The capabilities of the calling thread.
///
/// # Errors
/// None that Linux reports.
pub fn capabilities() -> nix::Result<CapabilitySets> {
    let mut header = CapHeader {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 fills in two CapData.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    Errno::result(result)?;
    let join = |half: fn(&CapData) -> u32| {
        Capabilities(u64::from(half(&data[0])) | u64::from(half(&data[1])) << 32)
    };
    Ok(CapabilitySets {
        effective: join(|d| d.effective),
        permitted: join(|d| d.permitted),
        inheritable: join(|d| d.inheritable),
    })
}

/// Sets the capabilities of the calling thread.
///
/// # Errors
/// `EPERM` when a set would grow.
pub fn set_capabilities(sets: &CapabilitySets) -> nix::Result<()> {
    let mut header = CapHeader {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let half = |shift: u32| {
        let part = |set: Capabilities| {
            u32::try_from(set.0 >> shift & u64::from(u32::MAX)).expect("masked to 32 bits")
        };
        CapData {
            effective: part(sets.effective),
            permitted: part(sets.permitted),
            inheritable: part(sets.inheritable),
        }
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads two CapData.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    Errno::result(result).map(drop)
}

/// Takes all capabilities but these out of the bounding set.
///
/// # Errors
/// `EPERM` without CAP_SETPCAP.
pub fn limit_bounding(kept: Capabilities) -> nix::Result<()> {
    for number in Capabilities::ALL.numbers() {
        if kept.contains(number) {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, number.into(), 0) {
            // The kernel knows none from here on.
            Err(Errno::EINVAL) => break,
            done => done?,
        }
    }
    Ok(())
}

/// Empties the ambient set.
///
/// # Errors
/// None that Linux reports.
pub fn clear_ambient() -> nix::Result<()> {
    prctl(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_CLEAR_ALL as c_ulong,
        0,
    )
}

/// Adds a capability to the ambient set.
///
/// # Errors
/// `EPERM` unless it is permitted and inheritable.
pub fn raise_ambient(number: u32) -> nix::Result<()> {
    prctl(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_RAISE as c_ulong,
        number.into(),
    )
}

/// Whether permitted capabilities outlive the change from user 0 to another one.
///
/// # Errors
/// None that Linux reports.
pub fn set_keep_capabilities(keep: bool) -> nix::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, keep.into(), 0)
}

/// Makes sure that execve(2) never grants privileges again.
///
/// # Errors
/// None that Linux reports.
pub fn set_no_new_privs() -> nix::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)
}

/// Whether other processes of the same user may trace this one and open its files by procfs.
///
/// # Errors
/// None that Linux reports.
pub fn set_dumpable(dumpable: bool) -> nix::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, dumpable.into(), 0)
}

/// Changes user, group and supplementary groups for good: all ids, exactly these groups.
///
/// # Errors
/// `EPERM` without privilege, `EINVAL` for an id that the user namespace does not map.
pub fn set_identity(uid: Uid, gid: Gid, groups: &[Gid]) -> nix::Result<()> {
    nix::unistd::setgroups(groups)?;
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)
}

/// Loads a seccomp filter: `program` is an array of `struct sock_filter` in the machine's byte order,
/// `flags` are `SECCOMP_FILTER_FLAG_*`.
///
/// # Errors
/// `EINVAL` for a program the kernel refuses or a length that is no multiple of an instruction,
/// `EACCES` without both no_new_privs and CAP_SYS_ADMIN.
pub fn load_seccomp(program: &[u8], flags: u32) -> nix::Result<()> {
    let instructions: Vec<libc::sock_filter> = program
        .chunks(size_of::<libc::sock_filter>())
        .map(|chunk| match *chunk {
            [c0, c1, jt, jf, k0, k1, k2, k3] => Ok(libc::sock_filter {
                code: u16::from_ne_bytes([c0, c1]),
                jt,
                jf,
                k: u32::from_ne_bytes([k0, k1, k2, k3]),
            }),
            _ => Err(Errno::EINVAL),
        })
        .collect::<Result<_, _>>()?;
    let program = libc::sock_fprog {
        len: u16::try_from(instructions.len()).map_err(|_| Errno::EINVAL)?,
        filter: instructions.as_ptr().cast_mut(),
    };
    // SAFETY: `program` describes the live vector of instructions, which the kernel only reads.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    Errno::result(result).map(drop)
}

/// Gives the process a session keyring of its own, empty.
///
/// # Errors
/// `ENOSYS` without kernel keyrings, `EDQUOT` at a limit on keys.
pub fn join_new_session_keyring() -> nix::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    let result = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
    Errno::result(result).map(drop)
}

/// Sets the execution domain (`PER_*` in linux/personality.h).
///
/// # Errors
/// `EINVAL` for a domain the kernel does not know.
pub fn set_personality(domain: c_uint) -> nix::Result<()> {
    // SAFETY: personality takes an integer.
    Errno::result(unsafe { libc::personality(c_ulong::from(domain)) }).map(drop)
}

fn prctl(option: c_int, argument: c_ulong, argument2: c_ulong) -> nix::Result<()> {
    const UNUSED: c_ulong = 0;
    // SAFETY: every option used here takes integers only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_prctl,
            option as c_long,
            argument,
            argument2,
            UNUSED,
            UNUSED,
        )
    };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_capabilities_start_at_chown_and_have_no_gap() {
        let known = Capabilities::known();
        assert!(known.contains(0));
        assert_eq!(known.0 & (known.0 + 1), 0);
        assert!(known.numbers().count() >= 41);
    }

    #[test]
    fn own_capabilities_can_be_set_to_what_they_are() {
        let own = capabilities().unwrap();
        set_capabilities(&own).unwrap();
        assert_eq!(capabilities().unwrap(), own);
    }

    #[test]
    fn a_program_of_half_an_instruction_is_refused() {
        assert_eq!(load_seccomp(&[0; 12], 0), Err(Errno::EINVAL));
    }
}
