//! The pause process: it holds the namespaces of a pod and, as PID 1 of a shared pid namespace, reaps the
//! orphans in it. It ends on SIGTERM and SIGINT.
//!
//! It needs nothing of what the C library prepares before `main`, which takes longer than the execution itself and
//! writes to memory that no two processes share then. So this is where the program begins (`build.rs` of its crate):
//! with the argument `pause` it never comes to the library.

#![expect(
    clippy::cast_possible_truncation,
    reason = "addresses and numbers of calls are as wide as registers"
)]

use crate::segments::PAGE_BYTES;
use nix::sys::signal::Signal;
use std::arch::{asm, global_asm};
use std::ffi::{c_int, c_long};

// The kernel passes all by the stack. The library's beginning is to find the registers as they were, of which the
// calling convention does not keep the one that would hold a function for it to call in the end.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl crisp_start",
    "crisp_start:",
    "mov rbx, rdx",
    "mov rdi, rsp",
    "call {}",
    "mov rdx, rbx",
    "jmp _start",
    sym pause_if_asked,
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl crisp_start",
    "crisp_start:",
    "mov x20, x0",
    "mov x0, sp",
    "bl {}",
    "mov x0, x20",
    "b _start",
    sym pause_if_asked,
);

unsafe extern "C" {
    /// The end of the code, and that of the variables that follow it (ld.lld(1), end(3)).
    static etext: u8;
    static end: u8;
}

/// The argument.
const COMMAND: &[u8; 6] = b"pause\0";

/// `stack` is what the kernel gives a program: the count of its arguments, and pointers to them.
extern "C" fn pause_if_asked(stack: *const [usize; 3]) {
    // SAFETY: there is at least the program's name, and a pointer behind the last argument's.
    let [count, _, command] = unsafe { stack.read() };
    if count == 2 && is_command(command as *const u8) {
        pause();
    }
}

/// Byte by byte: the library's functions cannot be called yet, and the compiler would put one in the place of a plain
/// comparison.
fn is_command(argument: *const u8) -> bool {
    let mut length = 0;
    while length < COMMAND.len() {
        // SAFETY: all bytes so far are those of the command, of which only the last ends a string.
        let byte = unsafe { argument.add(length).read_volatile() };
        if byte != COMMAND[length] {
            return false;
        }
        length += 1;
    }
    true
}

/// Reaps all children until SIGTERM or SIGINT comes, and then ends the process.
fn pause() -> ! {
    let awaited = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT];
    // The kernel's sigset_t.
    let awaited: u64 = awaited
        .iter()
        .fold(0, |set, &signal| set | 1 << (signal as c_int - 1));
    // The kernel has written the variables, if only zeroes into what the file leaves of a page.
    let variables =
        (&raw const etext as usize).next_multiple_of(PAGE_BYTES)..&raw const end as usize;
    // SAFETY: the pointers are to a string and to a signal set, which the calls only read. No variable is used from
    // here on: where a page of them has gone, the next access would find it as it is in the program.
    unsafe {
        // Nobody in the pod reaches its memory or its descriptors through /proc.
        call(libc::SYS_prctl, [SET_DUMPABLE, 0, 0, 0]);
        // For ps(1) and top(1): what is executed by a descriptor has the name of that.
        call(libc::SYS_prctl, [SET_NAME, COMMAND.as_ptr() as usize, 0, 0]);
        // Holes in the range make it fail in the end, when all the rest of it is done.
        let length = variables.end.saturating_sub(variables.start);
        call(libc::SYS_madvise, [variables.start, length, DONT_NEED, 0]);
        // No others, whatever the shim blocks. A signal that is blocked is kept to be waited for even where its
        // default for PID 1 is to be ignored.
        let set = &raw const awaited as usize;
        call(libc::SYS_rt_sigprocmask, [SET_MASK, set, 0, SIGSET_BYTES]);
        loop {
            // First of all, too: an orphan may have ended before the signals were blocked.
            while call(libc::SYS_wait4, [ANY_CHILD, 0, NO_HANG, 0]) > 0 {}
            match call(libc::SYS_rt_sigtimedwait, [set, 0, 0, SIGSET_BYTES]) {
                // Without a signal it was interrupted, by being stopped and continued.
                ..=0 | CHILD => {}
                _ => loop {
                    call(libc::SYS_exit_group, [0; 4]);
                },
            }
        }
    }
}

const DONT_NEED: usize = libc::MADV_DONTNEED as usize;
const SET_NAME: usize = libc::PR_SET_NAME as usize;
const SET_DUMPABLE: usize = libc::PR_SET_DUMPABLE as usize;
const SET_MASK: usize = libc::SIG_SETMASK as usize;
const SIGSET_BYTES: usize = size_of::<u64>();
const CHILD: isize = libc::SIGCHLD as isize;
const ANY_CHILD: usize = usize::MAX;
const NO_HANG: usize = libc::WNOHANG as usize;

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
