//! Stores whose time stands still and whose ids repeat.

use std::ops::Deref;

use crate::clock::ManualClock;
use crate::error::Result;
use crate::randomness::SeededRandomness;
use crate::types::Timestamp;
use crate::{FaultyDisk, Options, Store};

/// The time at which the clock of a test begins: 2026-01-01 00:00 UTC.
pub const START: Timestamp = Timestamp::from_millis(1_767_225_600_000);

/// The seed of the ids.
const SEED: u64 = 1;

/// A store in memory for one test: its clock moves when the test moves it, its ids are the same in each run, and nothing
/// happens in the background.
///
/// ```
/// use std::time::Duration;
/// use annals::{ExpectedVersion, NewEvent, Query, testing};
///
/// let store = testing::store();
/// store.append("account-alice", ExpectedVersion::NoStream, [NewEvent::raw("Opened", "")])?;
/// store.clock.advance(Duration::from_secs(60));
/// store.append("account-alice", ExpectedVersion::StreamExists, [NewEvent::raw("Closed", "")])?;
/// let events: Vec<_> = store.read(Query::all()).owned().collect::<Result<_, _>>()?;
/// assert_eq!(events[0].time, testing::START);
/// assert_eq!(events[1].time.nanos() - events[0].time.nanos(), 60_000_000_000);
/// # Ok::<(), annals::Error>(())
/// ```
///
/// # Panics
/// Not in practice: a store in memory can always be opened.
pub fn store() -> TestStore {
    let clock = clock();
    let store = options(&clock).in_memory().expect("a store in memory can be opened");
    TestStore { store, clock }
}

/// A clock that stands at [`START`].
pub fn clock() -> ManualClock {
    ManualClock::new(START)
}

/// Options of a store with this clock, whose ids are the same in each run, and that does nothing in the background.
pub fn options(clock: &ManualClock) -> Options {
    Options::new().clock(clock.clone()).randomness(SeededRandomness::new(SEED)).without_background_work()
}

/// A store and the clock that it lives by. Used like the store itself.
#[derive(Debug, Clone)]
pub struct TestStore {
    /// The store.
    pub store: Store,
    /// Its clock.
    pub clock: ManualClock,
}

impl TestStore {
    /// Opens the store on a disk that may fail, with a clock that goes on where the test left it.
    ///
    /// # Errors
    /// Those of [`FaultyDisk::open`].
    pub fn on(disk: &FaultyDisk, clock: &ManualClock) -> Result<Self> {
        Ok(Self { store: disk.open(options(clock))?, clock: clock.clone() })
    }
}

impl Deref for TestStore {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}
