//! The beginning of a program that is to be there at once.
//!
//! Before `main`, the standard library looks for the end of the stack in `/proc/self/maps`, and gives
//! SIGSEGV and SIGBUS a handler with a stack of its own that tells when the end was overrun. That takes
//! longer than a small program takes for the rest of its start, and memory for as long as it runs.

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;

/// Makes a function the program's main one, instead of `fn main`; for a crate with `#![no_main]`. It gets the
/// arguments, of which the first is the program's name, and gives the exit status.
#[macro_export]
macro_rules! main {
    ($run:path) => {
        /// The C library calls it.
        #[unsafe(no_mangle)]
        extern "C" fn main(
            count: ::std::ffi::c_int,
            arguments: *const *const ::std::ffi::c_char,
        ) -> ::std::ffi::c_int {
            // SAFETY: these are what the C library gave.
            let arguments = unsafe { $crate::program::arguments(count, arguments) };
            $crate::program::ignore_broken_pipes();
            let status: u8 = $run(&arguments);
            status.into()
        }
    };
}

/// What the C library gives a main function.
///
/// # Safety
/// There are so many pointers to strings, and all stay as they are until the program ends.
#[doc(hidden)]
#[must_use]
pub unsafe fn arguments(count: c_int, arguments: *const *const c_char) -> Vec<&'static OsStr> {
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: the caller says so, for this and for each string.
    let strings = unsafe {
        let all = std::slice::from_raw_parts(arguments, count).iter();
        all.map(|&string| CStr::from_ptr(string))
    };
    strings
        .map(|string| OsStr::from_bytes(string.to_bytes()))
        .collect()
}

/// Whoever writes to a pipe that nobody reads gets an error, as in any program of Rust.
#[doc(hidden)]
pub fn ignore_broken_pipes() {
    // SAFETY: to ignore a signal installs no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}
