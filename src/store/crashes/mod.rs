//! Histories of a store on a simulated disk: it is opened, written to, and crashed, again and again, while it recovers as
//! well as while it works.
//!
//! A seed is a history. Whatever happens in it, what was acknowledged as synced is there, whole and unchanged; what is
//! there is a beginning of what was sent, at the end of a commit; every query agrees with the log; and the store takes
//! appends again. The number of histories and a single one to run again come from the environment:
//!
//! ```text
//! ANNALS_CRASH_HISTORIES=100000 cargo test --release --lib store::crashes
//! ANNALS_CRASH_SEED=4711 cargo test --lib store::crashes
//! ```

mod model;

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Options, ReadMode, Store};
use crate::clock::{Clock, ManualClock};
use crate::error::{Error, Result};
use crate::randomness::SeededRandomness;
use crate::storage::{Call, Dice, Fault, FileSystem, SimulatedDisk};
use crate::types::{Durability, Timestamp};
use model::Model;

/// How many histories are run if the environment does not say.
const HISTORIES: u64 = 400;

/// What has happened in histories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counts {
    power_cuts: u64,
    kills: u64,
    /// Opens that something kept from succeeding.
    failed_opens: u64,
    failed_calls: u64,
    commits: u64,
    lost_commits: u64,
    cut_tails: u64,
}

