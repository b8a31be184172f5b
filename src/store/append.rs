//! Sending a commit: check, give positions, write, and the one rule for retries.
//!
//! Checks come in two halves. What lies in the in-memory windows of the index, in-flight commits included, is checked
//! under the turn, so that it still holds when the commit is staged. What lies in the runs behind them never changes;
//! it is looked up before the turn, so that no disk is read while others wait.
//!
//! A failure that rests on a commit in flight is not told before that commit is decided: the append waits and begins
//! again. So every failure that is told rests on what everybody can see.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::Inner;
use super::commit::{Appended, Commit, Exactly};
use super::event::{Event, NewEvent};
use crate::error::{Conflict, Error, ExpectationFailure, ExpectedVersion, Result};
use crate::index::{Index, IndexView, Key, KeyKind, StreamHead, Window};
use crate::log::{Appender, Ticket, Turn};
use crate::sabotage::{Sabotage, sabotaged};
use crate::sync::SwapGuard;
use crate::types::{Durability, EventId, Position, StreamVersion};

/// So many streams of a commit are found by looking at each; behind them by name.
const STREAMS_SEARCHED_MAX: usize = 8;

/// A stream of the commit, and what it is at.
struct StreamState<'c> {
    name: &'c str,
    key: Key<'c>,
    expected: ExpectedVersion,
    /// Events of the commit on this stream; 0 for a stream that is only checked.
    count: u64,
    head: StreamHead,
    /// The version that the next event of the commit on this stream gets.
    next_version: u64,
}

/// What an attempt came to.
enum Attempt {
    /// Written, or only staged, to be seen through with the ticket.
    Appended(Appended, Option<Ticket>),
    /// Rests on the commit at this position, which is in flight.
    Undecided(u64),
    /// Something had to be looked up first, and was.
    Again,
    /// Expectations failed, for good.
    Failed(Failures),
}

/// When an attempt is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Decided,
    Staged,
}

/// The checks that failed: indices into the streams, and conditions with their first match.
#[derive(Default)]
struct Failures {
    streams: SmallVec<[usize; 2]>,
    conditions: SmallVec<[(usize, u64); 2]>,
}

impl Failures {
    fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.conditions.is_empty()
    }
}

impl Inner {
    pub(super) fn send(&self, commit: &mut Commit) -> Result<Appended> {
        let (appended, _) = self.try_send(commit, Ending::Decided)?;
        Ok(appended.with_names_of(commit))
    }

    /// Sends a commit. The names in the result are still missing; with a ticket, it is only staged.
    pub(super) fn try_send(&self, commit: &mut Commit, ending: Ending) -> Result<(Appended, Option<Ticket>)> {
        let appender = self.appender()?;
        commit.order_tags();
        let frame_len = commit.check(self.commit_bytes_max)?;
        let now = commit.complete(&*self.clock, &*self.randomness).nanos();
        let commit = &*commit;
        let durability = commit.durability.unwrap_or(self.durability);
        let mut sending = Sending::new(self, commit, frame_len, ending);
        loop {
            match sending.attempt(appender, durability, now)? {
                Attempt::Appended(appended, ticket) => return Ok((appended, ticket)),
                Attempt::Undecided(position) => appender.wait_decided(position).map_err(as_not_written)?,
                Attempt::Again => {}
                Attempt::Failed(failures) => {
                    return Ok((sending.resolve(appender, &failures, durability)?, None));
                }
            }
        }
    }
}

impl Appended {
    /// The one name of a commit on one stream is moved here, not copied: most commits are of this kind.
    pub(super) fn with_names_of(mut self, commit: &mut Commit) -> Self {
        if let ([part], [(name, _)]) = (commit.parts.as_mut_slice(), self.versions.as_mut_slice()) {
            *name = std::mem::take(&mut part.stream);
        }
        self
    }
}

/// What rests on a commit that failed is itself not written, whatever became of that one.
fn as_not_written(error: Error) -> Error {
    match error {
        Error::Indeterminate { cause } => Error::NotWritten { cause },
        other => other,
    }
}

/// What was looked up before the turn.
struct Prepared {
    /// What the runs covered.
    run_end: u64,
    /// Heads in the runs, by stream; only of those that no window knows.
    heads: SmallVec<[Option<StreamHead>; 2]>,
    /// First matches of the conditions up to `pinned`.
    matches: SmallVec<[Option<u64>; 2]>,
    pinned: u64,
}

/// The view of the index of an attempt, which takes it under its turn, and only if the active window does not tell all.
struct BriefView<'a> {
    index: &'a Index,
    view: OnceCell<SwapGuard<Arc<IndexView>>>,
}

