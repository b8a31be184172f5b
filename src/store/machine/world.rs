//! A store and its model side by side: lives from one open to the next, and what may go wrong in them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::beside::Shown;
use super::following::Following;
use super::journal::Journal;
use super::model::{Model, Place};
use super::operation::{CommitSpec, End, FaultSpec, Operation, Script, Setup};
use super::{Counts, check};
use crate::clock::{Clock, ManualClock};
use crate::error::{Error, Result};
use crate::randomness::SeededRandomness;
use crate::storage::{Disk, Fault, RealDisk, SimulatedDisk};
use crate::store::{HistoryPoint, Options, ReadMode, StateVersion, Store, Watch};
use crate::subscription::Horizon;
use crate::types::{Durability, Timestamp};

/// Where the store is.
pub(super) enum Medium {
    /// On a disk that can fail and lose power.
    Simulated(SimulatedDisk),
    /// In a directory, with real files and maps. It never fails, and a loss of power is the end of a process.
    Directory(tempfile::TempDir),
}

pub(super) struct World {
    setup: Setup,
    pub(super) medium: Medium,
    mode: ReadMode,
    pub(super) clock: ManualClock,
    /// The largest commit that is admitted, in events.
    pub(super) admitted: Arc<AtomicUsize>,
    /// Without before it is opened, and after what ended its life.
    pub(super) store: Option<Store>,
    pub(super) watch: Option<Watch>,
    /// Of the synced head alone.
    pub(super) synced_watch: Option<Watch>,
    /// How often that was raised in this life.
    pub(super) synced_words: u64,
    /// What the heads were when they were last looked at.
    pub(super) heads: (u64, u64),
    pub(super) follower: Option<Store>,
    pub(super) followed: Shown,
    pub(super) following: Option<Following>,
    pub(super) model: Model,
    pub(super) journal: Journal,
    pub(super) sent: Vec<CommitSpec>,
    /// The commits that are in doubt, to be sent again after the next open.
    pub(super) doubtful: Vec<CommitSpec>,
    pub(super) remembered: Vec<(HistoryPoint, Place)>,
    /// A version that a key of the state had once.
    pub(super) old_version: Option<StateVersion>,
    /// Something may fail: it was asked for since the last crash.
    pub(super) is_troubled: bool,
    /// A store was opened well once.
    pub(super) is_made: bool,
    /// No store is made where there is none.
    pub(super) must_exist: bool,
    opens: u64,
    failed_opens: u64,
    /// The numbers that ids and payloads are made of.
    pub(super) drawn: u64,
    pub(super) counts: Counts,
}

impl World {
    pub(super) fn new(setup: Setup, medium: Medium) -> Self {
        Self {
            medium,
            mode: setup.mode,
            clock: ManualClock::new(Timestamp::from_millis(1_000_000)),
            admitted: Arc::new(AtomicUsize::new(usize::MAX)),
            store: None,
            watch: None,
            synced_watch: None,
            synced_words: 0,
            heads: (0, 0),
            follower: None,
            followed: Shown::default(),
            following: None,
            model: Model::default(),
            journal: Journal::default(),
            sent: Vec::new(),
            doubtful: Vec::new(),
            remembered: Vec::new(),
            old_version: None,
            is_troubled: false,
            is_made: false,
            must_exist: false,
            opens: 0,
            failed_opens: 0,
            drawn: 0,
            counts: Counts::default(),
            setup,
        }
    }

    /// Does everything, and then looks whether the store is well on a disk that works. Returns what has happened, and a
    /// number that two runs share only if they made the same calls.
    pub(super) fn run(mut self, script: &Script) -> (Counts, u64) {
        for operation in &script.operations {
            self.step(operation);
        }
        self.finish();
        let fingerprint = match &self.medium {
            Medium::Simulated(disk) => disk.fingerprint(),
            Medium::Directory(_) => 0,
        };
        (self.counts, fingerprint)
    }

