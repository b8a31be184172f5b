//! Commits that meet one that is in flight: sequenced, and not decided yet.

use std::sync::{Arc, Barrier};

use super::{Commit, NewEvent, Options, Query, Store};
use crate::error::{Error, ExpectedVersion, Result};
use crate::storage::MemoryDisk;
use crate::types::{EventId, StreamVersion};

const THREADS: usize = 4;
const ROUNDS: u64 = 100;
/// So many in a commit that staging one takes longer than looking up what the next one expects.
const EVENTS: u64 = 64;

fn open() -> Store {
    Store::open_on(Arc::new(MemoryDisk::new()), Options::new().without_background_work(), true).unwrap()
}

fn event() -> NewEvent {
    NewEvent::raw("Counted", vec![b'1'; 1000])
}

/// Everybody sends at once; how often this one won.
fn race(store: &Store, barrier: &Barrier, expected: impl Fn(u64) -> ExpectedVersion) -> u64 {
    let send = |round| -> Result<()> {
        barrier.wait();
        let events = (0..EVENTS).map(|_| event());
        let sent = store.append("account-1", expected(round), events).map_err(Error::from);
        barrier.wait();
        sent.map(|appended| assert!(!appended.deduplicated()))
    };
    let mut won = 0;
    for round in 0..ROUNDS {
        match send(round) {
            Ok(()) => won += 1,
            Err(Error::Conflict(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    won
}

#[test]
fn of_those_who_expect_the_same_version_one_wins() {
    let (store, barrier) = (open(), Barrier::new(THREADS));
    let expected = |round| StreamVersion::new(round * EVENTS).map_or(ExpectedVersion::NoStream, ExpectedVersion::Exact);
    let won: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| race(&store, &barrier, expected))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(won, ROUNDS);
    let versions: Vec<u64> = store.read(Query::all()).owned().map(|event| event.unwrap().version.number()).collect();
    assert_eq!(versions, (1..=ROUNDS * EVENTS).collect::<Vec<_>>());
}

/// The first of them is staged and not written when the second is decided.
#[test]
fn a_commit_that_is_sent_again_while_it_is_in_flight_is_written_once() {
    let store = open();
    let commit =
        Commit::new().append("account-1", ExpectedVersion::NoStream, [event().id(EventId::from_bytes([1; 16]))]);
    let results = store.send_all([commit.clone(), commit]);
    let deduplicated: Vec<bool> = results.into_iter().map(|sent| sent.unwrap().deduplicated()).collect();
    assert_eq!(deduplicated, [false, true]);
    assert_eq!(store.read(Query::all()).count().unwrap(), 1);
}

#[test]
fn a_condition_sees_what_is_in_flight() {
    let store = open();
    let transfer = |stream: &str| {
        let once = Commit::new().unless(Query::tag("transfer:42"));
        once.append(stream, ExpectedVersion::Any, [event().tag("transfer:42")])
    };
    let results = store.send_all([transfer("account-1"), transfer("account-2")]);
    assert!(results[0].is_ok());
    assert!(matches!(results[1].as_ref().unwrap_err().error(), Error::Conflict(_)), "{results:?}");
    assert_eq!(store.read(Query::all()).count().unwrap(), 1);
}
