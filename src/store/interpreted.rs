//! The life of a store that is small enough to be interpreted: Miri looks at every access to the buffers of the disk in
//! memory, which are lent as maps are, while segments roll, the index is written and merged, and the store is opened again.

use std::sync::Arc;

use super::{Commit, NewEvent, Options, Query, ReadMode, RecordedEvent, Store};
use crate::clock::ManualClock;
use crate::error::{Error, ExpectedVersion, Result};
use crate::randomness::SeededRandomness;
use crate::storage::MemoryDisk;
use crate::types::{Durability, StreamVersion, Timestamp};

const EVENTS: u64 = 12;

fn open(disk: &MemoryDisk, mode: ReadMode) -> Store {
    let options = Options::new()
        .segment_bytes_first(4096)
        .segment_bytes_max(4096)
        .index_tail_bytes_max(1500)
        .index_memory_bytes_max(4096)
        .read_mode(mode)
        .clock(ManualClock::new(Timestamp::from_millis(1)))
        .randomness(SeededRandomness::new(3))
        .without_background_work();
    Store::open_on(Arc::new(disk.clone()), options, true).unwrap()
}

/// Each commit expects the version that its stream has, and that nobody used its tag before.
fn append(store: &Store, number: u64) -> Result<()> {
    let stream = format!("account-{}", number % 2);
    let event = NewEvent::raw("Counted", format!("{number:0700}")).tag(format!("number:{number}"));
    let expected = StreamVersion::new(number / 2).map_or(ExpectedVersion::NoStream, ExpectedVersion::Exact);
    let commit = Commit::new().append(stream, expected, [event]).unless(Query::tag(format!("number:{number}")));
    let durability = if number.is_multiple_of(3) { Durability::Synced } else { Durability::Os };
    store.send(commit.durability(durability)).map(drop).map_err(Error::from)
}

fn numbers(store: &Store, query: Query) -> Vec<u64> {
    let events = store.read(query).owned().map(Result::unwrap);
    events.map(|event: RecordedEvent| String::from_utf8(event.payload).unwrap().parse().unwrap()).collect()
}

fn check(store: &Store, events: u64) {
    let all: Vec<u64> = (0..events).collect();
    assert_eq!(numbers(store, Query::all()), all);
    assert_eq!(numbers(store, Query::types(["Counted"])), all);
    assert_eq!(numbers(store, Query::stream("account-1")), (1..events).step_by(2).collect::<Vec<_>>());
    assert_eq!(numbers(store, Query::tag("number:1").or(Query::tag("number:4"))), [1, 4]);
}

#[test]
fn a_small_store_is_written_read_and_opened_again() {
    for mode in [ReadMode::Map, ReadMode::Pread] {
        let disk = MemoryDisk::new();
        let store = open(&disk, mode);
        for number in 0..EVENTS {
            append(&store, number).unwrap();
        }
        assert!(matches!(append(&store, 3), Err(Error::Conflict(_))), "another event is there");
        // An event that is lent stays as it is while others are written beside it.
        let mut read = store.read(Query::stream("account-0")).reverse();
        let lent = read.next().unwrap().unwrap();
        append(&store, EVENTS).unwrap();
        store.maintain().unwrap();
        assert_eq!(lent.payload(), format!("{:0700}", EVENTS - 2).as_bytes());
        drop(read);
        check(&store, EVENTS + 1);
        store.state().unwrap().put("key", "value").unwrap();
        store.close().unwrap();
        let store = open(&disk, mode);
        check(&store, EVENTS + 1);
        assert_eq!(store.state().unwrap().get("key").unwrap().as_deref(), Some(&b"value"[..]));
        append(&store, EVENTS + 1).unwrap();
        assert!(store.stats().unwrap().segments > 2);
    }
}
