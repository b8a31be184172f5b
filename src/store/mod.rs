//! The store: streams, versions, queries and conditions on top of the log and its index.

mod admission;
mod append;
mod attachments;
mod backup;
#[cfg(test)]
mod closing;
mod commit;
mod compaction;
mod condition;
#[cfg(test)]
mod crashes;
mod directory;
mod event;
#[cfg(test)]
mod faults;
#[cfg(feature = "testing")]
mod faulty;
#[cfg(test)]
#[cfg(all(unix, not(miri)))]
mod forks;
mod group;
mod history;
mod hold;
#[cfg(test)]
mod in_flight;
mod indexing;
#[cfg(test)]
mod interpreted;
mod lookup;
#[cfg(test)]
mod machine;
mod maintenance;
mod metadata;
mod open;
mod options;
mod query;
mod read;
#[cfg(test)]
mod schedules;
mod snapshot;
mod state;
mod stats;
mod verify;
mod watch;

#[cfg(test)]
mod sweeps;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::error::{Error, ExpectedVersion, Result};
use crate::index::{EventKeys, FrameAt as IndexedFrame, Index, KeyKind, KeySeed, Window};
use crate::log::{Appender, Follower, Log, Staged};
use crate::observe::{self, AppendOutcome};
use crate::randomness::Randomness;
use crate::storage::{Disk, Lock, Owner};
use crate::sync::Mutex;
use crate::types::{Durability, Position, StoreId, StreamVersion};

pub use admission::Admission;
pub use backup::BackupReport;
pub use commit::{AppendError, Appended, Commit, CommitBuilder};
pub use condition::Condition;
pub use directory::StoreDirectory;
pub use event::{Event, NewEvent, RecordedEvent, Tags};
#[cfg(feature = "testing")]
pub use faulty::FaultyDisk;
pub use history::HistoryPoint;
pub use hold::HeldName;
pub use metadata::Metadata;
pub use open::OpenReport;
pub use options::{Options, ReadMode, RebuildProgress};
pub use query::Query;
pub use read::{OwnedEvents, Read};
pub use snapshot::{IgnoredReason, IgnoredSnapshot, NewSnapshot, Snapshot, SnapshotLookup, SnapshotQuery};
pub use state::{State, StateBatch, StateValue, StateVersion, StateWritten};
pub use stats::Stats;
pub use verify::{Problem, VerifyProgress, VerifyReport, verify};
pub use watch::Watch;

/// An event store: an append-only log of events in streams.
///
/// Cheap to clone; all clones are the same store, from any thread. It is closed when the last clone is dropped, or with
/// [`Store::close`], which says whether that went well.
///
/// ```
/// use annals::{ExpectedVersion, NewEvent, Query, Store};
///
/// # let directory = tempfile::tempdir().expect("a temporary directory");
/// # let path = directory.path().join("bank.annals");
/// let store = Store::open(path)?;
/// let opened = store.append("account-alice", ExpectedVersion::NoStream, [NewEvent::raw("Opened", "Alice")])?;
/// store.append("account-alice", opened.version(), [NewEvent::raw("Deposited", "50")])?;
/// assert_eq!(store.read(Query::stream("account-alice")).count()?, 2);
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Store {
    handle: Arc<Handle>,
    /// For the events that are appended without any.
    metadata: Option<Arc<[u8]>>,
    guard: Option<Guard>,
}

/// What a handle, its clones and its reads keep alive.
type Guard = Arc<dyn Any + Send + Sync>;

/// What the clones of a store share. Dropping the last closes the store.
#[derive(Debug)]
struct Handle {
    inner: Arc<Inner>,
    phase: Mutex<Phase>,
    report: OpenReport,
    attachments: attachments::Attachments,
}

#[derive(Debug)]
enum Phase {
    Running(Running),
    /// Or open for reading only.
    Closed(Result<()>),
}

/// The background threads and the lock of a store that takes appends.
#[derive(Debug)]
struct Running {
    worker: Option<maintenance::Worker>,
    /// Held for its drop.
    _lock: Lock,
}

