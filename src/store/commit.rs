//! Commits: what one append writes, what it expects, and what comes of it.

use std::fmt;

use smallvec::SmallVec;

use super::Store;
use super::event::NewEvent;
use super::query::{Query, name_problem};
use crate::clock::Clock;
use crate::error::{Error, ExpectedVersion, Invalid, Result, Violation};
use crate::format::frame::commit_frame_len;
use crate::format::record::RecordFields;
use crate::limits::{
    CHECKS_PER_COMMIT_MAX, CONDITIONS_PER_COMMIT_MAX, EVENTS_PER_COMMIT_MAX, METADATA_BYTES_MAX, STREAM_NAME_BYTES_MAX,
    TAG_BYTES_MAX, TAGS_PER_EVENT_MAX, TYPE_NAME_BYTES_MAX,
};
use crate::randomness::{Randomness, event_id};
use crate::types::{Durability, Position, StreamVersion, Timestamp};

/// Events that are written together or not at all, and what must hold for that.
///
/// A plain value: it can be built anywhere, sent with [`Store::send`], and sent again. The second time it is recognised
/// and written once, as long as it expects something of the streams it writes to, or has a condition.
///
/// ```
/// use annals::{Commit, ExpectedVersion, NewEvent, Query, Store};
///
/// let store = Store::in_memory()?;
/// let transfer = Commit::new()
///     .append("account-alice", ExpectedVersion::NoStream, [NewEvent::raw("Withdrawn", "15")])
///     .append("account-bob", ExpectedVersion::Any, [NewEvent::raw("Deposited", "15").tag("transfer:42")])
///     .unless(Query::tag("transfer:42"));
/// let appended = store.send(transfer)?;
/// assert_eq!(appended.last_position().number(), 2);
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
#[must_use = "a commit that is not sent writes nothing"]
pub struct Commit {
    pub(super) parts: SmallVec<[Part; 1]>,
    pub(super) checks: Vec<Check>,
    pub(super) conditions: Vec<Condition>,
    pub(super) durability: Option<Durability>,
}

/// Events for one stream.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Part {
    pub(super) stream: String,
    pub(super) expected: ExpectedVersion,
    pub(super) events: SmallVec<[NewEvent; 1]>,
}

/// An expectation of a stream that is not written to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Check {
    pub(super) stream: String,
    pub(super) expected: ExpectedVersion,
}

/// A query that no event may match, or none after a position.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Condition {
    pub(super) query: Query,
    pub(super) after: Option<Position>,
}

impl Commit {
    /// An empty commit.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends events to a stream of which `expected` holds before the commit. The order of all events of the commit is
    /// that of the calls.
    pub fn append(
        mut self,
        stream: impl Into<String>,
        expected: impl Into<ExpectedVersion>,
        events: impl IntoIterator<Item = NewEvent>,
    ) -> Self {
        let mut part = Part { stream: stream.into(), expected: expected.into(), events: SmallVec::new() };
        for event in events {
            part.events.push(event);
        }
        self.parts.push(part);
        self
    }

    /// Expects something of a stream without writing to it.
    pub fn expect(mut self, stream: impl Into<String>, expected: impl Into<ExpectedVersion>) -> Self {
        self.checks.push(Check { stream: stream.into(), expected: expected.into() });
        self
    }

    /// Fails if any event matches the query.
    pub fn unless(mut self, query: Query) -> Self {
        self.conditions.push(Condition { query, after: None });
        self
    }

    /// Fails if any event after this position matches the query. `None` means after the beginning, as the head of a
    /// read of an empty store says.
    pub fn unless_after(mut self, query: Query, after: impl Into<Option<Position>>) -> Self {
        self.conditions.push(Condition { query, after: after.into() });
        self
    }