/// A store, its disk, and what was sent to it.
struct History {
    context: String,
    dice: Dice,
    disk: SimulatedDisk,
    clock: ManualClock,
    read_mode: ReadMode,
    segment_bytes: u64,
    lives: u64,
    /// Something may fail in this life.
    is_troubled: bool,
    model: Model,
    /// So many of the commits must be there after a loss of power, and so many now.
    synced: usize,
    visible: usize,
    /// Whether the state beside the log is used, and the values that it may have.
    keeps_state: bool,
    values: Vec<u64>,
    counts: Counts,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let file_system = dice.pick(&[FileSystem::Strict, FileSystem::Strict, FileSystem::Ext4]);
        Self {
            context: format!("seed {seed}, {file_system:?}"),
            disk: SimulatedDisk::new(file_system, dice.below(u64::MAX)),
            clock: ManualClock::new(Timestamp::from_millis(1_000_000)),
            read_mode: dice.pick(&[ReadMode::Map, ReadMode::Pread]),
            segment_bytes: dice.pick(&[4096, 8192, 32 * 1024]),
            lives: 0,
            is_troubled: false,
            model: Model::new(dice.below(u64::MAX)),
            synced: 0,
            visible: 0,
            keeps_state: dice.one_in(4),
            values: vec![0],
            counts: Counts::default(),
            dice,
        }
    }

    /// The whole history; the number that tells it from every other.
    fn run(mut self) -> (Counts, u64) {
        for _ in 0..4 + self.dice.below(5) {
            self.live();
        }
        self.end();
        (self.counts, self.disk.fingerprint())
    }

    fn options(&self) -> Options {
        Options::new()
            .segment_bytes_first(self.segment_bytes)
            .segment_bytes_max(self.segment_bytes)
            .index_tail_bytes_max(3000)
            .read_mode(self.read_mode)
            .clock(self.clock.clone())
            .randomness(SeededRandomness::new(self.lives))
            .without_background_work()
    }

    /// From one crash to the next.
    fn live(&mut self) {
        self.lives += 1;
        self.plan_trouble();
        let store = self.open();
        if let Some(store) = &store {
            for _ in 0..self.dice.below(24) {
                self.work(store);
            }
        }
        if let Some(store) = store.as_ref().filter(|_| self.dice.one_in(6)) {
            let closed = store.clone().close();
            self.note_durable(closed, "close");
        }
        self.crash(store);
    }

    fn plan_trouble(&mut self) {
        self.is_troubled = true;
        match self.dice.below(8) {
            0..3 => {
                let within = self.dice.pick(&[8, 30, 80]);
                self.disk.lose_power_after(self.dice.below(within));
            }
            3..6 => self.plan_fault(),
            6 if self.dice.one_in(2) => {
                let room = self.dice.below(6 * self.segment_bytes);
                self.disk.set_budget(self.disk.used() + room);
            }
            _ => self.is_troubled = false,
        }
    }

    fn plan_fault(&mut self) {
        use Call::{Allocate, Create, CreateDir, List, Map, Open, Read, Remove, Rename, Sync, SyncDir, Write};
        let likely = [Write, Sync, Sync, SyncDir, Allocate, Rename, Map];
        let rare = [Create, CreateDir, List, Open, Read, Remove];
        let call = if self.dice.one_in(4) { self.dice.pick(&rare) } else { self.dice.pick(&likely) };
        let within = self.dice.pick(&[3, 12, 40]);
        let kind = self.dice.pick(&[ErrorKind::Other, ErrorKind::StorageFull]);
        let fault = Fault { after: self.dice.below(within), forever: self.dice.one_in(3), ..Fault::next(call) };
        self.disk.inject(fault.kind(kind));
    }

    /// Opens the store, and checks that it is what it has to be. `None` if something kept it from that.
    fn open(&mut self) -> Option<Store> {
        if self.dice.one_in(4) {
            self.look_without_opening();
        }
        let opened = Store::open_on(Arc::new(self.disk.clone()), self.options(), true);
        let store = self.allowed(opened, "open")?;
        let checked = self.check_recovered(&store);
        self.allowed(checked, "read what was recovered")?;
        Some(store)
    }

    /// An error that the trouble of this life explains; any other is a failure of the store.
    fn allowed<T>(&mut self, result: Result<T>, operation: &str) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(Error::Io { .. } | Error::Full { .. }) if self.is_troubled => {
                self.counts.failed_opens += 1;
                None
            }
            // A sector of the index that cannot be read is damage like any other. The log has no such excuse.
            Err(Error::Corrupt { file, .. }) if self.is_troubled && file.starts_with("simulated:/index") => {
                self.counts.failed_opens += 1;
                None
            }
            Err(error) => panic!("{}, life {}: {operation}: {error:?}", self.context, self.lives),
        }
    }

    /// A reader sees no more than what was sent, and writes nothing.
    fn look_without_opening(&mut self) {
        let mutations = self.disk.mutations();
        let opened = Store::open_read_only_on(Arc::new(self.disk.clone()), self.options());
        assert_eq!(self.disk.mutations(), mutations, "{}: a reader wrote", self.context);
        match opened {
            Err(Error::NotFound { .. }) => assert_eq!(self.synced, 0, "{}: no store", self.context),
            opened => {
                let Some(reader) = self.allowed(opened, "open for reading") else { return };
                let looked = self.model.check_log(&reader, 0, &self.context);
                self.allowed(looked, "read without opening");
            }
        }
    }

    fn check_recovered(&mut self, store: &Store) -> Result<()> {
        let context = format!("{}, life {}", self.context, self.lives);
        let found = self.model.check_log(store, self.visible, &context)?;
        self.counts.lost_commits += (self.model.entries.len() - found) as u64;
        self.counts.cut_tails += u64::from(store.open_report().cut_bytes > 0);
        self.model.keep(found);
        // What is served after an open was made durable by it.
        (self.synced, self.visible) = (found, found);
        self.model.check_queries(store, &context)?;
        if self.keeps_state {
            let value = store.state()?.get("key")?.map_or(0, |value| u64::from_le_bytes(value.try_into().unwrap()));
            assert!(self.values.contains(&value), "{context}: state {value}, not of {:?}", self.values);
            self.values = vec![value];
        }
        Ok(())
    }

    fn work(&mut self, store: &Store) {
        match self.dice.below(16) {
            0..10 => self.send(store),
            10 => self.note_durable(store.sync(), "sync"),
            11 | 12 => self.note_durable(store.maintain(), "maintain"),
            13 if self.keeps_state => self.keep_state(store),
            14 => self.move_clock(),
            _ => {
                let seen = self.model.check_log(store, self.visible, &self.context);
                let seen = self.allowed(seen, "read");
                assert!(seen.is_none_or(|seen| seen == self.visible), "{}: {seen:?} are visible", self.context);
            }
        }
    }

    fn send(&mut self, store: &Store) {
        // What is in doubt stays the last until the store is opened again.
        if self.visible < self.model.entries.len() {
            return;
        }
        let durability = if self.dice.one_in(4) { Durability::Synced } else { Durability::Os };
        let entry = self.model.next();
        let sent = store.send(self.model.commit(&entry, durability));
        match sent {
            Ok(_) => {
                self.counts.commits += 1;
                self.model.entries.push(entry);
                self.visible = self.model.entries.len();
                self.synced = if durability == Durability::Synced { self.visible } else { self.synced };
            }
            Err(error) => {
                self.counts.failed_calls += 1;
                match error.error() {
                    Error::Indeterminate { .. } if self.is_troubled => self.model.entries.push(entry),
                    Error::Io { .. } | Error::Full { .. } | Error::Poisoned { .. } if self.is_troubled => {}
                    error => panic!("{}, life {}: append: {error:?}", self.context, self.lives),
                }
            }
        }
    }

    /// What makes everything durable that is visible, if it succeeds.
    fn note_durable(&mut self, result: Result<()>, operation: &str) {
        match result {
            Ok(()) => self.synced = self.visible,
            Err(Error::Io { .. } | Error::Full { .. } | Error::Poisoned { .. }) if self.is_troubled => {
                self.counts.failed_calls += 1;
            }
            // A sector of the index that cannot be read is damage like any other. The log has no such excuse.
            Err(Error::Corrupt { file, .. }) if self.is_troubled && file.starts_with("simulated:/index") => {
                self.counts.failed_calls += 1;
            }
            Err(error) => panic!("{}, life {}: {operation}: {error:?}", self.context, self.lives),
        }
    }

    fn keep_state(&mut self, store: &Store) {
        let value = self.values[self.values.len() - 1] + 1;
        let kept = store.state().and_then(|state| state.put("key", value.to_le_bytes()));
        match kept {
            Ok(_) => self.values = vec![value],
            Err(Error::Indeterminate { .. }) if self.is_troubled => self.values.push(value),
            Err(error) => self.note_durable(Err(error), "keep state"),
        }
    }

    fn move_clock(&mut self) {
        let by = Duration::from_millis(self.dice.below(2000));
        self.clock.advance(by);
        if self.dice.one_in(4) {
            let back = self.clock.now().nanos() - 5_000_000_000;
            self.clock.set(Timestamp::from_nanos(back));
        }
    }

    fn crash(&mut self, store: Option<Store>) {
        self.disk.stop();
        drop(store);
        if self.dice.one_in(4) {
            self.counts.kills += 1;
            self.disk.kill();
        } else {
            self.counts.power_cuts += 1;
            self.disk.cut_power();
            self.visible = self.synced;
        }
    }

    /// The disk works from now on: the store takes appends, and is closed and opened without a loss.
    fn end(&mut self) {
        self.lives += 1;
        self.is_troubled = false;
        let store = self.open().expect("an open without trouble");
        self.disk.stop();
        drop(store);
        self.disk.kill();
        let store = self.open().expect("an open without trouble");
        assert_eq!(store.open_report().cut_bytes, 0, "{}: a torn tail was left where it was", self.context);
        self.send(&store);
        self.note_durable(store.close(), "close");
        self.lives += 1;
        let store = self.open().expect("an open without trouble");
        assert_eq!(store.open_report().cut_bytes, 0, "{}: something was cut behind a close", self.context);
    }
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.power_cuts += other.power_cuts;
        self.kills += other.kills;
        self.failed_opens += other.failed_opens;
        self.failed_calls += other.failed_calls;
        self.commits += other.commits;
        self.lost_commits += other.lost_commits;
        self.cut_tails += other.cut_tails;
    }
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, which is not a number")))
}

