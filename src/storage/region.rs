//! A stable range of memory that shows a file: a memory map, or the buffer of a file of the memory disk.
//!
//! The bytes of a region may be written at any time by whoever writes the file. So it lends nothing by itself: only
//! [`PublishedFile`](super::PublishedFile) takes slices of it, of bytes that are final.

#![allow(unsafe_code, reason = "the memory map")]

use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::MmapRaw;

use super::memory::View;

#[cfg(all(target_arch = "x86_64", not(miri)))]
const CACHE_LINE_BYTES: usize = 64;

/// Memory that shows the first bytes of a file, for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Region {
    start: NonNull<u8>,
    len: usize,
    owner: Owner,
}

/// What keeps the memory where it is.
#[derive(Debug)]
enum Owner {
    /// Never looked at again: it unmaps when it is dropped.
    Map(#[expect(dead_code, reason = "held for its drop")] MmapRaw),
    View(Arc<View>),
}

// SAFETY: the owner may be dropped on any thread, and the pointer is a plain address into what the owner keeps.
unsafe impl Send for Region {}
// SAFETY: a shared region gives access to its memory only through `slice`, whose callers rule out races.
unsafe impl Sync for Region {}

impl Region {
    /// The whole of a memory map of a file.
    pub(super) fn of_map(map: MmapRaw) -> Self {
        let start = NonNull::new(map.as_mut_ptr()).expect("the system never maps at address zero");
        Self { start, len: map.len(), owner: Owner::Map(map) }
    }

    /// The first `len` bytes of a file of the memory disk.
    pub(super) fn of_view(view: Arc<View>, len: usize) -> Self {
        let (start, capacity) = view.memory();
        assert!(len <= capacity, "a region larger than the buffer below it");
        Self { start, len, owner: Owner::View(view) }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Says that the bytes before `end` are final. The memory disk refuses to change them from now on; the operating
    /// system cannot be told, there the store's lock keeps other writers away.
    pub(super) fn freeze(&self, end: u64) {
        if let Owner::View(view) = &self.owner {
            view.freeze(end);
        }
    }

    /// The bytes from `offset`.
    ///
    /// # Safety
    ///
    /// The range is inside the region, and all of it was written before this call and is frozen: no byte of it is
    /// written again while the region lives.
    #[inline]
    pub(super) unsafe fn slice(&self, offset: usize, len: usize) -> &[u8] {
        debug_assert!(offset <= self.len && len <= self.len - offset);
        #[cfg(test)]
        if let Owner::View(view) = &self.owner {
            view.note_lent(offset, len);
        }
        // SAFETY: the caller keeps the offset inside the region, which the owner keeps mapped.
        let from = unsafe { self.start.add(offset) };
        // SAFETY: the owner keeps the memory mapped and readable as long as `self` lives, a mapped byte is always
        // initialised, and the caller promises that none of these is written any more.
        unsafe { NonNull::slice_from_raw_parts(from, len).as_ref() }
    }

    /// Asks the processor for the cache lines of a range inside the region, without waiting for them.
    #[inline]
    pub(super) fn prefetch(&self, offset: usize, len: usize) {
        debug_assert!(offset <= self.len && len <= self.len - offset);
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        for line in (offset..offset + len).step_by(CACHE_LINE_BYTES) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let line = self.start.as_ptr().wrapping_add(line).cast_const().cast();
            // SAFETY: a prefetch is a hint: it reads nothing that the program sees, and no address makes it fault.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = (offset, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_crosses_threads() {
        fn check<T: Send + Sync>() {}
        check::<Region>();
    }
}