impl<'a> BriefView<'a> {
    fn new(index: &'a Index) -> Self {
        Self { index, view: OnceCell::new() }
    }

    fn get(&self) -> &Arc<IndexView> {
        self.view.get_or_init(|| self.index.view_briefly())
    }
}

/// A part of the commit.
struct PartState {
    /// The index of its stream.
    stream: usize,
    /// The version that its first event gets.
    first_version: u64,
}

struct Sending<'a> {
    inner: &'a Inner,
    commit: &'a Commit,
    /// The bytes that it takes in the log.
    frame_len: usize,
    streams: SmallVec<[StreamState<'a>; 1]>,
    /// The indices of the streams behind the first few.
    by_name: Option<HashMap<&'a str, usize>>,
    parts: SmallVec<[PartState; 1]>,
    /// Boxed, as few commits need it.
    prepared: Option<Box<Prepared>>,
    ending: Ending,
}

impl<'a> Sending<'a> {
    fn new(inner: &'a Inner, commit: &'a Commit, frame_len: usize, ending: Ending) -> Self {
        let mut sending = Self {
            inner,
            commit,
            frame_len,
            streams: SmallVec::new(),
            by_name: None,
            parts: SmallVec::new(),
            prepared: None,
            ending,
        };
        for part in &commit.parts {
            let index = sending.stream(&part.stream, part.expected);
            sending.streams[index].count += part.events.len() as u64;
            sending.parts.push(PartState { stream: index, first_version: 0 });
        }
        for check in &commit.checks {
            sending.stream(&check.stream, check.expected);
        }
        sending
    }

    /// The index of a stream, which is new or was named before.
    fn stream(&mut self, name: &'a str, expected: ExpectedVersion) -> usize {
        if let Some(index) = self.find_stream(name) {
            return index;
        }
        let key = self.inner.seed.key(KeyKind::Stream, name);
        let index = self.streams.len();
        self.streams.push(StreamState { name, key, expected, count: 0, head: StreamHead::default(), next_version: 0 });
        if index >= STREAMS_SEARCHED_MAX {
            self.by_name.get_or_insert_default().insert(name, index);
        }
        index
    }

    fn find_stream(&self, name: &str) -> Option<usize> {
        let first = self.streams.iter().take(STREAMS_SEARCHED_MAX).position(|state| state.name == name);
        first.or_else(|| self.by_name.as_ref()?.get(name).copied())
    }

    fn attempt(&mut self, appender: &Appender, durability: Durability, now: i64) -> Result<Attempt> {
        if self.prepared.is_none() && !self.commit.conditions.is_empty() {
            self.prepare()?;
        }
        let view = BriefView::new(&self.inner.index);
        let is_early = sabotaged(Sabotage::CheckBeforeTurn) && self.find_heads(&self.inner.index.active(), &view);
        let mut turn = appender.turn()?;
        let kept = turn.take_kept().filter(|window: &Arc<Window>| !window.is_frozen());
        let window = kept.unwrap_or_else(|| self.inner.index.active());
        // Runs that were written since may hold what was not looked up in them.
        let is_stale = self.prepared.as_ref().is_some_and(|prepared| prepared.run_end != view.get().run_end());
        if is_stale || !(is_early || self.find_heads(&window, &view)) {
            drop(turn);
            self.prepare()?;
            return Ok(Attempt::Again);
        }
        self.decide(turn, window, &view, durability, now)
    }

    /// Looks up in the runs what the windows may not know, without a turn.
    fn prepare(&mut self) -> Result<()> {
        // The view first: what its runs cover is visible by now, so that no event lies between what is looked up here
        // and the windows behind the runs.
        let view = self.inner.index.view();
        let pinned = self.inner.log.visible();
        let mut heads = SmallVec::new();
        for state in &self.streams {
            let known = view.window_head(&state.key, u64::MAX);
            heads.push(if known.is_some() { None } else { Some(self.inner.head_in_runs(&view, &state.key)?) });
        }
        let mut matches = SmallVec::new();
        for condition in &self.commit.conditions {
            let after = condition.after.map_or(0, Position::number);
            matches.push(self.inner.first_match(&condition.query, after, pinned)?);
        }
        self.prepared = Some(Box::new(Prepared { run_end: view.run_end(), heads, matches, pinned }));
        Ok(())
    }

