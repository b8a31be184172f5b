//! A state, and how far its stream is folded into it.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::snapshots::SnapshotProblem;
use crate::Event;
use crate::error::ExpectedVersion;
use crate::types::{Position, StreamVersion, Timestamp};

/// What turns events into a state.
pub(super) trait Fold: Clone {
    type State;
    type Event;

    fn initial(&self) -> Self::State;
    fn apply(&self, state: &mut Self::State, event: &Self::Event);
}

/// A state, the last event in it, and what was folded since the newest snapshot.
#[derive(Debug)]
pub(super) struct Folded<S> {
    pub(super) state: S,
    /// `None` for a stream that does not exist.
    pub(super) last: Option<Last>,
    pub(super) since: SinceSnapshot,
    /// Whether this very state was saved: it may be shared by then, so that the counts cannot be set back.
    is_saved: AtomicBool,
}

/// The last event that is folded into a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Last {
    pub(super) version: StreamVersion,
    pub(super) position: Position,
    pub(super) commit_time: Timestamp,
}

/// What was folded since the newest snapshot, or since the beginning where there is none.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SinceSnapshot {
    pub(super) events: u64,
    pub(super) payload_bytes: u64,
    /// When the last event of the snapshot was committed, or the first of the stream.
    pub(super) began: Option<Timestamp>,
}

impl Last {
    pub(super) fn of(event: &Event<'_>) -> Self {
        Self { version: event.version(), position: event.position(), commit_time: event.commit_time() }
    }
}

impl<S> Folded<S> {
    pub(super) fn new(state: S) -> Self {
        Self { state, last: None, since: SinceSnapshot::default(), is_saved: AtomicBool::new(false) }
    }

    /// A state as it was saved.
    pub(super) fn saved(state: S, last: Last) -> Self {
        Self { last: Some(last), is_saved: AtomicBool::new(true), ..Self::new(state) }
    }

    pub(super) fn version(&self) -> Option<StreamVersion> {
        self.last.map(|last| last.version)
    }

    pub(super) fn is_saved(&self) -> bool {
        self.is_saved.load(Ordering::Relaxed)
    }

    pub(super) fn note_saved(&self) {
        self.is_saved.store(true, Ordering::Relaxed);
    }

    pub(super) fn cloned(&self, clone: fn(&S) -> S) -> Self {
        let is_saved = AtomicBool::new(self.is_saved());
        Self { state: clone(&self.state), last: self.last, since: self.since, is_saved }
    }

    /// Notes that an event was folded.
    pub(super) fn note(&mut self, event: &Event<'_>) {
        if std::mem::take(self.is_saved.get_mut()) {
            self.since = SinceSnapshot { began: self.last.map(|last| last.commit_time), ..SinceSnapshot::default() };
        }
        self.last = Some(Last::of(event));
        self.since.events += 1;
        self.since.payload_bytes += event.payload().len() as u64;
        self.since.began.get_or_insert(event.commit_time());
    }
}

/// A state as it was when it was loaded, with the version of its stream. It dereferences to the state.
///
/// It does not change: load again to see what has happened since.
#[derive(Debug)]
pub struct Loaded<S> {
    pub(super) folded: Arc<Folded<S>>,
    pub(super) head: Option<Position>,
    pub(super) problems: Vec<SnapshotProblem>,
}

impl<S> Loaded<S> {
    /// The version of the stream; `None` if it does not exist, and for a state that was made from more than one stream.
    pub fn version(&self) -> Option<StreamVersion> {
        self.folded.version()
    }

    /// What an append that rests on this state expects of the stream.
    pub fn expected(&self) -> ExpectedVersion {
        self.version().map_or(ExpectedVersion::NoStream, ExpectedVersion::Exact)
    }

    /// The head of the store when the state was read, up to which it is complete; `None` if the store was empty.
    pub fn head(&self) -> Option<Position> {
        self.head
    }

    /// Snapshots that were passed over on the way. Whatever is wrong with one, the state is right.
    pub fn snapshot_problems(&self) -> &[SnapshotProblem] {
        &self.problems
    }
}

impl<S> Deref for Loaded<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.folded.state
    }
}
