//! Files whose first bytes are final: the only place where bytes of a memory map are lent out.
//!
//! A file has a *published* end. Bytes before it never change again, so they may be borrowed; bytes behind it are being
//! written and nobody sees them. The end only grows, and only the one [`FileWriter`] moves it, after it wrote the bytes:
//! it stores the end with Release, readers load it with Acquire. Files are never shortened while they are open.
//!
//! What the compiler cannot see is the promise below all this: that nothing but this writer changes the file, neither
//! another process nor another handle. The store's lock keeps it for the log, and index files are never written again
//! after they got their name.

#![allow(unsafe_code, reason = "slices of the memory map")]

use std::io;
use std::sync::Arc;

use crossbeam::utils::CachePadded;

use super::{File, Region, read_exact_at};
use crate::sync::atomic::{AtomicU64, Ordering};

/// How the bytes of a file are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum ReadMode {
    /// By a memory map: without a copy, but a sector that cannot be read ends the process with a signal.
    #[default]
    Map,
    /// By a read call: with a copy, and a sector that cannot be read is an error.
    Pread,
}

/// A file whose bytes before its published end never change again.
#[derive(Debug)]
pub(crate) struct PublishedFile {
    bytes: Bytes,
    capacity: u64,
    /// On a cache line of its own: the writer stores here while readers use the fields above.
    published: CachePadded<AtomicU64>,
}

/// Where the bytes are read. A map outlives the descriptor that it was made of, which is not kept: there may be more files
/// than a process may have open.
#[derive(Debug)]
enum Bytes {
    Mapped(Region),
    Unmapped(Arc<dyn File>),
}

/// The only one that writes behind the published end of a file, and moves it. Keeps the file open.
#[derive(Debug)]
pub(crate) struct FileWriter {
    target: Arc<PublishedFile>,
    file: Arc<dyn File>,
}

impl PublishedFile {
    /// A file that nobody writes any more: all of it is published.
    pub(crate) fn open_immutable(file: Arc<dyn File>, mode: ReadMode) -> io::Result<Arc<Self>> {
        let len = file.len()?;
        Self::open(file, mode, len, len)
    }

    /// A file of which the first `published` bytes are final, and the one that may go on filling it. It never grows
    /// beyond the length that it has now.
    ///
    /// A reader that follows another process's writer uses only `publish`, for what it has verified and knows to be
    /// synced.
    pub(crate) fn open_growing(
        file: Arc<dyn File>,
        mode: ReadMode,
        published: u64,
    ) -> io::Result<(Arc<Self>, FileWriter)> {
        let capacity = file.len()?;
        let target = Self::open(Arc::clone(&file), mode, capacity, published)?;
        Ok((Arc::clone(&target), FileWriter { target, file }))
    }

