//! What a store should hold and answer: a list of events, looked through from the beginning each time.
//!
//! It is written from the rules alone and knows nothing of logs, indexes or disks. Of a crash it knows what is certain:
//! so many of the events must be there, those behind them may be, from the first on and in whole commits.

use std::collections::BTreeSet;

use xxhash_rust::xxh3::xxh3_64;

use super::operation::{After, CommitSpec, EventSpec, Expect, ItemSpec, QuerySpec, ReadSpec};
use crate::error::{ExpectationFailure, ExpectedVersion};
use crate::types::{Position, StreamVersion};

#[derive(Debug, Clone, PartialEq)]
pub(super) struct ModelEvent {
    pub(super) stream: &'static str,
    pub(super) version: u64,
    /// The first position of its commit.
    pub(super) commit: u64,
    /// When it was committed, if that was told.
    pub(super) commit_time: Option<i64>,
    pub(super) spec: EventSpec,
    /// Which writing it was: a commit that was lost and is sent again is written another time.
    written: u64,
}

/// What becomes of a commit.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Decision {
    Invalid,
    Conflict(Vec<ExpectationFailure>),
    /// It was written before, from this position on.
    Known(u64),
    Write,
}

/// What is told of a commit that was written.
#[derive(Debug, PartialEq)]
pub(super) struct Told {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) versions: Vec<(String, u64)>,
    pub(super) deduplicated: bool,
}

/// A position, and what tells its history from every other.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Place {
    pub(super) position: u64,
    written: u64,
    /// Of everything up to the end of its commit.
    content: u64,
}

/// Whether a place is still what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Same,
    /// What is there now was written later, and says the same.
    Alike,
    Other,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    /// The one at position 1 first.
    events: Vec<ModelEvent>,
    /// So many of them are visible, and there after a kill. Those behind are in doubt.
    visible: u64,
    /// So many of them are there after a loss of power.
    pub(super) synced: u64,
    /// So many of them were shown by a reader, which shows nothing that a loss of power takes away.
    shown: u64,
    writings: u64,
}

impl Model {
    pub(super) fn head(&self) -> u64 {
        self.visible
    }

    /// The events that are visible.
    pub(super) fn events(&self) -> &[ModelEvent] {
        &self.events[..self.visible as usize]
    }

    /// All events, with those in doubt.
    pub(super) fn possible(&self) -> &[ModelEvent] {
        &self.events
    }

    pub(super) fn at(&self, position: u64) -> &ModelEvent {
        &self.events()[position as usize - 1]
    }

    pub(super) fn version(&self, stream: &str) -> u64 {
        self.events().iter().filter(|event| event.stream == stream).count() as u64
    }

    fn position_of(&self, stream: &str, version: u64) -> Option<u64> {
        let is_it = |event: &ModelEvent| event.stream == stream && event.version == version;
        self.events().iter().position(is_it).map(|index| index as u64 + 1)
    }

    // --- Commits ---

    /// What becomes of a commit whose expectations are settled.
    pub(super) fn decide(&self, commit: &CommitSpec) -> Decision {
        if is_invalid(commit) {
            return Decision::Invalid;
        }
        let (mut failures, mut places) = (Vec::new(), Vec::new());
        for (stream, expect) in expectations(commit) {
            let actual = self.version(stream);
            // Where the first event of the commit on the stream would stand, if that is known.
            let (holds, place) = match expect {
                Expect::Any => (true, None),
                Expect::NoStream => (actual == 0, Some(1)),
                Expect::StreamExists => (actual > 0, None),
                Expect::Exact(version) => (actual == version, Some(version + 1)),
                Expect::Near(_) => unreachable!("settled before"),
            };
            if !holds {
                let position = place.and_then(|version| self.position_of(stream, version));
                places.extend(place.and_then(|version| self.place_of(commit, stream, version)));
                failures.push(ExpectationFailure::Stream {
                    stream: stream.to_owned(),
                    expected: expect.expected(),
                    actual: StreamVersion::new(actual),
                    position: position.and_then(Position::new),
                });
            }
        }
        for (condition, spec) in commit.conditions.iter().enumerate() {
            let mut after = spec.after.position() + 1..=self.head();
            if let Some(position) = after.find(|at| spec.query.matches(self.at(*at))) {
                places.push(position);
                let position = Position::new(position).expect("positions count from 1");
                failures.push(ExpectationFailure::Condition { condition, position });
            }
        }
        if failures.is_empty() {
            return Decision::Write;
        }
        // The one rule for retries.
        let recorded = places.into_iter().find(|place| self.holds_commit(*place, commit));
        recorded.map_or(Decision::Conflict(failures), |place| Decision::Known(self.at(place).commit))
    }

