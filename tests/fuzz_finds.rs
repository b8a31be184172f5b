//! What the fuzz targets found, each kept as a test that tells the story.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use annals::{ExpectedVersion, NewEvent, Options, Query, Store, StreamVersion};

/// Events of each commit of a store.
const EVENTS: u64 = 16;

/// Options by which each commit becomes a run of its own when the store is closed.
fn options() -> Options {
    Options::new().index_tail_bytes_max(2048).without_background_work()
}

/// A closed store of four runs: the first is of `old-1`, the others are of `new-1`.
fn closed_store(path: &Path) {
    let store = options().open(path).unwrap();
    for stream in ["old-1", "new-1", "new-1", "new-1"] {
        let events = (0..EVENTS).map(|_| NewEvent::raw("Written", vec![7; 200]));
        store.append(stream, ExpectedVersion::Any, events).unwrap();
    }
    store.close().unwrap();
    assert_eq!(runs(path).len(), 4);
}

/// The runs of the index, oldest first.
fn runs(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path.join("index")).unwrap().map(|entry| entry.unwrap().path());
    let mut runs: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "run")).collect();
    runs.sort();
    runs
}

fn flip_a_bit(path: &Path, offset: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[offset] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// Found by `index`. Where a run is missing, a read-only store keeps a window in memory in its place. The version of a
/// stream was then looked for in the windows behind the last run and in the runs before the first window, and nowhere
/// else: a stream that lived in between did not exist.
#[test]
fn a_reader_without_the_oldest_run_knows_the_version_of_every_stream() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    closed_store(&path);
    std::fs::remove_file(&runs(&path)[0]).unwrap();

    let store = Store::open_read_only(&path).unwrap();
    assert_eq!(store.version("old-1").unwrap(), StreamVersion::new(EVENTS));
    assert_eq!(store.version("new-1").unwrap(), StreamVersion::new(3 * EVENTS));
    assert_eq!(store.version("none-1").unwrap(), None);
    assert_eq!(store.read(Query::stream("old-1")).count().unwrap(), EVENTS);
}

/// Found by `open` and `index`. Where a run is missing, opening for writing makes it anew, and adds to the positions file
/// of its segment. If that file had a damaged page, it was rebuilt up to the gap and no further: the positions of the
/// runs behind the gap were gone, and filling a second gap was a panic.
#[test]
fn gaps_between_runs_and_a_damaged_positions_file_are_repaired_together() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    closed_store(&path);
    let runs = runs(&path);
    std::fs::remove_file(&runs[1]).unwrap();
    std::fs::remove_file(&runs[3]).unwrap();
    // On the page of the event times, which opening does not read otherwise.
    flip_a_bit(&path.join("index/0000000001.positions"), 2 * 4096 + 8);

    let store = options().open(&path).unwrap();
    assert_eq!(store.read(Query::all()).count().unwrap(), 4 * EVENTS);
    assert_eq!(store.read(Query::stream("new-1")).count().unwrap(), 3 * EVENTS);
    store.append("old-1", StreamVersion::new(EVENTS).unwrap(), [NewEvent::raw("Written", "")]).unwrap();
    store.maintain().unwrap();
    store.close().unwrap();
}

/// Found by `snapshot`. What a snapshot says of its size was believed up to the greatest size that any can have, so that
/// a value of a hundred bytes was given 64 MiB before it turned out to hold nothing. It gets no more than can be packed
/// into it.
#[cfg(feature = "zstd")]
#[test]
fn a_packed_snapshot_is_given_no_more_memory_than_it_can_fill() {
    use annals::{Position, SnapshotQuery};

    let store = Store::in_memory().unwrap();
    store.append("account-1", ExpectedVersion::NoStream, [NewEvent::raw("Opened", "")]).unwrap();
    let checksum = store.history_point(Position::FIRST).unwrap().checksum;
    let mut value = store.id().to_bytes().to_vec();
    value.extend(1u64.to_le_bytes());
    value.extend(checksum.to_le_bytes());
    value.extend([1, 0, 0, 1]);
    value.extend(1u64.to_le_bytes());
    value.extend(0u64.to_le_bytes());
    value.extend((64u32 << 20).to_le_bytes());
    value.extend([9, 0, 0, 0]);
    value.extend(b"account-1 not packed");
    let key = format!("snapshot-{:032x}", xxhash_rust::xxh3::xxh3_128(b"account-1"));
    store.state().unwrap().put(key, value).unwrap();

    let found = store.load_snapshot("account-1", SnapshotQuery::new()).unwrap();
    assert_eq!(found.snapshot, None);
    assert!(found.ignored[0].reason.to_string().contains("larger than any that is packed so"), "{:?}", found.ignored);
}
