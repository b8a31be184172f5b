//! State beside the log: values by key, for what the application or the engine has to remember and is no event.
//!
//! It is a second store of the same engine in a directory of the first: a key is a stream, a value an event of type
//! `put`, its absence an event `delete`, and the newest event of the stream counts (FORMAT, section 9). So it is
//! atomic, checksummed and recovered like any log. It is opened when it is first needed, has no thread of its own, and
//! never keeps the store that it belongs to from working.
//!
//! Lock order: the compaction, then the slot. The slot is held shared while the state is used and exclusively while
//! old segments go away, so that nobody is led to a place that is gone. A process that was forked has a slot of its own.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{RwLock, RwLockReadGuard};

use super::commit::Commit;
use super::compaction::{Compaction, Step};
use super::event::{Event, NewEvent};
use super::maintenance::Round;
use super::options::Options;
use super::query::{Query, name_problem};
use super::{Inner, Store};
use crate::clock::Signal;
use crate::error::{Conflict, Error, ExpectationFailure, ExpectedVersion, Invalid, Result, Violation};
use crate::index::{Direction, KeyKind};
use crate::limits::{CONDITIONS_PER_COMMIT_MAX, STATE_KEY_BYTES_MAX, STREAM_NAME_BYTES_MAX};
use crate::log::Growth;
use crate::randomness::event_id;
use crate::storage::{Access, Disk, Owner, SubDisk};
use crate::sync::Mutex;
use crate::types::{Durability, EventId, Position, category_of};

/// The directory of the state store in that of the store.
pub(super) const STATE_DIR: &str = "state";
/// The type of an event that sets a value.
pub(super) const PUT: &str = "put";
/// The type of an event that removes one.
pub(super) const DELETE: &str = "delete";

const SEGMENT_BYTES_FIRST: u64 = 64 * 1024;
const SEGMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The state's index has few keys of much change: it need not hold much in memory.
const INDEX_BYTES_MAX: usize = 4 * 1024 * 1024;
const INDEX_TAIL_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Values by key, beside the log: checkpoints, leases, settings, what is no event of the application.
///
/// Cheap to clone; like a clone of the store, it keeps the store open. Writes are atomic, checksummed and as durable as the store's options say; the events of the store do
/// not change by them, nor do its positions. What is overwritten or deleted gives its space back in the background.
///
/// ```
/// use annals::Store;
///
/// let store = Store::in_memory()?;
/// let state = store.state()?;
/// state.put("mailer-checkpoint", "42")?;
/// assert_eq!(state.get("mailer-checkpoint")?.as_deref(), Some(&b"42"[..]));
/// state.delete("mailer-checkpoint")?;
/// assert_eq!(state.get("mailer-checkpoint")?, None);
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct State {
    store: Store,
}

/// A value with its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateValue {
    /// The value.
    pub bytes: Vec<u8>,
    /// Its version, which a [`StateBatch`] can expect.
    pub version: StateVersion,
}

/// Tells one value of a key from every other that it ever had or will have: each write makes a new one, even of the
/// same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StateVersion(EventId);

/// Changes of several keys that are made together or not at all, and what they expect.
///
/// ```
/// use annals::{StateBatch, Store};
///
/// let store = Store::in_memory()?;
/// let state = store.state()?;
/// let claim = StateBatch::new().expect("lease", None).put("lease", "worker-1");
/// let version = state.write(claim.clone())?.version_of("lease");
/// assert!(state.write(claim).is_err(), "it is held");
///
/// let renewal = StateBatch::new().expect("lease", version).put("lease", "worker-1, renewed");
/// state.write(renewal)?;
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "a batch that is not written changes nothing"]
pub struct StateBatch {
    /// New values, and `None` for keys that are to be without one.
    changes: Vec<(String, Option<Vec<u8>>)>,
    expected: Vec<(String, Option<StateVersion>)>,
    durability: Option<Durability>,
}

/// What a batch wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateWritten {
    versions: HashMap<String, StateVersion>,
}

impl Store {
    /// The state of the store: values by key, beside the log.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Incompatible`] or [`Error::Io`] if what is on disk of it cannot be opened, which
    /// leaves the store itself as it is; [`Error::Closed`] if the store is closed.
    pub fn state(&self) -> Result<State> {
        self.handle.inner.state.open(false)?;
        Ok(State { store: self.clone() })
    }
}