/// The store itself. Reads hold it, and can outlive the handle: what they read does not change.
#[derive(Debug)]
struct Inner {
    disk: Arc<dyn Disk>,
    /// The process that has it open for writing.
    owner: Option<Owner>,
    log: Arc<Log>,
    index: Index,
    side: Side,
    state: state::StateSlot,
    seed: KeySeed,
    durability: Durability,
    commit_bytes_max: usize,
    sync_delay: Duration,
    mark_delay: Duration,
    clock: Arc<dyn Clock>,
    randomness: Arc<dyn Randomness>,
    admission: Option<admission::Rule>,
    label: Option<observe::Label>,
    /// Events of sealed segments that were indexed again when the store was opened.
    rebuilt: u64,
}

/// What a store is open for.
#[derive(Debug)]
enum Side {
    Writing(Box<Appender>),
    Reading { follower: Box<Follower>, windows_max: Mutex<usize> },
}

impl Store {
    /// Opens a store for reading and writing, creating it if there is none. At most one writer has a store open.
    ///
    /// What a crash left behind is repaired: a torn tail of what was never confirmed is cut, and
    /// [`Store::open_report`] says so.
    ///
    /// # Errors
    /// [`Error::Locked`] if another writer has it; [`Error::Corrupt`] if synced data are damaged, in which case nothing
    /// was changed; [`Error::Incompatible`] if a newer version wrote it; [`Error::Full`] or [`Error::Io`] if the
    /// operating system refuses.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Options::new().open(path)
    }

    /// Opens a store for reading and writing that exists.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none, and those of [`Store::open`].
    pub fn open_existing(path: impl AsRef<Path>) -> Result<Self> {
        Options::new().open_existing(path)
    }

    /// Opens a store for reading, beside a writer in any process, and on read-only media. It shows what is known to be
    /// synced, goes on following the writer, and never writes anything.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none; [`Error::Corrupt`], [`Error::Incompatible`] and [`Error::Io`] as for
    /// [`Store::open`].
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Self> {
        Options::new().open_read_only(path)
    }

    /// Opens an empty store in memory: the same engine on a disk that is gone with its last handle.
    ///
    /// # Errors
    /// None in practice; the signature is that of [`Store::open`].
    pub fn in_memory() -> Result<Self> {
        Options::new().in_memory()
    }

    /// Appends events to one stream, if it is as expected. Returns when they are as durable as the store's options say,
    /// and visible to every reader.
    ///
    /// Sent again after an error, or after the answer was lost, the same events are written once: give them ids of your
    /// own, or send the commit that the error hands back.
    ///
    /// # Errors
    /// See [`Store::send`].
    pub fn append(
        &self,
        stream: impl Into<String>,
        expected: impl Into<ExpectedVersion>,
        events: impl IntoIterator<Item = NewEvent>,
    ) -> Result<Appended, AppendError> {
        self.send(Commit::new().append(stream, expected, events))
    }

    /// Begins a commit of several streams, with conditions if needed, that is written as a whole or not at all.
    ///
    /// ```
    /// # use annals::{ExpectedVersion, NewEvent, Query, Store};
    /// # let store = Store::in_memory()?;
    /// store
    ///     .commit()
    ///     .append("account-alice", ExpectedVersion::Any, [NewEvent::raw("Withdrawn", "15")])
    ///     .append("account-bob", ExpectedVersion::Any, [NewEvent::raw("Deposited", "15").tag("transfer:42")])
    ///     .unless(Query::tag("transfer:42"))
    ///     .send()?;
    /// # Ok::<(), annals::Error>(())
    /// ```
    pub fn commit(&self) -> CommitBuilder<'_> {
        CommitBuilder::new(self)
    }

    /// Sends a commit: all expectations are checked and all events written in one atomic step.
    ///
    /// # Errors
    /// The error hands the commit back. [`Error::Invalid`] with everything that is wrong with it; [`Error::Conflict`]
    /// with every expectation that did not hold; [`Error::Full`] if there is no space, nothing was assigned, and it can
    /// be sent again; [`Error::Indeterminate`] if it is unknown whether it was written: reopen the store and send it
    /// again; [`Error::NotWritten`] if a commit before it failed; [`Error::Poisoned`], [`Error::Closed`] and
    /// [`Error::ReadOnly`] if the store takes no appends.
    pub fn send(&self, mut commit: Commit) -> Result<Appended, AppendError> {
        let inner = &self.handle.inner;
        if let Some(metadata) = &self.metadata {
            commit.give_metadata(metadata);
        }
        // By reference, and with a `match`: a commit is a few hundred bytes, which each call or closure would copy.
        let (events, send) = (commit.len(), || inner.send(&mut commit));
        let outcome = |sent: &Result<Appended>| outcome_of(sent.as_ref());
        let sent = observe::append(&*inner.clock, inner.label.as_ref(), events, send, outcome);
        match sent {
            Ok(appended) => Ok(appended),
            Err(error) => Err(AppendError::new(error, commit)),
        }
    }

    /// Reads the events that match a query, as of now.
    pub fn read(&self, query: Query) -> Read {
        let caught_up = self.handle.inner.catch_up();
        Read::new(&self.handle.inner, query, caught_up.err()).guarded_by(self.guard.clone())
    }

    /// The version of a stream; `None` if it does not exist.
    ///
    /// # Errors
    /// [`Error::Corrupt`] or [`Error::Io`] if its last event cannot be read.
    pub fn version(&self, stream: &str) -> Result<Option<StreamVersion>> {
        let inner = &self.handle.inner;
        inner.catch_up()?;
        let head = inner.visible_head_of(&inner.seed.key(KeyKind::Stream, stream))?;
        Ok(StreamVersion::new(head.version))
    }

    /// The last visible position; `None` if the store is empty.
    ///
    /// # Errors
    /// None for a writer; [`Error::Corrupt`] or [`Error::Io`] if a reader cannot follow its writer.
    pub fn head(&self) -> Result<Option<Position>> {
        self.handle.inner.catch_up()?;
        Ok(Position::new(self.handle.inner.log.visible()))
    }

    /// The last position that is known to survive a loss of power; `None` if there is none.
    ///
    /// # Errors
    /// Those of [`Store::head`].
    pub fn synced_head(&self) -> Result<Option<Position>> {
        self.handle.inner.catch_up()?;
        Ok(Position::new(self.handle.inner.log.synced()))
    }

    /// Makes everything durable that is visible, and raises the synced head to it.
    ///
    /// # Errors
    /// [`Error::Io`] if the sync fails, which poisons the store; [`Error::Poisoned`] later; [`Error::ReadOnly`] on a
    /// store opened for reading.
    pub fn sync(&self) -> Result<()> {
        self.handle.inner.appender()?.sync()
    }

    /// Makes everything up to `position` durable, before something is saved that would outlive it.
    pub(crate) fn sync_upto(&self, position: Option<Position>) -> Result<()> {
        if position > self.synced_head()? { self.sync() } else { Ok(()) }
    }

    /// The id of the store.
    pub fn id(&self) -> StoreId {
        self.handle.inner.log.store()
    }

    /// A handle of the same store that keeps `guard` alive, as do its clones and the reads that are begun through any of
    /// them. When the last of these is gone, the guard is dropped: who lends a store out can tell that it came back. The
    /// guards of this handle are kept as long.
    #[must_use]
    pub fn with_guard(&self, guard: Arc<dyn Any + Send + Sync>) -> Store {
        let guard = match &self.guard {
            Some(kept) => Arc::new((guard, Arc::clone(kept))),
            None => guard,
        };
        Store { guard: Some(guard), ..self.clone() }
    }

    /// What opening the store found and did.
    pub fn open_report(&self) -> &OpenReport {
        &self.handle.report
    }

    /// Does all background work that is due or could be: syncs, prepares the next segment, writes the index to disk.
    /// Only needed with [`Options::without_background_work`].
    ///
    /// # Errors
    /// [`Error::Full`] or [`Error::Io`] if something cannot be written; the store goes on. [`Error::ReadOnly`] on a
    /// store opened for reading.
    pub fn maintain(&self) -> Result<()> {
        self.handle.inner.maintain()
    }

    /// Closes the store for all its clones: syncs everything, and ends background work. Later appends fail with
    /// [`Error::Closed`]; reads that were begun go on. Whoever closes it again, through a clone, is told the same. In a
    /// process that was forked from the one that has it open, it is closed for that process alone, and nothing is synced.
    ///
    /// # Errors
    /// [`Error::Io`] if the last sync fails; the store is closed all the same. What was acknowledged as synced is safe.
    pub fn close(self) -> Result<()> {
        self.handle.close()
    }
}