    /// Finds the head of each stream; `false` if the runs have to be asked first.
    fn find_heads(&mut self, window: &Window, view: &BriefView<'_>) -> bool {
        for (index, state) in self.streams.iter_mut().enumerate() {
            if let Some((version, position)) = window.stream_head(&state.key, u64::MAX) {
                state.head = StreamHead { version, position };
                continue;
            }
            let in_windows = view.get().frozen_head(&state.key, u64::MAX);
            let prepared = || self.prepared.as_ref().and_then(|prepared| prepared.heads[index]);
            match in_windows.map(|(version, position)| StreamHead { version, position }).or_else(prepared) {
                Some(head) => state.head = head,
                None if view.get().run_end() > 0 => return false,
                None => state.head = StreamHead::default(),
            }
        }
        true
    }

    fn decide(
        &mut self,
        turn: Turn<'_>,
        window: Arc<Window>,
        view: &BriefView<'_>,
        durability: Durability,
        now: i64,
    ) -> Result<Attempt> {
        let mut failures = Failures::default();
        let visible = self.inner.log.visible();
        for (index, state) in self.streams.iter().enumerate() {
            if !holds(state.expected, state.head.version) {
                if state.head.position > visible && !sabotaged(Sabotage::ConflictInFlight) {
                    return Ok(Attempt::Undecided(state.head.position));
                }
                failures.streams.push(index);
            }
        }
        for (index, condition) in self.commit.conditions.iter().enumerate() {
            let prepared = self.prepared.as_ref().expect("conditions are prepared");
            if let Some(position) = prepared.matches[index] {
                failures.conditions.push((index, position));
                continue;
            }
            let after = condition.after.map_or(0, Position::number).max(prepared.pinned);
            if let Some(position) = self.inner.first_match_in_windows(view.get(), &condition.query, after)? {
                if position > visible {
                    if sabotaged(Sabotage::ConditionsMissInFlight) {
                        continue;
                    }
                    return Ok(Attempt::Undecided(position));
                }
                failures.conditions.push((index, position));
            }
        }
        if failures.is_empty() { self.stage(turn, window, durability, now) } else { Ok(Attempt::Failed(failures)) }
    }

    fn stage(
        &mut self,
        mut turn: Turn<'_>,
        mut window: Arc<Window>,
        durability: Durability,
        now: i64,
    ) -> Result<Attempt> {
        turn.reserve(self.frame_len)?;
        if let Some(rule) = &self.inner.admission {
            rule.admit(self.commit, self.frame_len, turn.log_bytes())?;
        }
        self.number_parts();
        let count = self.commit.len();
        let records = self.numbered().map(|(stream, event, version)| event.record(stream.name, version));
        let staged = turn.stage(durability, now, Exactly { inner: records, left: count });
        let keys = self.numbered().map(|(stream, event, version)| {
            let tags = event.tags.iter().map(String::as_str);
            let time = event.time.unwrap_or_default().nanos();
            self.inner.seed.event_of(stream, &event.event_type, tags, time, version)
        });
        self.inner.index_commit(&mut window, &staged, keys);
        // One that was filled goes when it is on disk.
        if !window.is_frozen() {
            turn.keep(window);
        }
        let ticket = match self.ending {
            Ending::Decided => turn.see_through().map(|()| None)?,
            Ending::Staged => Some(turn.leave()),
        };
        let appended = Appended {
            first: staged.first_position,
            last: staged.first_position + count as u64 - 1,
            commit_time: staged.commit_time,
            versions: self.reached(),
            deduplicated: false,
        };
        Ok(Attempt::Appended(appended, ticket))
    }

    /// Gives each part of the commit its first version.
    fn number_parts(&mut self) {
        for state in &mut self.streams {
            state.next_version = state.head.version + 1;
        }
        for (state, part) in self.parts.iter_mut().zip(&self.commit.parts) {
            let stream = &mut self.streams[state.stream];
            state.first_version = stream.next_version;
            stream.next_version += part.events.len() as u64;
        }
    }

    /// The events of the commit, each with the key of its stream and the version that it gets.
    fn numbered(&self) -> impl Iterator<Item = (Key<'a>, &'a NewEvent, u64)> {
        self.commit.parts.iter().zip(&self.parts).flat_map(|(part, state)| {
            let events = part.events.iter().zip(state.first_version..);
            let key = self.streams[state.stream].key;
            events.map(move |(event, version)| (key, event, version))
        })
    }

    /// The versions that the streams of the commit reach with it.
    fn reached(&self) -> SmallVec<[(String, StreamVersion); 1]> {
        let mut reached = SmallVec::new();
        for state in self.streams.iter().filter(|state| state.count > 0) {
            let version = StreamVersion::new(state.head.version + state.count).expect("a commit has events");
            reached.push((self.name_of(state), version));
        }
        reached
    }

