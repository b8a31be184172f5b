//! Snapshots: semantics groups 37 and 38. A snapshot is a cache; whatever is wrong with one, the events are read instead.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use annals::limits::{SNAPSHOT_BYTES_MAX, STREAM_NAME_BYTES_MAX};
use annals::{
    Codec, Durability, Error, ExpectedVersion, IgnoredReason, NewEvent, NewSnapshot, Options, Query, SnapshotLookup,
    SnapshotQuery, Store, StreamVersion,
};

const STREAM: &str = "account-alice";

fn version(number: u64) -> StreamVersion {
    StreamVersion::new(number).unwrap()
}

/// A store whose stream has so many events.
fn filled(store: Store, events: u64) -> Store {
    append(&store, STREAM, events);
    store
}

fn append(store: &Store, stream: &str, events: u64) {
    for number in 0..events {
        store.append(stream, ExpectedVersion::Any, [NewEvent::raw("Deposited", number.to_string())]).unwrap();
    }
}

fn in_memory(events: u64) -> Store {
    filled(Options::new().durability(Durability::Os).in_memory().unwrap(), events)
}

/// Runs a case on both stores, whose stream has so many events.
fn check(events: u64, case: impl Fn(&Store)) {
    case(&in_memory(events));
    let directory = tempfile::tempdir().unwrap();
    case(&filled(Options::new().durability(Durability::Os).open(directory.path()).unwrap(), events));
}

fn at(number: u64) -> NewSnapshot {
    NewSnapshot::raw(STREAM, version(number), format!("state at {number}"))
}

fn load(store: &Store, wanted: SnapshotQuery) -> SnapshotLookup {
    store.load_snapshot(STREAM, wanted).unwrap()
}

/// The version of the snapshot that is found, 0 for none.
fn found(store: &Store, wanted: SnapshotQuery) -> u64 {
    load(store, wanted).snapshot.map_or(0, |snapshot| {
        assert_eq!(snapshot.state, format!("state at {}", snapshot.version).into_bytes());
        assert_eq!(snapshot.stream, STREAM);
        snapshot.version.number()
    })
}

fn newest() -> SnapshotQuery {
    SnapshotQuery::new()
}

// --- 37: the newest usable one wins; bounds, older ones, schemas ------------------------------------------------------

#[test]
fn s37_the_newest_usable_one_wins() {
    check(5, |store| {
        assert_eq!(found(store, newest()), 0);
        assert!(load(store, newest()).ignored.is_empty());
        for number in [1, 3, 5] {
            assert!(store.save_snapshot(&at(number)).unwrap());
            assert_eq!(found(store, newest()), number);
        }
        let snapshot = load(store, newest()).snapshot.unwrap();
        assert_eq!((snapshot.position.number(), snapshot.schema, snapshot.codec), (5, 0, Codec::Raw));
        // A newer one of another schema is no use here, and the one before it is.
        store.save_snapshot(&at(5).schema(2)).unwrap();
        let lookup = load(store, newest());
        assert_eq!(lookup.snapshot.unwrap().version, version(5));
        assert!(matches!(lookup.ignored[0].reason, IgnoredReason::OtherSchema(2)));
    });
}

#[test]
fn s37_an_upper_bound_is_respected() {
    check(5, |store| {
        for number in [2, 4, 5] {
            store.save_snapshot(&at(number)).unwrap();
        }
        for (bound, expected) in [(1, 0), (2, 2), (3, 2), (4, 4), (5, 5), (6, 5)] {
            assert_eq!(found(store, newest().upto(version(bound))), expected, "up to {bound}");
        }
        assert_eq!(found(store, newest().upto(None)), 5);
        assert!(load(store, newest().upto(version(1))).ignored.is_empty());
    });
}

#[test]
fn s37_saving_an_older_one_never_replaces_a_newer_one() {
    check(5, |store| {
        assert!(store.save_snapshot(&at(4)).unwrap());
        assert!(!store.save_snapshot(&at(2)).unwrap());
        assert_eq!(found(store, newest()), 4);
        assert_eq!(found(store, newest().upto(version(3))), 0);
        // One of the same version takes its place: its state may have been made better.
        assert!(store.save_snapshot(&at(4)).unwrap());
        // One that is newer and cannot be used is no obstacle.
        assert!(store.save_snapshot(&at(3).schema(1)).unwrap());
        assert_eq!(found(store, newest().schema(1)), 3);
    });
}