impl State {
    /// The value of a key; `None` if it has none. On a store that is open for reading, the newest that is known to be
    /// synced. In a process that was forked, the one that it had at the fork, or a newer one that is known to be synced.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the key is empty or too long; [`Error::Corrupt`] or [`Error::Io`] if it cannot be read.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.versioned(key)?.map(|value| value.bytes))
    }

    /// The value of a key and its version; `None` if it has none.
    ///
    /// # Errors
    /// Those of [`State::get`].
    pub fn versioned(&self, key: &str) -> Result<Option<StateValue>> {
        check_keys([key].into_iter())?;
        self.slot().look(|state| {
            let value = |event: &Event<'_>| (event.event_type == PUT).then(|| StateValue::of(event));
            Ok(state.newest_of(key, value)?.and_then(|(_, value)| value))
        })
    }

    /// Sets the value of a key, whatever it was, and returns its version.
    ///
    /// # Errors
    /// Those of [`State::write`], but for conflicts.
    pub fn put(&self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Result<StateVersion> {
        let key = key.into();
        let written = self.write(StateBatch::new().put(key.as_str(), value))?;
        Ok(written.versions[&key])
    }

    /// Removes the value of a key, if it has one. Where it has none, that is as durable afterwards as a deletion would be.
    ///
    /// # Errors
    /// Those of [`State::write`], but for conflicts.
    pub fn delete(&self, key: impl Into<String>) -> Result<()> {
        let key = key.into();
        match self.versioned(&key)? {
            Some(_) => self.write(StateBatch::new().delete(key)).map(drop),
            None => self.slot().stand_by(),
        }
    }

    /// Makes the changes of a batch together, if everything it expects holds.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it has no change or breaks a limit; [`Error::Conflict`] with every key that is not as
    /// expected, and nothing was changed; [`Error::ReadOnly`] on a store that is open for reading, and [`Error::Locked`] in
    /// a process that was forked from the one that has it open for writing; those of [`Store::send`].
    pub fn write(&self, batch: StateBatch) -> Result<StateWritten> {
        batch.check()?;
        self.slot().change(|state| state.write_state(batch))
    }

    /// The keys that begin with `prefix` and have a value, ascending.
    ///
    /// Reads everything that was not compacted yet; with a prefix that contains a `-`, only what shares the category
    /// that it begins with.
    ///
    /// # Errors
    /// [`Error::Corrupt`] or [`Error::Io`] if the state cannot be read.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        self.slot().look(|state| state.keys(prefix))
    }

    /// Makes everything durable that was acknowledged so far.
    ///
    /// # Errors
    /// Those of [`Store::sync`].
    pub fn sync(&self) -> Result<()> {
        self.slot().change(|state| state.appender()?.sync())
    }

    /// Makes durable what can be looked up, before something is built on it. What a store that is open for reading shows is.
    pub(crate) fn sync_shown(&self) -> Result<()> {
        match self.sync() {
            Err(Error::ReadOnly) => Ok(()),
            synced => synced,
        }
    }

    fn slot(&self) -> &StateSlot {
        &self.store.handle.inner.state
    }
}

impl StateValue {
    fn of(event: &Event<'_>) -> Self {
        Self { bytes: event.payload.to_vec(), version: StateVersion::of(event) }
    }
}

impl StateVersion {
    pub(super) fn of(event: &Event<'_>) -> Self {
        Self(event.id())
    }
}

