//! Device filters for control groups: the instructions a filter is made of, and how it is put in place.
//!
//! On cgroup v2 there is no devices controller; a BPF program of type `BPF_PROG_TYPE_CGROUP_DEVICE`
//! decides on every `open` and `mknod` of a device (Documentation/admin-guide/cgroup-v2.rst, "Device
//! controller"). What a filter allows is decided by who writes its instructions, not here.

use std::ffi::c_long;
use std::io;
use std::mem::{size_of, size_of_val};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// `access` of [`context::ACCESS_TYPE`]: making a device node (`BPF_DEVCG_ACC_MKNOD`).
pub const ACCESS_MKNOD: u32 = 1;
/// Opening for reading (`BPF_DEVCG_ACC_READ`).
pub const ACCESS_READ: u32 = 2;
/// Opening for writing (`BPF_DEVCG_ACC_WRITE`).
pub const ACCESS_WRITE: u32 = 4;
/// A block device (`BPF_DEVCG_DEV_BLOCK`).
pub const DEVICE_BLOCK: u32 = 1;
/// A character device (`BPF_DEVCG_DEV_CHAR`).
pub const DEVICE_CHAR: u32 = 2;

/// Offsets in `struct bpf_cgroup_dev_ctx`, which register 1 points to when a filter starts.
pub mod context {
    /// `access << 16 | type`.
    pub const ACCESS_TYPE: i16 = 0;
    /// The device's major number.
    pub const MAJOR: i16 = 4;
    /// The device's minor number.
    pub const MINOR: i16 = 8;
}

/// The filters that one control group can hold (`BPF_CGROUP_MAX_PROGS`).
const MAX_FILTERS: usize = 64;

// include/uapi/linux/bpf.h: enum bpf_cmd, bpf_prog_type, bpf_attach_type and the attach flags.
const BPF_PROG_LOAD: c_long = 5;
const BPF_PROG_ATTACH: c_long = 8;
const BPF_PROG_DETACH: c_long = 9;
const BPF_PROG_GET_FD_BY_ID: c_long = 13;
const BPF_PROG_QUERY: c_long = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// A register of the BPF machine, 0 to 10.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(u8);

impl Register {
    /// The verdict when the filter ends: 1 allows, 0 denies.
    pub const VERDICT: Self = Self(0);
    /// The address of the context when the filter starts.
    pub const CONTEXT: Self = Self(1);
    /// Free for the filter's use.
    pub const R2: Self = Self(2);
    /// Free for the filter's use.
    pub const R3: Self = Self(3);
    /// Free for the filter's use.
    pub const R4: Self = Self(4);
    /// Free for the filter's use.
    pub const R5: Self = Self(5);
}

/// One instruction, as `struct bpf_insn` has it (Documentation/bpf/standardization/instruction-set.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    opcode: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    /// `dst = *(u32 *)(src + offset)`
    pub const fn load_u32(dst: Register, src: Register, offset: i16) -> Self {
        Self::new(0x61, dst, src, offset, 0)
    }

    /// `dst = src`, the upper half cleared
    pub const fn copy_u32(dst: Register, src: Register) -> Self {
        Self::new(0xbc, dst, src, 0, 0)
    }

    /// `dst = value`
    pub const fn set_u32(dst: Register, value: u32) -> Self {
        Self::new(0xb4, dst, Register(0), 0, value.cast_signed())
    }

    /// `dst &= mask`
    pub const fn and_u32(dst: Register, mask: u32) -> Self {
        Self::new(0x54, dst, Register(0), 0, mask.cast_signed())
    }

    /// `dst >>= bits`
    pub const fn shift_right_u32(dst: Register, bits: u32) -> Self {
        Self::new(0x74, dst, Register(0), 0, bits.cast_signed())
    }

    /// `if (u32)dst != value` skip the next `skip` instructions (`BPF_JMP32`, kernel 5.1)
    pub const fn skip_unless_equal(dst: Register, value: u32, skip: i16) -> Self {
        Self::new(0x56, dst, Register(0), skip, value.cast_signed())
    }

    /// `if (u32)dst & mask` skip the next `skip` instructions (`BPF_JSET`)
    pub const fn skip_if_any(dst: Register, mask: u32, skip: i16) -> Self {
        Self::new(0x46, dst, Register(0), skip, mask.cast_signed())
    }

    /// Skips the next `skip` instructions.
    pub const fn skip(skip: i16) -> Self {
        Self::new(0x05, Register(0), Register(0), skip, 0)
    }

    /// Ends the filter.
    pub const fn exit() -> Self {
        Self::new(0x95, Register(0), Register(0), 0, 0)
    }

    const fn new(opcode: u8, dst: Register, src: Register, offset: i16, immediate: i32) -> Self {
        // The two registers are C bit fields: their order follows the machine's byte order.
        let registers = if cfg!(target_endian = "little") {
            dst.0 | src.0 << 4
        } else {
            dst.0 << 4 | src.0
        };
        Self {
            opcode,
            registers,
            offset,
            immediate,
        }
    }
}