    /// Sets the durability of this commit, which is the store's otherwise.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    /// The number of events.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.events.len()).sum()
    }

    /// Whether there are no events.
    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(|part| part.events.is_empty())
    }

    /// The events with their streams, in order.
    pub(super) fn events(&self) -> impl Iterator<Item = (&str, &NewEvent)> {
        self.parts.iter().flat_map(|part| part.events.iter().map(|event| (part.stream.as_str(), event)))
    }

    /// Gives metadata to the events that have none.
    pub(super) fn give_metadata(&mut self, metadata: &[u8]) {
        for event in self.parts.iter_mut().flat_map(|part| &mut part.events) {
            event.metadata.get_or_insert_with(|| metadata.to_vec());
        }
    }

    /// Gives ids and times to the events that have none, so that the commit is the same when it is sent again.
    pub(super) fn complete(&mut self, clock: &dyn Clock, randomness: &dyn Randomness) -> Timestamp {
        let now = clock.now();
        for event in self.parts.iter_mut().flat_map(|part| &mut part.events) {
            event.id.get_or_insert_with(|| event_id(randomness, now));
            event.time.get_or_insert(now);
        }
        now
    }

    /// Brings the tags of each event into the order in which they are written, each once.
    pub(super) fn order_tags(&mut self) {
        for event in self.parts.iter_mut().flat_map(|part| &mut part.events) {
            event.tags.sort_unstable();
            event.tags.dedup();
        }
    }

    /// The bytes that the commit takes in the log, or everything that is wrong with it.
    pub(super) fn check(&self, commit_bytes_max: usize) -> Result<usize, Invalid> {
        // Nearly every commit is of this kind; what is wrong with another is found by looking again, in detail.
        if self.is_plain() {
            let bytes = self.frame_len();
            if bytes <= commit_bytes_max {
                return Ok(bytes);
            }
        }
        self.check_in_detail(commit_bytes_max)
    }

    /// Whether nothing can be wrong but the size: one part, no tags or metadata, no conditions, names within limits.
    fn is_plain(&self) -> bool {
        let [part] = self.parts.as_slice() else { return false };
        let in_limits = |name: &str, max: usize| !name.is_empty() && name.len() <= max;
        self.checks.is_empty()
            && self.conditions.is_empty()
            && in_limits(&part.stream, STREAM_NAME_BYTES_MAX)
            && part.events.len() == 1
            && part.events.iter().all(|event| {
                in_limits(&event.event_type, TYPE_NAME_BYTES_MAX) && event.tags.is_empty() && event.metadata.is_none()
            })
    }

    fn check_in_detail(&self, commit_bytes_max: usize) -> Result<usize, Invalid> {
        let mut violations = Vec::new();
        self.check_counts(&mut violations);
        self.check_streams(&mut violations);
        for (index, event) in self.parts.iter().flat_map(|part| &part.events).enumerate() {
            check_event(index, event, &mut violations);
        }
        self.check_ids(&mut violations);
        for (index, condition) in self.conditions.iter().enumerate() {
            condition.query.violations(&format!("conditions[{index}]"), &mut violations);
        }
        let bytes = self.frame_len();
        if violations.is_empty() && bytes > commit_bytes_max {
            let problem = format!("the commit takes {bytes} bytes, at most {commit_bytes_max} are allowed");
            violations.push(Violation::new(None, "events", problem));
        }
        if violations.is_empty() { Ok(bytes) } else { Err(Invalid { violations }) }
    }

    fn check_counts(&self, violations: &mut Vec<Violation>) {
        let mut check = |field: &str, count: usize, max: usize| {
            if count > max {
                violations.push(Violation::new(None, field, format!("{count} given, at most {max} are allowed")));
            }
        };
        check("events", self.len(), EVENTS_PER_COMMIT_MAX);
        check("expectations", self.checks.len(), CHECKS_PER_COMMIT_MAX);
        check("conditions", self.conditions.len(), CONDITIONS_PER_COMMIT_MAX);
        if self.is_empty() {
            violations.push(Violation::new(None, "events", "a commit needs at least one event"));
        }
        for part in self.parts.iter().filter(|part| part.events.is_empty() && !self.is_empty()) {
            let problem = format!("no events for {:?}; use expect to only check a stream", part.stream);
            violations.push(Violation::new(None, "events", problem));
        }
    }

    fn check_streams(&self, violations: &mut Vec<Violation>) {
        let mut first_event = 0;
        for part in &self.parts {
            if let Some(problem) = name_problem(&part.stream, STREAM_NAME_BYTES_MAX) {
                violations.push(Violation::new(Some(first_event), "stream", problem));
            }
            first_event += part.events.len();
        }
        for (index, check) in self.checks.iter().enumerate() {
            if let Some(problem) = name_problem(&check.stream, STREAM_NAME_BYTES_MAX) {
                violations.push(Violation::new(None, format!("expectations[{index}].stream"), problem));
            }
        }
        if self.parts.len() + self.checks.len() > 1 {
            self.check_contradictions(violations);
        }
    }

    /// A stream that is named twice must be expected the same each time.
    fn check_contradictions(&self, violations: &mut Vec<Violation>) {
        let mut seen = std::collections::HashMap::new();
        let parts = self.parts.iter().map(|part| (part.stream.as_str(), part.expected));
        let checks = self.checks.iter().map(|check| (check.stream.as_str(), check.expected));
        for (stream, expected) in parts.chain(checks) {
            let first = *seen.entry(stream).or_insert(expected);
            if first != expected {
                let problem = format!("{stream:?} is expected {first} and also {expected}");
                violations.push(Violation::new(None, "expected", problem));
            }
        }
    }

    fn check_ids(&self, violations: &mut Vec<Violation>) {
        if self.len() < 2 {
            return;
        }
        let mut seen = std::collections::HashSet::new();
        for (index, event) in self.parts.iter().flat_map(|part| &part.events).enumerate() {
            if let Some(id) = event.id.filter(|id| !seen.insert(*id)) {
                violations.push(Violation::new(Some(index), "id", format!("{id} stands twice in the commit")));
            }
        }
    }

    /// The bytes that the commit takes in the log.
    pub(super) fn frame_len(&self) -> usize {
        let lens = self.events().map(|(stream, event)| event.record(stream, 1).encoded_len());
        commit_frame_len(Exactly { inner: lens, left: self.len() })
    }
}