/// Runs a history, and says how to run it again if it fails.
fn run(seed: u64) -> Counts {
    match catch_unwind(AssertUnwindSafe(|| History::new(seed).run())) {
        Ok((counts, _)) => counts,
        Err(panic) => {
            eprintln!("to run it again: ANNALS_CRASH_SEED={seed} cargo test --lib store::crashes -- --nocapture");
            resume_unwind(panic)
        }
    }
}

/// Runs the histories of all seeds below an end, on all processors.
fn run_all(end: u64) -> Counts {
    let (next, workers) = (AtomicU64::new(0), std::thread::available_parallelism().map_or(1, usize::from));
    let work = || {
        let mut counts = Counts::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return counts;
            }
            counts.add(&run(seed));
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let mut all = Counts::default();
        for worker in workers {
            all.add(&worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        all
    })
}

#[test]
fn what_was_acknowledged_survives_every_crash_and_nothing_else_is_served() {
    if let Some(seed) = from_environment("ANNALS_CRASH_SEED") {
        println!("seed {seed}: {:?}", run(seed));
        return;
    }
    let histories = from_environment("ANNALS_CRASH_HISTORIES").unwrap_or(HISTORIES);
    let counts = run_all(histories);
    println!("{histories} histories: {counts:?}");
    // A suite in which nothing goes wrong shows nothing.
    let Counts { power_cuts, kills, failed_opens, failed_calls, commits, lost_commits, cut_tails } = counts;
    let least = [power_cuts, kills, failed_opens, failed_calls, commits, lost_commits, cut_tails].into_iter().min();
    assert!(least >= Some(histories / 20), "too little happened: {counts:?}");
}

#[test]
fn a_seed_is_the_same_history_every_time() {
    for seed in 0..8 {
        assert_eq!(History::new(seed).run(), History::new(seed).run(), "seed {seed}");
    }
    assert_ne!(History::new(1).run().1, History::new(2).run().1);
}
