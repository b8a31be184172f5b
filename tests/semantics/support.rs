//! Short words for what the cases say over and over.

use annals::{
    AppendError, Appended, Conflict, Error, EventId, ExpectationFailure, ExpectedVersion, NewEvent, Position, Query,
    RecordedEvent, Store, StreamVersion, Violation,
};

pub(crate) use annals::ExpectedVersion::{Any, NoStream, StreamExists};

/// The outcome of an append.
pub(crate) type Sent = Result<Appended, AppendError>;

/// The expectation that a stream is at this version.
pub(crate) fn exact(version: u64) -> ExpectedVersion {
    ExpectedVersion::Exact(v(version))
}

pub(crate) fn v(version: u64) -> StreamVersion {
    StreamVersion::new(version).unwrap()
}

pub(crate) fn p(position: u64) -> Position {
    Position::new(position).unwrap()
}

/// An event whose payload is its type.
pub(crate) fn event(event_type: &str) -> NewEvent {
    NewEvent::raw(event_type.to_owned(), event_type)
}

/// So many events, told apart by their payloads.
pub(crate) fn events(count: usize) -> Vec<NewEvent> {
    (1..=count).map(|number| NewEvent::raw("Counted", number.to_string())).collect()
}

/// The event `E<number>` with the id of this number.
pub(crate) fn numbered(number: u128) -> NewEvent {
    event(&format!("E{number}")).id(id(number))
}

pub(crate) fn id(number: u128) -> EventId {
    EventId::from_bytes(number.to_be_bytes())
}

/// An event with tags.
pub(crate) fn tagged(event_type: &str, tags: &[&str]) -> NewEvent {
    event(event_type).tags(tags.iter().copied())
}

/// The conflict that an append must have come to.
pub(crate) fn conflict(sent: Sent) -> Conflict {
    match sent.map_err(Error::from) {
        Err(Error::Conflict(conflict)) => conflict,
        other => panic!("expected a conflict, got {other:?}"),
    }
}

/// The violations that an append must have come to.
pub(crate) fn violations(sent: Sent) -> Vec<Violation> {
    match sent.map_err(Error::from) {
        Err(Error::Invalid(invalid)) => invalid.violations,
        other => panic!("expected to be refused as invalid, got {other:?}"),
    }
}

/// The failure of the expectation of a stream.
pub(crate) fn stream_failure(
    stream: &str,
    expected: ExpectedVersion,
    actual: impl Into<Option<u64>>,
    position: impl Into<Option<u64>>,
) -> ExpectationFailure {
    ExpectationFailure::Stream {
        stream: stream.to_owned(),
        expected,
        actual: actual.into().map(v),
        position: position.into().map(p),
    }
}

/// The failure of a condition, with its first match.
pub(crate) fn condition_failure(condition: usize, position: u64) -> ExpectationFailure {
    ExpectationFailure::Condition { condition, position: p(position) }
}

/// First position, last position, and whether it was written before.
pub(crate) fn told(appended: &Appended) -> (u64, u64, bool) {
    (appended.first_position().number(), appended.last_position().number(), appended.deduplicated())
}

/// The streams of a result with the versions that they reached.
pub(crate) fn reached(appended: &Appended) -> Vec<(String, u64)> {
    appended.versions().map(|(stream, version)| (stream.to_owned(), version.number())).collect()
}

pub(crate) fn head(store: &Store) -> Option<u64> {
    store.head().unwrap().map(Position::number)
}

pub(crate) fn version(store: &Store, stream: &str) -> Option<u64> {
    store.version(stream).unwrap().map(StreamVersion::number)
}

/// All events that match.
pub(crate) fn found(store: &Store, query: Query) -> Vec<RecordedEvent> {
    store.read(query).owned().collect::<Result<_, _>>().unwrap()
}

/// The positions of all events that match.
pub(crate) fn positions(store: &Store, query: Query) -> Vec<u64> {
    positions_of(store.read(query))
}

/// The positions that a read goes through.
pub(crate) fn positions_of(read: annals::Read) -> Vec<u64> {
    read.owned().map(|event| event.unwrap().position.number()).collect()
}

/// The types of all events that match.
pub(crate) fn types(store: &Store, query: Query) -> Vec<String> {
    found(store, query).into_iter().map(|event| event.event_type).collect()
}

/// Position, stream and version of every event.
pub(crate) fn places(store: &Store) -> Vec<(u64, String, u64)> {
    let place = |event: RecordedEvent| (event.position.number(), event.stream, event.version.number());
    found(store, Query::all()).into_iter().map(place).collect()
}

/// Owned copies of what `places` finds, for comparisons.
pub(crate) fn place(position: u64, stream: &str, version: u64) -> (u64, String, u64) {
    (position, stream.to_owned(), version)
}

/// All that can be seen of a store, through every index: the streams, categories, types and tags of its events and of
/// `names`.
pub(crate) fn picture(store: &Store, names: &[&str]) -> Vec<String> {
    let all = found(store, Query::all());
    let mut names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    for event in &all {
        names.extend([event.stream.clone(), event.event_type.clone(), event.as_event().category().to_owned()]);
        names.extend(event.tags.iter().cloned());
    }
    names.sort_unstable();
    names.dedup();
    let mut picture = vec![format!("{:?} {all:?}", store.head().unwrap())];
    for name in names {
        let queries = [Query::stream(&name), Query::types([&name]), Query::tag(&name)];
        let mut seen: Vec<Vec<u64>> = queries.map(|query| positions(store, query)).into();
        if !name.contains('-') {
            seen.push(positions(store, Query::category(&name)));
        }
        picture.push(format!("{name:?} {:?} {seen:?}", version(store, &name)));
    }
    picture
}
