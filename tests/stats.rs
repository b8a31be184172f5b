//! Counting what a store holds.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

use annals::{Durability, ExpectedVersion, NewEvent, Options, Position, Stats, Store};

fn append(store: &Store, stream: &str, event_type: &'static str, bytes: usize) {
    store.append(stream, ExpectedVersion::Any, [NewEvent::raw(event_type, vec![7; bytes])]).unwrap();
}

/// The sum of the sizes of the segment files.
fn allocated(path: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(path.join("log")).unwrap();
    entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn an_empty_store_holds_nothing() {
    let stats = Store::in_memory().unwrap().stats().unwrap();
    assert_eq!((stats.events, stats.streams, stats.categories, stats.types), (0, 0, 0, 0));
    assert_eq!((stats.head, stats.synced_head, stats.segments), (None, None, 1));
    assert!(stats.bytes > 0 && stats.bytes_allocated >= stats.bytes);
}

#[test]
fn events_streams_categories_and_types_are_counted_across_segments() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let options = Options::new().segment_bytes_first(4096).segment_bytes_max(8192);
    let store = options.without_background_work().open(&path).unwrap();
    for round in 0..20 {
        append(&store, "account-alice", "Deposited", 300);
        append(&store, &format!("account-{round}"), "Opened", 300);
        append(&store, "limits", if round % 2 == 0 { "Raised" } else { "Lowered" }, 300);
    }
    let stats = store.stats().unwrap();
    assert_eq!((stats.events, stats.streams, stats.categories, stats.types), (60, 22, 2, 4));
    assert_eq!((stats.head, stats.synced_head), (Position::new(60), Position::new(60)));
    assert!(stats.segments > 2);
    assert_eq!(stats.bytes_allocated, allocated(&path));
    assert!(stats.bytes > 60 * 300 && stats.bytes < stats.bytes_allocated);
    let beside = Store::open_read_only(&path).unwrap().stats().unwrap();
    assert_eq!(beside, stats);
}

#[test]
fn what_is_visible_and_not_synced_counts() {
    let store = Options::new().durability(Durability::Os).without_background_work().in_memory().unwrap();
    append(&store, "a", "t", 1);
    let Stats { events, head, synced_head, .. } = store.stats().unwrap();
    assert_eq!((events, head, synced_head), (1, Position::new(1), None));
    store.sync().unwrap();
    assert_eq!(store.stats().unwrap().synced_head, Position::new(1));
}
