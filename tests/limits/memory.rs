//! The limits on memory: maps that are refused, and how much a store of very many streams takes.

use annals::{Durability, Error, ExpectedVersion, NewEvent, Options, Query, Store};
use rustix::process::Resource;

use super::alone::{Held, alone, limited, status_bytes};
use super::support::{Story, options, os_error};

/// "Cannot allocate memory".
const ENOMEM: i32 = 12;
const MIB: u64 = 1024 * 1024;

/// Runs something for which there is memory, and address space for nothing large.
fn without_room_for_maps<T>(run: impl FnOnce() -> T) -> T {
    limited(Resource::As, status_bytes("VmSize:") + 24 * MIB, run)
}

/// Segments of which each takes more address space than there is left.
fn large() -> Options {
    options().segment_bytes_first(32 * MIB).segment_bytes_max(32 * MIB)
}

#[test]
fn a_store_that_cannot_be_mapped_is_an_error_and_opens_later() {
    alone("memory::a_store_that_cannot_be_mapped_is_an_error_and_opens_later", || {
        let directory = tempfile::tempdir().unwrap();
        let held = Held::now(directory.path());
        for _ in 0..3 {
            let refused = without_room_for_maps(|| large().open(directory.path())).unwrap_err();
            assert!(matches!(refused, Error::Io { operation: "map", .. }), "{refused:?}");
            assert_eq!(os_error(&refused), Some(ENOMEM));
            held.assert_again(directory.path(), "refused");
        }
        // Without maps there is nothing to refuse.
        let pread =
            without_room_for_maps(|| large().read_mode(annals::ReadMode::Pread).open(directory.path()).unwrap());
        let mut story = Story::default();
        story.append(&pread);
        drop(pread);
        story.end(directory.path(), large());
        held.assert_again(directory.path(), "closed");
    });
}

/// A segment that cannot be mapped is refused before anything is assigned, and the same commit goes when it can be.
#[test]
fn a_segment_that_cannot_be_mapped_fails_one_append_and_no_other() {
    alone("memory::a_segment_that_cannot_be_mapped_fails_one_append_and_no_other", || {
        let directory = tempfile::tempdir().unwrap();
        let held = Held::now(directory.path());
        let store = large().open(directory.path()).unwrap();
        let payload = vec![1_u8; 15 * MIB as usize];
        let append = || {
            let event = NewEvent::raw("Large", payload.clone());
            store.commit().append("large-1", ExpectedVersion::Any, [event]).durability(Durability::Os).send()
        };
        (0..2).for_each(|_| drop(append().unwrap()));
        let event = || [NewEvent::raw("Large", vec![1; 8 * MIB as usize])];
        let refused = without_room_for_maps(|| store.append("large-1", ExpectedVersion::Any, event())).unwrap_err();
        assert!(matches!(refused.error(), Error::Io { operation: "map", .. }), "{refused:?}");
        let appended = store.send(refused.into_commit()).unwrap();
        assert_eq!((appended.first_position().number(), appended.deduplicated()), (3, false));
        drop(store);
        held.assert_again(directory.path(), "closed");
        let store = large().open(directory.path()).unwrap();
        assert_eq!(store.read(Query::stream("large-1")).count().unwrap(), 3);
    });
}

/// A million streams in 256 MiB of memory, and as many as that in so much of it in a shorter run.
#[test]
fn memory_is_bounded_whatever_the_number_of_streams() {
    alone("memory::memory_is_bounded_whatever_the_number_of_streams", || {
        let streams = std::env::var("ANNALS_LIMITS_STREAMS").map_or(60_000, |text| text.parse().unwrap());
        let is_large = streams >= 1_000_000;
        let (index_bytes, data_bytes) = if is_large { (32 * MIB, 256 * MIB) } else { (2 * MIB, 24 * MIB) };
        let options = || Options::new().durability(Durability::Os).index_memory_bytes_max(index_bytes as usize);
        let directory = tempfile::tempdir().unwrap();
        let held = Held::now(directory.path());
        // What the process had before is not the store's.
        let before = status_bytes("VmData:");
        limited(Resource::Data, before + data_bytes, || {
            let store = options().open(directory.path()).unwrap();
            fill(&store, streams);
            check(&store, streams);
            store.close().unwrap();
            held.assert_again(directory.path(), "closed");
            let store = options().open(directory.path()).unwrap();
            check(&store, streams);
            println!("{streams} streams: {} KiB of {}", status_bytes("VmData:") / 1024, (before + data_bytes) / 1024);
        });
        held.assert_again(directory.path(), "read and closed");
    });
}

fn stream(number: u64) -> String {
    format!("account-{number}")
}

/// One event on each of the streams, and then a second one on some.
fn fill(store: &Store, streams: u64) {
    for first in (0..streams).step_by(500) {
        let commit = (first..streams.min(first + 500)).fold(store.commit(), |commit, number| {
            commit.append(stream(number), ExpectedVersion::Any, [NewEvent::raw("Opened", "{}")])
        });
        commit.send().unwrap();
    }
    for number in (0..streams).step_by(streams as usize / 500) {
        store.append(stream(number), ExpectedVersion::StreamExists, [NewEvent::raw("Closed", "{}")]).unwrap();
    }
}

fn check(store: &Store, streams: u64) {
    assert_eq!(store.stats().unwrap().events, streams + streams.div_ceil(streams / 500));
    for number in (0..streams).step_by(streams as usize / 1_000) {
        let version = store.version(&stream(number)).unwrap().unwrap().number();
        let is_closed = number.is_multiple_of(streams / 500);
        assert_eq!(version, 1 + u64::from(is_closed), "{number}");
        assert_eq!(store.read(Query::stream(stream(number))).count().unwrap(), version, "{number}");
    }
    assert_eq!(store.version(&stream(streams)).unwrap(), None);
}
