//! Projections on a simulated disk: whatever crash interrupts them, a model that is loaded is what the events up to its
//! checkpoint make of it, each of them once.
//!
//! The work is driven without its runner, so that a seed gives the same history every time.
//!
//! ```text
//! ANNALS_PROJECTION_HISTORIES=100000 cargo test --release --all-features --lib projection::crashes
//! ANNALS_PROJECTION_SEED=4711 cargo test --all-features --lib projection::crashes
//! ```

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, RwLock};
use serde_json::json;

use super::StartReport;
use super::work::{Core, Embedded, Serving};
use crate::error::{Error, ExpectedVersion, Result};
use crate::randomness::SeededRandomness;
use crate::seeds::Suite;
use crate::storage::{Call, Dice, Fault, FileSystem, SimulatedDisk};
use crate::types::{Durability, Position};
use crate::{Checkpoint, Commit, ManualClock, NewEvent, Options, Query, Store, Table, Timestamp, Work};

const SUITE: Suite = Suite { prefix: "ANNALS_PROJECTION", filter: "projection::crashes", histories: 100 };
const NAME: &str = "newest";
const KEYS: u64 = 6;

/// The newest value of each key, and how often it was set.
type Newest = Table<String, (String, u64)>;

/// What has happened in histories.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    crashes: u64,
    saves: u64,
    /// Models that were found again with a checkpoint.
    resumed: u64,
    /// Models of a history that was lost with the power.
    outlived: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.crashes += other.crashes;
        self.saves += other.saves;
        self.resumed += other.resumed;
        self.outlived += other.outlived;
    }
}

struct History {
    context: String,
    dice: Dice,
    disk: SimulatedDisk,
    clock: ManualClock,
    lives: u64,
    is_troubled: bool,
    /// Counts the values, so that each is another.
    values: u64,
    /// How far the model is that was saved last, if it outlives what has happened since.
    saved: Option<Position>,
    counts: Counts,
}

fn set(rows: &mut Newest, key: &str, value: &[u8]) {
    let times = rows.get(&key.to_owned()).map_or(0, |(_, times)| *times);
    rows.insert(key.to_owned(), (String::from_utf8_lossy(value).into_owned(), times + 1));
}

fn work_on(store: &Store) -> Embedded<Newest> {
    Embedded(Arc::new(Core {
        store: store.clone(),
        name: NAME.to_owned(),
        query: Query::all(),
        version: 1,
        stops: true,
        initial: Newest::new(),
        apply: Box::new(|rows, event| {
            set(rows, event.stream(), event.payload());
            Ok(())
        }),
        serving: RwLock::new(Serving::new(Newest::new(), None)),
        mending: Mutex::default(),
        mended: Condvar::new(),
        ledger: Mutex::new(None),
        rebuilding: Mutex::new(()),
        report: Mutex::new(StartReport::default()),
    }))
}

fn rows_of(rows: &Newest) -> BTreeMap<String, (String, u64)> {
    rows.iter().map(|(key, row)| (key.clone(), row.clone())).collect()
}

