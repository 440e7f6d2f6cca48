//! The parts of this program that the kernel has mapped, without its libraries.

#![expect(
    clippy::cast_possible_truncation,
    reason = "addresses and sizes of this program's own"
)]

use std::ops::Range;

/// The smallest pages that there are.
pub(crate) const PAGE_BYTES: usize = 4096;

/// The whole pages of each part that cannot be written.
pub(crate) fn code_and_constants() -> impl Iterator<Item = Range<usize>> {
    let headers = headers();
    let own = headers.iter().find(|header| header.p_type == libc::PT_PHDR);
    // Without it the program stands where it was linked to.
    let moved_by = own.map_or(0, |own| {
        (headers.as_ptr() as usize).wrapping_sub(own.p_vaddr as usize)
    });
    let constant = headers
        .iter()
        .filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0);
    constant.map(move |segment| {
        let start = moved_by.wrapping_add(segment.p_vaddr as usize);
        let end = start + segment.p_memsz as usize;
        start / PAGE_BYTES * PAGE_BYTES..end.next_multiple_of(PAGE_BYTES)
    })
}

/// The program headers; none when the kernel does not say where they are.
fn headers() -> &'static [libc::Elf64_Phdr] {
    // SAFETY: getauxval only looks something up.
    let (headers, count) = unsafe {
        (
            libc::getauxval(libc::AT_PHDR) as *const libc::Elf64_Phdr,
            libc::getauxval(libc::AT_PHNUM) as usize,
        )
    };
    if headers.is_null() {
        return &[];
    }
    // SAFETY: the kernel says that so many headers of this program are mapped there (getauxval(3)), where
    // they stay.
    unsafe { std::slice::from_raw_parts(headers, count) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_there_and_variables_are_not() {
        static VARIABLE: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(1);
        let code = headers as *const () as usize;
        let variable = VARIABLE.as_ptr() as usize;
        let holds = |address| code_and_constants().any(|range| range.contains(&address));
        assert!(holds(code) && !holds(variable));
    }
}
