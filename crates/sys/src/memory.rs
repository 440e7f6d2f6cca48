//! Keeping a long-lived, mostly idle process small.

use crate::process::SingleThreaded;
use crate::segments::{self, PAGE_BYTES};

/// Makes the allocator give memory back to the kernel as soon as it can: large blocks are mappings of
/// their own, which go when they are freed, and the heap shrinks with its last block. musl's allocator
/// does so by itself.
///
/// The price is system calls for blocks of some pages, which a process that seldom works can pay.
pub fn prefer_small_heap() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        // Setting it also turns off glibc's adaption, which would raise it with every block freed.
        (libc::M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES),
        (libc::M_TRIM_THRESHOLD, 4096),
        (libc::M_TOP_PAD, 0),
    ] {
        // SAFETY: mallopt takes integers; values that it does not take it ignores.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// The contrary, for a child that ends soon: the heap grows by steps that are worth a system call.
pub fn prefer_large_steps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes integers.
    unsafe {
        libc::mallopt(libc::M_TOP_PAD, 128 * 1024)
    };
}

/// Has all threads take memory from two heaps at most, of which each has pages that it hands out again. By
/// itself glibc makes eight for each cpu, and what many threads have done once is never all given back. To be
/// called before there are threads.
pub fn share_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes integers.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2)
    };
}

/// Gives back what the allocator holds and nobody uses.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim touches free memory only.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Lets go of the pages of this program's code and constants: those that are needed again come back from
/// the page cache. Of a large program most are never needed again once it has started.
pub fn unmap_code() {
    for range in segments::code_and_constants() {
        // SAFETY: what cannot be written is the same when the kernel maps it anew.
        unsafe {
            libc::madvise(
                range.start as *mut libc::c_void,
                range.len(),
                libc::MADV_DONTNEED,
            )
        };
    }
}

/// Gives back the pages that deeper calls have left on the stack, which has to be the one that the kernel
/// gave the process: those of other threads have something below them. It has a frame of its own, as what is
/// below it is told from what is in use by that.
#[inline(never)]
pub fn trim_stack(_witness: &SingleThreaded) {
    /// Below the caller's frame, room for what this function itself calls.
    const KEPT_BYTES: usize = 512;
    /// The kernel keeps other mappings at least 1 MiB away from a stack (`stack_guard_gap`).
    const DEPTH_BYTES: usize = 512 * 1024;
    let here = 0u8;
    let end = (&raw const here as usize - KEPT_BYTES) / PAGE_BYTES * PAGE_BYTES;
    // SAFETY: what is below the stack pointer is nobody's, and nothing else is so near; madvise itself
    // needs less than what is kept. Of unmapped pages it says that they are so, when all others are done.
    unsafe {
        libc::madvise(
            (end - DEPTH_BYTES) as *mut libc::c_void,
            DEPTH_BYTES,
            libc::MADV_DONTNEED,
        )
    };
}

/// Blocks from this size on are mappings of their own.
#[cfg(target_env = "gnu")]
const LARGE_BLOCK_BYTES: libc::c_int = 32 * 1024;