impl History {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let file_system = dice.pick(&[FileSystem::Strict, FileSystem::Ext4]);
        let disk = SimulatedDisk::new(file_system, dice.below(u64::MAX));
        disk.write_back_in(dice.pick(&[4, 16, 64]));
        Self {
            context: format!("seed {seed}, {file_system:?}"),
            disk,
            clock: ManualClock::new(Timestamp::from_millis(1_000_000)),
            lives: 0,
            is_troubled: false,
            values: 0,
            saved: None,
            counts: Counts::default(),
            dice,
        }
    }

    fn run(mut self) -> Counts {
        for _ in 0..4 + self.dice.below(4) {
            self.live();
        }
        self.is_troubled = false;
        let store = self.open().expect("an open without trouble");
        self.follow(&store).expect("a life without trouble");
        self.counts
    }

    fn open(&mut self) -> Result<Store> {
        self.lives += 1;
        let options = Options::new()
            .segment_bytes_first(8192)
            .segment_bytes_max(8192)
            .clock(self.clock.clone())
            .randomness(SeededRandomness::new(self.lives))
            .without_background_work();
        Store::open_on(Arc::new(self.disk.clone()), options, true)
    }

    /// From one crash to the next. The first error ends the life: a handler would be started again.
    fn live(&mut self) {
        self.plan_trouble();
        let opened = self.open();
        let lived = match &opened {
            Ok(store) => self.follow(store),
            Err(error) => Err(error.clone()),
        };
        match lived {
            Ok(()) => {}
            Err(Error::Io { .. } | Error::Full { .. } | Error::Indeterminate { .. } | Error::Poisoned { .. })
                if self.is_troubled => {}
            Err(error) => panic!("{}, life {}: {error:?}", self.context, self.lives),
        }
        self.disk.stop();
        drop(opened);
        self.counts.crashes += 1;
        if self.dice.one_in(4) {
            self.disk.kill();
        } else {
            self.disk.cut_power();
            self.saved = None;
        }
    }

    fn plan_trouble(&mut self) {
        self.is_troubled = true;
        match self.dice.below(4) {
            0 | 1 => self.disk.lose_power_after(self.dice.below(90)),
            2 => {
                let call = self.dice.pick(&[Call::Write, Call::Sync, Call::Allocate, Call::Rename]);
                let after = self.dice.below(40);
                self.disk.inject(Fault { after, ..Fault::next(call) });
            }
            _ => self.is_troubled = false,
        }
    }

    /// Loads the model, appends, applies what was appended, and saves now and then.
    fn follow(&mut self, store: &Store) -> Result<()> {
        let mut work = work_on(store);
        let mut applied = self.load(store, &mut work)?;
        for _ in 0..=self.dice.below(8) {
            self.append(store)?;
            let mut read = store.read(Query::all()).after(applied);
            while let Some(event) = read.next()? {
                applied = Some(event.position());
                work.handle(&event).expect("a key is set");
                if self.dice.one_in(4) {
                    self.save(store, &mut work, applied)?;
                }
            }
            if self.dice.one_in(8) {
                work.roll_back()?;
                applied = work.0.serving.read().applied;
                self.check(store, &work, applied)?;
            }
        }
        self.save(store, &mut work, applied)
    }

    fn append(&mut self, store: &Store) -> Result<()> {
        let durability = if self.dice.one_in(3) { Durability::Synced } else { Durability::Os };
        let mut commit = Commit::new().durability(durability);
        for _ in 0..=self.dice.below(3) {
            self.values += 1;
            let key = format!("key-{}", self.dice.below(KEYS));
            commit = commit.append(key, ExpectedVersion::Any, [NewEvent::raw("Set", self.values.to_string())]);
        }
        store.send(commit).map(drop).map_err(Error::from)
    }

    fn save(&mut self, store: &Store, work: &mut Embedded<Newest>, applied: Option<Position>) -> Result<()> {
        let Some(applied) = applied else { return Ok(()) };
        let point = serde_json::to_vec(&json!({ "handler": store.history_point(applied)? })).unwrap();
        work.save(&Checkpoint::from_bytes(NAME, &point)?)?;
        self.counts.saves += 1;
        self.saved = Some(applied);
        Ok(())
    }

    /// What a runner does before the first event.
    fn load(&mut self, store: &Store, work: &mut Embedded<Newest>) -> Result<Option<Position>> {
        let checkpoint = work.load(store)?;
        let mut position = checkpoint.as_ref().and_then(Checkpoint::position);
        let point = checkpoint.as_ref().and_then(Checkpoint::point);
        match point.map_or(Ok(()), |point| store.check_history(point)) {
            Ok(()) => self.counts.resumed += u64::from(position.is_some()),
            Err(Error::HistoryChanged { .. }) => {
                assert!(work.start_over()?);
                self.counts.outlived += 1;
                position = None;
            }
            Err(error) => return Err(error),
        }
        let Self { context, lives, saved, .. } = &*self;
        assert!(
            position >= *saved,
            "{context}, life {lives}: the model at {position:?}, and one at {saved:?} was saved"
        );
        self.check(store, work, position)?;
        Ok(position)
    }

    /// The model is what the events up to a position make of it.
    fn check(&self, store: &Store, work: &Embedded<Newest>, upto: Option<Position>) -> Result<()> {
        let mut expected = Newest::new();
        let mut read = store.read(Query::all());
        while let Some(event) = read.next()?
            && Some(event.position()) <= upto
        {
            set(&mut expected, event.stream(), event.payload());
        }
        let found = rows_of(&work.0.serving.read().model);
        assert_eq!(found, rows_of(&expected), "{}, life {}: the model at {upto:?}", self.context, self.lives);
        Ok(())
    }
}

#[test]
fn a_model_is_what_its_checkpoint_says_after_every_crash() {
    let (histories, counts) = SUITE.run(|seed| History::new(seed).run());
    println!("{histories} histories: {counts:?}");
    let Counts { crashes, saves, resumed, outlived } = counts;
    if SUITE.is_large() {
        let is_enough = crashes > histories && saves > histories && resumed > histories / 4 && outlived > 0;
        assert!(is_enough, "too little happened: {counts:?}");
    }
}