/// Eight threads save what they have seen; the newest stays.
#[test]
fn s37_the_newest_of_concurrent_ones_stays() {
    check(40, |store| {
        std::thread::scope(|scope| {
            for thread in 0..8 {
                scope.spawn(move || {
                    for step in 0..5 {
                        store.save_snapshot(&at(1 + step * 8 + thread)).unwrap();
                    }
                });
            }
        });
        assert_eq!(found(store, newest()), 40);
    });
}

#[test]
fn s37_an_unknown_schema_is_ignored_and_reported() {
    check(3, |store| {
        store.save_snapshot(&at(3).schema(7)).unwrap();
        let lookup = load(store, newest().schema(8));
        assert!(lookup.snapshot.is_none());
        assert_eq!(lookup.ignored.len(), 1);
        assert_eq!(lookup.ignored[0].version, Some(version(3)));
        assert!(matches!(lookup.ignored[0].reason, IgnoredReason::OtherSchema(7)));
        assert_eq!(found(store, newest().schema(7)), 3);
    });
}

#[test]
fn s37_a_failed_decode_names_the_snapshot() {
    check(3, |store| {
        store.save_snapshot(&NewSnapshot::json(STREAM, version(3), &"text").unwrap()).unwrap();
        let snapshot = load(store, newest()).snapshot.unwrap();
        assert_eq!(snapshot.decode_state::<String>().unwrap(), "text");
        let error = snapshot.decode_state::<u64>().unwrap_err();
        assert!(
            matches!(&error, Error::Codec { what, .. } if what.contains(STREAM) && what.contains("version 3")),
            "{error}"
        );
        store.save_snapshot(&at(3)).unwrap();
        assert!(load(store, newest()).snapshot.unwrap().decode_state::<String>().is_err());
    });
}

// --- 38: a snapshot is a cache ----------------------------------------------------------------------------------------

#[test]
fn s38_what_is_no_snapshot_is_ignored() {
    check(3, |store| {
        store.save_snapshot(&at(2)).unwrap();
        let state = store.state().unwrap();
        let key = state.keys("snapshot-").unwrap().remove(0);
        let saved = state.get(&key).unwrap().unwrap();
        let mut newer = saved.clone();
        newer[28] = 9;
        let mut longer = saved.clone();
        longer.push(0);
        for (value, is_unknown) in [(vec![], false), (vec![1; 100], true), (newer, true), (longer, false)] {
            state.put(&key, value).unwrap();
            let lookup = load(store, newest());
            assert_eq!(lookup.snapshot.unwrap().version, version(2));
            match lookup.ignored[0].reason {
                IgnoredReason::Unknown(_) => assert!(is_unknown),
                IgnoredReason::Damaged(_) => assert!(!is_unknown),
                ref other => panic!("{other:?}"),
            }
        }
        assert_eq!(load(store, newest()).ignored.len(), 4);
        // A stream whose name has the same hash would share the key: the name inside decides.
        append(store, "account-other", 1);
        store.save_snapshot(&NewSnapshot::raw("account-other", version(1), "")).unwrap();
        let keys = state.keys("snapshot-").unwrap();
        let other = keys.iter().find(|other| **other != key).unwrap();
        state.put(other, saved).unwrap();
        let lookup = store.load_snapshot("account-other", newest()).unwrap();
        assert!(matches!(&lookup.ignored[0].reason, IgnoredReason::OtherStream(name) if name == STREAM));
        assert!(lookup.snapshot.is_some());
        // The next one takes the place of what is of no use.
        assert!(store.save_snapshot(&at(1)).unwrap());
        assert_eq!(found(store, newest()), 1);
    });
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn open(path: &Path) -> Store {
    Options::new().without_background_work().open(path).unwrap()
}

/// Each byte of the state in turn is damaged: either the snapshot is found as it was saved, or it is passed over and
/// that is told. The events are there in any case.
#[test]
fn s38_corruption_means_replay() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let store = filled(open(path), 3);
    store.save_snapshot(&at(3)).unwrap();
    store.close().unwrap();
    let segment = path.join("state/log/0000000001.segment");
    let bytes = std::fs::read(&segment).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut ignored = 0;
    for offset in (0..used).step_by(3) {
        let mut damaged = bytes.clone();
        damaged[offset] ^= 0x10;
        std::fs::write(&segment, &damaged).unwrap();
        let store = open(path);
        let lookup = load(&store, newest());
        match lookup.snapshot {
            Some(snapshot) => assert_eq!(snapshot.state, b"state at 3"),
            None if lookup.ignored.is_empty() => panic!("byte {offset}: the snapshot is gone, and nobody says so"),
            None => ignored += 1,
        }
        assert_eq!(store.read(Query::stream(STREAM)).count().unwrap(), 3, "byte {offset}");
        store.close().unwrap();
    }
    assert!(ignored > 50, "{ignored} damages were noticed");
    std::fs::write(&segment, &bytes).unwrap();
    assert_eq!(found(&open(path), newest()), 3);
}