impl NewEvent {
    /// The record of the event, which has an id, a time, and ordered tags by now; sizes do not depend on them.
    pub(super) fn record<'a>(&'a self, stream: &'a str, version: u64) -> RecordFields<'a> {
        RecordFields {
            id: self.id.map_or([0; 16], crate::types::EventId::to_bytes),
            time: self.time.unwrap_or_default().nanos(),
            version,
            schema_version: self.schema_version,
            codec: self.codec,
            stream,
            event_type: &self.event_type,
            tags: &self.tags,
            metadata: self.metadata.as_deref(),
            payload: &self.payload,
        }
    }
}

fn check_event(index: usize, event: &NewEvent, violations: &mut Vec<Violation>) {
    let mut add = |field: String, problem: String| violations.push(Violation::new(Some(index), field, problem));
    if let Some(problem) = name_problem(&event.event_type, TYPE_NAME_BYTES_MAX) {
        add("type".into(), problem);
    }
    for (number, tag) in event.tags.iter().enumerate() {
        if let Some(problem) = name_problem(tag, TAG_BYTES_MAX) {
            add(format!("tags[{number}]"), problem);
        }
    }
    // Sorted only if there are so many.
    if event.tags.get(TAGS_PER_EVENT_MAX).is_some() {
        let mut distinct: Vec<&String> = event.tags.iter().collect();
        distinct.sort_unstable();
        distinct.dedup();
        if distinct.len() > TAGS_PER_EVENT_MAX {
            add("tags".into(), format!("{} tags, at most {TAGS_PER_EVENT_MAX} are allowed", distinct.len()));
        }
    }
    let Some(metadata) = &event.metadata else { return };
    if metadata.len() > METADATA_BYTES_MAX {
        add("metadata".into(), format!("has {} bytes, at most {METADATA_BYTES_MAX} are allowed", metadata.len()));
    } else if !event.has_valid_metadata() {
        add("metadata".into(), "is not the text of a JSON object".into());
    }
}

