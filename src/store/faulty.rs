//! A disk in memory that fails on purpose, for the tests of applications. Only with the feature `testing`.
//!
//! Faults are faults of the disk wherever the disk can have them, met by the same code as those of a real one: a failed
//! write or sync poisons the store, a loss of power leaves what was synced. Only a conflict is told without one, since it
//! is no fault of the disk.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Store;
use super::admission::{Admission, Rule};
use super::options::Options;
use crate::error::{Conflict, Error, ExpectationFailure, ExpectedVersion, Result};
use crate::log::LOG_DIR;
use crate::storage::{self, Call, Disk, Fault, MemoryDisk};
use crate::types::StreamVersion;

/// How a segment is called that is part of the log, and not made in advance.
const SEGMENT: &str = ".segment";

/// A disk in memory on which a store can be opened again and again, and that fails when a test says so.
///
/// Appends are counted from the call that plans the fault, and only those that nothing else keeps from being written.
/// Plan faults while no other thread appends.
///
/// ```
/// use annals::testing::FaultyDisk;
/// use annals::{Error, ExpectedVersion, NewEvent, Options, Query};
///
/// let disk = FaultyDisk::new();
/// let store = disk.open(Options::new())?;
/// disk.fail_append(2);
/// let opened = || NewEvent::raw("Opened", "");
/// store.append("account-alice", ExpectedVersion::NoStream, [opened()])?;
/// let failed = store.append("account-bob", ExpectedVersion::NoStream, [opened()]).unwrap_err();
/// assert!(matches!(failed.error(), Error::Indeterminate { .. }));
///
/// // As after every failed write: open the store again, and send the same commit.
/// drop(store);
/// let store = disk.open(Options::new())?;
/// store.send(failed.into_commit())?;
/// assert_eq!(store.read(Query::all()).count()?, 2);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct FaultyDisk {
    memory: MemoryDisk,
    disk: storage::FaultyDisk,
    plans: Arc<Mutex<Plans>>,
}

/// What is to go wrong with appends.
#[derive(Debug, Default)]
struct Plans {
    appends: Vec<Plan>,
    is_full: bool,
}

#[derive(Debug)]
struct Plan {
    /// So many appends go well before.
    after: u64,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    FailedWrite,
    Conflict,
}

impl FaultyDisk {
    /// An empty disk that works.
    pub fn new() -> Self {
        Self::on(MemoryDisk::new())
    }

    fn on(memory: MemoryDisk) -> Self {
        Self { disk: storage::FaultyDisk::on_memory(memory.clone()), memory, plans: Arc::default() }
    }

    /// Opens the store on this disk, creating it if there is none. One that was dropped or closed can be opened again.
    ///
    /// # Errors
    /// Those of [`Options::open`].
    pub fn open(&self, options: Options) -> Result<Store> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        Store::open_on(disk, self.planned(options), true)
    }

    /// Opens the store on this disk for reading only.
    ///
    /// # Errors
    /// Those of [`Options::open_read_only`].
    pub fn open_read_only(&self, options: Options) -> Result<Store> {
        Store::open_read_only_on(Arc::new(self.disk.clone()), options)
    }

    /// The options with the plans of the disk before their own admission.
    fn planned(&self, mut options: Options) -> Options {
        let (this, own) = (self.clone(), options.admission.take());
        options.admission = Some(Rule::new(move |commit| {
            this.meet(commit)?;
            own.as_ref().map_or(Ok(()), |own| own.ask(commit))
        }));
        options
    }

    /// The write of the n-th append from now fails; 1 is the next. The append is indeterminate, and the store is poisoned
    /// until it is opened again.
    pub fn fail_append(&self, number: u64) {
        self.plan(number, Kind::FailedWrite);
    }

    /// The n-th append from now is told a conflict, as if another writer had been faster; 1 is the next. Nothing was
    /// written. For a real one, append through another handle inside the function that decides.
    pub fn conflict_append(&self, number: u64) {
        self.plan(number, Kind::Conflict);
    }

    /// The n-th sync of the log from now fails; 1 is the next. What it was for is indeterminate, and the store is poisoned
    /// until it is opened again.
    pub fn fail_sync(&self, number: u64) {
        self.disk.inject(Fault {
            after: number.saturating_sub(1),
            ..Fault::next(Call::Sync).in_dir(LOG_DIR).ending(SEGMENT)
        });
    }

    /// Takes all space: every append is refused with [`Error::Full`], also what would fit into space that was allocated
    /// ahead, and nothing that needs more space can be written.
    pub fn fill(&self) {
        self.memory.set_budget(self.memory.used());
        self.plans.lock().is_full = true;
    }

    /// Ends what [`FaultyDisk::fill`] began.
    pub fn free(&self) {
        self.memory.set_budget(u64::MAX);
        self.plans.lock().is_full = false;
    }

    /// From now on every sync of a log waits: a disk that is slow, for as long as the test wants it.
    pub fn hold_syncs(&self) {
        self.disk.hold(Call::Sync, ".segment");
    }

    /// Blocks until a sync waits.
    pub fn wait_until_held(&self) {
        self.disk.wait_held();
    }

    /// Lets the syncs go on that wait, and all later ones.
    pub fn release_syncs(&self) {
        self.disk.release();
    }

    /// Takes back every fault that has not happened yet.
    pub fn heal(&self) {
        self.disk.heal();
        self.plans.lock().appends.clear();
        self.free();
    }

    /// How many syncs there were on the disk.
    pub fn syncs(&self) -> u64 {
        self.disk.calls(Call::Sync)
    }

    /// What a loss of power would leave now: everything that was synced, and of the rest what the seed chooses, torn
    /// sectors included. This disk goes on; the result is a disk of its own.
    #[must_use]
    pub fn lose_power(&self, seed: u64) -> FaultyDisk {
        Self::on(self.disk.power_cut(seed))
    }

    fn plan(&self, number: u64, kind: Kind) {
        self.plans.lock().appends.push(Plan { after: number.saturating_sub(1), kind });
    }

    /// Lets happen what was planned for this append.
    fn meet(&self, commit: &Admission<'_>) -> Result<()> {
        let mut plans = self.plans.lock();
        if plans.is_full {
            let source = Arc::new(io::ErrorKind::StorageFull.into());
            return Err(Error::Full { path: self.disk.locate(LOG_DIR), source });
        }
        let mut due = Vec::new();
        plans.appends.retain_mut(|plan| {
            let is_due = plan.after == 0;
            if is_due {
                due.push(plan.kind);
            }
            plan.after = plan.after.saturating_sub(1);
            !is_due
        });
        if due.contains(&Kind::Conflict) {
            return Err(conflict(commit).into());
        }
        if due.contains(&Kind::FailedWrite) {
            self.disk.inject(Fault::next(Call::Write).in_dir(LOG_DIR).ending(SEGMENT));
        }
        Ok(())
    }
}

impl Default for FaultyDisk {
    fn default() -> Self {
        Self::new()
    }
}

/// The conflict that another writer would have caused with one event on the first stream of the commit.
fn conflict(commit: &Admission<'_>) -> Conflict {
    let (stream, expected) = commit.streams().next().expect("a commit has events");
    let before = match expected {
        ExpectedVersion::Exact(version) => version.number(),
        _ => 0,
    };
    let actual = StreamVersion::new(before + 1);
    Conflict {
        failures: vec![ExpectationFailure::Stream { stream: stream.to_owned(), expected, actual, position: None }],
    }
}