/// The log was put back to an earlier state, its snapshots were not.
fn put_back() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = filled(open(&path), 2);
    store.save_snapshot(&at(2)).unwrap();
    store.close().unwrap();
    copy(&path, &directory.path().join("earlier"));
    let store = filled(open(&path), 1);
    store.save_snapshot(&at(3)).unwrap();
    store.close().unwrap();
    let (state, kept) = (path.join("state"), directory.path().join("state"));
    std::fs::rename(state, &kept).unwrap();
    std::fs::remove_dir_all(&path).unwrap();
    copy(&directory.path().join("earlier"), &path);
    std::fs::remove_dir_all(path.join("state")).unwrap();
    copy(&kept, &path.join("state"));
    directory
}

#[test]
fn s38_one_ahead_of_the_log_is_ignored() {
    let directory = put_back();
    let store = open(&directory.path().join("store"));
    let lookup = load(&store, newest());
    assert_eq!(lookup.ignored[0].version, Some(version(3)));
    assert!(matches!(lookup.ignored[0].reason, IgnoredReason::AheadOfLog));
    assert_eq!(lookup.snapshot.unwrap().version, version(2));
    // It is no reason not to save an older one.
    assert!(store.save_snapshot(&at(1)).unwrap());
    assert_eq!(found(&store, newest()), 1);
}

#[test]
fn s38_one_from_another_history_is_ignored() {
    let directory = put_back();
    let store = filled(open(&directory.path().join("store")), 4);
    let lookup = load(&store, newest());
    assert_eq!(lookup.ignored[0].version, Some(version(3)));
    assert!(matches!(lookup.ignored[0].reason, IgnoredReason::OtherHistory));
    assert_eq!(lookup.snapshot.unwrap().version, version(2));
    store.close().unwrap();

    // A store of its own, with the state of the other.
    let other = directory.path().join("other");
    let store = filled(open(&other), 4);
    store.close().unwrap();
    copy(&directory.path().join("store/state"), &other.join("state"));
    let store = open(&other);
    let lookup = load(&store, newest());
    assert!(lookup.snapshot.is_none());
    assert!(lookup.ignored.len() >= 2);
    assert!(lookup.ignored.iter().all(|ignored| matches!(ignored.reason, IgnoredReason::OtherHistory)));
    assert!(store.save_snapshot(&at(1)).unwrap());
}

/// A backup is a history of its own: it may go on differently.
#[test]
fn s38_a_backup_has_no_snapshots() {
    let directory = tempfile::tempdir().unwrap();
    let store = filled(open(&directory.path().join("store")), 3);
    store.save_snapshot(&at(3)).unwrap();
    store.backup(directory.path().join("backup")).unwrap();
    let backup = open(&directory.path().join("backup"));
    assert_eq!(found(&backup, newest()), 0);
    assert!(backup.save_snapshot(&at(2)).unwrap());
    assert_eq!(found(&backup, newest()), 2);
    assert_eq!(found(&store, newest()), 3);
}

// --- Beside the cases -------------------------------------------------------------------------------------------------

#[test]
fn a_snapshot_needs_an_event_that_everybody_sees() {
    let store = in_memory(3);
    assert!(matches!(store.save_snapshot(&at(4)), Err(Error::Invalid(_))));
    let elsewhere = NewSnapshot::raw("account-bob", version(1), "");
    assert!(matches!(store.save_snapshot(&elsewhere), Err(Error::Invalid(_))));
    assert!(load(&store, newest()).ignored.is_empty());
}

#[test]
fn a_deleted_snapshot_is_gone_with_all_before_it() {
    let store = in_memory(3);
    store.save_snapshot(&at(1)).unwrap();
    store.save_snapshot(&at(2)).unwrap();
    store.delete_snapshot(STREAM).unwrap();
    store.delete_snapshot(STREAM).unwrap();
    assert_eq!(found(&store, newest()), 0);
    assert!(store.save_snapshot(&at(1)).unwrap());
    assert_eq!(found(&store, newest()), 1);
}