/// A commit that is being built for a store. Nothing is written before [`CommitBuilder::send`].
#[derive(Debug)]
#[must_use = "a commit that is not sent writes nothing"]
pub struct CommitBuilder<'s> {
    store: &'s Store,
    commit: Commit,
}

impl<'s> CommitBuilder<'s> {
    pub(super) fn new(store: &'s Store) -> Self {
        Self { store, commit: Commit::new() }
    }

    /// See [`Commit::append`].
    pub fn append(
        mut self,
        stream: impl Into<String>,
        expected: impl Into<ExpectedVersion>,
        events: impl IntoIterator<Item = NewEvent>,
    ) -> Self {
        self.commit = self.commit.append(stream, expected, events);
        self
    }

    /// See [`Commit::expect`].
    pub fn expect(mut self, stream: impl Into<String>, expected: impl Into<ExpectedVersion>) -> Self {
        self.commit = self.commit.expect(stream, expected);
        self
    }

    /// See [`Commit::unless`].
    pub fn unless(mut self, query: Query) -> Self {
        self.commit = self.commit.unless(query);
        self
    }

    /// See [`Commit::unless_after`].
    pub fn unless_after(mut self, query: Query, after: impl Into<Option<Position>>) -> Self {
        self.commit = self.commit.unless_after(query, after);
        self
    }

    /// See [`Commit::durability`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.commit = self.commit.durability(durability);
        self
    }

    /// Sends the commit, as [`Store::send`] does.
    ///
    /// # Errors
    /// Those of [`Store::send`].
    pub fn send(self) -> Result<Appended, AppendError> {
        self.store.send(self.commit)
    }
}

/// What an append wrote, or what the same commit wrote before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) commit_time: i64,
    pub(super) versions: SmallVec<[(String, StreamVersion); 1]>,
    pub(super) deduplicated: bool,
}

impl Appended {
    /// The position of the first event.
    pub fn first_position(&self) -> Position {
        Position::new(self.first).expect("positions count from 1")
    }

    /// The position of the last event: what a read model must have reached to show the commit.
    pub fn last_position(&self) -> Position {
        Position::new(self.last).expect("positions count from 1")
    }

    /// When it was committed. Never less than that of an earlier commit.
    pub fn commit_time(&self) -> Timestamp {
        Timestamp::from_nanos(self.commit_time)
    }

    /// The version that a stream of the commit has reached with it; `None` if the commit did not write to it.
    pub fn version_of(&self, stream: &str) -> Option<StreamVersion> {
        self.versions.iter().find(|(name, _)| name == stream).map(|(_, version)| *version)
    }

    /// The version that the first stream of the commit has reached with it: the one, for a commit on one stream.
    pub fn version(&self) -> StreamVersion {
        self.versions[0].1
    }

    /// The streams of the commit and the versions that they have reached with it, in the order of the commit.
    pub fn versions(&self) -> impl ExactSizeIterator<Item = (&str, StreamVersion)> {
        self.versions.iter().map(|(stream, version)| (stream.as_str(), *version))
    }

    /// Whether the same commit had been written before, so that nothing was written now.
    pub fn deduplicated(&self) -> bool {
        self.deduplicated
    }
}

/// An append that failed, with the commit, so that it can be sent again.
#[derive(Debug, Clone)]
pub struct AppendError {
    inner: Box<(Error, Commit)>,
}

impl AppendError {
    /// The error of a commit that was not, or not surely, written.
    pub fn new(error: Error, commit: Commit) -> Self {
        Self { inner: Box::new((error, commit)) }
    }

    /// What went wrong.
    pub fn error(&self) -> &Error {
        &self.inner.0
    }

    /// The commit, with the ids and times that it was sent with: sent again, it is written once.
    pub fn into_commit(self) -> Commit {
        self.inner.1
    }
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.0.fmt(f)
    }
}

impl std::error::Error for AppendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.inner.0)
    }
}

