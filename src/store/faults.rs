//! The store on a disk that fails: at every single call of a short life, in every way.
//!
//! The life appends, rolls, spills, keeps state and a snapshot, closes, and opens again. Whatever call fails, each
//! operation says the right thing about it, what was acknowledged is there afterwards, and nothing hangs.

use std::io::ErrorKind;
use std::sync::Arc;

use super::{Commit, NewEvent, NewSnapshot, Options, Query, SnapshotQuery, Store};
use crate::clock::ManualClock;
use crate::error::{Error, ExpectedVersion, Result};
use crate::randomness::SeededRandomness;
use crate::storage::{Call, Disk, Fault, FaultyDisk, MemoryDisk, Written};
use crate::types::{Durability, Timestamp};

const OS: Durability = Durability::Os;
const SYNCED: Durability = Durability::Synced;
const STEPS: usize = 8;

/// Segments as small as they can be, and an index that goes to disk early.
fn options() -> Options {
    Options::new()
        .segment_bytes_first(4096)
        .segment_bytes_max(4096)
        .index_tail_bytes_max(3000)
        .clock(ManualClock::new(Timestamp::from_millis(1)))
        .randomness(SeededRandomness::new(5))
        .without_background_work()
}

fn open(disk: &(impl Disk + Clone + 'static)) -> Result<Store> {
    Store::open_on(Arc::new(disk.clone()), options(), true)
}

/// The commit with this number: one event on a stream of its own, one on a stream that all share.
fn commit(number: usize, durability: Durability) -> Commit {
    let own = NewEvent::raw("Own", number.to_string());
    let shared = NewEvent::raw("Shared", vec![b'.'; 500]).tag(format!("number:{number}"));
    Commit::new()
        .append(format!("own-{number}"), ExpectedVersion::NoStream, [own])
        .append("shared-1", ExpectedVersion::Any, [shared])
        .durability(durability)
}

/// The numbers of the commits in a store, in order.
fn numbers(store: &Store) -> Vec<usize> {
    let own = store.read(Query::types(["Own"])).owned();
    own.map(|event| String::from_utf8(event.unwrap().payload).unwrap().parse().unwrap()).collect()
}

fn is_poisoned(store: &Store) -> bool {
    store.handle.inner.appender().unwrap().failure().is_some()
}

/// What became of the operations of a life.
#[derive(Debug, Default)]
struct Life {
    context: String,
    /// The numbers of the commits that were acknowledged, in order, and how many of them as synced.
    acknowledged: Vec<usize>,
    synced: usize,
    /// The commit of which it is unknown whether it was written.
    in_doubt: Option<(usize, Commit)>,
    /// The values of the state that were acknowledged or are in doubt, in order, and how many of them were synced.
    values: Vec<u8>,
    values_synced: usize,
    /// Operations that failed.
    failures: usize,
}

impl Life {
    fn new(context: String) -> Self {
        Self { context, ..Self::default() }
    }

    /// Everything, on a store that is opened twice. What failed and was not poisoned by it is tried again.
    fn live(&mut self, disk: &FaultyDisk) {
        for half in 0..2 {
            let Some(store) = self.open(disk) else { return };
            for step in 0..STEPS {
                self.send(&store, half * STEPS + step, if step % 3 == 0 { SYNCED } else { OS });
                match step {
                    2 | 6 => self.note(&store, "maintain", Store::maintain),
                    3 => self.keep_state(&store, half as u8 + 1),
                    5 => self.note(&store, "sync", Store::sync),
                    _ => {}
                }
                assert_eq!(numbers(&store), self.acknowledged, "{}: what is visible", self.context);
            }
            self.note(&store, "close", |store| store.clone().close());
            assert!(matches!(store.send(commit(99, OS)).unwrap_err().error(), Error::Closed | Error::Poisoned { .. }));
        }
    }

    /// Opens the store, and sends the commit again that is in doubt.
    fn open(&mut self, disk: &FaultyDisk) -> Option<Store> {
        let store = open(disk).or_else(|error| {
            self.note_refusal(&error, "open");
            open(disk)
        });
        let store = store.inspect_err(|error| self.note_refusal(error, "open again")).ok()?;
        self.check_recovered(&store, self.acknowledged.len(), "opened again");
        // What was recovered was written and synced once more.
        self.acknowledged = numbers(&store);
        self.synced = self.acknowledged.len();
        self.resolve_doubt(&store);
        Some(store)
    }

    fn resolve_doubt(&mut self, store: &Store) {
        let Some((number, commit)) = self.in_doubt.take() else { return };
        let is_there = self.acknowledged.contains(&number);
        match store.send(commit) {
            Ok(appended) => {
                assert_eq!(appended.deduplicated(), is_there, "{}: sent again", self.context);
                self.acknowledged = numbers(store);
            }
            // The disk goes on failing.
            Err(error) => {
                self.failures += 1;
                let is_in_doubt = matches!(error.error(), Error::Indeterminate { .. });
                self.in_doubt = is_in_doubt.then(|| (number, error.into_commit()));
            }
        }
    }

    /// Sends a commit, and once more if it was refused.
    fn send(&mut self, store: &Store, number: usize, durability: Durability) {
        let mut to_send = commit(number, durability);
        for _ in 0..2 {
            let was_poisoned = is_poisoned(store);
            let Err(error) = store.send(to_send) else {
                assert!(!was_poisoned, "{}: commit {number} of a poisoned store", self.context);
                self.acknowledged.push(number);
                self.synced = if durability == SYNCED { self.acknowledged.len() } else { self.synced };
                return;
            };
            self.failures += 1;
            let is_right = match error.error() {
                Error::Full { .. } | Error::Io { .. } => !is_poisoned(store),
                Error::Indeterminate { .. } => !was_poisoned && is_poisoned(store),
                Error::Poisoned { .. } => was_poisoned,
                _ => false,
            };
            assert!(is_right, "{}: commit {number}, {was_poisoned}: {:?}", self.context, error.error());
            let is_in_doubt = matches!(error.error(), Error::Indeterminate { .. });
            to_send = error.into_commit();
            if is_in_doubt {
                self.in_doubt = Some((number, to_send));
                return;
            }
        }
    }

    /// State has a log of its own: what fails there fails nothing else.
    fn keep_state(&mut self, store: &Store, value: u8) {
        let was_poisoned = is_poisoned(store);
        for _ in 0..2 {
            match store.state().and_then(|state| state.put("key", [value])) {
                Ok(_) => {
                    self.values.push(value);
                    self.values_synced = self.values.len();
                    break;
                }
                Err(error) => {
                    if matches!(error, Error::Indeterminate { .. }) {
                        self.values.push(value);
                    }
                    self.note_failed_state(&error);
                }
            }
        }
        if let Some(version) = store.version("shared-1").unwrap() {
            let saved = store.save_snapshot(&NewSnapshot::raw("shared-1", version, version.to_string()));
            let _ = saved.inspect_err(|error| self.note_failed_state(error));
        }
        assert_eq!(is_poisoned(store), was_poisoned, "{}", self.context);
    }

    fn note_failed_state(&mut self, error: &Error) {
        self.failures += 1;
        let is_right = match error {
            Error::Full { .. } | Error::Io { .. } | Error::Indeterminate { .. } => true,
            Error::Poisoned { .. } => self.failures > 1,
            _ => false,
        };
        assert!(is_right, "{}: state: {error:?}", self.context);
    }

    /// Does what makes everything durable, and says what came of it.
    fn note(&mut self, store: &Store, what: &str, operation: impl Fn(&Store) -> Result<()>) {
        let failures = self.failures;
        match operation(store) {
            Ok(()) => self.synced = self.acknowledged.len(),
            Err(Error::Poisoned { .. }) if failures > 0 => {}
            Err(error) => {
                self.note_refusal(&error, what);
                if is_poisoned(store) && what == "sync" {
                    let again = operation(store);
                    assert!(matches!(again, Err(Error::Poisoned { .. })), "{}: {what}: {again:?}", self.context);
                }
            }
        }
    }

    fn note_refusal(&mut self, error: &Error, what: &str) {
        self.failures += 1;
        assert!(matches!(error, Error::Io { .. } | Error::Full { .. }), "{}: {what}: {error:?}", self.context);
    }

    /// A store that was opened on a disk that works: at least so many of the acknowledged commits, and nothing but them
    /// and the one in doubt behind them.
    fn check_recovered(&self, store: &Store, least: usize, context: &str) {
        let context = format!("{}, {context}", self.context);
        let found = numbers(store);
        assert!(found.len() >= least, "{context}: {found:?} of {self:?}");
        let doubtful = self.in_doubt.as_ref().map(|(number, _)| *number);
        let known: Vec<usize> = self.acknowledged.iter().copied().chain(doubtful).collect();
        assert!(known.starts_with(&found), "{context}: {found:?} of {self:?}");
        for number in &found {
            assert_eq!(store.read(Query::stream(format!("own-{number}"))).count().unwrap(), 1, "{context}");
            assert_eq!(store.read(Query::tag(format!("number:{number}"))).count().unwrap(), 1, "{context}");
        }
        assert_eq!(store.read(Query::stream("shared-1")).count().unwrap(), found.len() as u64, "{context}");
        let snapshot = store.load_snapshot("shared-1", SnapshotQuery::new()).unwrap().snapshot;
        assert!(snapshot.is_none_or(|found| found.state == found.version.to_string().into_bytes()), "{context}");
    }

    /// The newest value of the state that was synced, or a later one.
    fn check_state(&self, store: &Store) {
        let value = store.state().unwrap().get("key").unwrap().map(|value| value[0]);
        let place =
            value.map_or(Some(0), |value| self.values.iter().rposition(|known| *known == value).map(|at| at + 1));
        assert!(place.is_some_and(|place| place >= self.values_synced), "{}: {value:?} of {self:?}", self.context);
    }

    /// The disk works again, and the store goes on where it was.
    fn end(mut self, disk: &FaultyDisk) {
        disk.heal();
        let store = self.open(disk).unwrap();
        assert!(self.in_doubt.is_none(), "{}", self.context);
        self.check_state(&store);
        self.send(&store, 100, SYNCED);
        store.close().unwrap();
        let store = self.open(disk).unwrap();
        assert_eq!(self.acknowledged.last(), Some(&100), "{}", self.context);
        assert_eq!(store.open_report().cut_bytes, 0, "{}", self.context);
    }
}

/// What a call says that the device, the file system or a signal has kept from its work.
const KINDS: [ErrorKind; 3] = [ErrorKind::Other, ErrorKind::StorageFull, ErrorKind::Interrupted];

/// Lives in which one such call fails, the first, the second, and so on until there is none left to fail: with each kind
/// of error, that call alone and all later ones as well. Returns how many calls there are.
fn fail_each(call: Call) -> u64 {
    let faults = KINDS.into_iter().flat_map(|kind| [false, true].map(|forever| (kind, forever)));
    let faults = faults.map(|(kind, forever)| Fault { forever, ..Fault::next(call).kind(kind) });
    faults.map(fail_at_each).min().expect("there are faults")
}

fn fail_at_each(fault: Fault) -> u64 {
    for after in 0.. {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let fault = Fault { after, ..fault };
        disk.inject(fault);
        let mut life = Life::new(format!("{fault:?}"));
        life.live(&disk);
        let is_over = disk.failed_calls() == 0;
        life.end(&disk);
        if is_over {
            return after;
        }
    }
    unreachable!()
}

/// The index is derived: a store that cannot write it takes appends, and closes well.
#[test]
fn an_index_that_cannot_be_written_fails_no_append_and_is_rebuilt() {
    for call in [Call::Create, Call::Allocate, Call::Write, Call::Sync, Call::Rename, Call::SyncDir] {
        for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
            let disk = FaultyDisk::new(MemoryDisk::new());
            let store = open(&disk).unwrap();
            disk.inject(Fault { forever: true, ..Fault::next(call).of("index").kind(kind) });
            let mut refused = 0;
            for number in 0..20 {
                store.send(commit(number, OS)).unwrap();
                refused += u64::from(store.maintain().is_err());
                assert!(!is_poisoned(&store));
                assert_eq!(numbers(&store).len(), number + 1);
            }
            // A positions file is written without being allocated.
            assert!(refused > 0 || call == Call::Allocate, "{call:?}");
            store.close().unwrap();
            disk.heal();
            let store = open(&disk).unwrap();
            assert_eq!(numbers(&store), (0..20).collect::<Vec<_>>(), "{call:?}");
            assert_eq!(store.read(Query::stream("shared-1")).count().unwrap(), 20);
        }
    }
}

