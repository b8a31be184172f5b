//! Histories of threads that share streams, each held against one order: every operation must have happened at one
//! moment between its call and its return.
//!
//! The positions of the log are that order. An operation says which versions of streams it has met, all at one moment:
//! a write those that it expected, a refusal those that it tells, a read all that it shows. For each there has to be a
//! position up to which the log said just that, not before what had returned when it was called, and not behind what was
//! called when it had returned.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests use files and threads directly")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;

use annals::{
    Appended, Commit, Durability, Error, ExpectationFailure, ExpectedVersion, NewEvent, Options, Position, Query,
    RecordedEvent, Result, Store, StreamVersion,
};

const WRITERS: u64 = 4;
const ROUNDS: u64 = 60;
const STREAMS: [&str; 3] = ["account-1", "account-2", "account-3"];

/// Versions of streams, 0 for one that does not exist.
type Versions = BTreeMap<&'static str, u64>;

/// What a thread did, between two ticks of a clock that all threads share.
#[derive(Debug)]
struct Deed {
    called: u64,
    returned: u64,
    /// What it met.
    seen: Versions,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Wrote from one position to another.
    Wrote(u64, u64),
    Refused,
    /// Showed everything up to a position.
    Showed(u64),
}

/// What all threads did.
#[derive(Default)]
struct History {
    clock: AtomicU64,
    deeds: Mutex<Vec<Deed>>,
}

impl History {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn note(&self, called: u64, seen: Versions, kind: Kind) {
        let deed = Deed { called, returned: self.tick(), seen, kind };
        self.deeds.lock().unwrap().push(deed);
    }

    /// Appends to some streams at the versions that they have, which others may have moved on meanwhile. `false` if the
    /// store is closed.
    fn append(&self, store: &Store, writer: u64, round: u64) -> bool {
        let streams = STREAMS.len() as u64;
        let first = STREAMS[((writer + round * 7) % streams) as usize];
        let second = STREAMS[((writer + round * 7 + 1) % streams) as usize];
        let named = if round.is_multiple_of(3) { vec![first, second] } else { vec![first] };
        let expected: Versions = named.iter().map(|name| (*name, version(store, name))).collect();
        let commit = expected.iter().fold(Commit::new(), |commit, (stream, version)| {
            let events = (0..=round % 2).map(|number| NewEvent::raw("Made", format!("{writer} {round} {number}")));
            let version = StreamVersion::new(*version);
            commit.append(*stream, version.map_or(ExpectedVersion::NoStream, ExpectedVersion::Exact), events)
        });
        let durability = if round.is_multiple_of(5) { Durability::Synced } else { Durability::Os };
        let called = self.tick();
        match store.send(commit.durability(durability)).map_err(Error::from) {
            Ok(appended) => {
                assert!(!appended.deduplicated());
                self.note(called, expected, wrote(&appended));
            }
            Err(Error::Conflict(conflict)) => {
                let mut seen = expected;
                for failure in conflict.failures {
                    let ExpectationFailure::Stream { stream, actual, .. } = failure else { panic!("{failure:?}") };
                    let known = seen.iter_mut().find(|(name, _)| **name == stream).unwrap();
                    *known.1 = actual.map_or(0, StreamVersion::number);
                }
                self.note(called, seen, Kind::Refused);
            }
            Err(Error::Closed) => return false,
            Err(other) => panic!("{other}"),
        }
        true
    }

    /// Reads everything, and what there is of one stream.
    fn look(&self, store: &Store) {
        let called = self.tick();
        let read = store.read(Query::all());
        let head = read.head().map_or(0, Position::number);
        let mut seen: Versions = STREAMS.iter().map(|name| (*name, 0)).collect();
        for (position, event) in (1..).zip(read.owned()) {
            let event = event.unwrap();
            let (name, known) = seen.iter_mut().find(|(name, _)| **name == event.stream).unwrap();
            *known += 1;
            assert_eq!((event.position.number(), event.version.number()), (position, *known), "{name}: a gap");
        }
        assert_eq!(seen.values().sum::<u64>(), head, "what is shown ends at the head");
        self.note(called, seen, Kind::Showed(head));
    }

    /// Finds for each deed the moment at which it happened.
    fn check(self, store: &Store) -> Vec<Deed> {
        let log = everything(store);
        let deeds = self.deeds.into_inner().unwrap();
        let order = Order::of(&log);
        let writes: Vec<(u64, u64, u64, u64)> = deeds
            .iter()
            .filter_map(|deed| match deed.kind {
                Kind::Wrote(first, last) => Some((deed.called, deed.returned, first, last)),
                _ => None,
            })
            .collect();
        let written: u64 = writes.iter().map(|(_, _, first, last)| last - first + 1).sum();
        assert_eq!(written, log.len() as u64, "every event was written by one commit that was acknowledged");
        for deed in &deeds {
            let before = writes.iter().filter(|(_, returned, ..)| *returned < deed.called);
            let behind = writes.iter().filter(|(called, ..)| *called > deed.returned);
            let least = before.map(|(.., last)| *last).max().unwrap_or(0);
            let most = behind.map(|(_, _, first, _)| first - 1).min().unwrap_or(log.len() as u64);
            order.check(deed, least, most);
        }
        deeds
    }
}

/// Where in the log each version of each stream stands.
struct Order {
    positions: BTreeMap<String, Vec<u64>>,
}

impl Order {
    fn of(log: &[RecordedEvent]) -> Self {
        let mut positions: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for event in log {
            positions.entry(event.stream.clone()).or_default().push(event.position.number());
        }
        Self { positions }
    }

