//! Crashes of a store on the real disk: what it asked of the operating system is recorded with the true bytes, and for
//! each call of the record the directory is made that a loss of power, or a kill, would leave there. The real disk opens
//! it, through real memory maps.
//!
//! ```text
//! ANNALS_IMAGES_PER_CALL=50 cargo test --release --lib store::crashes::recorded
//! ```

use std::path::Path;
use std::sync::Arc;

use super::model::Model;
use crate::clock::ManualClock;
use crate::error::{Error, ExpectedVersion, Result};
use crate::randomness::SeededRandomness;
use crate::storage::{Dice, FileSystem, RealDisk, RecordingDisk, copy_files, scratch};
use crate::types::{Durability, Timestamp};
use crate::{NewEvent, NewSnapshot, Options, SnapshotQuery, Store, verify};

/// What is left by a loss of power in the middle of a call is chosen in so many ways, if the environment does not say.
const IMAGES_PER_CALL: u64 = 1;
const LIVES: usize = 3;
const STEPS: u64 = 18;
const DIRS: [&str; 6] = ["", "log", "index", "state", "state/log", "state/index"];

fn options(life: u64) -> Options {
    Options::new()
        .segment_bytes_first(4096)
        .segment_bytes_max(8192)
        .index_tail_bytes_max(3000)
        .clock(ManualClock::new(Timestamp::from_millis(1_000_000)))
        .randomness(SeededRandomness::new(life))
        .without_background_work()
}

/// How far things were when so many calls had been made.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    calls: usize,
    /// Commits that were sent, that were acknowledged, and that were acknowledged as synced.
    sent: usize,
    visible: usize,
    synced: usize,
    /// Values of the state that were sent, and that were acknowledged.
    values_sent: u64,
    values: u64,
}

/// The lives of a store on a real disk, in which nothing fails.
struct Recorded {
    seed: u64,
    record: RecordingDisk,
    dice: Dice,
    model: Model,
    now: Mark,
    marks: Vec<Mark>,
}

impl Recorded {
    fn new(root: &Path, seed: u64) -> Self {
        let record = RecordingDisk::new(RealDisk::new(root));
        let model = Model::new(seed);
        let mut recorded = Self { seed, record, dice: Dice::new(seed), model, now: Mark::default(), marks: Vec::new() };
        recorded.mark();
        (0..LIVES).for_each(|life| recorded.live(life));
        recorded
    }

    fn mark(&mut self) {
        self.now.calls = self.record.calls();
        self.marks.push(self.now);
    }

    fn live(&mut self, life: usize) {
        let store = Store::open_on(Arc::new(self.record.clone()), options(life as u64), true).unwrap();
        // What an open has found, it has made durable.
        self.now.synced = self.now.visible;
        self.mark();
        for _ in 0..STEPS {
            match self.dice.below(8) {
                0 => self.make_durable(|| store.sync()),
                1 => self.make_durable(|| store.maintain()),
                2 => self.keep_state(&store),
                _ => self.send(&store),
            }
        }
        if life.is_multiple_of(2) {
            self.make_durable(|| store.clone().close());
        }
    }

    fn send(&mut self, store: &Store) {
        let durability = if self.dice.one_in(4) { Durability::Synced } else { Durability::Os };
        let entry = self.model.next(&mut self.dice);
        let commit = entry.commit(durability);
        self.model.push(entry);
        self.now.sent += 1;
        self.mark();
        store.send(commit).unwrap();
        self.now.visible = self.now.sent;
        self.now.synced = if durability == Durability::Synced { self.now.sent } else { self.now.synced };
        self.mark();
    }

    fn make_durable(&mut self, operation: impl FnOnce() -> Result<()>) {
        operation().unwrap();
        self.now.synced = self.now.visible;
        self.mark();
    }

    /// A value and a snapshot that say the same: how many values there were.
    fn keep_state(&mut self, store: &Store) {
        self.now.values_sent += 1;
        self.mark();
        let value = self.now.values_sent;
        store.state().unwrap().put("key", value.to_le_bytes()).unwrap();
        self.now.values = value;
        self.mark();
        if let Some(version) = store.version("account-1").unwrap() {
            store.save_snapshot(&NewSnapshot::raw("account-1", version, version.to_string())).unwrap();
        }
        self.mark();
    }

    /// How far things were at least, and at most, in the middle of the call behind so many others.
    fn bounds(&self, calls: usize) -> (Mark, Mark) {
        let behind = self.marks.partition_point(|mark| mark.calls <= calls);
        (self.marks[behind - 1], self.marks[behind.min(self.marks.len() - 1)])
    }

    /// The model as it was when so many commits were sent.
    fn model_of(&self, sent: usize) -> Model {
        let mut model = Model::new(self.seed);
        for _ in 0..sent {
            // What a commit expects is chosen by chance, what it holds is not.
            let entry = model.next(&mut Dice::new(0));
            model.push(entry);
        }
        model
    }

    fn check_power_cut(&self, calls: usize, seed: u64, root: &Path) -> usize {
        let file_system = if seed.is_multiple_of(3) { FileSystem::Ext4 } else { FileSystem::Strict };
        let image = self.record.image_at(calls, file_system, seed);
        copy_files(&image, &RealDisk::new(root), &DIRS).unwrap();
        let context = format!("power lost in call {calls}, seed {seed}, {file_system:?}");
        let (least, _) = self.bounds(calls);
        self.check(root, calls, least.synced, &context)
    }

