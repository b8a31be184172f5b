//! Migration: a copy of a store in which old events are written as they are told now.
//!
//! Reads one store and fills another. Never changes the source, and never writes into a store that has events already.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::chain::Upcasters;
use crate::clock::{Clock, Signal};
use crate::error::{Error, ExpectedVersion, Invalid, Result};
use crate::types::{Durability, Position, Timestamp};
use crate::{Commit, Event, NewEvent, Options, Query, RecordedEvent, Store};

/// The types of what process managers write.
const PROCESS_EVENTS: [&str; 4] = ["ProcessReacted", "ProcessTimerDue", "ProcessCommandsSettled", "ProcessAbandoned"];

/// Copies a store through upcasters into a new one.
///
/// Streams, times, commits with their times, tags and metadata stay. The first event that one becomes keeps its id; each
/// further one gets an id that is derived from that id and its ordinal, the same every time. Events that no upcaster
/// takes are copied byte for byte. Positions and versions are counted anew, from 1 and without gaps: they are others
/// wherever the source lacks events before them, because those are dropped or split here, or because the source does not
/// have them any more (streams that were truncated or deleted). So what was saved beside the log, which refers to them
/// (snapshots, checkpoints), is not copied. What process managers write into their streams refers to positions as well: a
/// source with such events behind a place where positions change is refused.
///
/// ```
/// use annals::{ExpectedVersion, Migration, NewEvent, Query, Store, Upcaster, Upcasters};
///
/// let source = Store::in_memory()?;
/// source.append("account-alice", ExpectedVersion::Any, [NewEvent::raw("Opened", ""), NewEvent::raw("Clicked", "")])?;
/// let upcasters = Upcasters::new([
///     Upcaster::rename("Opened", 1).to("AccountOpened", 1),
///     Upcaster::drop("Clicked", 1),
/// ])?;
///
/// let migration = Migration::new(upcasters);
/// assert_eq!(migration.preview(&source)?.written, 1);
/// let (target, report) = migration.run(&source, |options| options.in_memory())?;
/// assert_eq!((report.read, report.written), (2, 1));
/// assert_eq!(target.read(Query::types(["AccountOpened"])).count()?, 1);
/// # Ok::<(), annals::Error>(())
/// ```
#[must_use = "a migration does nothing before it is run"]
pub struct Migration {
    upcasters: Upcasters,
    on_progress: Option<Box<Progress>>,
}

type Progress = dyn Fn(Position) + Send + Sync;

/// What a migration did, or would do.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct MigrationReport {
    /// Events that were read.
    pub read: u64,
    /// Events that were written.
    pub written: u64,
    /// Commits that were written. One all of whose events were dropped is not.
    pub commits: u64,
    /// What became of the types that upcasters took, ordered by type and schema version.
    pub changes: Vec<TypeChange>,
}

/// What became of the events of one type and schema version.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TypeChange {
    /// The type.
    pub event_type: String,
    /// The schema version.
    pub schema_version: u32,
    /// Events of it that were read.
    pub read: u64,
    /// Events of it that became no event.
    pub dropped: u64,
    /// Events that they became, by type and schema version.
    pub written: BTreeMap<(String, u32), u64>,
    /// The first of them.
    pub example: RecordedEvent,
    /// What the first of them became.
    pub example_written: Vec<RecordedEvent>,
}

impl Migration {
    /// A migration through these upcasters.
    pub fn new(upcasters: Upcasters) -> Self {
        Self { upcasters, on_progress: None }
    }

    /// Is told the position of each event that was read.
    pub fn on_progress(mut self, progress: impl Fn(Position) + Send + Sync + 'static) -> Self {
        self.on_progress = Some(Box::new(progress));
        self
    }

    /// Goes through all events and says what would become of them. Writes nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`], naming the event, if one of a process manager is behind a place where positions change;
    /// [`Error::Codec`], naming the event, if an upcaster fails; those of [`Read::next`](crate::Read::next).
    pub fn preview(&self, source: &Store) -> Result<MigrationReport> {
        self.go_through(source, |commit| {
            // What does not fit is found out only when it is sent.
            drop(commit);
            Ok(())
        })
    }

