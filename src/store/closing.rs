//! Closing a store of which others hold clones: what they are told, and what they leave alone from then on.

use std::sync::Arc;

use super::{Commit, NewEvent, Options, Query, Store};
use crate::error::{Error, ExpectedVersion};
use crate::storage::{Call, Fault, FaultyDisk, MemoryDisk};
use crate::types::Durability;

const SEGMENT_BYTES: u64 = 64 * 1024;

fn open(disk: &FaultyDisk) -> Store {
    let options = Options::new().segment_bytes_first(SEGMENT_BYTES).segment_bytes_max(SEGMENT_BYTES);
    Store::open_on(Arc::new(disk.clone()), options.without_background_work(), true).unwrap()
}

/// More than half of a segment, so that the next one is wanted.
fn large() -> Commit {
    Commit::new().append("s", ExpectedVersion::Any, [NewEvent::raw("Made", vec![7; SEGMENT_BYTES as usize * 5 / 8])])
}

/// Found by review. It made the next segment under its name: where another handle had gone on there meanwhile, it emptied
/// what had been acknowledged.
#[test]
fn maintenance_of_a_closed_store_leaves_the_files_to_who_has_it_open() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let closed = open(&disk);
    closed.send(large()).unwrap();
    closed.clone().close().unwrap();
    let store = open(&disk);
    store.send(large()).unwrap();
    let mutations = disk.mutations();
    assert!(matches!(closed.maintain(), Err(Error::Closed)));
    assert_eq!(disk.mutations(), mutations);
    store.close().unwrap();
    assert_eq!(open(&disk).read(Query::all()).count().unwrap(), 2);
}

/// Found by review. The second was told that all was well.
#[test]
fn each_who_closes_a_store_is_told_that_its_last_sync_failed() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let store = open(&disk);
    store.send(large().durability(Durability::Os)).unwrap();
    disk.inject(Fault::next(Call::Sync).of(".segment"));
    for _ in 0..3 {
        assert!(matches!(store.clone().close(), Err(Error::Io { .. })));
    }
}

/// What it wrote would be beside what the new owner of the directory writes.
#[test]
fn the_index_of_a_closed_store_is_read_and_not_written() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let closed = open(&disk);
    (0..8).for_each(|_| drop(closed.send(large()).unwrap()));
    closed.maintain().unwrap();
    closed.clone().close().unwrap();
    let mutations = disk.mutations();
    closed.handle.inner.maintain().unwrap_err();
    assert!(!closed.handle.inner.merge_index().unwrap());
    closed.handle.inner.index.freeze();
    closed.handle.inner.spill_index().unwrap();
    assert_eq!(disk.mutations(), mutations);
    assert_eq!(closed.read(Query::stream("s")).count().unwrap(), 8);
}
