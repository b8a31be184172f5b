//! Appends that meet others in flight, on a disk that holds or fails a sync. Groups 15 and 19 of the semantics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::{AppendError, Appended, Commit, NewEvent, Options, Query, Store};
use crate::error::{Conflict, Error, ExpectationFailure, ExpectedVersion};
use crate::limits::{STREAM_NAME_BYTES_MAX, TYPE_NAME_BYTES_MAX};
use crate::storage::{Call, Fault, FaultyDisk, MemoryDisk};
use crate::types::{Durability, EventId, Position, StreamVersion};

type Sent = Result<Appended, AppendError>;

fn open(disk: &FaultyDisk) -> Store {
    Store::open_on(Arc::new(disk.clone()), Options::new().without_background_work(), true).unwrap()
}

fn numbered(number: u8) -> NewEvent {
    NewEvent::raw("Made", [number]).id(EventId::from_bytes([number; 16]))
}

fn commit(stream: &str, number: u8) -> Commit {
    Commit::new().append(stream, ExpectedVersion::NoStream, [numbered(number)])
}

fn position(number: u64) -> Position {
    Position::new(number).unwrap()
}

/// Waits until so many positions were given.
fn wait_staged(store: &Store, last: u64) {
    while store.handle.inner.appender().unwrap().turn().unwrap().next_position() <= last {
        thread::yield_now();
    }
}

/// The outcomes of commits that are sent while an earlier one, on the stream `first`, is held in its sync: two that are
/// staged behind it, and three that rest on those in flight. None may be told before the sync is over.
struct InFlight {
    first: Sent,
    ok: Sent,
    far: Sent,
    fail_if_any: Sent,
    other: Sent,
    same: Sent,
}

fn in_flight(store: &Store, disk: &FaultyDisk, fault: Option<Fault>) -> InFlight {
    let is_over = AtomicBool::new(false);
    disk.hold(Call::Sync, ".segment");
    thread::scope(|scope| {
        let send = |commit: Commit| {
            let is_over = &is_over;
            scope.spawn(move || {
                let sent = store.send(commit);
                assert!(is_over.load(Ordering::SeqCst), "told before what it rests on was decided: {sent:?}");
                sent
            })
        };
        let first = send(commit("first", 1));
        disk.wait_held();
        let ok = send(commit("ok", 2));
        wait_staged(store, 2);
        let far = send(commit("far", 3).unless_after(Query::all(), position(10)));
        wait_staged(store, 3);
        let fail_if_any = send(commit("fail", 4).unless_after(Query::all(), position(1)));
        let other = send(commit("first", 5));
        let same = send(commit("first", 1));
        // Time for the last three to come to wait; what they are told must not depend on it.
        (0..1_000).for_each(|_| thread::yield_now());
        if let Some(fault) = fault {
            disk.inject(fault);
        }
        is_over.store(true, Ordering::SeqCst);
        disk.release();
        let [first, ok, far, fail_if_any, other, same] =
            [first, ok, far, fail_if_any, other, same].map(|sender| sender.join().unwrap());
        InFlight { first, ok, far, fail_if_any, other, same }
    })
}

fn conflict(sent: Sent) -> Conflict {
    match sent.map_err(Error::from) {
        Err(Error::Conflict(conflict)) => conflict,
        other => panic!("expected a conflict, got {other:?}"),
    }
}

#[test]
fn g19_what_rests_on_a_commit_in_flight_is_told_when_that_is_decided() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let store = open(&disk);
    let outcomes = in_flight(&store, &disk, None);
    let written = [outcomes.first, outcomes.ok, outcomes.far].map(|sent| sent.unwrap().last_position().number());
    assert_eq!(written, [1, 2, 3]);
    let by_condition = ExpectationFailure::Condition { condition: 0, position: position(2) };
    assert_eq!(conflict(outcomes.fail_if_any).failures, [by_condition]);
    let [ExpectationFailure::Stream { actual: Some(actual), position: Some(at), .. }] =
        &conflict(outcomes.other).failures[..]
    else {
        panic!("the conflict names the stream")
    };
    assert_eq!((actual.number(), at.number()), (1, 1));
    let same = outcomes.same.unwrap();
    assert_eq!((same.first_position(), same.deduplicated()), (position(1), true));
}