impl StateBatch {
    /// A batch without changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the value of a key.
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.changes.push((key.into(), Some(value.into())));
        self
    }

    /// Removes the value of a key.
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.changes.push((key.into(), None));
        self
    }

    /// Expects that a key has the value of this version before the batch; with `None`, that it has none.
    pub fn expect(mut self, key: impl Into<String>, version: impl Into<Option<StateVersion>>) -> Self {
        self.expected.push((key.into(), version.into()));
        self
    }

    /// Sets the durability of this batch, which is the store's otherwise.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    fn check(&self) -> Result<()> {
        let changed = self.changes.iter().map(|(key, _)| key.as_str());
        check_keys(changed.chain(self.expected.iter().map(|(key, _)| key.as_str())))?;
        let mut violations = Vec::new();
        if self.changes.is_empty() {
            violations.push(Violation::new(None, "changes", "a batch needs at least one put or delete"));
        }
        if self.expected.len() > CONDITIONS_PER_COMMIT_MAX {
            let problem = format!("{} given, at most {CONDITIONS_PER_COMMIT_MAX} are allowed", self.expected.len());
            violations.push(Violation::new(None, "expected", problem));
        }
        for (index, (key, version)) in self.expected.iter().enumerate() {
            if self.expected[..index].iter().any(|(other, expected)| other == key && expected != version) {
                let problem = format!("{key:?} is expected at two versions");
                violations.push(Violation::new(None, "expected", problem));
            }
        }
        if violations.is_empty() { Ok(()) } else { Err(Invalid { violations }.into()) }
    }
}

impl StateWritten {
    /// The version that a key has with it; `None` if the batch did not set it.
    pub fn version_of(&self, key: &str) -> Option<StateVersion> {
        self.versions.get(key).copied()
    }
}

fn check_keys<'k>(keys: impl Iterator<Item = &'k str>) -> Result<()> {
    let problems = keys.filter_map(|key| name_problem(key, STATE_KEY_BYTES_MAX));
    let violations: Vec<_> = problems.map(|problem| Violation::new(None, "key", problem)).collect();
    if violations.is_empty() { Ok(()) } else { Err(Invalid { violations }.into()) }
}

/// The state store of a store, and how it is opened.
#[derive(Debug)]
pub(super) struct StateSlot {
    disk: Arc<dyn Disk>,
    options: Options,
    /// That of the store's background thread, which does the state's work as well.
    signal: Arc<Signal>,
    writable: bool,
    /// The process that has the store open for writing.
    owner: Option<Owner>,
    slot: RwLock<Slot>,
    compaction: Mutex<Compaction>,
    /// What a process that was forked from that one reads through.
    inherited: OnceLock<Box<StateSlot>>,
}

#[derive(Debug)]
enum Slot {
    Unused,
    Open(Store),
    /// The store was closed before its state was used.
    Closed,
}

impl StateSlot {
    pub(super) fn new(
        disk: &Arc<dyn Disk>,
        options: &Options,
        signal: Arc<Signal>,
        writable: bool,
        owner: Option<Owner>,
    ) -> Self {
        let options = Options {
            segment_bytes_first: SEGMENT_BYTES_FIRST.min(options.segment_bytes_first),
            segment_bytes_max: SEGMENT_BYTES_MAX,
            growth: Growth::Sixteenths,
            index_memory_bytes_max: INDEX_BYTES_MAX.min(options.index_memory_bytes_max),
            index_tail_bytes_max: INDEX_TAIL_BYTES_MAX.min(options.index_tail_bytes_max),
            background: false,
            on_rebuild: None,
            admission: None,
            ..options.clone()
        };
        Self {
            disk: Arc::new(SubDisk::new(Arc::clone(disk), STATE_DIR)),
            options,
            signal,
            writable,
            owner,
            slot: RwLock::new(Slot::Unused),
            compaction: Mutex::new(Compaction::default()),
            inherited: OnceLock::new(),
        }
    }

    /// Whether this process was forked from the one that has the store open for writing.
    fn is_inherited(&self) -> bool {
        Owner::is_another(self.owner)
    }

    /// The slot that a process which was forked reads through. A thread of the other process may hold the lock of this one
    /// for ever, so it is only tried: what was open at the fork is read as it was, and anything else beside the writer.
    fn inherited(&self) -> &StateSlot {
        self.inherited.get_or_init(|| {
            let slot = match self.slot.try_read().as_deref() {
                Some(Slot::Open(store)) => Slot::Open(store.clone()),
                Some(Slot::Closed) => Slot::Closed,
                Some(Slot::Unused) | None => Slot::Unused,
            };
            Box::new(StateSlot {
                disk: Arc::clone(&self.disk),
                options: self.options.clone(),
                signal: Arc::new(Signal::new()),
                writable: false,
                owner: None,
                slot: RwLock::new(slot),
                compaction: Mutex::new(Compaction::default()),
                inherited: OnceLock::new(),
            })
        })
    }

