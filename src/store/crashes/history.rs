//! A history: a store on a simulated disk that is opened, written to and crashed, and what must hold all the time.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use super::super::maintenance::Round;
use super::super::verify::verify_on;
use super::super::{AppendError, Appended, Options, ReadMode, Store};
use super::Counts;
use super::beside::Beside;
use super::model::{Entry, Model};
use crate::clock::{Clock, ManualClock};
use crate::error::{Error, Result};
use crate::randomness::SeededRandomness;
use crate::storage::{Call, Dice, Disk, Fault, FileSystem, SimulatedDisk};
use crate::sync::atomic::AtomicBool;
use crate::types::{Durability, Position, Timestamp};

/// A backup costs the real disk many syncs: one history in so many makes one.
const HISTORIES_PER_BACKUP: u64 = 100;

/// A store, its disk, and what was sent to it.
pub(super) struct History {
    context: String,
    pub(super) dice: Dice,
    disk: SimulatedDisk,
    clock: ManualClock,
    read_mode: ReadMode,
    pub(super) segment_bytes: u64,
    lives: u64,
    /// Something may fail in this life.
    is_troubled: bool,
    pub(super) model: Model,
    /// So many of the commits must be there after a loss of power, and so many now.
    synced: usize,
    pub(super) visible: usize,
    /// So many were acknowledged since the store was last open: those behind them are in doubt.
    acknowledged: usize,
    round: Round,
    pub(super) beside: Beside,
    pub(super) counts: Counts,
}