impl Handle {
    fn close(&self) -> Result<()> {
        if self.inner.is_inherited() {
            return self.abandon();
        }
        let closed = self.finish();
        self.inner.log.watchers().close();
        closed
    }

    fn finish(&self) -> Result<()> {
        // Held to the end: who closes it a second time, through a clone, returns when it is closed.
        let mut phase = self.phase.lock();
        let running = match std::mem::replace(&mut *phase, Phase::Closed(Ok(()))) {
            Phase::Running(running) => running,
            Phase::Closed(closed) => {
                *phase = Phase::Closed(closed.clone());
                return closed;
            }
        };
        let closed = self.inner.finish(running);
        *phase = Phase::Closed(closed.clone());
        closed
    }

    /// Lets go of what belongs to the process that this one was forked from. A thread of that one which was closing the
    /// store holds the lock for ever here, and has taken what there is to let go of.
    fn abandon(&self) -> Result<()> {
        let state_closed = self.inner.state.close();
        let Some(mut phase) = self.phase.try_lock() else { return state_closed };
        if let Phase::Closed(closed) = &*phase {
            return closed.clone();
        }
        *phase = Phase::Closed(Ok(()));
        state_closed
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Who wants to know uses `close`. Everything acknowledged is safe either way.
        let _ = self.close();
    }
}