    /// The name for the result; empty for a commit of one part, whose own is moved there in the end.
    fn name_of(&self, state: &StreamState<'_>) -> String {
        if self.parts.len() == 1 { String::new() } else { state.name.to_owned() }
    }

    /// The one rule for retries: if the place of any failed check holds this very commit, its result is returned.
    fn resolve(&self, appender: &Appender, failures: &Failures, durability: Durability) -> Result<Appended> {
        let mut told = Vec::new();
        for index in &failures.streams {
            let state = &self.streams[*index];
            let expected = match state.expected {
                ExpectedVersion::NoStream => 0,
                ExpectedVersion::Exact(version) => version.number(),
                ExpectedVersion::Any | ExpectedVersion::StreamExists => u64::MAX,
            };
            let place = match expected < state.head.version {
                true => self.inner.position_of_version(&state.key, expected + 1)?,
                false => None,
            };
            if let Some(place) = place
                && let Some(appended) = self.recorded_at(place, Some((*index, expected + state.count)))?
            {
                return self.meet_durability(appender, appended, durability);
            }
            told.push(ExpectationFailure::Stream {
                stream: state.name.to_owned(),
                expected: state.expected,
                actual: StreamVersion::new(state.head.version),
                position: place.and_then(Position::new),
            });
        }
        for (index, place) in &failures.conditions {
            if let Some(appended) = self.recorded_at(*place, None)? {
                return self.meet_durability(appender, appended, durability);
            }
            let position = Position::new(*place).expect("positions count from 1");
            told.push(ExpectationFailure::Condition { condition: *index, position });
        }
        Err(Conflict { failures: told }.into())
    }

    /// A result that was found must be as durable as the one that was asked for. Where it cannot be made so, it is as much
    /// in doubt as what was just written.
    fn meet_durability(&self, appender: &Appender, appended: Appended, durability: Durability) -> Result<Appended> {
        if durability == Durability::Synced && self.inner.log.synced() < appended.last {
            let in_doubt = |cause| Error::Indeterminate { cause: Box::new(cause) };
            appender.sync().map_err(in_doubt)?;
        }
        Ok(appended)
    }

    /// The result of this very commit, if it is what holds this position: the same ids, types, payloads and streams in
    /// the same order, recorded as one commit, with which the stream of this index reached this version.
    fn recorded_at(&self, position: u64, expected_reach: Option<(usize, u64)>) -> Result<Option<Appended>> {
        let (mut first, mut commit_time) = (0, 0);
        let mut same = true;
        let mut own_events = self
            .commit
            .parts
            .iter()
            .zip(&self.parts)
            .flat_map(|(part, state)| part.events.iter().map(|event| (state.stream, part.stream.as_str(), event)));
        let mut reached: SmallVec<[u64; 2]> = SmallVec::from_elem(0, self.streams.len());
        self.inner.visit_commit(position, &mut |event: &Event<'_>| {
            (first, commit_time) = (event.commit, event.commit_time);
            match own_events.next() {
                Some((stream, name, own)) if is_recorded(own, name, event) => reached[stream] = event.version,
                _ => same = false,
            }
        })?;
        let reaches = expected_reach.is_none_or(|(stream, version)| reached[stream] == version);
        if !same || !reaches || own_events.next().is_some() {
            return Ok(None);
        }
        let written = self.streams.iter().zip(reached).filter(|(state, _)| state.count > 0);
        let versions = written
            .map(|(state, version)| (self.name_of(state), StreamVersion::new(version).expect("versions count from 1")));
        let versions = versions.collect();
        let last = first + self.commit.len() as u64 - 1;
        Ok(Some(Appended { first, last, commit_time, versions, deduplicated: true }))
    }
}

/// Whether a recorded event is what this new one would be.
fn is_recorded(own: &NewEvent, stream: &str, event: &Event<'_>) -> bool {
    own.id.map(EventId::to_bytes) == Some(event.id)
        && own.event_type == event.event_type
        && own.payload == event.payload
        && stream == event.stream
}

/// Whether an expectation holds of a stream at this version, 0 for none.
fn holds(expected: ExpectedVersion, version: u64) -> bool {
    match expected {
        ExpectedVersion::Any => true,
        ExpectedVersion::NoStream => version == 0,
        ExpectedVersion::StreamExists => version > 0,
        ExpectedVersion::Exact(expected) => version == expected.number(),
    }
}