    /// Whether the commit that holds a position is this one, as a whole.
    fn holds_commit(&self, position: u64, commit: &CommitSpec) -> bool {
        let first = self.at(position).commit;
        let recorded = self.events().iter().filter(|event| event.commit == first);
        let sent = commit.events();
        recorded.clone().count() == sent.len()
            && recorded.zip(sent).all(|(event, (stream, spec))| {
                event.stream == stream
                    && event.spec.id == spec.id
                    && event.spec.event_type == spec.event_type
                    && event.spec.payload() == spec.payload()
            })
    }

    /// The position of the versions that the commit would have given to its events on a stream, from this one on, if they
    /// were all given by one commit.
    fn place_of(&self, commit: &CommitSpec, stream: &str, version: u64) -> Option<u64> {
        let count = commit.events().iter().filter(|(own, _)| *own == stream).count() as u64;
        let given = |version| self.position_of(stream, version).map(|position| self.at(position).commit);
        let first = given(version)?;
        let is_one = (version..version + count).all(|version| given(version) == Some(first));
        (count > 0 && is_one).then_some(first)
    }

    /// Writes a commit behind all that is visible.
    pub(super) fn write(&mut self, commit: &CommitSpec, commit_time: Option<i64>) {
        assert_eq!(self.visible as usize, self.events.len(), "nothing is written behind what is in doubt");
        self.writings += 1;
        let (first, written) = (self.head() + 1, self.writings);
        for (stream, spec) in commit.events() {
            let version = self.version(stream) + 1;
            self.events.push(ModelEvent { stream, version, commit: first, commit_time, spec: spec.clone(), written });
            self.visible += 1;
        }
    }

    /// The model as it is if nothing of what is in doubt was written.
    pub(super) fn without_doubt(&self) -> Self {
        Self { events: self.events().to_vec(), ..self.clone() }
    }

    /// What is behind this position was not acknowledged.
    pub(super) fn doubt_behind(&mut self, position: u64) {
        self.visible = position;
    }

    pub(super) fn has_doubt(&self) -> bool {
        self.visible < self.events.len() as u64
    }

    /// A reader beside the writer has shown so many events.
    pub(super) fn show(&mut self, count: u64) {
        self.shown = self.shown.max(count);
    }

    /// What is told of the commit that begins at a position.
    pub(super) fn told(&self, first: u64, commit: &CommitSpec, deduplicated: bool) -> Told {
        let mut versions: Vec<(String, u64)> = Vec::new();
        let last = first + commit.events().len() as u64 - 1;
        for event in &self.events[first as usize - 1..last as usize] {
            match versions.iter_mut().find(|(stream, _)| stream == event.stream) {
                Some((_, version)) => *version = event.version,
                None => versions.push((event.stream.to_owned(), event.version)),
            }
        }
        Told { first, last, versions, deduplicated }
    }

    // --- Crashes ---

    /// What was not synced may be gone.
    pub(super) fn lose_power(&mut self) {
        self.visible = self.visible.min(self.synced);
    }

    /// So many events were found when the store was opened. What an open shows is durable.
    pub(super) fn recover(&mut self, found: u64) {
        let least = self.visible.max(self.shown);
        assert!(found >= least, "{found} events of {least} that must be there");
        assert!(found <= self.events.len() as u64, "{found} events of {} that were sent", self.events.len());
        if let Some(next) = self.events.get(found as usize) {
            assert_eq!(next.commit, found + 1, "a commit was cut in the middle");
        }
        self.events.truncate(found as usize);
        (self.visible, self.synced) = (found, found);
    }

    // --- Questions ---

