//! The operating system: the only file calls of the crate, and its only `unsafe`.
//!
//! Everything above speaks to two traits, [`Disk`] and [`File`], about a dozen calls in all, so that the same engine
//! runs on a real directory, in memory, and on a simulated disk that fails. What is read goes through
//! [`PublishedFile`], which lends bytes of a memory map and never one that can still change.
//!
//! Paths are relative to the store's directory, separated by `/`. Errors are plain `io::Error`s here; the layer above
//! adds what it was doing.

mod buffer;
#[cfg(test)]
mod conformance;
#[cfg(any(test, feature = "testing"))]
mod dice;
#[cfg(any(test, feature = "testing"))]
mod faulty;
mod memory;
#[cfg(feature = "metrics")]
mod observed;
mod owner;
mod placement;
mod published;
mod real;
#[cfg(test)]
mod recording;
mod region;
#[cfg(test)]
mod simulated;
mod sub;

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

#[cfg(test)]
pub(crate) use dice::Dice;
#[cfg(test)]
pub(crate) use faulty::Written;
#[cfg(any(test, feature = "testing"))]
pub(crate) use faulty::{Call, Fault, FaultyDisk};
pub(crate) use memory::MemoryDisk;
#[cfg(feature = "metrics")]
pub(crate) use observed::ObservedDisk;
pub(crate) use owner::Owner;
#[cfg(test)]
#[cfg(all(unix, not(miri)))]
pub(crate) use owner::{holds_in_a_fork, ran_alone};
pub(crate) use published::{FileWriter, PublishedFile, ReadMode};
pub(crate) use real::{RealDisk, is_shortage};
#[cfg(test)]
pub(crate) use recording::{RecordingDisk, copy_files};
pub(crate) use region::Region;
#[cfg(test)]
pub(crate) use simulated::{FileSystem, SimulatedDisk};
pub(crate) use sub::SubDisk;

/// A directory for tests that open thousands of stores: in memory where the system offers that.
#[cfg(test)]
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a place for temporary files")
}

/// One directory with its sub-directories, and what can be done to it.
pub(crate) trait Disk: Debug + Send + Sync {
    /// Where the path is in the outside world, for messages.
    fn locate(&self, path: &str) -> PathBuf;

    /// Whether the directory itself exists.
    fn exists(&self) -> bool;

    /// Creates the directory of the disk (`""`) or one below it, with its parents; it may exist already. The names it
    /// adds are made durable.
    fn create_dir(&self, dir: &str) -> io::Result<()>;

    /// The names of the files in a directory, in no order, without sub-directories. A directory that does not exist
    /// has none.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Opens an existing file for reading, or for reading and writing.
    fn open(&self, path: &str, access: Access) -> io::Result<Arc<dyn File>>;

    /// Creates a file, or empties an existing one, for reading and writing. The name is durable after `sync_dir`.
    fn create(&self, path: &str) -> io::Result<Arc<dyn File>>;

    /// Renames a file, replacing the one at `to`. Atomic; durable after `sync_dir`.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Durable after `sync_dir`. What has it open or mapped goes on reading it.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Removes an empty directory.
    fn remove_dir(&self, dir: &str) -> io::Result<()>;

    /// Makes the names in a directory durable. Does nothing where directories cannot be synced (Windows).
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Takes an exclusive lock on a file, creating it if needed; `None` if it is held by any other handle in any
    /// process. The lock is the kernel's: it ends with the handle or the process. The file stays.
    fn lock(&self, path: &str) -> io::Result<Option<Lock>>;

    /// How many more bytes there is space for; `None` where that is not known, or only memory bounds it.
    fn free_bytes(&self) -> io::Result<Option<u64>>;
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    ReadWrite,
}

/// An open file. Reads and writes name their offset; there is no cursor.
pub(crate) trait File: Debug + Send + Sync {
    /// The length of the file now.
    fn len(&self) -> io::Result<u64>;

    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all the bytes, or fails; after a failure any part may be written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the file's bytes and length durable (`fdatasync`). Never tried again after it failed.
    fn sync(&self) -> io::Result<()>;

    /// Reserves disk space so that the file is at least `len` bytes long, without writing over what is there. What is
    /// added reads as zeros. `StorageFull` if there is no space; then the file may have grown or not.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// An offset at or behind `offset` before which everything from there on reads as zeros, such as the end of a range
    /// that was allocated and never written. A file that does not know says `offset`.
    fn skip_hole(&self, offset: u64) -> io::Result<u64> {
        Ok(offset)
    }

    /// Maps the first `len` bytes for reading. `len` is at most the length of the file.
    fn map(&self, len: u64) -> io::Result<Region>;
}

/// An exclusive lock, held until it is dropped. In a process that was forked from the one that took it, dropping it does
/// nothing to the lock.
#[derive(Debug)]
pub(crate) struct Lock {
    _holder: Box<dyn Debug + Send + Sync>,
    owner: Option<Owner>,
}

impl Lock {
    pub(crate) fn held_by(holder: impl Debug + Send + Sync + 'static) -> Self {
        Self { _holder: Box::new(holder), owner: None }
    }

    pub(crate) fn owned_by(self, owner: Owner) -> Self {
        Self { owner: Some(owner), ..self }
    }

    /// The process that took it; `None` for a lock that concerns no other process.
    pub(crate) fn owner(&self) -> Option<Owner> {
        self.owner
    }
}

/// Reads exactly `buffer.len()` bytes, or fails with `UnexpectedEof`.
pub(crate) fn read_exact_at(file: &dyn File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    if file.read_at(buffer, offset)? < buffer.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}
