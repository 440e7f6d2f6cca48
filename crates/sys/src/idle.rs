//! Waiting for ever in a page of memory.

#![expect(
    clippy::cast_possible_truncation,
    reason = "addresses and numbers of calls are as wide as registers"
)]

use crate::segments::{self, Access};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use std::arch::asm;
use std::ffi::c_long;
use std::ops::Range;

/// Reaps all children until SIGTERM or SIGINT comes, and then ends the process. These have to be
/// blocked, as has SIGCHLD; no signal may have a handler, which would find no memory to run in.
///
/// The process gives back every page that it has written but those of its stack: it has nothing to
/// remember. So this never returns to code that might, and its loop makes bare system calls.
pub fn reap_until_terminated() -> ! {
    let awaited = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT];
    // The kernel's sigset_t.
    let awaited: u64 = awaited
        .iter()
        .fold(0, |set, &signal| set | 1 << (signal as i32 - 1));
    let Range { start, end } = if is_alone() { written() } else { 0..0 };
    // SAFETY: from here on only registers and this frame of the stack are used, which is not in the
    // range: no static, no heap, no thread-local, and no function that is not inlined. None of the
    // calls writes to memory.
    unsafe {
        // Holes in the range make it fail in the end, when all the rest of it is done.
        call(libc::SYS_madvise, [start, end - start, DONT_NEED, 0]);
        loop {
            // First of all, too: an orphan may have ended before the signals were blocked.
            while call(libc::SYS_wait4, [ANY_CHILD, 0, NO_HANG, 0]) > 0 {}
            match call(
                libc::SYS_rt_sigtimedwait,
                [&raw const awaited as usize, 0, 0, SIGSET_BYTES],
            ) {
                // Without a signal it was interrupted, by being stopped and continued.
                ..=0 | CHILD => {}
                _ => loop {
                    call(libc::SYS_exit_group, [0; 4]);
                },
            }
        }
    }
}

const SIGSET_BYTES: usize = size_of::<u64>();
const CHILD: isize = libc::SIGCHLD as isize;
const ANY_CHILD: usize = usize::MAX;
const NO_HANG: usize = libc::WNOHANG as usize;
const DONT_NEED: usize = libc::MADV_DONTNEED as usize;

/// Whether the memory is of one thread: from others the kernel does not take it (unshare(2)).
fn is_alone() -> bool {
    unshare(CloneFlags::CLONE_VM).is_ok()
}

/// From the first page of this program that can be written to the end of the heap behind it; empty when
/// that cannot be told.
fn written() -> Range<usize> {
    // SAFETY: sbrk(0) only looks something up.
    let heap_end = unsafe { libc::sbrk(0) } as usize;
    match segments::own(Access::Write).next() {
        Some(first) if first.start < heap_end => first.start..heap_end,
        _ => 0..0,
    }
}

/// A system call by the bare instruction.
///
/// # Safety
/// That of the call.
#[inline(always)]
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: c_long, [first, second, third, fourth]: [usize; 4]) -> isize {
    let result;
    // SAFETY: the kernel's convention (syscall(2)); the caller answers for what the call does.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") first, in("rsi") second, in("rdx") third, in("r10") fourth,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// A system call by the bare instruction.
///
/// # Safety
/// That of the call.
#[inline(always)]
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: c_long, [first, second, third, fourth]: [usize; 4]) -> isize {
    let result;
    // SAFETY: the kernel's convention (syscall(2)); the caller answers for what the call does.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") first as isize => result,
            in("x1") second, in("x2") third, in("x3") fourth,
            options(nostack),
        );
    }
    result
}