    /// The positions that a read finds among the first so many events.
    pub(super) fn read(&self, read: &ReadSpec, head: u64) -> Vec<u64> {
        let head = read.upto.map_or(head, |upto| head.min(upto));
        let mut found: Vec<u64> = (1..=head)
            .filter(|position| read.query.matches(self.at(*position)))
            .filter(|position| read.since.is_none_or(|since| self.at(*position).spec.time >= since))
            .filter(|position| read.until.is_none_or(|until| self.at(*position).spec.time < until))
            .collect();
        if read.reverse {
            found.reverse();
        }
        if let Some((begin, included)) = read.begin {
            let is_ahead = |at: u64| if read.reverse { at < begin } else { at > begin };
            found.retain(|at| is_ahead(*at) || (included && *at == begin));
        }
        found.truncate(read.limit.map_or(usize::MAX, |limit| limit as usize));
        found
    }

    /// What a stream amounts to at a version: the ids of its events.
    pub(super) fn fold(&self, stream: &str, version: u64) -> Vec<u8> {
        let events = self.events().iter().filter(|event| event.stream == stream && event.version <= version);
        events.flat_map(|event| event.spec.id.to_be_bytes()).collect()
    }

    /// The place of the event of this version.
    pub(super) fn place_of_version(&self, stream: &str, version: u64) -> Option<Place> {
        self.position_of(stream, version).map(|position| self.place(position))
    }

    pub(super) fn place(&self, position: u64) -> Place {
        Place { position, written: self.at(position).written, content: self.content(position) }
    }

    pub(super) fn standing(&self, place: &Place) -> Standing {
        if place.position > self.head() {
            return Standing::Other;
        }
        match self.at(place.position).written == place.written {
            true => Standing::Same,
            false if self.content(place.position) == place.content => Standing::Alike,
            false => Standing::Other,
        }
    }

    /// A hash of everything up to the end of the commit at a position.
    fn content(&self, position: u64) -> u64 {
        let commit = self.at(position).commit;
        let events = self.events().iter().take_while(|event| event.commit <= commit);
        let said: Vec<_> = events.map(|event| (event.stream, event.commit, &event.spec)).collect();
        xxh3_64(format!("{said:?}").as_bytes())
    }
}

impl Expect {
    pub(super) fn expected(self) -> ExpectedVersion {
        match self {
            Expect::Any => ExpectedVersion::Any,
            Expect::NoStream => ExpectedVersion::NoStream,
            Expect::StreamExists => ExpectedVersion::StreamExists,
            Expect::Exact(version) => {
                StreamVersion::new(version).map_or(ExpectedVersion::NoStream, ExpectedVersion::Exact)
            }
            Expect::Near(_) => unreachable!("settled before"),
        }
    }
}

impl After {
    /// What it is when the head is there.
    pub(super) fn settled(self, head: u64) -> Self {
        match self {
            After::BeforeHead(before) => After::Position((head as i64 - before).max(0) as u64),
            settled => settled,
        }
    }

    /// The position, 0 for the beginning.
    pub(super) fn position(self) -> u64 {
        match self {
            After::Beginning => 0,
            After::Position(position) => position,
            After::BeforeHead(_) => unreachable!("settled before"),
        }
    }
}

impl QuerySpec {
    pub(super) fn matches(&self, event: &ModelEvent) -> bool {
        self.0.is_empty() || self.0.iter().any(|item| item.matches(event))
    }
}

impl ItemSpec {
    fn matches(&self, event: &ModelEvent) -> bool {
        self.stream.is_none_or(|stream| stream == event.stream)
            && self.category.is_none_or(|category| category == category_of(event.stream))
            && (self.types.is_empty() || self.types.contains(&event.spec.event_type))
            && self.tags.iter().all(|tag| event.spec.tags.contains(tag))
    }
}

/// The text before the first dash.
pub(super) fn category_of(stream: &str) -> &str {
    stream.split('-').next().unwrap_or_default()
}

/// Each stream that is expected anything of, once.
fn expectations(commit: &CommitSpec) -> Vec<(&'static str, Expect)> {
    let mut streams: Vec<(&'static str, Expect)> = Vec::new();
    for (stream, expect) in commit.named() {
        if streams.iter().all(|(known, _)| *known != stream) {
            streams.push((stream, expect));
        }
    }
    streams
}

/// Whether a commit contradicts itself.
fn is_invalid(commit: &CommitSpec) -> bool {
    let known = expectations(commit);
    let events = commit.events();
    let ids: BTreeSet<u64> = events.iter().map(|(_, event)| event.id).collect();
    let is_empty = events.is_empty() || commit.parts.iter().any(|part| part.events.is_empty());
    is_empty || ids.len() < events.len() || commit.named().any(|pair| !known.contains(&pair))
}