/// Which step of putting a filter in place failed.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The kernel's verifier or its configuration refused the program.
    #[error("the kernel did not load the device filter")]
    Load(#[source] io::Error),
    /// The programs in place could not be listed or opened.
    #[error("cannot list the device filters of the cgroup")]
    Query(#[source] io::Error),
    /// The program was not attached.
    #[error("cannot attach the device filter to the cgroup")]
    Attach(#[source] io::Error),
    /// The new program is in place, and an old one as well.
    #[error("cannot detach the previous device filter from the cgroup")]
    Detach(#[source] io::Error),
}

/// Makes `filter` the only device filter that is attached to `cgroup`, an open directory of a cgroup2
/// file system. Filters of its ancestors go on being asked as well.
///
/// The new filter is attached before the old ones are detached: there is no instant without one.
pub fn replace_device_filter(
    cgroup: BorrowedFd<'_>,
    filter: &[Instruction],
) -> Result<(), FilterError> {
    let new = load(filter).map_err(FilterError::Load)?;
    let old = attached(cgroup).map_err(FilterError::Query)?;
    attach(cgroup, new.as_fd()).map_err(FilterError::Attach)?;
    for id in old {
        let program = match open(id) {
            // The program was detached by somebody else meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            other => other.map_err(FilterError::Query)?,
        };
        detach(cgroup, program.as_fd()).map_err(FilterError::Detach)?;
    }
    Ok(())
}

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` needs.
#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The part of `union bpf_attr` that `BPF_PROG_ATTACH` and `BPF_PROG_DETACH` need.
#[repr(C)]
struct AttachAttr {
    target_fd: RawFd,
    attach_bpf_fd: RawFd,
    attach_type: u32,
    attach_flags: u32,
}

/// The part of `union bpf_attr` that `BPF_PROG_QUERY` needs.
#[repr(C)]
struct QueryAttr {
    target_fd: RawFd,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

/// The part of `union bpf_attr` that `BPF_PROG_GET_FD_BY_ID` needs.
#[repr(C)]
struct OpenAttr {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

fn load(filter: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(filter.len())
            .map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        insns: filter.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: `insns` and `license` point to memory that outlives the call, of the lengths stated.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut attr) }?;
    // SAFETY: the kernel has just made this descriptor (close-on-exec) and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn attach(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = AttachAttr {
        target_fd: cgroup.as_raw_fd(),
        attach_bpf_fd: program.as_raw_fd(),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: the attributes hold no pointers.
    unsafe { bpf(BPF_PROG_ATTACH, &mut attr) }.map(drop)
}

fn detach(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = AttachAttr {
        target_fd: cgroup.as_raw_fd(),
        attach_bpf_fd: program.as_raw_fd(),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: 0,
    };
    // SAFETY: the attributes hold no pointers.
    unsafe { bpf(BPF_PROG_DETACH, &mut attr) }.map(drop)
}

fn attached(cgroup: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; MAX_FILTERS];
    let mut attr = QueryAttr {
        target_fd: cgroup.as_raw_fd(),
        attach_type: BPF_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: u32::try_from(MAX_FILTERS).expect("64 fits"),
        padding: 0,
    };
    // SAFETY: `prog_ids` points to `prog_cnt` integers that outlive the call.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr) }?;
    Ok(ids.into_iter().take(attr.prog_cnt as usize).collect())
}

fn open(id: u32) -> io::Result<OwnedFd> {
    let mut attr = OpenAttr {
        prog_id: id,
        next_id: 0,
        open_flags: 0,
    };
    // SAFETY: the attributes hold no pointers.
    let fd = unsafe { bpf(BPF_PROG_GET_FD_BY_ID, &mut attr) }?;
    // SAFETY: the kernel has just made this descriptor (close-on-exec) and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `bpf(2)`.
///
/// # Safety
/// `attr` is laid out as `command` wants it, and every pointer in it is valid for the call.
unsafe fn bpf<T>(command: c_long, attr: &mut T) -> io::Result<RawFd> {
    let attr_size = size_of_val(attr);
    debug_assert!(attr_size == size_of::<T>());
    // SAFETY: `attr` is exclusively borrowed and `attr_size` is its size; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr as *mut T, attr_size) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(RawFd::try_from(result).expect("bpf(2) returns an int"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_have_the_kernels_layout() {
        assert_eq!(size_of::<Instruction>(), 8);
        let load = Instruction::load_u32(Register::R2, Register::CONTEXT, context::MINOR);
        assert_eq!((load.opcode, load.offset, load.immediate), (0x61, 8, 0));
        if cfg!(target_endian = "little") {
            assert_eq!(load.registers, 0x12);
        }
    }

    #[test]
    fn a_descriptor_that_is_no_cgroup_is_refused() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let allow = [
            Instruction::set_u32(Register::VERDICT, 1),
            Instruction::exit(),
        ];
        assert!(replace_device_filter(file.as_fd(), &allow).is_err());
    }
}