    fn step(&mut self, operation: &Operation) {
        match operation {
            Operation::Admit(events) => self.admitted.store(*events, Ordering::Relaxed),
            Operation::MoveClock(millis) => self.move_clock(*millis),
            Operation::Fail(fault) => self.fail(fault),
            Operation::LosePowerAfter(calls) => self.trouble(|disk| disk.lose_power_after(*calls)),
            Operation::Fill(bytes) => self.trouble(|disk| disk.set_budget(disk.used() + bytes)),
            Operation::Free => self.on_simulated(|disk| disk.set_budget(u64::MAX)),
            Operation::Reopen(end, mode, must_exist) => {
                self.end(*end);
                (self.mode, self.must_exist) = (*mode, *must_exist);
                self.opened();
            }
            Operation::Verify => self.verify(),
            Operation::LookBeside(read) => self.look_beside(read),
            Operation::LookOn(read) => self.look_on(read),
            operation => {
                if let Some(store) = self.opened() {
                    self.work(&store, operation);
                }
            }
        }
        if let Some(store) = self.store.clone() {
            let looked = self.look(&store);
            self.excused(looked, "look at the heads");
        }
        self.notice_power_loss();
    }

    fn work(&mut self, store: &Store, operation: &Operation) {
        match operation {
            Operation::Send(commit) => self.send_new(store, commit),
            Operation::SendThrough(commit) => self.send_through(store, commit),
            Operation::SendAll(commits) => self.send_all(store, commits),
            Operation::Resend(index, change) => self.resend(store, *index, *change),
            Operation::Read(read) => {
                let compared = check::compare(store, &self.model, read, self.model.head());
                self.excused(compared, "read");
            }
            Operation::Follow(spec) => self.follow(store, spec),
            Operation::FollowOn => self.follow_on(store),
            Operation::Seek(after) => self.seek(store, *after),
            Operation::Replay(spec) => self.replay(store, spec),
            Operation::Lend(read) => self.lend(store, read),
            Operation::Count => self.count(store),
            Operation::Remember(back) => self.remember(store, *back),
            Operation::Sync => drop(self.note_durable(store.sync(), "sync")),
            Operation::Maintain => self.note_all_durable(store.maintain(), "maintain"),
            Operation::OpenTwice => self.open_twice(),
            Operation::Backup => self.back_up(store),
            Operation::Put(batch) => self.put(store, batch),
            Operation::Wear(key) => self.wear(store, key),
            Operation::SyncState => self.sync_state(store),
            Operation::SaveSnapshot { stream, back, schema } => self.save_snapshot(store, stream, *back, *schema),
            Operation::LoadSnapshot { stream, back, schema } => self.load_snapshot(store, stream, *back, *schema),
            Operation::DeleteSnapshot(stream) => self.delete_snapshot(store, stream),
            Operation::Subscribe(spec) => self.subscribe(store, spec),
            Operation::Unsubscribe(name) => self.unsubscribe(store, name),
            operation => unreachable!("{operation:?} needs no store that is open"),
        }
    }

    // --- Trouble ---

    fn on_simulated(&self, change: impl FnOnce(&SimulatedDisk)) {
        if let Medium::Simulated(disk) = &self.medium {
            change(disk);
        }
    }

    fn trouble(&mut self, change: impl FnOnce(&SimulatedDisk)) {
        self.is_troubled = matches!(self.medium, Medium::Simulated(_));
        self.on_simulated(change);
    }

    fn fail(&mut self, spec: &FaultSpec) {
        let FaultSpec { call, path, after, forever, kind } = *spec;
        self.trouble(|disk| disk.inject(Fault { after, forever, ..Fault::next(call) }.of(path).kind(kind)));
    }

    fn notice_power_loss(&mut self) {
        if matches!(&self.medium, Medium::Simulated(disk) if !disk.is_on()) {
            self.end(End::PowerLoss);
        }
    }

    fn move_clock(&mut self, millis: i64) {
        match u64::try_from(millis) {
            Ok(millis) => self.clock.advance(Duration::from_millis(millis)),
            Err(_) => self.clock.set(Timestamp::from_nanos(self.clock.now().nanos() + millis * 1_000_000)),
        }
    }

