//! What a store should answer, computed from a plain list of events, beside a store that is asked the same.

use std::collections::BTreeMap;

use annals::{
    Commit, Durability, Error, EventId, ExpectedVersion, ManualClock, NewEvent, Options, Position, Query,
    RecordedEvent, Result, SeededRandomness, Store, StreamVersion, Timestamp,
};
use arbitrary::Arbitrary;

const STREAMS: [&str; 5] = ["order-1", "order-2", "cart-1", "cart", "order-"];
const TYPES: [&str; 3] = ["Placed", "Paid", "Sent"];
const TAGS: [&str; 3] = ["a", "b", "ab"];
/// Enough for every branch, and few enough for many runs a second.
const STEPS_MAX: usize = 200;
/// What a small store takes besides, of which 430 KiB were seen: runs of the index, in whole pages, while they are merged.
const STORE_BYTES: usize = 768 << 10;
/// What an operation may leave behind: 32 events at most, which fill a segment of 8 KiB; its run and its positions,
/// in whole pages; and the commit with its events in the model, which may send it again.
const OPERATION_BYTES: usize = 64 << 10;

/// Runs the operations, and then compares everything that there is.
pub fn check(operations: &[Operation]) {
    let operations = &operations[..operations.len().min(STEPS_MAX)];
    crate::allocation::within(STORE_BYTES + OPERATION_BYTES * operations.len(), || {
        let mut model = Model::new();
        operations.iter().for_each(|operation| model.run(operation));
        model.check_everything();
    });
}

/// One call.
#[derive(Debug, Arbitrary)]
pub enum Operation {
    Send {
        parts: Vec<Part>,
        checks: Vec<(u8, Expected)>,
        conditions: Vec<(Asked, Option<u8>)>,
        is_os: bool,
    },
    /// Sends a commit again that was sent before, ids and all.
    Resend {
        which: u8,
    },
    Read {
        asked: Asked,
        is_reverse: bool,
        begin: Option<(u8, bool)>,
        limit: Option<u8>,
    },
    Sync,
    Maintain,
}

/// Events for one stream.
#[derive(Debug, Arbitrary)]
pub struct Part {
    stream: u8,
    expected: Expected,
    events: Vec<(u8, u8)>,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Expected {
    Any,
    NoStream,
    StreamExists,
    /// Counted back from the version that the stream has.
    Behind(u8),
}

/// The items of a query; of all events, if there is none.
#[derive(Debug, Clone, Arbitrary)]
pub struct Asked {
    items: Vec<Item>,
}

#[derive(Debug, Clone, Arbitrary)]
struct Item {
    stream: Option<u8>,
    is_cart: Option<bool>,
    types: u8,
    tags: u8,
}

/// A commit as the model knows it.
#[derive(Debug, Clone)]
struct Sent {
    commit: Commit,
    /// Stream, type, tags as bits, id.
    events: Vec<(&'static str, &'static str, u8, EventId)>,
    expected: BTreeMap<&'static str, ExpectedVersion>,
    conditions: Vec<(Asked, u64)>,
}

#[derive(Debug, Clone, PartialEq)]
struct Known {
    event: (&'static str, &'static str, u8, EventId),
    version: u64,
    /// Position of the first event of its commit.
    commit: u64,
}

/// A store and what it should hold.
struct Model {
    store: Store,
    /// In the order of their positions.
    known: Vec<Known>,
    sent: Vec<Sent>,
    drawn: u128,
}

impl Model {
    fn new() -> Self {
        let options = Options::new()
            .segment_bytes_first(4096)
            .segment_bytes_max(8192)
            .index_tail_bytes_max(2048)
            .without_background_work()
            .clock(ManualClock::new(Timestamp::from_millis(1)))
            .randomness(SeededRandomness::new(7));
        let store = options.in_memory().expect("a store in memory opens");
        Self { store, known: Vec::new(), sent: Vec::new(), drawn: 0 }
    }

    fn run(&mut self, operation: &Operation) {
        match operation {
            Operation::Send { parts, checks, conditions, is_os } => {
                if let Some(sent) = self.build(parts, checks, conditions, *is_os) {
                    self.sent.push(sent.clone());
                    self.send(&sent);
                }
            }
            Operation::Resend { which } => {
                if let Some(sent) = self.sent.get(usize::from(*which) % self.sent.len().max(1)).cloned() {
                    self.send(&sent);
                }
            }
            Operation::Read { asked, is_reverse, begin, limit } => self.read(asked, *is_reverse, *begin, *limit),
            Operation::Sync => self.store.sync().expect("a disk in memory syncs"),
            Operation::Maintain => self.store.maintain().expect("a disk in memory has room"),
        }
    }

