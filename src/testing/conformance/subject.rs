//! What the suite asks of a store, in plain data that any backend can read, and the answer of this crate's store.

use crate::error::{Conflict, Error, ExpectedVersion, Invalid};
use crate::types::{EventId, Position, Timestamp};
use crate::{Commit, NewEvent, Query, RecordedEvent, Store};

/// An event that is to be appended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Draft {
    /// Its id; `None` for one that the store gives.
    pub id: Option<EventId>,
    /// Its type.
    pub event_type: String,
    /// Its payload, of the codec [`Codec::Raw`](crate::Codec::Raw).
    pub payload: Vec<u8>,
    /// Its tags.
    pub tags: Vec<String>,
    /// The text of a JSON object; `None` for an event without metadata.
    pub metadata: Option<Vec<u8>>,
    /// When it happened; `None` for now.
    pub time: Option<Timestamp>,
}

/// Events for one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The stream.
    pub stream: String,
    /// What is expected of it.
    pub expected: ExpectedVersion,
    /// The events.
    pub events: Vec<Draft>,
}

/// An item of a query: everything that is named must hold. An event matches a query if it matches any of its items; a
/// query without items matches all events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Item {
    /// Its stream.
    pub stream: Option<String>,
    /// The category of its stream.
    pub category: Option<String>,
    /// Any of these is its type; empty for any type.
    pub types: Vec<String>,
    /// It has all of these tags.
    pub tags: Vec<String>,
}

/// A query that no event may match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The query.
    pub items: Vec<Item>,
    /// Only events after this position count; `None` for all.
    pub after: Option<Position>,
}

/// A commit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// The events, in order.
    pub parts: Vec<Part>,
    /// Expectations of streams that are not written to.
    pub checks: Vec<(String, ExpectedVersion)>,
    /// Conditions.
    pub conditions: Vec<Condition>,
}

/// What is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The query.
    pub items: Vec<Item>,
    /// Begin at this position, included.
    pub from: Option<Position>,
    /// Begin behind this position, in the direction of reading; never given together with `from`.
    pub after: Option<Position>,
    /// From the last event to the first.
    pub reverse: bool,
    /// At most so many events that match.
    pub limit: u64,
    /// Only events that happened then or later.
    pub since: Option<Timestamp>,
    /// Only events that happened before then.
    pub until: Option<Timestamp>,
}

impl Default for Selection {
    /// Everything, forwards.
    fn default() -> Self {
        Self { items: Vec::new(), from: None, after: None, reverse: false, limit: u64::MAX, since: None, until: None }
    }
}

/// What was appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The position of its first event.
    pub first: u64,
    /// The position of its last event.
    pub last: u64,
    /// The version that each stream reached with it, in the order of the commit.
    pub versions: Vec<(String, u64)>,
    /// Whether it had been written before.
    pub deduplicated: bool,
}

/// Why nothing was appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Everything that is wrong with it.
    Invalid(Invalid),
    /// Every expectation that did not hold.
    Conflict(Conflict),
    /// Something else.
    Other(String),
}

/// A store, as the suite knows it. Numbers are 0 where there is no position or version.
pub trait EventStore: Sync {
    /// Appends a commit.
    ///
    /// # Errors
    /// Why nothing was appended.
    fn append(&self, batch: &Batch) -> Result<Written, Refused>;

    /// Reads events.
    ///
    /// # Errors
    /// What kept it from that, in words.
    fn read(&self, selection: &Selection) -> Result<Vec<RecordedEvent>, String>;

    /// The last position.
    ///
    /// # Errors
    /// What kept it from knowing, in words.
    fn head(&self) -> Result<u64, String>;

    /// The version of a stream.
    ///
    /// # Errors
    /// What kept it from knowing, in words.
    fn version(&self, stream: &str) -> Result<u64, String>;
}

impl EventStore for Store {
    fn append(&self, batch: &Batch) -> Result<Written, Refused> {
        let appended = self.send(batch.to_commit()).map_err(|error| match error.error() {
            Error::Invalid(invalid) => Refused::Invalid(invalid.clone()),
            Error::Conflict(conflict) => Refused::Conflict(conflict.clone()),
            other => Refused::Other(other.to_string()),
        })?;
        let versions = appended.versions().map(|(stream, version)| (stream.to_owned(), version.number()));
        Ok(Written {
            first: appended.first_position().number(),
            last: appended.last_position().number(),
            versions: versions.collect(),
            deduplicated: appended.deduplicated(),
        })
    }

    fn read(&self, selection: &Selection) -> Result<Vec<RecordedEvent>, String> {
        let mut read = Store::read(self, query_of(&selection.items)).limit(selection.limit);
        if let Some(from) = selection.from {
            read = read.from(from);
        }
        if let Some(after) = selection.after {
            read = read.after(after);
        }
        if selection.reverse {
            read = read.reverse();
        }
        if let Some(since) = selection.since {
            read = read.since(since);
        }
        if let Some(until) = selection.until {
            read = read.until(until);
        }
        read.owned().collect::<Result<_, Error>>().map_err(|error| error.to_string())
    }

    fn head(&self) -> Result<u64, String> {
        let head = Store::head(self).map_err(|error| error.to_string())?;
        Ok(head.map_or(0, Position::number))
    }

    fn version(&self, stream: &str) -> Result<u64, String> {
        let version = Store::version(self, stream).map_err(|error| error.to_string())?;
        Ok(version.map_or(0, crate::StreamVersion::number))
    }
}

impl Batch {
    /// The same commit, for this crate's store.
    pub fn to_commit(&self) -> Commit {
        let mut commit = Commit::new();
        for part in &self.parts {
            commit = commit.append(part.stream.clone(), part.expected, part.events.iter().map(Draft::to_event));
        }
        for (stream, expected) in &self.checks {
            commit = commit.expect(stream.clone(), *expected);
        }
        for condition in &self.conditions {
            commit = commit.unless_after(query_of(&condition.items), condition.after);
        }
        commit
    }
}

impl Draft {
    fn to_event(&self) -> NewEvent {
        let mut event = NewEvent::raw(self.event_type.clone(), self.payload.clone()).tags(self.tags.clone());
        if let Some(id) = self.id {
            event = event.id(id);
        }
        if let Some(metadata) = &self.metadata {
            event = event.metadata_json(metadata.clone());
        }
        if let Some(time) = self.time {
            event = event.time(time);
        }
        event
    }
}

fn query_of(items: &[Item]) -> Query {
    items.iter().map(Item::to_query).reduce(Query::or).unwrap_or_else(Query::all)
}

impl Item {
    fn to_query(&self) -> Query {
        let query = match (&self.stream, &self.category, self.types.as_slice()) {
            (None, None, []) => return Query::tags(self.tags.clone()),
            (None, None, types) => Query::types(types),
            (None, Some(category), []) => Query::category(category),
            (None, Some(category), types) => Query::category(category).and_types(types),
            (Some(stream), None, []) => Query::stream(stream),
            (Some(stream), None, types) => Query::stream(stream).and_types(types),
            (Some(stream), Some(category), []) => Query::stream(stream).and_category(category),
            (Some(stream), Some(category), types) => Query::stream(stream).and_category(category).and_types(types),
        };
        self.tags.iter().fold(query, Query::and_tag)
    }
}