    /// What is left of a result if the trouble of this life excuses its error; any other error is a failure.
    pub(super) fn excused<T>(&mut self, result: Result<T>, operation: &str) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) if self.excuses(&error) => {
                self.counts.failed_calls += 1;
                None
            }
            Err(error) => panic!("{operation}: {error:?}"),
        }
    }

    pub(super) fn excuses(&self, error: &Error) -> bool {
        matches!(error, Error::Io { .. } | Error::Full { .. } | Error::Poisoned { .. }) && self.is_troubled
    }

    // --- Lives ---

    pub(super) fn disk(&self) -> Arc<dyn Disk> {
        match &self.medium {
            Medium::Simulated(disk) => Arc::new(disk.clone()),
            Medium::Directory(directory) => Arc::new(RealDisk::new(directory.path())),
        }
    }

    /// The same as a process has it that is not killed with the writer.
    pub(super) fn disk_beside(&self) -> Arc<dyn Disk> {
        match &self.medium {
            Medium::Simulated(disk) => Arc::new(disk.beside()),
            Medium::Directory(_) => self.disk(),
        }
    }

    pub(super) fn options(&self) -> Options {
        let admitted = Arc::clone(&self.admitted);
        Options::new()
            .durability(self.setup.durability)
            .segment_bytes_first(self.setup.segment_bytes)
            .segment_bytes_max(16_384)
            .index_tail_bytes_max(self.setup.index_tail_bytes)
            .index_memory_bytes_max(64 * 1024)
            .read_mode(self.mode)
            .clock(self.clock.clone())
            .randomness(SeededRandomness::new(self.opens))
            .admission(move |commit| {
                let is_admitted = commit.events() as usize <= admitted.load(Ordering::Relaxed);
                if is_admitted { Ok(()) } else { Err(Error::Stopped) }
            })
            .without_background_work()
    }

    pub(super) fn durability(&self) -> Durability {
        self.setup.durability
    }

    /// The store, opened if it was not. `None` if something kept it from that.
    pub(super) fn opened(&mut self) -> Option<Store> {
        if self.store.is_none() {
            self.store = self.open();
            self.notice_power_loss();
        }
        if self.store.is_none() {
            self.failed_opens += 1;
            // A fault that lasts ends with the process that meets it.
            if self.failed_opens.is_multiple_of(2) {
                self.end(End::Kill);
            }
        }
        self.store.clone()
    }

    /// Opens the store, and checks that it is what it has to be.
    fn open(&mut self) -> Option<Store> {
        self.opens += 1;
        let opened = Store::open_on(self.disk(), self.options(), !self.must_exist);
        if let Err(Error::NotFound { .. }) = opened {
            assert!(self.must_exist && !self.is_made, "a store that was made is not found");
            self.must_exist = false;
            return None;
        }
        let store = self.excused(opened, "open")?;
        assert!(self.opens > 1 || !self.must_exist, "a store was opened that nobody has made");
        self.is_made = true;
        let recovered = self.recover(&store);
        self.excused(recovered, "look at what was recovered")?;
        self.counts.opens += 1;
        self.heads = (self.model.head(), self.model.head());
        (self.watch, self.synced_watch) = (Some(store.watch()), Some(store.watch_synced()));
        self.synced_words = 0;
        for commit in std::mem::take(&mut self.doubtful) {
            self.counts.sent_again += 1;
            self.send(&store, commit);
        }
        let looked = self.look(&store);
        self.excused(looked, "look at the heads");
        Some(store)
    }

    fn recover(&mut self, store: &Store) -> Result<()> {
        let events = check::everything(store)?;
        let before = self.model.possible().len();
        check::assert_same_events(&events, self.model.possible());
        self.model.recover(events.len() as u64);
        self.counts.lost_events += (before - events.len()) as u64;
        self.counts.cut_tails += u64::from(store.open_report().cut_bytes > 0);
        check::every_query(store, &self.model)?;
        check::places(store, &self.model, &self.remembered)?;
        self.settle_state(store)?;
        self.check_snapshots(store)
    }

    /// What makes all events durable that are visible, if it succeeds; whether it did.
    pub(super) fn note_durable(&mut self, result: Result<()>, operation: &str) -> bool {
        let is_done = self.excused(result, operation).is_some();
        if is_done {
            self.model.synced = self.model.head();
        }
        is_done
    }

    /// What makes the state durable as well.
    pub(super) fn note_all_durable(&mut self, result: Result<()>, operation: &str) {
        if self.note_durable(result, operation) {
            self.journal.sync();
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.store.is_some()
    }

    /// The head up to which somebody reads.
    pub(super) fn horizon(&self, horizon: Horizon) -> u64 {
        match horizon {
            Horizon::Visible => self.model.head(),
            Horizon::Synced => self.model.synced,
        }
    }

    /// Whether the signal was raised since the last time.
    pub(super) fn is_woken(&self) -> bool {
        self.watch.as_ref().is_none_or(|watch| watch.signal().take())
    }
}