    /// Compares everything that there is.
    fn check_everything(self) {
        self.read(&Asked { items: Vec::new() }, false, None, None);
        self.read(&Asked { items: Vec::new() }, true, None, None);
        for stream in STREAMS {
            let version = self.store.version(stream).expect("a version can be read");
            assert_eq!(version.map_or(0, StreamVersion::number), self.version(stream), "the version of {stream}");
        }
        self.store.close().expect("a store in memory closes");
    }

    fn version(&self, stream: &str) -> u64 {
        self.known.iter().rev().find(|known| known.event.0 == stream).map_or(0, |known| known.version)
    }

    /// The commit, unless it would be refused as invalid.
    fn build(
        &mut self,
        parts: &[Part],
        checks: &[(u8, Expected)],
        conditions: &[(Asked, Option<u8>)],
        is_os: bool,
    ) -> Option<Sent> {
        let mut sent =
            Sent { commit: Commit::new(), events: Vec::new(), expected: BTreeMap::new(), conditions: Vec::new() };
        for part in parts.iter().filter(|part| !part.events.is_empty()).take(4) {
            let (stream, expected) = self.expected(&mut sent, part.stream, part.expected);
            let mut events = Vec::new();
            for (event_type, tags) in part.events.iter().take(8) {
                self.drawn += 1;
                let id = EventId::from_bytes(self.drawn.to_be_bytes());
                let event = (stream, *one(&TYPES, *event_type), tags % 8, id);
                sent.events.push(event);
                events.push(NewEvent::raw(event.1, [*tags; 60]).id(id).tags(names(&TAGS, event.2)));
            }
            sent.commit = sent.commit.append(stream, expected, events);
        }
        for (stream, expected) in checks.iter().take(3) {
            let (stream, expected) = self.expected(&mut sent, *stream, *expected);
            sent.commit = sent.commit.expect(stream, expected);
        }
        for (asked, after) in conditions.iter().take(3) {
            // Counted back from the head.
            let after = after.map_or(0, |back| (self.known.len() as u64).saturating_sub(back.into()));
            sent.commit = sent.commit.unless_after(asked.query(), Position::new(after));
            sent.conditions.push((asked.clone(), after));
        }
        if is_os {
            sent.commit = sent.commit.durability(Durability::Os);
        }
        (!sent.events.is_empty()).then_some(sent)
    }

    /// What the commit expects of a stream: what it said of it first.
    fn expected(&self, sent: &mut Sent, stream: u8, expected: Expected) -> (&'static str, ExpectedVersion) {
        let stream = *one(&STREAMS, stream);
        let expected = match expected {
            Expected::Any => ExpectedVersion::Any,
            Expected::NoStream => ExpectedVersion::NoStream,
            Expected::StreamExists => ExpectedVersion::StreamExists,
            Expected::Behind(back) => {
                let version = self.version(stream).saturating_sub((back % 4).into());
                StreamVersion::new(version).map_or(ExpectedVersion::NoStream, ExpectedVersion::Exact)
            }
        };
        (stream, *sent.expected.entry(stream).or_insert(expected))
    }

    fn send(&mut self, sent: &Sent) {
        let first_new = self.known.len() as u64 + 1;
        let (failed, places) = self.failures(sent);
        let recorded = places.iter().find_map(|(place, stream)| self.recorded(sent, *place, *stream));
        let result = self.store.send(sent.commit.clone());
        match (failed, recorded, result) {
            (0, _, Ok(appended)) => {
                assert!(!appended.deduplicated() && appended.first_position().number() == first_new);
                self.take(sent, first_new);
            }
            (1.., Some(first), Ok(appended)) => {
                assert!(appended.deduplicated() && appended.first_position().number() == first);
            }
            (1.., None, Err(error)) => match error.error() {
                Error::Conflict(conflict) => assert_eq!(conflict.failures.len(), failed, "{conflict}"),
                other => panic!("{other}"),
            },
            (failed, recorded, result) => panic!("{failed} failed checks, recorded at {recorded:?}, but {result:?}"),
        }
        assert_eq!(self.store.head().expect("a head").map_or(0, Position::number), self.known.len() as u64);
    }

    fn take(&mut self, sent: &Sent, commit: u64) {
        for event in &sent.events {
            let version = self.version(event.0) + 1;
            self.known.push(Known { event: *event, version, commit });
        }
    }