    /// Copies all events into a new store, which `open` opens with options that keep the times of commits. Returns when
    /// everything is synced. The new store's clock is that of the source from then on.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the store is not empty, if a commit breaks a limit after its events were upcast, or,
    /// naming the event, if one of a process manager is behind a place where positions change; [`Error::Codec`], naming
    /// the event, if an upcaster fails; those of [`Read::next`](crate::Read::next) and [`Store::send`]. The new store
    /// then has a part of the events and is of no use.
    pub fn run(&self, source: &Store, open: impl FnOnce(Options) -> Result<Store>) -> Result<(Store, MigrationReport)> {
        let clock = CommitClock::new(Arc::clone(source.clock()));
        let target = open(Options::new().clock(clock.clone()))?;
        if let Some(head) = target.head()? {
            let problem = format!("it has {head} events already; events are migrated into an empty store");
            return Err(Invalid::of("target", problem).into());
        }
        let report = self.go_through(source, |commit| {
            clock.set(Some(commit.time));
            target.send(commit.into_commit()).map(drop).map_err(Error::from)
        })?;
        clock.set(None);
        target.sync()?;
        Ok((target, report))
    }

    fn go_through(&self, source: &Store, mut write: impl FnMut(CopiedCommit) -> Result<()>) -> Result<MigrationReport> {
        let mut tally = Tally::default();
        let mut commit: Option<CopiedCommit> = None;
        let mut read = source.read(Query::all());
        while let Some(event) = read.next()? {
            if let Some(whole) = commit.take_if(|commit| commit.position != event.commit()) {
                tally.write(whole, &mut write)?;
            }
            let commit = commit.get_or_insert_with(|| CopiedCommit::of(&event));
            self.copy(&event, commit, &mut tally)?;
            if let Some(progress) = &self.on_progress {
                progress(event.position());
            }
        }
        if let Some(last) = commit {
            tally.write(last, &mut write)?;
        }
        Ok(tally.into_report())
    }

    fn copy(&self, event: &Event<'_>, commit: &mut CopiedCommit, tally: &mut Tally) -> Result<()> {
        tally.read += 1;
        tally.moves |= event.position().number() != tally.written + commit.events() + 1;
        if tally.moves && is_of_process(event) {
            return Err(moved(event));
        }
        if !self.upcasters.takes(event.event_type(), event.schema_version()) {
            commit.push(copied(event).id(event.id()), event.stream());
            return Ok(());
        }
        let events = self.upcasters.upcast(event)?;
        for (ordinal, event) in events.iter().enumerate() {
            let id = event.id.derived(ordinal as u32);
            commit.push(copied(&event.as_event()).id(id), &event.stream);
        }
        tally.change(event, events);
        Ok(())
    }
}

impl fmt::Debug for Migration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Migration").field("upcasters", &self.upcasters).finish_non_exhaustive()
    }
}

/// Whether a process manager has written an event, whose stream may be of any category.
fn is_of_process(event: &Event<'_>) -> bool {
    #[derive(Deserialize)]
    #[allow(dead_code, reason = "only whether they are there is asked")]
    struct Entry {
        cause: IgnoredAny,
        instance: IgnoredAny,
    }

    PROCESS_EVENTS.contains(&event.event_type()) && event.decode_payload::<Entry>().is_ok()
}

/// What a process manager has written says by their positions which events it has reacted to. Where those change, it
/// would react to them again, or pass over what comes.
fn moved(event: &Event<'_>) -> Error {
    let problem = format!(
        "event {} is of a process manager, on {:?}, and names positions, which change before it: events are dropped or \
         split there, or the source does not have them any more",
        event.position(),
        event.stream(),
    );
    Invalid::of("source", problem).into()
}

