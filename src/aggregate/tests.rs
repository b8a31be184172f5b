//! Aggregates on a disk that fails: what is unknown is never decided again, and resolved by sending the command again.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

use super::{Aggregate, CommandId, ExecuteError, Executed, Repository, SnapshotPolicy, SnapshotProblem};
use crate::clock::ManualClock;
use crate::error::{Error, Result};
use crate::storage::{Call, Disk, Fault, FaultyDisk, MemoryDisk};
use crate::types::{Durability, StreamVersion, Timestamp};
use crate::{IgnoredReason, Options, Query, Store};

#[derive(Serialize, Deserialize)]
enum CounterEvent {
    Added { number: u64 },
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Counter {
    sum: u64,
}

impl Aggregate for Counter {
    const CATEGORY: &'static str = "counter";
    type Event = CounterEvent;

    fn apply(&mut self, CounterEvent::Added { number }: &CounterEvent) {
        self.sum += number;
    }
}

fn open(disk: &(impl Disk + Clone + 'static)) -> Store {
    let clock = ManualClock::new(Timestamp::from_millis(1));
    let options = Options::new().clock(clock).without_background_work();
    Store::open_on(Arc::new(disk.clone()), options, true).unwrap()
}

fn counters(store: &Store) -> Repository<Counter> {
    store.repository().unwrap()
}

fn add(counters: &Repository<Counter>, number: u64) -> Result<Executed, ExecuteError<Infallible>> {
    counters.execute("a", |_| CounterEvent::Added { number })
}

fn sum(store: &Store) -> u64 {
    counters(store).load("a").unwrap().sum
}

fn snapshots(store: &Store) -> Repository<Counter> {
    counters(store).snapshots(SnapshotPolicy::every_events(1)).unwrap()
}

/// Sends a command whose commit fails at this call, and sends it again on the store opened anew.
fn resend_after(call: Call, kind: &str) {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let store = open(&disk);
    add(&counters(&store), 1).unwrap();
    let id = CommandId::of_name("add 10");
    let decided = AtomicU32::new(0);
    let send = |store: &Store| {
        counters(store).command(id).execute("a", |counter| {
            decided.fetch_add(1, Ordering::Relaxed);
            CounterEvent::Added { number: counter.sum * 10 }
        })
    };
    disk.inject(Fault::next(call));
    let failed = send(&store).unwrap_err();
    assert!(matches!(failed.store_error(), Some(Error::Indeterminate { .. })), "{kind}: {failed:?}");
    assert_eq!(decided.load(Ordering::Relaxed), 1, "{kind}: what is unknown is not decided again");
    let poisoned = send(&store).unwrap_err();
    assert!(matches!(poisoned.store_error(), Some(Error::Poisoned { .. })), "{kind}: {poisoned:?}");
    drop(store);

    disk.heal();
    let store = open(&disk);
    let was_written = sum(&store) == 11;
    for attempt in 0..2 {
        let executed = send(&store).unwrap();
        assert_eq!(executed.was_applied_before(), was_written || attempt > 0, "{kind}");
        assert_eq!((executed.version(), sum(&store)), (StreamVersion::new(2), 11), "{kind}: applied once");
    }
    assert_eq!(store.read(Query::tag(id.tag())).count().unwrap(), 1, "{kind}");
}

#[test]
fn a_command_whose_outcome_is_unknown_is_applied_once_when_it_is_sent_again() {
    resend_after(Call::Write, "a write that failed");
    resend_after(Call::Sync, "a sync that failed");
}

#[test]
fn what_is_decided_again_after_a_full_disk_is_up_to_the_caller() {
    let memory = MemoryDisk::new();
    let store = open(&memory);
    add(&counters(&store), 1).unwrap();
    memory.set_budget(memory.used());
    let large = || counters(&store).execute("a", |_| (0..20_000).map(|number| CounterEvent::Added { number }));
    let full = large().unwrap_err();
    assert!(matches!(full.store_error(), Some(Error::Full { .. })), "{full:?}");
    assert_eq!(sum(&store), 1);
    memory.set_budget(u64::MAX);
    assert!(large().is_ok());
}

#[test]
fn a_snapshot_of_a_history_that_was_lost_is_not_used() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let store = open(&disk);
    add(&counters(&store).durability(Durability::Synced), 1).unwrap();
    add(&counters(&store).durability(Durability::Os), 10).unwrap();
    assert_eq!(snapshots(&store).load("a").unwrap().sum, 11);
    // The power fails: the second event was not synced. The snapshot, of which the state's log was, may be ahead.
    store.state().unwrap().put("synced", [1]).unwrap();
    let store = open(&disk.power_cut(1));
    let kept = sum(&store);
    add(&counters(&store), 100).unwrap();
    let loaded = snapshots(&store).load("a").unwrap();
    assert_eq!((kept, loaded.sum), (1, 101));
    let problem = loaded.snapshot_problems().first();
    let is_other_history =
        |reason: &IgnoredReason| matches!(reason, IgnoredReason::OtherHistory | IgnoredReason::AheadOfLog);
    assert!(
        matches!(problem, Some(SnapshotProblem::Ignored(ignored)) if is_other_history(&ignored.reason)),
        "{problem:?}"
    );
    assert_eq!(snapshots(&store).load("a").unwrap().snapshot_problems().len(), 0, "another one took its place");
}

#[test]
fn a_snapshot_that_cannot_be_saved_fails_nothing_and_is_told() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let store = open(&disk);
    store.state().unwrap().put("state", [1]).unwrap();
    add(&counters(&store), 1).unwrap();
    disk.inject(Fault::next(Call::Write).of("state"));
    let loaded = snapshots(&store).load("a").unwrap();
    assert_eq!(loaded.sum, 1);
    assert!(matches!(loaded.snapshot_problems(), [SnapshotProblem::NotSaved(_)]), "{:?}", loaded.snapshot_problems());
    assert!(add(&snapshots(&store), 2).is_ok());
}

/// Whoever decides may panic: the next one finds everything as it was.
#[test]
fn a_decision_that_panics_holds_nothing() {
    let store = open(&MemoryDisk::new());
    let cached = counters(&store).cached(1);
    add(&cached, 1).unwrap();
    let panicking = std::thread::scope(|scope| {
        scope.spawn(|| cached.execute("a", |_| -> CounterEvent { panic!("a bug of the application") })).join()
    });
    assert!(panicking.is_err());
    add(&cached, 2).unwrap();
    assert_eq!(cached.load("a").unwrap().sum, 3);
}

#[test]
fn a_decision_may_use_the_store_and_the_same_repository() {
    let store = open(&MemoryDisk::new());
    let cached = counters(&store).cached(1);
    let executed = cached.execute("a", |counter| {
        if counter.sum == 0 {
            add(&cached, 5).unwrap();
        }
        CounterEvent::Added { number: counter.sum + cached.load("b").unwrap().sum }
    });
    assert_eq!((executed.unwrap().version(), sum(&store)), (StreamVersion::new(2), 10));
}

#[test]
fn everything_can_be_sent_to_threads() {
    fn check<T: Send + Sync + Clone>(_: &T) {}
    let store = open(&MemoryDisk::new());
    check(&counters(&store).cached(1));
    check(&CommandId::of_name("a"));
}