    fn check_writable(&self) -> Result<()> {
        match self.writable {
            true if self.is_inherited() => Err(Error::Locked { path: self.disk.locate("") }),
            true => Ok(()),
            false => Err(Error::ReadOnly),
        }
    }

    /// Opens the state if it is not open; `false` if there is none and `create` is not set.
    fn open(&self, create: bool) -> Result<bool> {
        if self.is_inherited() {
            return self.inherited().open(false);
        }
        let mut slot = self.slot.write();
        match &*slot {
            Slot::Open(store) if self.writable || !is_outrun(&store.handle.inner) => return Ok(true),
            Slot::Closed => return Err(Error::Closed),
            Slot::Open(_) | Slot::Unused => {}
        }
        let (disk, options) = (Arc::clone(&self.disk), self.options.clone());
        let opened = if self.writable {
            Store::open_signalling(disk, options, create, Arc::clone(&self.signal))
        } else {
            Store::open_read_only_on(disk, options)
        };
        match opened {
            Ok(store) => *slot = Slot::Open(store),
            Err(Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        // The background thread learns that there is more to look after.
        self.signal.raise();
        Ok(true)
    }

    /// Looks something up; the default where there is no state yet.
    pub(super) fn look<T: Default>(&self, look: impl Fn(&Arc<Inner>) -> Result<T>) -> Result<T> {
        if self.is_inherited() {
            return self.inherited().look(look);
        }
        loop {
            if let Slot::Open(store) = &*self.slot.read() {
                let inner = &store.handle.inner;
                let found = inner.catch_up().and_then(|()| look(inner));
                if self.writable || !is_outrun(inner) {
                    return found;
                }
            }
            if !self.open(false)? {
                return Ok(T::default());
            }
        }
    }

    /// Changes something, on a state that is created if there is none.
    pub(super) fn change<T>(&self, change: impl FnOnce(&Arc<Inner>) -> Result<T>) -> Result<T> {
        self.check_writable()?;
        loop {
            let opened = RwLockReadGuard::try_map(self.slot.read(), |slot| match slot {
                Slot::Open(store) => Some(store),
                Slot::Unused | Slot::Closed => None,
            });
            match opened {
                Ok(store) => return change(&store.handle.inner),
                Err(unused) => drop(unused),
            }
            self.open(true)?;
        }
    }

    /// Makes what was looked up as good as if it had been written now: nothing is in doubt that a later open might find
    /// behind it, and it is as durable.
    fn stand_by(&self) -> Result<()> {
        self.check_writable()?;
        let Some(store) = self.opened() else { return Ok(()) };
        let appender = store.handle.inner.appender()?;
        drop(appender.turn()?);
        if self.options.durability == Durability::Synced { appender.sync() } else { Ok(()) }
    }

    pub(super) fn opened(&self) -> Option<Store> {
        match &*self.slot.read() {
            Slot::Open(store) => Some(store.clone()),
            Slot::Unused | Slot::Closed => None,
        }
    }

    /// Does the state's part of a round of background work; returns when the next is due at the latest.
    pub(super) fn background_round(&self, round: &mut Option<Box<Round>>) -> Option<Duration> {
        let store = self.opened()?;
        let state = &store.handle.inner;
        let next = state.background_round(round.get_or_insert_default());
        match self.compact_step(state) {
            Ok(true) => Some(state.clock.monotonic()),
            // After an error the next round that has more to compact tries again.
            Ok(false) | Err(_) => next,
        }
    }

    /// Everything that background work would do now and later, at once.
    pub(super) fn maintain(&self) -> Result<()> {
        let Some(store) = self.opened() else { return Ok(()) };
        let state = &store.handle.inner;
        let compacted = loop {
            match self.compact_step(state) {
                Ok(true) => {}
                last => break last.map(drop),
            }
        };
        let maintained = state.maintain();
        compacted.and(maintained)
    }

    /// Goes on with the compaction of the state; `false` if there is nothing to do.
    fn compact_step(&self, state: &Inner) -> Result<bool> {
        let mut compaction = self.compaction.lock();
        let stepped = compaction.step(state).and_then(|step| match step {
            Step::Idle => Ok(false),
            Step::More => Ok(true),
            Step::Trim { first_kept } => {
                let _nobody_looks = self.slot.write();
                state.trim_before(first_kept)?;
                compaction.put_off(state);
                Ok(true)
            }
        });
        stepped.inspect_err(|_| compaction.put_off(state))
    }

    /// Makes a merge that is under way return soon: the store is being closed.
    pub(super) fn stop_merging(&self) {
        if let Some(store) = self.opened() {
            store.handle.inner.index.stop_merging();
        }
    }

    /// Closes the state with its store.
    pub(super) fn close(&self) -> Result<()> {
        if self.is_inherited() {
            return self.inherited().close();
        }
        let mut slot = self.slot.write();
        match &*slot {
            Slot::Open(store) => store.handle.close(),
            Slot::Unused | Slot::Closed => {
                *slot = Slot::Closed;
                Ok(())
            }
        }
    }
}

/// Whether the writer has removed segments that this reader has not followed beyond.
fn is_outrun(state: &Inner) -> bool {
    let segments = state.log.segments();
    segments.iter().next().is_some_and(|first| {
        let opened = state.disk.open(&first.path, Access::Read);
        opened.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    })
}

/// On the store that holds the state.
impl Inner {
    /// Shows the newest event of a key, which may be a deletion, and says where it is.
    pub(super) fn newest_of<T>(&self, key: &str, show: impl FnOnce(&Event<'_>) -> T) -> Result<Option<(u64, T)>> {
        let head = self.visible_head_of(&self.seed.key(KeyKind::Stream, key))?;
        match head.version {
            0 => Ok(None),
            _ => Ok(Some((head.position, self.with_event(head.position, show)?))),
        }
    }

    /// Visits the newest events of a key, at most `count`, the newest first, as long as `visit` says so. One that cannot
    /// be read is an error that does not keep the others from being visited.
    pub(super) fn visit_newest(
        &self,
        key: &str,
        count: usize,
        visit: &mut dyn FnMut(Result<&Event<'_>>) -> bool,
    ) -> Result<()> {
        let stream = self.seed.key(KeyKind::Stream, key);
        let upto = self.log.visible();
        let mut candidates = self.index.view().stream_candidates(&stream, 1, upto, Direction::Backward);
        for _ in 0..count {
            let Some(found) = self.next_of_stream(&mut candidates)? else { return Ok(()) };
            let visited = self.with_event_at(found.position, found.place, |event| {
                // A candidate of another key with the same hash.
                event.stream != key || visit(Ok(event))
            });
            if !visited.unwrap_or_else(|error| visit(Err(error))) {
                return Ok(());
            }
        }
        Ok(())
    }

    pub(super) fn write_state(&self, batch: StateBatch) -> Result<StateWritten> {
        let now = self.clock.now();
        let mut versions = HashMap::new();
        let mut commit = Commit { durability: batch.durability, ..Commit::new() };
        for (key, value) in batch.changes {
            let id = event_id(&*self.randomness, now);
            let event = if let Some(value) = value {
                versions.insert(key.clone(), StateVersion(id));
                NewEvent::raw(PUT, value)
            } else {
                versions.remove(&key);
                NewEvent::raw(DELETE, [])
            };
            commit = commit.append(key, ExpectedVersion::Any, [event.id(id)]);
        }
        loop {
            commit = self.expecting(commit, &batch.expected)?;
            match self.send(&mut commit) {
                Ok(_) => return Ok(StateWritten { versions }),
                // A key was written between the look and the commit. Its value decides whether that matters, since
                // compaction writes values again as they are.
                Err(Error::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The commit, on the condition that no key that something is expected of is written after the look at it.
    fn expecting(&self, mut commit: Commit, expected: &[(String, Option<StateVersion>)]) -> Result<Commit> {
        let mut failures = Vec::new();
        commit.conditions.clear();
        for (key, version) in expected {
            let put = |event: &Event<'_>| (event.event_type == PUT).then(|| StateVersion::of(event));
            let (position, actual) = self.newest_of(key, put)?.unwrap_or_default();
            if actual == *version {
                commit = commit.unless_after(Query::stream(key), Position::new(position));
            } else {
                failures.push(ExpectationFailure::Key { key: key.clone(), exists: actual.is_some() });
            }
        }
        if failures.is_empty() { Ok(commit) } else { Err(Conflict { failures }.into()) }
    }

    pub(super) fn keys(self: &Arc<Self>, prefix: &str) -> Result<Vec<String>> {
        let query = match category_of(prefix) {
            category if prefix.contains('-') && (1..=STREAM_NAME_BYTES_MAX).contains(&category.len()) => {
                Query::category(category)
            }
            // Not a category that could be asked for.
            _ => Query::all(),
        };
        // The first event of a key that is met on the way back is its newest.
        let mut read = super::Read::new(self, query, None).reverse();
        let mut seen = HashSet::new();
        let mut keys = BTreeSet::new();
        while let Some(event) = read.next()? {
            if event.stream.starts_with(prefix) && !seen.contains(event.stream) {
                seen.insert(event.stream.to_owned());
                if event.event_type == PUT {
                    keys.insert(event.stream.to_owned());
                }
            }
        }
        Ok(keys.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Call, Fault, FaultyDisk, MemoryDisk};

    fn open(disk: impl Disk + 'static) -> Store {
        Store::open_on(Arc::new(disk), Options::new().without_background_work(), true).unwrap()
    }

    fn append(store: &Store) {
        store.append("account-alice", ExpectedVersion::Any, [NewEvent::raw("Deposited", "1")]).unwrap();
    }

    /// A disk that fails under the state poisons the state; the store goes on, and so does the state when it is opened
    /// again.
    #[test]
    fn a_failed_write_of_the_state_leaves_the_store_alone() {
        let memory = MemoryDisk::new();
        let disk = FaultyDisk::new(memory.clone());
        let store = open(disk.clone());
        append(&store);
        let state = store.state().unwrap();
        state.put("a", "1").unwrap();
        disk.inject(Fault::next(Call::Sync).of("state/"));
        assert!(matches!(state.put("a", "2"), Err(Error::Indeterminate { .. })));
        assert!(matches!(state.put("a", "3"), Err(Error::Poisoned { .. })));
        assert_eq!(state.get("a").unwrap().as_deref(), Some(&b"1"[..]));
        append(&store);
        assert_eq!(store.read(Query::all()).count().unwrap(), 2);
        assert!(store.close().is_err(), "the state could not be closed well");
        drop(state);
        let store = open(memory);
        let state = store.state().unwrap();
        assert!(state.get("a").unwrap().is_some());
        state.put("a", "4").unwrap();
        assert_eq!(store.read(Query::all()).count().unwrap(), 2);
    }

    /// Of a key whose value was in doubt it was said that it has none, and the next open found the value.
    #[test]
    fn a_key_is_not_called_deleted_while_a_value_of_it_is_in_doubt() {
        for call in [Call::Write, Call::Sync] {
            for durability in [Durability::Synced, Durability::Os] {
                let disk = FaultyDisk::new(MemoryDisk::new());
                let options = Options::new().without_background_work().durability(durability);
                let store = Store::open_on(Arc::new(disk.clone()), options, true).unwrap();
                let state = store.state().unwrap();
                state.put("other", "1").unwrap();
                state.delete("key").unwrap();
                disk.inject(Fault::next(call).of("state/"));
                let batch = StateBatch::new().put("key", "1").durability(Durability::Synced);
                assert!(matches!(state.write(batch), Err(Error::Indeterminate { .. })), "{call:?}");
                assert_eq!(state.get("key").unwrap(), None);
                assert!(matches!(state.delete("key"), Err(Error::Poisoned { .. })), "{call:?}, {durability:?}");
            }
        }
    }

    /// A deletion that asked for no sync was taken back by a loss of power, also where the key was then deleted again by
    /// one that did, and found nothing to do.
    #[test]
    fn a_key_that_was_deleted_twice_is_as_durably_deleted_as_the_second_time_asks() {
        for seed in 0..20 {
            let disk = FaultyDisk::new(MemoryDisk::new());
            let state = open(disk.clone()).state().unwrap();
            state.put("key", "1").unwrap();
            state.write(StateBatch::new().delete("key").durability(Durability::Os)).unwrap();
            state.delete("key").unwrap();
            let found = open(disk.power_cut(seed)).state().unwrap().get("key").unwrap();
            assert_eq!(found, None, "seed {seed}");
        }
    }

    #[test]
    fn a_store_that_is_open_for_reading_deletes_nothing_also_where_there_is_nothing() {
        let disk = MemoryDisk::new();
        let store = open(disk.clone());
        append(&store);
        let read = || Store::open_read_only_on(Arc::new(disk.clone()), Options::new()).unwrap().state().unwrap();
        assert!(matches!(read().delete("key"), Err(Error::ReadOnly)));
        store.state().unwrap().put("other", "1").unwrap();
        assert!(matches!(read().delete("key"), Err(Error::ReadOnly)));
    }

    /// What was acknowledged as synced survives a loss of power, in the log and in the state.
    #[test]
    fn the_state_survives_a_loss_of_power() {
        for seed in 0..20 {
            let disk = FaultyDisk::new(MemoryDisk::new());
            let store = open(disk.clone());
            append(&store);
            let state = store.state().unwrap();
            state.write(StateBatch::new().put("a", "1").put("b", "1")).unwrap();
            state.write(StateBatch::new().put("a", "2").put("b", "2").durability(Durability::Os)).unwrap();
            let store = open(disk.power_cut(seed));
            let state = store.state().unwrap();
            let (a, b) = (state.get("a").unwrap().unwrap(), state.get("b").unwrap().unwrap());
            assert!(a == b && (a == b"1" || a == b"2"), "seed {seed}: {a:?} {b:?}");
            assert_eq!(store.read(Query::all()).count().unwrap(), 1);
        }
    }

    /// A kill between the making of the synced head and the sync of its name, and a loss of power later: the state held its
    /// log and no file beside it, and was taken for absent until something was written to it.
    #[test]
    fn a_state_of_which_only_the_log_is_left_is_not_taken_for_absent() {
        let disk = MemoryDisk::new();
        let store = open(disk.clone());
        store.state().unwrap().put("a", "1").unwrap();
        drop(store);
        for name in disk.list("state").unwrap() {
            disk.remove(&format!("state/{name}")).unwrap();
        }
        let reader = Store::open_read_only_on(Arc::new(disk.clone()), Options::new()).unwrap();
        assert_eq!(reader.state().unwrap().get("a").unwrap().as_deref(), Some(&b"1"[..]));
        let store = open(disk);
        assert_eq!(store.state().unwrap().get("a").unwrap().as_deref(), Some(&b"1"[..]));
    }

    /// Found by review. Who asked for the state in a forked process waited for ever for a thread that was writing to it, or
    /// opening it, at the fork.
    #[test]
    #[cfg(all(unix, not(miri)))]
    fn a_fork_waits_for_no_thread_that_was_using_the_state() {
        if crate::storage::ran_alone() {
            return;
        }
        let directory = crate::storage::scratch();
        let store = Options::new().without_background_work().open(directory.path()).unwrap();
        store.state().unwrap().put("a", "1").unwrap();
        let reads = |store: Store| {
            crate::storage::holds_in_a_fork(move || {
                let Ok(state) = store.state() else { return false };
                let is_found = state.get("a").is_ok_and(|value| value.as_deref() == Some(b"1"));
                is_found && matches!(state.put("a", "2"), Err(Error::Locked { .. })) && store.clone().close().is_ok()
            })
        };
        let slot = &store.handle.inner.state.slot;
        let writing = slot.read();
        assert!(reads(store.clone()));
        drop(writing);
        let opening = slot.write();
        assert!(reads(store.clone()));
        drop(opening);
        store.state().unwrap().put("a", "3").unwrap();
    }

    /// No space for the state is no lack of space for what has its space already.
    #[test]
    fn a_full_disk_is_told_and_nothing_changes() {
        let disk = MemoryDisk::new();
        let store = open(disk.clone());
        append(&store);
        disk.set_budget(disk.used());
        let state = store.state().unwrap();
        assert!(matches!(state.put("a", "1"), Err(Error::Full { .. })));
        assert_eq!(state.get("a").unwrap(), None);
        append(&store);
        disk.set_budget(u64::MAX);
        state.put("a", "1").unwrap();
        assert_eq!(state.get("a").unwrap().as_deref(), Some(&b"1"[..]));
    }
}