    fn check_kill(&self, calls: usize, root: &Path) -> usize {
        self.record.copy_at(calls, &RealDisk::new(root));
        let (least, _) = self.bounds(calls);
        self.check(root, calls, least.visible, &format!("killed behind call {calls}"))
    }

    /// Opens what a crash has left, in both ways; returns how many commits were found.
    fn check(&self, root: &Path, calls: usize, least_commits: usize, context: &str) -> usize {
        let (least, most) = self.bounds(calls);
        let shown = match Store::open_read_only_on(Arc::new(RealDisk::new(root)), options(0)) {
            Ok(reader) => self.model.check_log(&reader, 0, context).unwrap(),
            Err(Error::NotFound { .. }) if least.synced == 0 => 0,
            Err(error) => panic!("{context}, read-only: {error}"),
        };
        let store = self.open(root, context);
        let mut model = self.model_of(most.sent);
        let found = model.check_log(&store, least_commits.max(shown), context).unwrap();
        let mut dice = Dice::new(calls as u64);
        model.keep(found);
        model.check_queries(&store, &mut dice, context).unwrap();
        Self::check_state(&store, least.values, most.values_sent, context);
        let entry = model.next(&mut dice);
        store.send(entry.commit(Durability::Synced)).unwrap();
        model.push(entry);
        store.close().unwrap();
        let report = verify(root, &mut |_| {}).unwrap();
        assert!(report.problems.is_empty(), "{context}: {:?}", report.problems);
        let store = self.open(root, context);
        assert_eq!(store.open_report().cut_bytes, 0, "{context}: cut behind a close");
        assert_eq!(model.check_log(&store, found + 1, context).unwrap(), found + 1, "{context}");
        found
    }

    fn open(&self, root: &Path, context: &str) -> Store {
        let opened = Store::open_on(Arc::new(RealDisk::new(root)), options(100 + self.seed), true);
        opened.unwrap_or_else(|error| panic!("{context}: {error}"))
    }

    fn check_state(store: &Store, least: u64, most: u64, context: &str) {
        let value = store.state().unwrap().get("key").unwrap();
        let value = value.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
        assert!((least..=most).contains(&value), "{context}: state {value}, not {least} to {most}");
        let saved = store.load_snapshot("account-1", SnapshotQuery::new()).unwrap().snapshot;
        assert!(saved.is_none_or(|saved| saved.state == saved.version.to_string().into_bytes()), "{context}");
    }
}

fn images_per_call() -> u64 {
    let images = std::env::var("ANNALS_IMAGES_PER_CALL");
    images.map_or(IMAGES_PER_CALL, |text| text.parse().expect("ANNALS_IMAGES_PER_CALL is a number"))
}

#[test]
fn power_lost_in_any_call_to_the_real_disk_costs_nothing_that_was_synced() {
    let scratch = scratch();
    let images = images_per_call();
    let recorded = Recorded::new(&scratch.path().join("recorded"), 7);
    let mut found = Vec::new();
    for calls in 0..=recorded.record.calls() {
        for image in 0..images {
            let root = scratch.path().join(format!("{calls}-{image}"));
            found.push(recorded.check_power_cut(calls, calls as u64 * images + image, &root));
        }
        clear(scratch.path(), calls, images);
    }
    let (lost, all) = (found.iter().filter(|found| **found < recorded.model.entries.len()).count(), found.len());
    println!("{} calls, {all} images, of which {lost} lost commits", recorded.record.calls());
    assert!(recorded.record.calls() > 100 && *found.iter().max().unwrap() == recorded.model.entries.len());
}

#[test]
fn a_kill_behind_any_call_to_the_real_disk_costs_nothing_that_was_acknowledged() {
    let scratch = scratch();
    let recorded = Recorded::new(&scratch.path().join("recorded"), 8);
    // What a kill leaves differs little from one call to the next.
    let images = images_per_call();
    for calls in (0..=recorded.record.calls()).step_by(if images == IMAGES_PER_CALL { 3 } else { 1 }) {
        recorded.check_kill(calls, &scratch.path().join(format!("{calls}-0")));
        clear(scratch.path(), calls, 1);
    }
    assert!(recorded.record.calls() > 100);
}

/// Removes the stores that were made for a call.
fn clear(scratch: &Path, calls: usize, images: u64) {
    let scratch = RealDisk::new(scratch);
    (0..images).for_each(|image| scratch.remove_all(&format!("{calls}-{image}")).unwrap());
}

/// A reader in another handle of the same record is no writer: nothing that it does is recorded.
#[test]
fn a_record_holds_what_changes_the_disk_and_nothing_else() {
    let scratch = scratch();
    let record = RecordingDisk::new(RealDisk::new(scratch.path()));
    let store = Store::open_on(Arc::new(record.clone()), options(0), true).unwrap();
    let event = NewEvent::raw("Counted", "1");
    store.append("counter-1", ExpectedVersion::NoStream, [event]).unwrap();
    let calls = record.calls();
    let reader = Store::open_read_only_on(Arc::new(record.clone()), options(0)).unwrap();
    assert_eq!(reader.read(crate::Query::all()).count().unwrap(), 1);
    assert_eq!(record.calls(), calls);
    store.close().unwrap();
    assert!(record.calls() > calls);
}