#[test]
fn g15_what_rests_on_a_commit_that_fails_is_not_written_and_a_retry_writes_it_once() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let store = open(&disk);
    let outcomes = in_flight(&store, &disk, Some(Fault::next(Call::Sync).of(".segment")));
    let first = outcomes.first.unwrap_err();
    assert!(matches!(first.error(), Error::Indeterminate { .. }), "{first}");
    for staged in [outcomes.ok, outcomes.far] {
        let error = staged.unwrap_err();
        assert!(matches!(error.error(), Error::NotWritten { .. }), "{error}");
    }
    for waiting in [outcomes.fail_if_any, outcomes.other, outcomes.same] {
        let error = waiting.unwrap_err();
        // One that came too late to wait is refused by the poisoned store.
        assert!(matches!(error.error(), Error::NotWritten { .. } | Error::Poisoned { .. }), "{error}");
    }
    let commit = first.into_commit();
    assert!(matches!(store.send(commit.clone()).unwrap_err().error(), Error::Poisoned { .. }));
    assert_eq!(store.head().unwrap(), None, "what is in doubt is not shown");
    drop(store);

    disk.heal();
    let store = open(&disk);
    let sent = store.send(commit.clone()).unwrap();
    assert_eq!(sent.last_position(), position(1));
    let again = store.send(commit).unwrap();
    assert_eq!((again.last_position(), again.deduplicated()), (position(1), true));
    assert_eq!(store.read(Query::all()).count().unwrap(), 1);
}

/// A leader has synced a commit and not shown it yet, when the index is written to disk. In a run the commit would be
/// found by appends that look there only for what is visible, and told to them before it is.
#[test]
fn g16_a_run_never_holds_what_is_synced_and_not_visible_yet() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let store = open(&disk);
    let inner = &store.handle.inner;
    let spill = || while inner.index.spill(inner.log.synced()).unwrap() {};
    disk.hold(Call::Write, "synced-head");
    let (decided, run_end, behind) = thread::scope(|scope| {
        let first = scope.spawn(|| store.send(commit("first", 1)));
        disk.wait_held();
        inner.index.freeze();
        spill();
        let between = (inner.log.synced(), inner.index.view().run_end());
        let behind = scope.spawn(|| store.send(commit("behind", 2).unless(Query::stream("first"))));
        disk.release();
        first.join().unwrap().unwrap();
        (between.0, between.1, behind.join().unwrap())
    });
    assert_eq!((decided, run_end), (0, 0));
    conflict(behind);
    spill();
    assert_eq!(inner.index.view().run_end(), 1);
    conflict(store.send(commit("behind", 2).unless(Query::stream("first"))));
    store.send(commit("behind", 2).unless_after(Query::stream("first"), position(1))).unwrap();
}

/// A commit is what was written only as a whole: one that begins like it is another.
#[test]
fn g15_a_commit_that_says_more_or_less_than_what_was_written_is_a_conflict() {
    let store = open(&FaultyDisk::new(MemoryDisk::new()));
    let of =
        |numbers: &[u8]| Commit::new().append("a", ExpectedVersion::NoStream, numbers.iter().copied().map(numbered));
    store.send(of(&[1, 2])).unwrap();
    assert!(store.send(of(&[1, 2])).unwrap().deduplicated());
    for other in [&[1, 2, 3][..], &[1], &[2, 1], &[1, 3]] {
        let sent = store.send(of(other));
        assert!(matches!(sent.unwrap_err().error(), Error::Conflict(_)), "{other:?}");
    }
    let renamed = NewEvent::raw("Broken", [1]).id(EventId::from_bytes([1; 16]));
    let changed = NewEvent::raw("Made", [9]).id(EventId::from_bytes([1; 16]));
    for first in [renamed, changed] {
        let sent = store.send(Commit::new().append("a", ExpectedVersion::NoStream, [first, numbered(2)]));
        assert!(matches!(sent.unwrap_err().error(), Error::Conflict(_)));
    }
    assert_eq!(store.head().unwrap(), Some(position(2)));
}

/// What begins like a commit that has met the condition is not that commit.
#[test]
fn g15_a_longer_commit_behind_a_condition_that_a_shorter_one_has_met_is_a_conflict() {
    let store = open(&FaultyDisk::new(MemoryDisk::new()));
    let any = |numbers: &[u8]| {
        let commit = Commit::new().append("a", ExpectedVersion::Any, numbers.iter().copied().map(numbered));
        commit.unless(Query::stream("a"))
    };
    store.send(any(&[1])).unwrap();
    assert!(store.send(any(&[1])).unwrap().deduplicated());
    conflict(store.send(any(&[1, 2])));
    assert_eq!(store.head().unwrap(), Some(position(1)));
}

/// The first few streams of a commit are searched, those behind them found by name: each is one stream in both.
#[test]
fn a_stream_that_a_commit_names_twice_is_one_stream_however_many_there_are() {
    let store = open(&FaultyDisk::new(MemoryDisk::new()));
    let names: Vec<String> = (0..12).map(|number| format!("s-{number}")).collect();
    let of = |expected: ExpectedVersion| {
        let named = names.iter().chain(&names);
        named.fold(Commit::new(), |commit, name| {
            commit.append(name, expected, [NewEvent::raw("Made", "1"), NewEvent::raw("Made", "2")])
        })
    };
    for (expected, reached) in [(ExpectedVersion::NoStream, 4), (ExpectedVersion::Exact(version(4)), 8)] {
        let appended = store.send(of(expected)).unwrap();
        let versions: Vec<_> = appended.versions().map(|(name, version)| (name.to_owned(), version.number())).collect();
        assert_eq!(versions, names.iter().map(|name| (name.clone(), reached)).collect::<Vec<_>>());
    }
    for name in &names {
        let mut read = store.read(Query::stream(name));
        for number in 1..=8 {
            assert_eq!(read.next().unwrap().unwrap().version().number(), number, "{name}");
        }
        assert!(read.next().unwrap().is_none());
    }
}

