//! Keeping a long-lived, mostly idle process small.

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
        (libc::M_TRIM_THRESHOLD, PAGE_BYTES),
        (libc::M_TOP_PAD, 0),
    ] {
        // SAFETY: mallopt takes integers; values that it does not take it ignores.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives back what the allocator holds and nobody uses.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim touches free memory only.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Blocks from this size on are mappings of their own.
#[cfg(target_env = "gnu")]
const LARGE_BLOCK_BYTES: libc::c_int = 32 * 1024;

#[cfg(target_env = "gnu")]
const PAGE_BYTES: libc::c_int = 4096;