    /// How many checks fail, and the places of those that have one: a position, and for a stream its name.
    fn failures(&self, sent: &Sent) -> (usize, Vec<(u64, Option<&'static str>)>) {
        let (mut failed, mut places) = (0, Vec::new());
        for (stream, expected) in &sent.expected {
            let version = self.version(stream);
            let (holds, place) = match expected {
                ExpectedVersion::Any => (true, None),
                ExpectedVersion::NoStream => (version == 0, Some(1)),
                ExpectedVersion::StreamExists => (version > 0, None),
                ExpectedVersion::Exact(expected) => (version == expected.number(), Some(expected.number() + 1)),
            };
            failed += usize::from(!holds);
            let at = |known: &Known| known.event.0 == *stream && Some(known.version) == place;
            if let Some(index) = self.known.iter().position(at).filter(|_| !holds) {
                places.push((index as u64 + 1, Some(*stream)));
            }
        }
        for (asked, after) in &sent.conditions {
            let matches = |(index, known): &(usize, &Known)| *index as u64 >= *after && asked.matches(known);
            if let Some((index, _)) = self.known.iter().enumerate().find(matches) {
                failed += 1;
                places.push((index as u64 + 1, None));
            }
        }
        (failed, places)
    }

    /// The first position of the commit around this place, if it is this very one, and begins there on this stream.
    fn recorded(&self, sent: &Sent, place: u64, stream: Option<&str>) -> Option<u64> {
        let first = self.known[place as usize - 1].commit;
        let recorded: Vec<_> = self.known.iter().filter(|known| known.commit == first).collect();
        let is_same = recorded.iter().map(|known| known.event).eq(sent.events.iter().copied());
        let begins = stream.is_none_or(|stream| {
            let position = recorded.iter().position(|known| known.event.0 == stream);
            position.is_some_and(|index| first + index as u64 == place)
        });
        (is_same && begins).then_some(first)
    }

    fn read(&self, asked: &Asked, is_reverse: bool, begin: Option<(u8, bool)>, limit: Option<u8>) {
        let mut read = self.store.read(asked.query());
        let mut range = 1..=self.known.len() as u64;
        if let Some((number, is_after)) = begin.and_then(|(at, is_after)| Some((Position::new(at.into())?, is_after))) {
            read = if is_after { read.after(number) } else { read.from(number) };
            let (number, skip) = (number.number(), u64::from(is_after));
            range = if is_reverse { 1..=(number - skip).min(*range.end()) } else { number + skip..=*range.end() };
        }
        read = if is_reverse { read.reverse() } else { read };
        read = limit.map(u64::from).into_iter().fold(read, annals::Read::limit);
        let found: Vec<RecordedEvent> = read.owned().collect::<Result<_>>().expect("events can be read");
        let mut wanted: Vec<u64> = range.filter(|at| asked.matches(&self.known[*at as usize - 1])).collect();
        if is_reverse {
            wanted.reverse();
        }
        wanted.truncate(limit.map_or(usize::MAX, usize::from));
        assert_eq!(found.iter().map(|event| event.position.number()).collect::<Vec<_>>(), wanted, "{asked:?}");
        found.iter().for_each(|event| self.check_event(event));
    }

    fn check_event(&self, event: &RecordedEvent) {
        let known = &self.known[event.position.number() as usize - 1];
        let (stream, event_type, tags, id) = known.event;
        let mut names: Vec<&str> = names(&TAGS, tags).collect();
        names.sort_unstable();
        assert!(event.stream == stream && event.event_type == event_type && event.id == id && event.tags == names);
        assert_eq!((event.version.number(), event.commit.number()), (known.version, known.commit));
    }
}

impl Asked {
    fn query(&self) -> Query {
        self.items.iter().take(4).map(Item::query).reduce(Query::or).unwrap_or_else(Query::all)
    }

    fn matches(&self, known: &Known) -> bool {
        self.items.is_empty() || self.items.iter().take(4).any(|item| item.matches(known))
    }
}

impl Item {
    fn query(&self) -> Query {
        // Something must be asked for: every type is as good as any.
        let types = if self.types % 8 == 0 && self.is_empty() { 7 } else { self.types % 8 };
        let mut query = match self.stream {
            Some(stream) => Query::stream(*one(&STREAMS, stream)),
            None => Query::all(),
        };
        if let Some(is_cart) = self.is_cart {
            query = query.and_category(if is_cart { "cart" } else { "order" });
        }
        if types != 0 {
            query = query.and_types(names(&TYPES, types));
        }
        names(&TAGS, self.tags % 8).fold(query, Query::and_tag)
    }

    fn is_empty(&self) -> bool {
        self.stream.is_none() && self.is_cart.is_none() && self.tags % 8 == 0
    }

    fn matches(&self, known: &Known) -> bool {
        let (stream, event_type, tags, _) = known.event;
        let types: Vec<&str> = names(&TYPES, self.types % 8).collect();
        self.stream.is_none_or(|asked| *one(&STREAMS, asked) == stream)
            && self.is_cart.is_none_or(|is_cart| is_cart == stream.starts_with("cart"))
            && (types.is_empty() || types.contains(&event_type))
            && tags & self.tags % 8 == self.tags % 8
    }
}

fn one<T>(choices: &[T], number: u8) -> &T {
    &choices[usize::from(number) % choices.len()]
}

/// The names whose bits are set.
fn names<'a>(all: &'a [&'static str], bits: u8) -> impl Iterator<Item = &'static str> + 'a {
    all.iter().enumerate().filter(move |(index, _)| bits & (1 << index) != 0).map(|(_, name)| *name)
}