/// What a loss of power at any call leaves, for some choices of what reached the disk, has everything that was
/// acknowledged as synced and goes on.
#[test]
fn power_may_be_lost_at_every_call_of_a_life() {
    let mut seed = 0;
    for after in 0.. {
        let disk = FaultyDisk::new(MemoryDisk::new());
        disk.inject(Fault::all_after(after));
        let mut life = Life::new(format!("power is lost after {after} calls"));
        life.live(&disk);
        for _ in 0..3 {
            let left = disk.power_cut(seed);
            check_after_power_cut(&life, &left, seed);
            seed += 1;
        }
        if life.failures == 0 {
            break;
        }
    }
}

fn check_after_power_cut(life: &Life, left: &MemoryDisk, seed: u64) {
    let context = format!("seed {seed}");
    // A store of which nothing is left yet is no store.
    match Store::open_read_only_on(Arc::new(left.clone()), options()) {
        Ok(reader) => life.check_recovered(&reader, 0, &format!("{context}, read-only")),
        Err(Error::NotFound { .. }) => assert_eq!(life.synced, 0, "{}, {context}", life.context),
        Err(error) => panic!("{}, {context}: {error}", life.context),
    }
    let store = open(left).unwrap_or_else(|error| panic!("{}, {context}: {error}", life.context));
    life.check_recovered(&store, life.synced, &context);
    life.check_state(&store);
    let before = numbers(&store);
    store.send(commit(200, SYNCED)).unwrap();
    store.close().unwrap();
    let after = numbers(&open(left).unwrap());
    assert!(after.starts_with(&before) && after.last() == Some(&200), "{}, {context}", life.context);
}