impl From<AppendError> for Error {
    fn from(error: AppendError) -> Self {
        error.inner.0
    }
}

/// An iterator whose length is known from elsewhere.
pub(super) struct Exactly<I> {
    pub(super) inner: I,
    pub(super) left: usize,
}

impl<I: Iterator> Iterator for Exactly<I> {
    type Item = I::Item;

    #[inline]
    fn next(&mut self) -> Option<I::Item> {
        self.left = self.left.saturating_sub(1);
        self.inner.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<I: Iterator> ExactSizeIterator for Exactly<I> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::limits::COMMIT_BYTES_MAX;
    use crate::randomness::SeededRandomness;
    use crate::types::EventId;

    const ANY: ExpectedVersion = ExpectedVersion::Any;

    fn event() -> NewEvent {
        NewEvent::raw("Made", "{}")
    }

    fn events(count: usize) -> Vec<NewEvent> {
        vec![event(); count]
    }

    fn one() -> Commit {
        Commit::new().append("s", ANY, [event()])
    }

    /// The fields that are wrong, with the index of the event if it is one's.
    #[track_caller]
    fn assert_wrong(commit: &Commit, expected: &[(Option<usize>, &str)]) {
        let violations = commit.check(COMMIT_BYTES_MAX).map_or_else(|invalid| invalid.violations, |_| Vec::new());
        let found: Vec<_> = violations.iter().map(|violation| (violation.event, violation.field.as_str())).collect();
        assert_eq!(found, expected, "{violations:#?}");
    }

    #[test]
    fn counts_have_their_limits() {
        let checks = |count: usize| (0..count).fold(one(), |commit, check| commit.expect(format!("c{check}"), ANY));
        let conditions = |count: usize| (0..count).fold(one(), |commit, _| commit.unless(Query::stream("x")));
        assert_wrong(&Commit::new().append("s", ANY, events(EVENTS_PER_COMMIT_MAX)), &[]);
        assert_wrong(&Commit::new().append("s", ANY, events(EVENTS_PER_COMMIT_MAX + 1)), &[(None, "events")]);
        assert_wrong(&Commit::new().append("s", ANY, events(EVENTS_PER_COMMIT_MAX + 2)), &[(None, "events")]);
        assert_wrong(&checks(CHECKS_PER_COMMIT_MAX), &[]);
        assert_wrong(&checks(CHECKS_PER_COMMIT_MAX + 2), &[(None, "expectations")]);
        assert_wrong(&conditions(CONDITIONS_PER_COMMIT_MAX), &[]);
        assert_wrong(&conditions(CONDITIONS_PER_COMMIT_MAX + 2), &[(None, "conditions")]);
    }

    #[test]
    fn the_bytes_of_a_commit_have_a_limit_whatever_it_is_made_of() {
        for commit in [one(), one().append("t", ANY, events(3)), Commit::new().append("s", ANY, [event().tag("t")])] {
            let bytes = commit.frame_len();
            assert_eq!(commit.check(bytes).unwrap(), bytes);
            for max in [bytes - 1, bytes - 8] {
                let invalid = commit.check(max).unwrap_err();
                assert_eq!((invalid.violations.len(), invalid.violations[0].field.as_str()), (1, "events"));
            }
        }
    }

    /// Nearly every commit is one event with names and a payload alone, and takes a shorter way.
    #[test]
    fn everything_that_a_commit_of_one_event_may_have_is_checked() {
        let of = |stream: &str, event: NewEvent| Commit::new().append(stream, ANY, [event]);
        let long = |bytes: usize| "x".repeat(bytes + 1);
        assert_wrong(&of("", NewEvent::raw("", "")), &[(Some(0), "stream"), (Some(0), "type")]);
        let (stream, event_type) = (long(STREAM_NAME_BYTES_MAX), long(TYPE_NAME_BYTES_MAX));
        assert_wrong(&of(&stream, NewEvent::raw(event_type, "")), &[(Some(0), "stream"), (Some(0), "type")]);
        assert_wrong(&of("s", event().tag("")), &[(Some(0), "tags[0]")]);
        assert_wrong(&of("s", event().metadata_json("no object")), &[(Some(0), "metadata")]);
        assert_wrong(&one().expect("", ANY), &[(None, "expectations[0].stream")]);
        let query = Query::tag("");
        let found = one().unless(query).check(COMMIT_BYTES_MAX).unwrap_err().violations;
        assert!(found.len() == 1 && found[0].field.starts_with("conditions[0]"), "{found:?}");
        assert_wrong(&Commit::new(), &[(None, "events")]);
        assert_wrong(&Commit::new().append("s", ANY, []), &[(None, "events")]);
    }

    #[test]
    fn a_stream_is_named_by_the_first_event_on_it() {
        let commit = Commit::new().append("s", ANY, events(2)).append("t", ANY, events(3)).append("", ANY, events(1));
        assert_wrong(&commit, &[(Some(5), "stream")]);
        assert_wrong(&one().append("t", ANY, []), &[(None, "events")]);
    }

    #[test]
    fn a_stream_is_expected_to_be_one_thing() {
        let none = ExpectedVersion::NoStream;
        assert_wrong(&one().append("s", none, [event()]), &[(None, "expected")]);
        assert_wrong(&one().expect("s", none), &[(None, "expected")]);
        assert_wrong(&one().append("t", none, [event()]).expect("t", ANY), &[(None, "expected")]);
        assert_wrong(&one().append("s", ANY, [event()]).expect("s", ANY).expect("t", none), &[]);
    }

    #[test]
    fn an_id_stands_once_in_a_commit() {
        let id = |number: u8| event().id(EventId::from_bytes([number; 16]));
        assert_wrong(&Commit::new().append("s", ANY, [id(1), id(1)]), &[(Some(1), "id")]);
        assert_wrong(&Commit::new().append("s", ANY, [id(1), id(2), id(1)]), &[(Some(2), "id")]);
        assert_wrong(&Commit::new().append("s", ANY, [id(1), id(2)]).append("t", ANY, [id(2)]), &[(Some(2), "id")]);
        assert_wrong(&Commit::new().append("s", ANY, [id(1), id(2), event(), event()]), &[]);
    }

    #[test]
    fn tags_are_counted_once_each() {
        let with = |tags: usize| {
            let event = (0..tags).fold(event(), |event, tag| event.tag(format!("t{tag}")));
            Commit::new().append("s", ANY, [event.tag("t0").tag("t0")])
        };
        assert_wrong(&with(TAGS_PER_EVENT_MAX), &[]);
        assert_wrong(&with(TAGS_PER_EVENT_MAX + 1), &[(Some(0), "tags")]);
        let exactly = (0..=TAGS_PER_EVENT_MAX).fold(event(), |event, tag| event.tag(format!("t{tag}")));
        assert_wrong(&Commit::new().append("s", ANY, [exactly]), &[(Some(0), "tags")]);
    }

    #[test]
    fn a_commit_is_completed_once() {
        let (clock, randomness) = (ManualClock::new(Timestamp::from_millis(7)), SeededRandomness::new(1));
        let mut commit = Commit::new().append("s", ANY, [event().tag("b").tag("a").tag("b"), event()]);
        commit.order_tags();
        commit.complete(&clock, &randomness);
        let complete = commit.clone();
        let first = &complete.parts[0].events[0];
        assert_eq!(first.tags, ["a", "b"]);
        assert_eq!(first.time, Some(Timestamp::from_millis(7)));
        assert_ne!(first.id, complete.parts[0].events[1].id);
        clock.set(Timestamp::from_millis(9));
        commit.complete(&clock, &randomness);
        assert_eq!(commit, complete);
    }

    #[test]
    fn a_failed_append_says_what_its_error_says() {
        let error = AppendError::new(Error::Closed, one());
        assert_eq!(error.to_string(), Error::Closed.to_string());
        assert!(std::error::Error::source(&error).is_some_and(|source| source.to_string() == error.to_string()));
        assert_eq!(error.into_commit(), one());
    }
}
