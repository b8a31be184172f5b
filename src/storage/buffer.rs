//! Zeroed memory that is written through a shared reference: what the files of the memory disk are made of.
//!
//! A buffer never moves and never grows. It knows nothing of locks: whoever writes says that nobody looks at these bytes
//! meanwhile, and whoever reads that nobody writes them.

#![allow(unsafe_code, reason = "memory that is read and written at once, in different places")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::ptr::NonNull;

/// A fixed piece of zeroed memory.
#[derive(Debug)]
pub(super) struct Buffer {
    start: NonNull<u8>,
    capacity: usize,
    #[cfg(test)]
    touched: crate::sync::explored::Touched,
}

// SAFETY: the buffer owns its memory alone, and freeing it on another thread is allowed.
unsafe impl Send for Buffer {}
// SAFETY: a shared buffer gives access to its bytes only through unsafe functions, whose callers rule out races.
unsafe impl Sync for Buffer {}

impl Buffer {
    pub(super) fn zeroed(capacity: usize) -> io::Result<Self> {
        if capacity == 0 {
            return Ok(Self::of(NonNull::dangling(), capacity));
        }
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc_zeroed(Self::layout(capacity)?) };
        let start = NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self::of(start, capacity))
    }

    fn of(start: NonNull<u8>, capacity: usize) -> Self {
        Self {
            start,
            capacity,
            #[cfg(test)]
            touched: crate::sync::explored::Touched::default(),
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Says that bytes were lent out by an address: an explorer checks that they were written before.
    #[cfg(test)]
    pub(super) fn note_lent(&self, offset: usize, len: usize) {
        self.touched.read(offset, len);
    }

    /// # Safety
    ///
    /// No other thread reads or writes these bytes meanwhile, and no reference to any of them is used again.
    pub(super) unsafe fn write(&self, offset: usize, bytes: &[u8]) {
        let to = self.place(offset, bytes.len());
        #[cfg(test)]
        self.touched.write(offset, bytes);
        // SAFETY: `place` has checked the range. The source is a reference to initialised bytes, so that the caller's
        // promise that nobody else looks at the range rules out an overlap.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
    }

    /// # Safety
    ///
    /// No other thread writes these bytes for as long as the result lives.
    pub(super) unsafe fn read(&self, offset: usize, len: usize) -> &[u8] {
        let from = self.place(offset, len);
        // SAFETY: `place` has checked the range, which was initialised with zeros, and which lives as long as `self`.
        // The caller promises that nobody writes it.
        unsafe { NonNull::slice_from_raw_parts(from, len).as_ref() }
    }

    fn place(&self, offset: usize, len: usize) -> NonNull<u8> {
        assert!(offset <= self.capacity && len <= self.capacity - offset, "a range outside of the buffer");
        // SAFETY: the offset is inside the memory of the buffer, or just behind it.
        unsafe { self.start.add(offset) }
    }

    fn layout(capacity: usize) -> io::Result<Layout> {
        // Aligned like a page of a real map would be for all that matters: the format aligns to 8.
        Layout::from_size_align(capacity, 64).map_err(|_| io::ErrorKind::OutOfMemory.into())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.capacity > 0
            && let Ok(layout) = Self::layout(self.capacity)
        {
            // SAFETY: the memory was allocated with this layout, and nobody can reach it any more.
            unsafe { dealloc(self.start.as_ptr(), layout) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_with_zeros_and_keeps_what_is_written() {
        let buffer = Buffer::zeroed(10).unwrap();
        // SAFETY: there is one thread, and no slice is alive.
        unsafe { buffer.write(3, b"abc") };
        // SAFETY: nothing is written any more.
        assert_eq!(unsafe { buffer.read(0, 10) }, b"\0\0\0abc\0\0\0\0");
    }

    #[test]
    fn an_empty_buffer_has_only_empty_slices() {
        let buffer = Buffer::zeroed(0).unwrap();
        // SAFETY: there is nothing to write.
        unsafe { buffer.write(0, b"") };
        // SAFETY: there is nothing to write.
        assert_eq!(unsafe { buffer.read(0, 0) }, b"");
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn a_range_outside_is_refused() {
        let buffer = Buffer::zeroed(10).unwrap();
        // SAFETY: there is one thread, and no slice is alive.
        unsafe { buffer.write(8, b"abc") };
    }

    #[test]
    fn more_memory_than_there_can_be_is_an_error() {
        assert_eq!(Buffer::zeroed(usize::MAX).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
    }
}