    fn open(file: Arc<dyn File>, mode: ReadMode, capacity: u64, published: u64) -> io::Result<Arc<Self>> {
        if published > capacity {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let bytes = match mode {
            ReadMode::Map if capacity > 0 => Bytes::Mapped(file.map(capacity)?),
            ReadMode::Map | ReadMode::Pread => Bytes::Unmapped(file),
        };
        if let Bytes::Mapped(region) = &bytes {
            // `slice` relies on it: what is published lies inside the region.
            assert_eq!(region.len() as u64, capacity, "a map of another length than was asked for");
            region.freeze(published);
        }
        let published = CachePadded::new(AtomicU64::new(published));
        Ok(Arc::new(Self { bytes, capacity, published }))
    }

    /// The published end: bytes before it are final.
    #[inline]
    pub(crate) fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// How far the file can be filled.
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Whether `slice` can lend anything.
    pub(crate) fn is_mapped(&self) -> bool {
        matches!(self.bytes, Bytes::Mapped(_))
    }

    /// The file, if it is still open: one that is mapped is not.
    pub(crate) fn file(&self) -> Option<&Arc<dyn File>> {
        match &self.bytes {
            Bytes::Mapped(_) => None,
            Bytes::Unmapped(file) => Some(file),
        }
    }

    #[inline]
    fn region(&self) -> Option<&Region> {
        match &self.bytes {
            Bytes::Mapped(region) => Some(region),
            Bytes::Unmapped(_) => None,
        }
    }

    /// Borrows bytes of the map. `None` beyond the published end, and without a map.
    #[inline]
    pub(crate) fn slice(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let region = self.region()?;
        let end = offset.checked_add(len as u64)?;
        if end > self.published() {
            return None;
        }
        // SAFETY: the range ends at or before the published end, which lies inside the region (so that the offset fits
        // into a usize as well). The bytes were written before the end was published with Release, which the Acquire
        // above has seen. From then on they are frozen: `FileWriter::write` refuses to go below the end.
        Some(unsafe { region.slice(offset as usize, len) })
    }

    /// Borrows everything from `offset` to the published end. `None` behind it, and without a map.
    #[inline]
    pub(crate) fn slice_to_end(&self, offset: u64) -> Option<&[u8]> {
        let len = self.published().checked_sub(offset)?;
        self.slice(offset, usize::try_from(len).ok()?)
    }

    /// Asks the processor for bytes that will be read soon, as far as they are published. Does nothing without a map.
    #[inline]
    pub(crate) fn prefetch(&self, offset: u64, len: usize) {
        if let Some(region) = self.region() {
            let left = self.published().saturating_sub(offset);
            region.prefetch(offset.min(self.published()) as usize, len.min(left as usize));
        }
    }

    /// The bytes, borrowed from the map, or read into `scratch` where there is none. Beyond the published end it fails
    /// with `UnexpectedEof`.
    pub(crate) fn read<'a>(&'a self, offset: u64, len: usize, scratch: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
        let Bytes::Unmapped(file) = &self.bytes else {
            return self.slice(offset, len).ok_or_else(|| io::ErrorKind::UnexpectedEof.into());
        };
        if offset.checked_add(len as u64).is_none_or(|end| end > self.published()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if scratch.len() < len {
            scratch.resize(len, 0);
        }
        let bytes = &mut scratch[..len];
        read_exact_at(&**file, bytes, offset)?;
        Ok(bytes)
    }
}

impl FileWriter {
    /// How far the file can be filled.
    pub(crate) fn capacity(&self) -> u64 {
        self.target.capacity
    }

    /// Writes behind the published end. Fails if it would not fit into the file.
    pub(crate) fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        assert!(offset >= self.target.published(), "published bytes are never written again");
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > self.target.capacity) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a write behind the end of the file"));
        }
        self.file.write_at(bytes, offset)
    }

    /// The file, for whoever syncs what was written, which may be another thread.
    pub(crate) fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// Publishes the bytes before `end`, which were written and will never change.
    pub(crate) fn publish(&mut self, end: u64) {
        assert!(end >= self.target.published(), "the published end never goes back");
        assert!(end <= self.target.capacity, "the published end is inside the file");
        if let Some(region) = self.target.region() {
            region.freeze(end);
        }
        self.target.published.store(end, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Disk, MemoryDisk};
    use super::*;

    fn writer() -> FileWriter {
        let disk = MemoryDisk::new();
        disk.create_dir("").unwrap();
        let file = disk.create("file").unwrap();
        file.allocate(16).unwrap();
        PublishedFile::open_growing(file, ReadMode::Pread, 8).unwrap().1
    }

    #[test]
    #[should_panic(expected = "never written again")]
    fn a_writer_never_writes_what_is_published() {
        let _ = writer().write(b"x", 7);
    }

    #[test]
    #[should_panic(expected = "never goes back")]
    fn the_published_end_never_goes_back() {
        writer().publish(7);
    }

    #[test]
    #[should_panic(expected = "inside the file")]
    fn the_published_end_stays_inside_the_file() {
        writer().publish(17);
    }

    #[test]
    fn the_end_has_a_cache_line_of_its_own() {
        assert!(align_of::<PublishedFile>() >= 64);
    }
}