impl Inner {
    /// Ends what runs, and lets go of the lock: nothing is written in the directory after that.
    fn finish(&self, mut running: Running) -> Result<()> {
        self.index.stop_merging();
        self.state.stop_merging();
        if let Some(worker) = &mut running.worker {
            worker.stop();
        }
        let state_closed = self.state.close();
        let closed = self.appender().and_then(Appender::close);
        if closed.is_ok() {
            // The index is derived: what cannot be written now is made again at the next open.
            let _ = self.settle_index();
        }
        self.index.stop_writing();
        closed.and(state_closed)
    }

    fn appender(&self) -> Result<&Appender> {
        match &self.side {
            Side::Writing(_) if self.is_inherited() => Err(Error::Locked { path: self.disk.locate("") }),
            Side::Writing(appender) => Ok(appender),
            Side::Reading { .. } => Err(Error::ReadOnly),
        }
    }

    /// Whether this process was forked from the one that has the store open for writing, and goes on.
    #[inline]
    fn is_inherited(&self) -> bool {
        Owner::is_another(self.owner)
    }

    /// Adds a commit that was just staged to the index. The turn of the append is still held.
    fn index_commit<'e>(&self, window: &mut Arc<Window>, staged: &Staged, events: impl Iterator<Item = EventKeys<'e>>) {
        if window.segment() != staged.at.segment {
            let segments = self.log.segments();
            let segment = segments.numbered(staged.at.segment).expect("a staged commit is in a segment of the log");
            self.index.roll(segment.number, segment.salt, staged.first_position);
            self.wake_worker();
            *window = self.index.active();
        }
        window.insert(frame_of(staged), events);
        if self.index.is_full(window) {
            self.index.freeze();
            self.wake_worker();
        }
    }

    fn wake_worker(&self) {
        if let Side::Writing(appender) = &self.side {
            appender.call_background();
        }
    }

    /// The first position of the log that is kept.
    fn first_kept_position(&self) -> u64 {
        self.log.segments().iter().next().map_or(1, |segment| segment.first_position)
    }

    /// Takes in what the writer has synced, on a store that is open for reading.
    fn catch_up(&self) -> Result<()> {
        match &self.side {
            Side::Writing(_) => Ok(()),
            Side::Reading { follower, windows_max } => {
                // One at a time.
                let mut windows_max = windows_max.lock();
                follower.refresh(|head| self.index_tail(head).map(drop))?;
                *windows_max = self.let_go_of_windows(*windows_max);
                Ok(())
            }
        }
    }
}

fn outcome_of(result: Result<&Appended, &Error>) -> AppendOutcome {
    match result {
        Ok(appended) if appended.deduplicated => AppendOutcome::Deduplicated,
        Ok(appended) => AppendOutcome::Appended((appended.last - appended.first + 1) as usize),
        Err(Error::Conflict(_)) => AppendOutcome::Conflict,
        Err(_) => AppendOutcome::Failed,
    }
}

fn frame_of(staged: &Staged) -> IndexedFrame {
    IndexedFrame {
        segment: staged.at.segment,
        offset: staged.at.offset,
        end: staged.end,
        checksum: staged.checksum,
        first_position: staged.first_position,
    }
}