#[test]
fn snapshots_last_and_the_log_never_notices() {
    let directory = tempfile::tempdir().unwrap();
    let store = filled(open(directory.path()), 3);
    store.save_snapshot(&at(3)).unwrap();
    assert_eq!(store.head().unwrap().unwrap().number(), 3);
    assert_eq!(store.read(Query::all()).count().unwrap(), 3);
    store.close().unwrap();
    let store = open(directory.path());
    assert_eq!(found(&store, newest()), 3);
    assert_eq!(store.read(Query::all()).count().unwrap(), 3);
}

#[test]
fn a_reader_loads_snapshots_and_saves_none() {
    let directory = tempfile::tempdir().unwrap();
    let store = filled(open(directory.path()), 3);
    let reader = Options::new().open_read_only(directory.path()).unwrap();
    assert_eq!(found(&reader, newest()), 0);
    store.save_snapshot(&at(3)).unwrap();
    store.state().unwrap().sync().unwrap();
    assert_eq!(found(&reader, newest()), 3);
    assert!(matches!(reader.save_snapshot(&at(3)), Err(Error::ReadOnly)));
    assert!(matches!(reader.delete_snapshot(STREAM), Err(Error::ReadOnly)));
}

/// Snapshots of many streams, most of them overwritten many times: compaction keeps the newest of each.
#[test]
fn compaction_keeps_the_newest_of_each_stream() {
    let store = Options::new().without_background_work().durability(Durability::Os).in_memory().unwrap();
    let mut random = 1_u64;
    for round in 1..=20 {
        for stream in 0..10 {
            let name = format!("s-{stream}");
            append(&store, &name, 1);
            // Text that does not shrink much.
            let state: Vec<u8> = std::iter::repeat_with(|| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 56) as u8
            })
            .take(5_000)
            .chain([round as u8])
            .collect();
            store.save_snapshot(&NewSnapshot::raw(&name, version(round), state)).unwrap();
        }
        store.maintain().unwrap();
    }
    for stream in 0..10 {
        let name = format!("s-{stream}");
        let snapshot = store.load_snapshot(&name, newest()).unwrap().snapshot.unwrap();
        assert_eq!((snapshot.version, snapshot.state.len(), snapshot.state[5_000]), (version(20), 5_001, 20));
        let bounded = store.load_snapshot(&name, newest().upto(version(2))).unwrap();
        assert!(bounded.snapshot.is_none_or(|snapshot| snapshot.version <= version(2)));
    }
}

#[test]
fn streams_and_states_have_limits() {
    let store = in_memory(1);
    let longest = "n".repeat(STREAM_NAME_BYTES_MAX);
    append(&store, &longest, 1);
    store.save_snapshot(&NewSnapshot::raw(&longest, version(1), "longest")).unwrap();
    assert_eq!(store.load_snapshot(&longest, newest()).unwrap().snapshot.unwrap().state, b"longest");
    for name in ["", &"n".repeat(STREAM_NAME_BYTES_MAX + 1)] {
        assert!(matches!(store.save_snapshot(&NewSnapshot::raw(name, version(1), "")), Err(Error::Invalid(_))));
        assert!(matches!(store.load_snapshot(name, newest()), Err(Error::Invalid(_))));
        assert!(matches!(store.delete_snapshot(name), Err(Error::Invalid(_))));
    }
    let too_large = NewSnapshot::raw(STREAM, version(1), vec![0; SNAPSHOT_BYTES_MAX + 1]);
    assert!(matches!(store.save_snapshot(&too_large), Err(Error::Invalid(_))));
    assert!(load(&store, newest()).snapshot.is_none());
}

/// A state that compresses well is saved small, whatever its size.
#[cfg(feature = "zstd")]
#[test]
fn large_states_are_compressed() {
    let store = in_memory(1);
    for bytes in [0, 511, 512, SNAPSHOT_BYTES_MAX] {
        store.save_snapshot(&NewSnapshot::raw(STREAM, version(1), vec![7; bytes])).unwrap();
        assert_eq!(load(&store, newest()).snapshot.unwrap().state, vec![7; bytes]);
        let state = store.state().unwrap();
        let key = state.keys("snapshot-").unwrap().remove(0);
        let saved = state.get(&key).unwrap().unwrap().len();
        assert_eq!(saved < bytes, bytes >= 512, "{saved} bytes for {bytes}");
        // Damage inside of what is compressed, and a length that is not the state's.
        for (offset, value) in [(saved - 1, 0x55), (48, 1)] {
            let mut damaged = state.get(&key).unwrap().unwrap();
            damaged[offset] ^= value;
            state.put(&key, damaged).unwrap();
        }
        let lookup = load(&store, newest());
        assert!(bytes < 512 || matches!(lookup.ignored[0].reason, IgnoredReason::Damaged(_)));
    }
}