fn version(number: u64) -> StreamVersion {
    StreamVersion::new(number).unwrap()
}

#[test]
fn a_result_names_the_streams_that_were_written_and_no_others() {
    let store = open(&FaultyDisk::new(MemoryDisk::new()));
    let twice = Commit::new().append("known", ExpectedVersion::NoStream, [numbered(1), numbered(2)]);
    store.send(twice).unwrap();
    let checking =
        |commit: Commit| commit.expect("known", ExpectedVersion::StreamExists).expect("none", ExpectedVersion::Any);
    let one = checking(Commit::new().append("a", ExpectedVersion::NoStream, [numbered(3)]));
    let two = checking(commit("b", 4).append("c", ExpectedVersion::NoStream, [numbered(5), numbered(6)]));
    for (commit, expected) in [(one, vec![("a", 1)]), (two, vec![("b", 1), ("c", 2)])] {
        for deduplicated in [false, true] {
            let appended = store.send(commit.clone()).unwrap();
            let versions: Vec<_> = appended.versions().map(|(name, version)| (name, version.number())).collect();
            assert_eq!((versions, appended.deduplicated()), (expected.clone(), deduplicated));
        }
    }
}

/// What is only checked was written by others: it is no place of this commit.
#[test]
fn g15_a_failed_check_of_a_stream_that_is_not_written_is_a_conflict() {
    let store = open(&FaultyDisk::new(MemoryDisk::new()));
    store.send(commit("other", 1)).unwrap();
    let checked = commit("a", 2).expect("other", ExpectedVersion::NoStream);
    let told = conflict(store.send(checked));
    let [ExpectationFailure::Stream { stream, position: at, .. }] = &told.failures[..] else { panic!("{told:?}") };
    assert_eq!((stream.as_str(), *at), ("other", Some(position(1))));
}

#[test]
fn a_retry_is_as_durable_as_it_asks_for() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let store = open(&disk);
    let before = disk.calls(Call::Sync);
    let syncs = |durability| {
        let appended = store.send(commit("a", 1).durability(durability)).unwrap();
        (appended.deduplicated(), disk.calls(Call::Sync) - before)
    };
    assert_eq!(syncs(Durability::Os), (false, 0));
    assert_eq!(syncs(Durability::Os), (true, 0));
    assert_eq!(store.synced_head().unwrap(), None);
    assert_eq!(syncs(Durability::Synced), (true, 1));
    assert_eq!(store.synced_head().unwrap(), Some(position(1)));
    assert_eq!(syncs(Durability::Synced), (true, 1));
}

/// It came to the error of the disk alone, which says that nothing was written: who believed that gave up a commit that
/// was there, or sent it anew under other ids.
#[test]
fn a_retry_whose_sync_fails_is_in_doubt() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let store = open(&disk);
    store.send(commit("a", 1).durability(Durability::Os)).unwrap();
    disk.inject(Fault::next(Call::Sync));
    let error = store.send(commit("a", 1).durability(Durability::Synced)).unwrap_err();
    assert!(matches!(error.error(), Error::Indeterminate { .. }), "{error}");
    drop(store);

    disk.heal();
    let again = open(&disk).send(error.into_commit()).unwrap();
    assert_eq!((again.last_position(), again.deduplicated()), (position(1), true));
}

/// Commits of one event have a way of their own to be checked.
#[test]
fn the_names_of_a_commit_of_one_event_have_the_limits_of_all_others() {
    let store = open(&FaultyDisk::new(MemoryDisk::new()));
    let sent = |stream: usize, event_type: usize| {
        let event = NewEvent::raw("t".repeat(event_type), "");
        store.send(Commit::new().append("s".repeat(stream), ExpectedVersion::Any, [event]))
    };
    sent(STREAM_NAME_BYTES_MAX, TYPE_NAME_BYTES_MAX).unwrap();
    for (stream, event_type, field) in [
        (STREAM_NAME_BYTES_MAX + 1, 1, "stream"),
        (0, 1, "stream"),
        (1, TYPE_NAME_BYTES_MAX + 1, "type"),
        (1, 0, "type"),
    ] {
        let error = Error::from(sent(stream, event_type).unwrap_err());
        let Error::Invalid(invalid) = &error else { panic!("{error:?}") };
        assert!(invalid.violations.len() == 1 && invalid.violations[0].field == field, "{error:?}");
    }
}