impl History {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let file_system = dice.pick(&[FileSystem::Strict, FileSystem::Strict, FileSystem::Ext4]);
        let disk = SimulatedDisk::new(file_system, dice.below(u64::MAX));
        if dice.one_in(2) {
            disk.write_back_in(dice.pick(&[4, 16, 64]));
        }
        Self {
            context: format!("seed {seed}, {file_system:?}"),
            disk,
            clock: ManualClock::new(Timestamp::from_millis(1_000_000)),
            read_mode: dice.pick(&[ReadMode::Map, ReadMode::Pread]),
            segment_bytes: dice.pick(&[4096, 8192, 32 * 1024]),
            lives: 0,
            is_troubled: false,
            model: Model::new(dice.below(u64::MAX)),
            synced: 0,
            visible: 0,
            acknowledged: 0,
            round: Round::default(),
            beside: Beside::new(&mut dice),
            counts: Counts::default(),
            dice,
        }
    }

    /// The whole history; the number that tells it from every other.
    pub(super) fn run(mut self) -> (Counts, u64) {
        for _ in 0..4 + self.dice.below(5) {
            self.live();
        }
        self.end();
        (self.counts, self.disk.fingerprint())
    }

    pub(super) fn context(&self) -> String {
        format!("{}, life {}", self.context, self.lives)
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
        let is_interrupted = std::mem::take(&mut self.beside.is_interrupted);
        match self.dice.below(8) {
            // What is left of a compaction is cleared away in the first calls of a life.
            0..6 if is_interrupted => self.lose_power_within(16),
            0..3 => {
                let within = self.dice.pick(&[8, 30, 80]);
                self.lose_power_within(within);
            }
            3..6 => self.plan_fault(),
            6 if self.dice.one_in(2) => {
                let room = self.dice.below(6 * self.segment_bytes);
                self.disk.set_budget(self.disk.used() + room);
            }
            _ => self.is_troubled = false,
        }
    }

    pub(super) fn lose_power_within(&mut self, calls: u64) {
        self.is_troubled = true;
        self.disk.lose_power_after(self.dice.below(calls));
    }

    pub(super) fn plan_fault(&mut self) {
        use Call::{Allocate, Create, CreateDir, List, Map, Open, Read, Remove, Rename, Sync, SyncDir, Write};
        self.is_troubled = true;
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
        let store = self.try_open();
        self.counts.failed_opens += u64::from(store.is_none());
        store
    }

    fn try_open(&mut self) -> Option<Store> {
        let opened = Store::open_on(Arc::new(self.disk.clone()), self.options(), true);
        let store = self.allowed(opened, "open")?;
        self.round = Round::default();
        let checked = self.check_recovered(&store);
        let doubtful = self.allowed(checked, "read what was recovered")?;
        if self.dice.one_in(2) {
            self.resolve_doubt(&store, doubtful);
        }
        Some(store)
    }

    /// An error that the trouble of this life explains; any other is a failure of the store.
    pub(super) fn allowed<T>(&mut self, result: Result<T>, operation: &str) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(Error::Io { .. } | Error::Full { .. } | Error::Indeterminate { .. } | Error::Poisoned { .. })
                if self.is_troubled =>
            {
                self.counts.failed_calls += 1;
                None
            }
            Err(error) => panic!("{}: {operation}: {error:?}", self.context()),
        }
    }

    /// A reader sees no more than what was sent, and writes nothing. What it saw is never taken back.
    fn look_without_opening(&mut self) {
        let mutations = self.disk.mutations();
        let opened = Store::open_read_only_on(Arc::new(self.disk.clone()), self.options());
        assert_eq!(self.disk.mutations(), mutations, "{}: a reader wrote", self.context());
        match opened {
            Err(Error::NotFound { .. }) => assert_eq!(self.synced, 0, "{}: no store", self.context()),
            opened => {
                let Some(reader) = self.allowed(opened, "open for reading") else { return };
                let looked = self.model.check_log(&reader, 0, &self.context());
                let seen = self.allowed(looked, "read without opening");
                self.synced = self.synced.max(seen.unwrap_or(0));
            }
        }
    }

    /// Everything that was recovered is right. Returns the commits that were in doubt.
    fn check_recovered(&mut self, store: &Store) -> Result<Doubtful> {
        let context = self.context();
        let found = self.model.check_log(store, self.visible, &context)?;
        self.counts.lost_commits += (self.model.entries.len() - found) as u64;
        self.counts.cut_tails += u64::from(store.open_report().cut_bytes > 0);
        let known = self.acknowledged;
        let there = self.model.entries.get(known..found).unwrap_or_default().to_vec();
        let lost = self.model.keep(found);
        // Where one that they rest on is lost, they are lost for good.
        let missing = if found < known { Vec::new() } else { lost };
        // What is served after an open was made durable by it.
        (self.synced, self.visible, self.acknowledged) = (found, found, found);
        self.model.check_queries(store, &mut self.dice, &context)?;
        self.check_beside(store)?;
        Ok(Doubtful { there, missing })
    }

    /// What was in doubt is sent again: it is written once.
    fn resolve_doubt(&mut self, store: &Store, Doubtful { there, missing }: Doubtful) {
        let first = self.model.entries.len() - there.len();
        for (slot, entry) in (first..).zip(there) {
            self.send_again(store, slot, &entry);
        }
        for entry in missing {
            if self.is_in_doubt() {
                return;
            }
            let slot = self.model.entries.len();
            let sent = store.send(entry.commit(Durability::Os));
            self.note_sent(entry, Durability::Os, &sent);
            if self.model.entries.len() == slot {
                return;
            }
            self.counts.sent_again += 1;
        }
    }

    fn send_again(&mut self, store: &Store, slot: usize, entry: &Entry) {
        let durability = self.durability();
        let sent = store.send(entry.commit(durability)).map_err(Error::from);
        let Some(appended) = self.allowed(sent, "send again") else { return };
        let first = self.model.first_position(slot);
        let is_first = appended.deduplicated() && appended.first_position().number() == first;
        assert!(is_first, "{}: slot {slot}, sent again: {appended:?}", self.context());
        self.counts.sent_again += 1;
        if durability == Durability::Synced {
            self.synced = self.synced.max(slot + 1);
        }
    }

    fn work(&mut self, store: &Store) {
        match self.dice.below(20) {
            0..8 => self.send(store),
            8 => self.send_group(store),
            9 => self.send_known(store),
            10 => self.send_in_vain(store),
            11 => self.note_durable(store.sync(), "sync"),
            12 | 13 => self.note_durable(store.maintain(), "maintain"),
            14 => {
                store.handle.inner.background_round(&mut self.round);
                store.handle.inner.merge_all(&AtomicBool::new(false));
            }
            15 => self.move_clock(),
            16 => self.look_beside(),
            17 | 18 => self.work_beside(store),
            _ => {
                let seen = self.model.check_log(store, self.visible, &self.context());
                let seen = self.allowed(seen, "read");
                assert!(seen.is_none_or(|seen| seen == self.visible), "{}: {seen:?} are visible", self.context());
            }
        }
        self.note_synced_head(store);
    }

    /// Where the store says that it is synced, it is.
    fn note_synced_head(&mut self, store: &Store) {
        let head = store.synced_head();
        if let Some(head) = self.allowed(head, "ask for the synced head") {
            let synced = self.model.commits_upto(head.map_or(0, Position::number));
            assert!(synced <= self.visible, "{}: {synced} commits are synced and not visible", self.context());
            self.synced = self.synced.max(synced);
        }
    }

    fn durability(&mut self) -> Durability {
        if self.dice.one_in(4) { Durability::Synced } else { Durability::Os }
    }

    /// What is in doubt stays the last until the store is opened again.
    fn is_in_doubt(&self) -> bool {
        self.visible < self.model.entries.len()
    }

    fn send(&mut self, store: &Store) {
        if self.is_in_doubt() {
            return;
        }
        let durability = self.durability();
        let entry = self.model.next(&mut self.dice);
        let sent = store.send(entry.commit(durability));
        self.note_sent(entry, durability, &sent);
    }

    /// Several commits at once, each of which expects that those before it are written.
    fn send_group(&mut self, store: &Store) {
        if self.is_in_doubt() {
            return;
        }
        let (before, mut group) = (self.model.entries.len(), Vec::new());
        for _ in 0..2 + self.dice.below(4) {
            let entry = self.model.next(&mut self.dice);
            self.model.entries.push(entry.clone());
            group.push((entry, self.durability()));
        }
        self.model.entries.truncate(before);
        let results = store.send_all(group.iter().map(|(entry, durability)| entry.commit(*durability)));
        let mut is_whole = true;
        for ((entry, durability), sent) in group.into_iter().zip(results) {
            if !is_whole && sent.as_ref().is_err_and(|error| matches!(error.error(), Error::Conflict(_))) {
                continue;
            }
            is_whole &= sent.is_ok();
            self.note_sent(entry, durability, &sent);
        }
    }

    /// Notes what became of a commit.
    fn note_sent(&mut self, entry: Entry, durability: Durability, sent: &Result<Appended, AppendError>) {
        match sent.as_ref().map_err(AppendError::error) {
            Ok(appended) => {
                let slot = self.model.entries.len();
                let is_next = appended.first_position().number() == self.model.first_position(slot)
                    && !appended.deduplicated()
                    && !self.is_in_doubt();
                assert!(is_next, "{}: slot {slot}: {appended:?}", self.context());
                self.counts.commits += 1;
                self.model.push(entry);
                (self.visible, self.acknowledged) = (slot + 1, slot + 1);
                self.synced = if durability == Durability::Synced { self.visible } else { self.synced };
            }
            Err(Error::Indeterminate { .. }) if self.is_troubled => {
                self.counts.failed_calls += 1;
                self.model.push(entry);
            }
            Err(Error::Io { .. } | Error::Full { .. } | Error::Poisoned { .. } | Error::NotWritten { .. })
                if self.is_troubled =>
            {
                self.counts.failed_calls += 1;
            }
            Err(error) => panic!("{}: append: {error:?}", self.context()),
        }
    }

    /// A commit that is there is written no second time.
    fn send_known(&mut self, store: &Store) {
        if self.is_in_doubt() || self.visible == 0 {
            return;
        }
        let slot = self.dice.below(self.visible as u64) as usize;
        let entry = self.model.entries[slot].clone();
        self.send_again(store, slot, &entry);
    }

    /// What expects something else is a conflict, and nothing is written.
    fn send_in_vain(&mut self, store: &Store) {
        if self.is_in_doubt() {
            return;
        }
        let Some(commit) = self.model.next_in_vain(&mut self.dice) else { return };
        match store.send(commit).map_err(Error::from) {
            Err(Error::Conflict(_)) => self.counts.conflicts += 1,
            sent => {
                let written = self.allowed(sent, "send in vain");
                assert!(written.is_none(), "{}: {written:?}, in vain", self.context());
            }
        }
    }

    /// What makes everything durable that is visible, if it succeeds.
    pub(super) fn note_durable(&mut self, result: Result<()>, operation: &str) {
        if self.allowed(result, operation).is_some() {
            self.synced = self.visible;
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

    /// A reader beside the writer sees what is synced, as every later reader will. Of commits that are in doubt this may be
    /// the beginning: those that were synced when the log rolled.
    fn look_beside(&mut self) {
        let opened = Store::open_read_only_on(Arc::new(self.disk.clone()), self.options());
        let Some(reader) = self.allowed(opened, "open for reading beside") else { return };
        let looked = self.model.check_log(&reader, 0, &self.context());
        let Some(seen) = self.allowed(looked, "read beside") else { return };
        let is_right = seen <= self.visible || self.is_in_doubt();
        assert!(is_right, "{}: a reader sees {seen} of {}", self.context(), self.visible);
        self.synced = self.synced.max(seen);
    }

    fn crash(&mut self, store: Option<Store>) {
        self.disk.stop();
        drop(store);
        let kills = if self.beside.is_interrupted { 2 } else { 4 };
        if self.dice.one_in(kills) {
            self.counts.kills += 1;
            self.disk.kill();
            self.visible = self.visible.max(self.synced);
        } else {
            self.counts.power_cuts += 1;
            self.disk.cut_power();
            self.visible = self.synced;
            self.beside.lose_power();
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
        assert_eq!(store.open_report().cut_bytes, 0, "{}: a torn tail was left where it was", self.context());
        self.audit();
        self.send(&store);
        if self.dice.one_in(HISTORIES_PER_BACKUP) {
            self.back_up(&store);
        }
        self.note_durable(store.close(), "close");
        self.count_compaction(&self.disk.clone());
        self.lives += 1;
        let store = self.open().expect("an open without trouble");
        assert_eq!(store.open_report().cut_bytes, 0, "{}: something was cut behind a close", self.context());
    }

    /// Nothing is wrong with any byte of the store.
    fn audit(&mut self) {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let report = verify_on(&disk, &mut |_| {}).expect("a verification without trouble");
        assert_eq!(report.problems, [], "{}", self.context());
        assert_eq!(report.events, self.model.head(), "{}: events verified", self.context());
    }

    /// A backup is a store with everything that is in this one.
    fn back_up(&mut self, store: &Store) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("backup");
        let report = store.backup(&path).expect("a backup without trouble");
        assert_eq!(report.events, self.model.head(), "{}: events backed up", self.context());
        let backup = self.options().open_read_only(&path).expect("a backup is a store");
        let context = format!("{}, backup", self.context());
        let found = self.model.check_log(&backup, self.model.entries.len(), &context).expect("a whole log");
        assert_eq!(found, self.model.entries.len());
        self.model.check_queries(&backup, &mut self.dice, &context).expect("a whole index");
        self.counts.backups += 1;
        self.synced = self.visible;
    }
}

/// The commits that were in doubt: at the end of those that are there, and of those that are not.
struct Doubtful {
    there: Vec<Entry>,
    missing: Vec<Entry>,
}