fn copied(event: &Event<'_>) -> NewEvent {
    let new = NewEvent::from_bytes(event.event_type().to_owned(), event.codec(), event.payload())
        .schema_version(event.schema_version())
        .time(event.time())
        .tags(event.tags());
    match event.metadata() {
        Some(metadata) => new.metadata_json(metadata),
        None => new,
    }
}

/// A commit of the source, with what its events became.
struct CopiedCommit {
    position: Position,
    time: Timestamp,
    /// Runs of events of one stream, in the order of the commit.
    parts: Vec<(String, Vec<NewEvent>)>,
}

impl CopiedCommit {
    fn of(event: &Event<'_>) -> Self {
        Self { position: event.commit(), time: event.commit_time(), parts: Vec::new() }
    }

    fn events(&self) -> u64 {
        self.parts.iter().map(|(_, events)| events.len() as u64).sum()
    }

    fn push(&mut self, event: NewEvent, stream: &str) {
        match self.parts.last_mut() {
            Some((last, events)) if last == stream => events.push(event),
            _ => self.parts.push((stream.to_owned(), vec![event])),
        }
    }

    fn into_commit(self) -> Commit {
        let parts = self.parts.into_iter();
        parts
            .fold(Commit::new(), |commit, (stream, events)| commit.append(stream, ExpectedVersion::Any, events))
            .durability(Durability::Os)
    }
}

/// Counts on the way.
#[derive(Default)]
struct Tally {
    read: u64,
    written: u64,
    commits: u64,
    /// Whether an event had another position than it gets.
    moves: bool,
    changes: BTreeMap<(String, u32), TypeChange>,
}

impl Tally {
    fn write(&mut self, commit: CopiedCommit, write: &mut impl FnMut(CopiedCommit) -> Result<()>) -> Result<()> {
        if commit.parts.is_empty() {
            return Ok(());
        }
        let events = commit.events();
        write(commit)?;
        self.written += events;
        self.commits += 1;
        Ok(())
    }

    fn change(&mut self, event: &Event<'_>, events: Vec<RecordedEvent>) {
        let key = (event.event_type().to_owned(), event.schema_version());
        let change = self.changes.entry(key).or_insert_with(|| TypeChange {
            event_type: event.event_type().to_owned(),
            schema_version: event.schema_version(),
            read: 0,
            dropped: 0,
            written: BTreeMap::new(),
            example: event.to_recorded(),
            example_written: events.clone(),
        });
        change.read += 1;
        change.dropped += u64::from(events.is_empty());
        for event in events {
            *change.written.entry((event.event_type, event.schema_version)).or_default() += 1;
        }
    }

    fn into_report(self) -> MigrationReport {
        let changes = self.changes.into_values().collect();
        MigrationReport { read: self.read, written: self.written, commits: self.commits, changes }
    }
}

/// Shows the commit time of what is being copied, and the time of another clock otherwise. Clones
/// show the same.
#[derive(Debug, Clone)]
struct CommitClock {
    inner: Arc<dyn Clock>,
    /// Nanoseconds; [`NO_TIME`] for none.
    commit_time: Arc<AtomicI64>,
}

/// The one time that no commit has.
const NO_TIME: i64 = i64::MIN;

impl CommitClock {
    fn new(inner: Arc<dyn Clock>) -> Self {
        Self { inner, commit_time: Arc::new(AtomicI64::new(NO_TIME)) }
    }

    fn set(&self, time: Option<Timestamp>) {
        self.commit_time.store(time.map_or(NO_TIME, Timestamp::nanos), Ordering::Relaxed);
    }
}

impl Clock for CommitClock {
    fn now(&self) -> Timestamp {
        match self.commit_time.load(Ordering::Relaxed) {
            NO_TIME => self.inner.now(),
            nanos => Timestamp::from_nanos(nanos),
        }
    }

    fn monotonic(&self) -> Duration {
        self.inner.monotonic()
    }

    fn wait(&self, signal: &Arc<Signal>, deadline: Option<Duration>) -> bool {
        self.inner.wait(signal, deadline)
    }
}
