//! Media that cannot be written: a store on them is read like any other, and nothing is tried that would change them.

use std::io;
use std::path::PathBuf;

use super::*;
use crate::storage::{Access, File, Lock};

/// A disk on which everything that changes something is refused, as on a file system that is mounted for reading.
#[derive(Debug, Clone)]
struct ReadOnlyDisk {
    inner: MemoryDisk,
    /// Counts what was refused.
    refused: Arc<std::sync::atomic::AtomicU64>,
}

impl ReadOnlyDisk {
    fn of(inner: MemoryDisk) -> Self {
        Self { inner, refused: Arc::default() }
    }

    fn refuse<T>(&self) -> io::Result<T> {
        self.refused.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    fn refusals(&self) -> u64 {
        self.refused.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Disk for ReadOnlyDisk {
    fn locate(&self, path: &str) -> PathBuf {
        self.inner.locate(path)
    }

    fn exists(&self) -> bool {
        self.inner.exists()
    }

    /// One that exists may be made again, and is not changed by it.
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        if dir.is_empty() { Ok(()) } else { self.refuse() }
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }

    fn open(&self, path: &str, access: Access) -> io::Result<Arc<dyn File>> {
        if access == Access::ReadWrite { self.refuse() } else { self.inner.open(path, access) }
    }

    fn create(&self, _: &str) -> io::Result<Arc<dyn File>> {
        self.refuse()
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        self.refuse()
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        self.refuse()
    }

    fn remove_dir(&self, _: &str) -> io::Result<()> {
        self.refuse()
    }

    fn sync_dir(&self, _: &str) -> io::Result<()> {
        self.refuse()
    }

    fn lock(&self, _: &str) -> io::Result<Option<Lock>> {
        self.refuse()
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        self.inner.free_bytes()
    }
}

/// With an index, without one, without what says how far it is synced, and as a kill leaves it.
fn samples() -> Vec<(&'static str, MemoryDisk)> {
    let remove = |names: &dyn Fn(&str) -> bool| {
        let disk = filled();
        for dir in ["", "index", "state/index"] {
            for name in disk.list(dir).unwrap() {
                let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
                if names(&path) {
                    disk.remove(&path).unwrap();
                }
            }
        }
        disk
    };
    let killed = MemoryDisk::new();
    let store = open(&killed, options()).unwrap();
    fill(&store);
    let left = MemoryDisk::new();
    crate::storage::copy_files(&killed, &left, &["", "log", "index", "state", "state/log", "state/index"]).unwrap();
    vec![
        ("closed", filled()),
        ("without an index", remove(&|path| path.contains("index/"))),
        ("without the synced head", remove(&|path| path == "synced-head")),
        ("killed", left),
    ]
}

#[test]
fn a_store_on_media_that_cannot_be_written_is_read_whole() {
    let picture = Picture::of(&open(&filled(), options()).unwrap()).unwrap();
    assert!(picture.snapshot.is_some());
    for (what, disk) in samples() {
        for mode in [ReadMode::Map, ReadMode::Pread] {
            let disk = ReadOnlyDisk::of(disk.clone());
            let store = Store::open_read_only_on(Arc::new(disk.clone()), options().read_mode(mode)).unwrap();
            Picture::of(&store).unwrap().assert_is(&picture, &format!("{what}, {mode:?}"));
            let directory = scratch();
            store.backup(directory.path().join("backup")).unwrap();
            assert!(store.stats().unwrap().events == 24 && store.head().unwrap() == store.synced_head().unwrap());
            assert!(matches!(
                store.append("account-1", ExpectedVersion::Any, []).unwrap_err().error(),
                Error::ReadOnly
            ));
            store.close().unwrap();
            assert_eq!(disk.refusals(), 0, "{what}, {mode:?}: a change was tried");
        }
    }
}

#[test]
fn a_store_on_media_that_cannot_be_written_is_not_opened_for_writing() {
    for (what, disk) in samples() {
        let disk = ReadOnlyDisk::of(disk);
        match open(&disk, options()) {
            Err(Error::Io { source, .. }) => assert_eq!(source.kind(), ErrorKind::ReadOnlyFilesystem, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
        assert_eq!(disk.refusals(), 1, "{what}: it is not tried again");
    }
}
