//! Sweeps over the calls of everything that stands on the log: each call of a script fails in turn, in every way, and
//! each time the same holds as without. What the log itself does is swept in `faults.rs`, compaction in `compaction.rs`.

mod backups;
mod media;
mod offsets;
mod projections;
mod reading;

use std::io::ErrorKind;
use std::sync::Arc;

use super::{
    Commit, IgnoredReason, NewEvent, NewSnapshot, Options, Query, ReadMode, RecordedEvent, SnapshotQuery, Store,
};
use crate::clock::ManualClock;
use crate::error::{Error, ExpectedVersion, Result};
use crate::randomness::SeededRandomness;
use crate::storage::{Call, Disk, Fault, FaultyDisk, MemoryDisk, RealDisk, scratch};
use crate::types::{Durability, Timestamp};

/// Segments as small as they can be, and an index that goes to disk early.
fn options() -> Options {
    Options::new()
        .segment_bytes_first(4096)
        .segment_bytes_max(4096)
        .index_tail_bytes_max(1500)
        .clock(ManualClock::new(Timestamp::from_millis(1_000_000)))
        .randomness(SeededRandomness::new(9))
        .without_background_work()
}

fn open(disk: &(impl Disk + Clone + 'static), options: Options) -> Result<Store> {
    Store::open_on(Arc::new(disk.clone()), options, true)
}

/// Some events on three streams, in several segments, with state and a snapshot.
fn fill(store: &Store) {
    for number in 0..24_u64 {
        let event = NewEvent::raw(["Opened", "Changed"][number as usize % 2], format!("{number:0250}"));
        let event = event.tag(format!("parity:{}", number % 2));
        let durability = if number.is_multiple_of(4) { Durability::Synced } else { Durability::Os };
        let commit = Commit::new().append(format!("account-{}", number % 3), ExpectedVersion::Any, [event]);
        store.send(commit.durability(durability)).unwrap();
    }
    store.maintain().unwrap();
    let version = store.version("account-1").unwrap().unwrap();
    store.save_snapshot(&NewSnapshot::raw("account-1", version, version.to_string())).unwrap();
    for number in 0..8_u64 {
        store.state().unwrap().put(format!("key-{number}"), vec![number as u8; 400]).unwrap();
    }
    store.maintain().unwrap();
}

/// A store that was filled and closed.
fn filled() -> MemoryDisk {
    let disk = MemoryDisk::new();
    let store = open(&disk, options()).unwrap();
    fill(&store);
    store.close().unwrap();
    disk
}

/// Everything that a filled store answers.
#[derive(Debug, Clone, PartialEq)]
struct Picture {
    found: Vec<Vec<RecordedEvent>>,
    versions: Vec<Option<u64>>,
    state: Vec<Option<Vec<u8>>>,
    snapshot: Option<Vec<u8>>,
}

impl Picture {
    /// The same picture, or a failure that says where it is another.
    #[track_caller]
    fn assert_is(&self, expected: &Picture, context: &str) {
        for (found, expected) in self.found.iter().zip(&expected.found) {
            assert_eq!(positions(found), positions(expected), "{context}");
            assert!(found == expected, "{context}: events that are not those that were written");
        }
        assert_eq!(self.versions, expected.versions, "{context}");
        assert!(self.state == expected.state, "{context}: the state");
        assert_eq!(self.snapshot, expected.snapshot, "{context}");
    }

    fn of(store: &Store) -> Result<Self> {
        let streams = ["account-0", "account-1", "account-2", "absent"];
        let mut queries = vec![Query::all(), Query::category("account"), Query::types(["Opened"])];
        queries.extend(streams.map(Query::stream));
        queries.extend(["parity:0", "parity:1", "absent"].map(Query::tag));
        let mut found = Vec::new();
        for query in queries {
            let forwards: Vec<RecordedEvent> = store.read(query.clone()).owned().collect::<Result<_>>()?;
            let mut backwards: Vec<RecordedEvent> = store.read(query).reverse().owned().collect::<Result<_>>()?;
            backwards.reverse();
            assert_eq!(forwards, backwards);
            found.push(forwards);
        }
        let version = |stream: &&str| Ok(store.version(stream)?.map(crate::types::StreamVersion::number));
        let state = store.state()?;
        let keys = (0..9).map(|number| state.get(&format!("key-{number}")));
        let saved = store.load_snapshot("account-1", SnapshotQuery::new())?;
        // What keeps a snapshot from being read is no error to who asks for it.
        if let Some(IgnoredReason::Unreadable(error)) = saved.ignored.into_iter().map(|ignored| ignored.reason).next() {
            return Err(error);
        }
        Ok(Self {
            found,
            versions: streams.iter().map(version).collect::<Result<_>>()?,
            state: keys.collect::<Result<_>>()?,
            snapshot: saved.snapshot.map(|found| found.state),
        })
    }
}

fn positions(events: &[RecordedEvent]) -> Vec<u64> {
    events.iter().map(|event| event.position.number()).collect()
}
