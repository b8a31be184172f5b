//! A disk whose syncs are timed for metrics. It wraps the real one and changes nothing.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Access, Disk, File, Lock, Region};
use crate::clock::Clock;
use crate::observe;

/// Times the syncs of the files of another disk.
#[derive(Debug)]
pub(crate) struct ObservedDisk {
    inner: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    label: Option<observe::Label>,
}

impl ObservedDisk {
    pub(crate) fn new(inner: Arc<dyn Disk>, clock: Arc<dyn Clock>, label: Option<observe::Label>) -> Self {
        Self { inner, clock, label }
    }

    fn observe(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(ObservedFile { inner: file, clock: Arc::clone(&self.clock), label: self.label.clone() })
    }
}

impl Disk for ObservedDisk {
    fn locate(&self, path: &str) -> PathBuf {
        self.inner.locate(path)
    }

    fn exists(&self) -> bool {
        self.inner.exists()
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.inner.create_dir(dir)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }

    fn open(&self, path: &str, access: Access) -> io::Result<Arc<dyn File>> {
        self.inner.open(path, access).map(|file| self.observe(file))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.inner.create(path).map(|file| self.observe(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        self.inner.remove_dir(dir)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }

    fn lock(&self, path: &str) -> io::Result<Option<Lock>> {
        self.inner.lock(path)
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        self.inner.free_bytes()
    }
}

#[derive(Debug)]
struct ObservedFile {
    inner: Arc<dyn File>,
    clock: Arc<dyn Clock>,
    label: Option<observe::Label>,
}

impl File for ObservedFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        let begun = self.clock.monotonic();
        let result = self.inner.sync();
        observe::synced(self.label.as_ref(), self.clock.monotonic().saturating_sub(begun));
        result
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.inner.allocate(len)
    }

    fn skip_hole(&self, offset: u64) -> io::Result<u64> {
        self.inner.skip_hole(offset)
    }

    fn map(&self, len: u64) -> io::Result<Region> {
        self.inner.map(len)
    }
}
