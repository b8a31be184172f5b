//! Offsets that do not fit into 32 bits: a segment of more than 4 GiB, whose commits of zeros take no space on the disk.
//! It takes half a minute to write; unless the environment has `ANNALS_SWEEP`, the segment is a small one.

use std::io;
use std::path::{Path, PathBuf};

use super::*;
use crate::storage::{Access, File, Lock, Region, read_exact_at};
use crate::verify;

const GIB: u64 = 1 << 30;
const PAGE_BYTES: usize = 4096;
/// As much of zeros as fits into a commit beside its names.
const PAYLOAD_BYTES: usize = (16 << 20) - 4096;

/// A segment that is written up to here has offsets that do not fit into 32 bits, if all is to be swept.
fn end() -> u64 {
    if is_whole() { 4 * GIB + GIB / 16 } else { GIB / 16 }
}

fn is_whole() -> bool {
    std::env::var_os("ANNALS_SWEEP").is_some()
}

/// The real disk, with files that have holes where zeros would be.
#[derive(Debug, Clone)]
struct SparseDisk {
    inner: RealDisk,
}

#[derive(Debug)]
struct SparseFile {
    inner: Arc<dyn File>,
}

impl File for SparseFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    /// Zeros are not written: behind the end of what was written there are zeros anyway.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut from = 0;
        while from < bytes.len() {
            let place = offset as usize + from;
            let to = bytes.len().min(from + PAGE_BYTES - place % PAGE_BYTES);
            if bytes[from..to] != [0; PAGE_BYTES][..to - from] {
                self.inner.write_at(&bytes[from..to], offset + from as u64)?;
            }
            from = to;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    /// The length alone: no space is taken.
    fn allocate(&self, len: u64) -> io::Result<()> {
        match len > self.inner.len()? {
            true => self.inner.write_at(&[0], len - 1),
            false => Ok(()),
        }
    }

    fn map(&self, len: u64) -> io::Result<Region> {
        self.inner.map(len)
    }
}

impl Disk for SparseDisk {
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
        Ok(Arc::new(SparseFile { inner: self.inner.open(path, access)? }))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(SparseFile { inner: self.inner.create(path)? }))
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

/// One segment that is long enough, and an index that goes to disk when it is told to.
fn large(mode: ReadMode) -> Options {
    options()
        .segment_bytes_first(end() + GIB)
        .segment_bytes_max(end() + GIB)
        .index_tail_bytes_max(u64::MAX)
        .read_mode(mode)
}

fn open_at(path: &Path, mode: ReadMode) -> Store {
    Store::open_on(Arc::new(SparseDisk { inner: RealDisk::new(path) }), large(mode), true).unwrap()
}

fn append(store: &Store, stream: &str, number: u64, payload: Vec<u8>) {
    let event = NewEvent::raw("Counted", payload).tag(format!("number:{number}"));
    let commit = Commit::new().append(stream, ExpectedVersion::Any, [event]);
    store.send(commit.durability(Durability::Os)).unwrap();
}

/// The small events, which stand before and behind 4 GiB, as they have to be.
fn check(store: &Store, numbers: &[u64]) {
    let small = store.read(Query::stream("small-1")).owned().map(Result::unwrap);
    let found: Vec<Vec<u8>> = small.map(|event| event.payload).collect();
    assert_eq!(found, numbers.iter().map(|number| number.to_le_bytes().to_vec()).collect::<Vec<_>>());
    for number in numbers {
        let tagged = store.read(Query::tag(format!("number:{number}"))).owned().map(Result::unwrap);
        let backwards = store.read(Query::tag(format!("number:{number}"))).reverse().owned().map(Result::unwrap);
        let found: Vec<RecordedEvent> = tagged.chain(backwards).collect();
        assert!(found.len() == 2 && found.iter().all(|event| event.payload == number.to_le_bytes()), "{number}");
    }
    let last = numbers.len() as u64;
    assert_eq!(store.version("small-1").unwrap().map(crate::types::StreamVersion::number), Some(last));
}

#[test]
fn a_segment_of_any_size_is_read_and_recovered() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let store = open_at(path, ReadMode::Map);
    let mut numbers = vec![0];
    append(&store, "small-1", 0, 0_u64.to_le_bytes().to_vec());
    let commits = end() / PAYLOAD_BYTES as u64;
    for number in 0..commits {
        append(&store, "large-1", 1_000_000 + number, vec![0; PAYLOAD_BYTES]);
    }
    let mut more = |store: &Store, count: u64| {
        for _ in 0..count {
            let number = numbers.len() as u64;
            append(store, "small-1", number, number.to_le_bytes().to_vec());
            numbers.push(number);
        }
        check(store, &numbers);
    };
    more(&store, 20);
    assert_eq!(store.stats().unwrap().segments, 1);
    assert!(store.stats().unwrap().bytes > end() - 2 * PAYLOAD_BYTES as u64);
    store.maintain().unwrap();
    more(&store, 20);
    store.close().unwrap();
    for mode in [ReadMode::Map, ReadMode::Pread] {
        let store = open_at(path, mode);
        assert_eq!(store.open_report().cut_bytes, 0);
        more(&store, 20);
        store.close().unwrap();
    }
    if is_whole() {
        // Reads each byte, which takes as long as writing them.
        assert!(verify(path, &mut |_| {}).unwrap().problems.is_empty());
    }
    let torn = numbers.len() as u64;
    tear(path);
    let store = open_at(path, ReadMode::Map);
    let report = store.open_report().clone();
    assert!(report.cut_bytes == 4 && report.cut_after == store.head().unwrap(), "{report:?}");
    let reader = Store::open_read_only_on(Arc::new(RealDisk::new(path)), large(ReadMode::Map)).unwrap();
    let mut last = numbers.clone();
    check(&reader, &last);
    append(&store, "small-1", torn, torn.to_le_bytes().to_vec());
    last.push(torn);
    check(&store, &last);
}

/// Leaves a few bytes behind the end of the log, as a write that was not done does.
fn tear(path: &Path) {
    let disk = RealDisk::new(path);
    disk.remove(crate::log::SYNCED_HEAD_PATH).unwrap();
    let file = disk.open("log/0000000001.segment", Access::ReadWrite).unwrap();
    let mut end = file.len().unwrap() / PAGE_BYTES as u64 * PAGE_BYTES as u64;
    let mut page = vec![0; PAGE_BYTES];
    while page.iter().all(|byte| *byte == 0) {
        end -= PAGE_BYTES as u64;
        read_exact_at(&*file, &mut page, end).unwrap();
    }
    let used = page.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1;
    assert!(end > u64::from(u32::MAX) || !is_whole(), "the log ends behind 4 GiB");
    file.write_at(&[0xEE; 4], (end + used).next_multiple_of(8)).unwrap();
}