    /// The positions up to which a log says that a stream is at a version.
    fn span(&self, stream: &str, version: u64) -> (u64, u64) {
        let positions = self.positions.get(stream).map_or(&[][..], Vec::as_slice);
        let begin = version.checked_sub(1).map_or(0, |index| positions[index as usize]);
        let end = positions.get(version as usize).map_or(u64::MAX, |next| next - 1);
        (begin, end)
    }

    fn check(&self, deed: &Deed, least: u64, most: u64) {
        let (mut begin, mut end) = (least, most);
        for (stream, version) in &deed.seen {
            let (from, to) = self.span(stream, *version);
            (begin, end) = (begin.max(from), end.min(to));
        }
        match deed.kind {
            Kind::Wrote(first, _) => (begin, end) = (begin.max(first - 1), end.min(first - 1)),
            Kind::Showed(head) => (begin, end) = (begin.max(head), end.min(head)),
            Kind::Refused => {}
        }
        assert!(begin <= end, "{deed:?} happened at no moment from {least} to {most}");
    }
}

fn wrote(appended: &Appended) -> Kind {
    Kind::Wrote(appended.first_position().number(), appended.last_position().number())
}

fn version(store: &Store, stream: &str) -> u64 {
    store.version(stream).unwrap().map_or(0, StreamVersion::number)
}

fn everything(store: &Store) -> Vec<RecordedEvent> {
    store.read(Query::all()).owned().collect::<Result<_>>().unwrap()
}

/// Small segments and a small index, so that both change while threads are in them.
fn options() -> Options {
    Options::new().segment_bytes_first(4096).segment_bytes_max(16_384).index_tail_bytes_max(2000)
}

/// Writers and a reader, until all have written; with another reader if there is a way to open one.
fn share(store: &Store, beside: Option<&Store>) {
    let history = History::default();
    let (barrier, done) = (Barrier::new(WRITERS as usize + 1), AtomicBool::new(false));
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (history, barrier, store) = (&history, &barrier, store.clone());
                scope.spawn(move || {
                    barrier.wait();
                    (0..ROUNDS).for_each(|round| assert!(history.append(&store, writer, round)));
                })
            })
            .collect();
        let (history, done) = (&history, &done);
        let look = |store: Store| {
            move || {
                // At least once, however late this thread begins.
                loop {
                    let is_last = done.load(Ordering::Relaxed);
                    history.look(&store);
                    if is_last {
                        return;
                    }
                }
            }
        };
        scope.spawn(look(store.clone()));
        // What one process has not synced another one does not see: it has a history of its own.
        let follow = move |reader: Store| {
            let mut shown: Vec<RecordedEvent> = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let now = everything(&reader);
                assert!(now.starts_with(&shown), "a reader has taken back what it had shown");
                shown = now;
            }
            shown
        };
        let follower = beside.cloned().map(|reader| scope.spawn(move || follow(reader)));
        barrier.wait();
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        if let Some(follower) = follower {
            assert!(everything(store).starts_with(&follower.join().unwrap()), "a reader has shown what is not there");
        }
    });
    let deeds = history.check(store);
    let count = |is_it: fn(&Kind) -> bool| deeds.iter().filter(|deed| is_it(&deed.kind)).count();
    assert!(count(|kind| matches!(kind, Kind::Wrote(..))) as u64 >= ROUNDS);
    assert!(count(|kind| matches!(kind, Kind::Showed(_))) > 0);
}

#[test]
fn every_operation_on_a_store_in_memory_happens_at_one_moment() {
    for _ in 0..4 {
        share(&options().in_memory().unwrap(), None);
        share(&options().without_background_work().in_memory().unwrap(), None);
    }
}

#[test]
fn every_operation_on_a_store_in_a_directory_happens_at_one_moment() {
    for _ in 0..2 {
        let directory = tempfile::tempdir().unwrap();
        let store = options().open(directory.path()).unwrap();
        let reader = Store::open_read_only(directory.path()).unwrap();
        share(&store, Some(&reader));
    }
}

/// Writers give up their handles one after the other, or the store is closed over their heads, while another opener waits
/// for its turn: it gets the store with all that was acknowledged, and no append is lost or taken twice in between.
#[test]
fn the_next_opener_finds_all_that_was_acknowledged() {
    for closes in [false, true, false, true] {
        let directory = tempfile::tempdir().unwrap();
        let store = options().open(directory.path()).unwrap();
        let history = History::default();
        let barrier = Barrier::new(WRITERS as usize + 1);
        // What handles of the closed store still show.
        let left = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (history, barrier, left, store) = (&history, &barrier, &left, store.clone());
                scope.spawn(move || {
                    barrier.wait();
                    // Some leave early; the store stays open for the others.
                    for round in 0..ROUNDS / (writer + 1) {
                        if !history.append(&store, writer, round) {
                            assert!(closes);
                            left.lock().unwrap().push(everything(&store));
                            return;
                        }
                        if closes && writer == 0 && round == ROUNDS / 2 {
                            store.clone().close().unwrap();
                        }
                    }
                });
            }
            drop(store);
            let (history, path) = (&history, directory.path());
            barrier.wait();
            let next = loop {
                match options().open(path) {
                    Ok(store) => break store,
                    Err(Error::Locked { .. }) => thread::yield_now(),
                    Err(other) => panic!("{other}"),
                }
            };
            assert_eq!(next.open_report().cut_bytes, 0);
            (0..ROUNDS).for_each(|round| assert!(history.append(&next, WRITERS, round)));
        });
        let store = options().open(directory.path()).unwrap();
        let log = everything(&store);
        assert!(left.into_inner().unwrap().iter().all(|shown| log.starts_with(shown)));
        history.check(&store);
    }
}
