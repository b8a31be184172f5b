//! Appends that meet others in flight, on a disk that holds or fails a sync. Groups 15 and 19 of the semantics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::{AppendError, Appended, Commit, NewEvent, Options, Query, Store};
use crate::error::{Conflict, Error, ExpectationFailure, ExpectedVersion};
use crate::storage::{Call, Fault, FaultyDisk, MemoryDisk};
use crate::types::{EventId, Position};

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