/// Threads that append while a write or a sync fails all come back, with the class of failure that is theirs. What was
/// acknowledged survives a kill, and a loss of power where it was synced.
#[test]
fn threads_that_meet_a_failure_all_come_back() {
    for (call, after) in
        [Call::Write, Call::Sync].into_iter().flat_map(|call| (4..40).step_by(3).map(move |after| (call, after)))
    {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let options = Options { background: true, ..options() };
        let store = Store::open_on(Arc::new(disk.clone()), options, true).unwrap();
        disk.inject(Fault { after, ..Fault::next(call).of(".segment") });
        let acknowledged: Vec<(usize, Durability)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    scope.spawn({
                        let store = &store;
                        move || append_until_poisoned(store, thread * 1000)
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        // Before the close, and before the next life, which both sync.
        let left: Vec<MemoryDisk> = (0..5).map(|seed| disk.power_cut(seed)).collect();
        let _ = store.close();
        disk.heal();
        let found = numbers(&open(&disk).unwrap());
        assert!(acknowledged.iter().all(|(number, _)| found.contains(number)), "{call:?} {after}");
        for (seed, left) in left.iter().enumerate() {
            let after_power = numbers(&open(left).unwrap());
            let is_kept = |(number, durability): &_| *durability == OS || after_power.contains(number);
            assert!(acknowledged.iter().all(is_kept), "{call:?} {after}, seed {seed}");
            assert!(found.starts_with(&after_power), "{call:?} {after}, seed {seed}");
        }
    }
}

/// Appends until the store is poisoned, or long enough; the commits that were acknowledged, and what they asked for.
fn append_until_poisoned(store: &Store, first: usize) -> Vec<(usize, Durability)> {
    let mut acknowledged = Vec::new();
    for number in first..first + 40 {
        let durability = if number % 2 == 0 { SYNCED } else { OS };
        match store.send(commit(number, durability)) {
            Ok(_) => acknowledged.push((number, durability)),
            Err(error) => match error.error() {
                Error::Indeterminate { .. } | Error::NotWritten { .. } | Error::Poisoned { .. } => break,
                // The making of a segment failed; nothing was given.
                Error::Io { .. } => {}
                other => panic!("{other:?}"),
            },
        }
    }
    acknowledged
}

#[test]
fn every_failed_write_is_told_and_costs_nothing_that_was_acknowledged() {
    assert!(fail_each(Call::Write) > 40);
}

/// A write that fails may have written a part, or everything: what is in doubt is in doubt.
#[test]
fn every_write_that_fails_in_its_middle_is_told_and_costs_nothing_that_was_acknowledged() {
    for written in [Written::Half, Written::Everything] {
        for forever in [false, true] {
            assert!(fail_at_each(Fault { forever, written, ..Fault::next(Call::Write) }) > 40);
        }
    }
}

#[test]
fn every_failed_sync_is_told_and_costs_nothing_that_was_acknowledged() {
    assert!(fail_each(Call::Sync) > 20);
}

#[test]
fn every_failed_allocation_is_told_and_can_be_tried_again() {
    assert!(fail_each(Call::Allocate) > 4);
}

#[test]
fn every_failed_change_of_a_name_is_told_and_costs_nothing_that_was_acknowledged() {
    for (call, least) in
        [(Call::Create, 8), (Call::Rename, 8), (Call::SyncDir, 8), (Call::Remove, 1), (Call::CreateDir, 4)]
    {
        let calls = fail_each(call);
        assert!(calls >= least, "{call:?}: {calls}");
    }
}

#[test]
fn a_disk_that_fails_from_some_call_on_costs_nothing_that_was_acknowledged() {
    for after in 0.. {
        let disk = FaultyDisk::new(MemoryDisk::new());
        disk.inject(Fault::all_after(after));
        let mut life = Life::new(format!("everything fails after {after} calls"));
        life.live(&disk);
        let is_over = life.failures == 0;
        life.end(&disk);
        if is_over {
            break;
        }
    }
}

/// The second one told the error of the first, as if it had been tried again.
#[test]
fn a_sync_behind_one_that_failed_says_that_the_store_is_poisoned() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let store = open(&disk).unwrap();
    store.send(commit(0, OS)).unwrap();
    disk.inject(Fault::next(Call::Sync).of(".segment"));
    assert!(matches!(store.sync(), Err(Error::Io { .. })));
    let syncs = disk.calls(Call::Sync);
    assert!(matches!(store.sync(), Err(Error::Poisoned { .. })));
    assert!(matches!(store.clone().close(), Err(Error::Poisoned { .. })));
    assert_eq!(disk.calls(Call::Sync), syncs);
}

/// A mark that could not be written came up as a commit in doubt, and nobody had sent one.
#[test]
fn a_mark_that_fails_puts_no_commit_in_doubt() {
    for (after, call) in [(0, Call::Write), (1, Call::Sync)] {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let store = open(&disk).unwrap();
        store.send(commit(0, OS)).unwrap();
        disk.inject(Fault { after, ..Fault::next(call).of(".segment") });
        assert!(matches!(store.maintain(), Err(Error::Io { .. })), "{call:?}");
        assert!(matches!(store.send(commit(1, OS)).unwrap_err().error(), Error::Poisoned { .. }));
        drop(store);
        assert_eq!(numbers(&open(&disk).unwrap()), [0]);
    }
}

/// One that the system had too little left to open was taken for damaged and removed, and so was one whose segment could
/// not be mapped: all of its events were indexed anew.
#[test]
fn an_index_file_that_there_are_too_few_files_or_maps_for_stays_where_it_is() {
    for (call, path) in [(Call::Open, "index/"), (Call::Map, "index/"), (Call::Map, "log/0000000001.segment")] {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let store = open(&disk).unwrap();
        (0..20).for_each(|number| drop(store.send(commit(number, SYNCED)).unwrap()));
        store.maintain().unwrap();
        store.close().unwrap();
        let files = disk.list("index").unwrap();
        disk.inject(Fault { forever: true, ..Fault::next(call).of(path).kind(ErrorKind::OutOfMemory) });
        let refused = open(&disk).map(drop);
        disk.heal();
        assert!(matches!(refused, Err(Error::Io { .. })), "{call:?} of {path}: {refused:?}");
        assert_eq!(disk.list("index").unwrap(), files, "{call:?} of {path}");
        assert_eq!(open(&disk).unwrap().open_report().indexed_events, 0, "{call:?} of {path}");
    }
}

/// Recovery went on without what a positions file says of the log, where there were too few files left to open it.
#[test]
fn a_positions_file_that_there_are_too_few_files_for_is_not_taken_for_one_that_says_nothing() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let store = open(&disk).unwrap();
    (0..20).for_each(|number| drop(store.send(commit(number, SYNCED)).unwrap()));
    store.maintain().unwrap();
    let said = |kind: Option<ErrorKind>| {
        if let Some(kind) = kind {
            disk.inject(Fault::next(Call::Open).of("0000000001.positions").kind(kind));
        }
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        crate::index::checkpoints(&disk).map(|known| known.len())
    };
    let all = said(None).unwrap();
    assert!(all > 1);
    assert_eq!(said(Some(ErrorKind::Other)).unwrap(), all - 1);
    let refused = said(Some(ErrorKind::OutOfMemory));
    assert!(matches!(refused, Err(Error::Io { operation: "open", .. })), "{refused:?}");
}

/// An index file that was just written was told to be corrupt, when it was the operating system that refused to open or
/// to map it.
#[test]
fn an_index_file_that_cannot_be_opened_behind_its_writing_is_not_called_corrupt() {
    for call in [Call::Open, Call::Map] {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let store = open(&disk).unwrap();
        (0..20).for_each(|number| drop(store.send(commit(number, SYNCED)).unwrap()));
        disk.inject(Fault::next(call).in_dir("index"));
        let refused = store.maintain();
        assert!(matches!(refused, Err(Error::Io { .. })), "{call:?}: {refused:?}");
        store.maintain().unwrap();
        store.close().unwrap();
        assert_eq!(numbers(&open(&disk).unwrap()), (0..20).collect::<Vec<_>>());
    }
}
