//! Random operations against a model of a few lines: a list of commits, looked through from the beginning each time.
//!
//! The model is written from the rules alone. Each case runs on stores so small that a dozen events fill a segment, and
//! an index part a few of them, in memory and in a directory.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests use files directly")]

use std::collections::BTreeSet;

use annals::{
    AppendError, Appended, Commit, Durability, Error, EventId, ExpectationFailure, ExpectedVersion, NewEvent, Options,
    Position, Query, ReadMode, RecordedEvent, Store, StreamVersion, Timestamp,
};
use proptest::prelude::*;
use proptest::test_runner::Config;

const STREAMS: [&str; 5] = ["a", "a-1", "a-2", "ab-1", "b-1"];
const TYPES: [&str; 3] = ["One", "Two", "Three"];
const TAGS: [&str; 4] = ["x", "y", "z", "xy"];

// --- What is sent and asked ------------------------------------------------------------------------------------------

#[derive(Debug, Clone, PartialEq)]
struct EventSpec {
    id: u64,
    event_type: &'static str,
    /// A byte and how often it is repeated.
    payload: (u8, usize),
    time: i64,
    tags: Vec<&'static str>,
    metadata: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Any,
    NoStream,
    StreamExists,
    /// What the stream is at when the commit is sent, more or less.
    Near(i64),
    Exact(u64),
}

#[derive(Debug, Clone, Default)]
struct ItemSpec {
    stream: Option<&'static str>,
    category: Option<&'static str>,
    types: Vec<&'static str>,
    tags: Vec<&'static str>,
}

/// No items for everything.
#[derive(Debug, Clone)]
struct QuerySpec(Vec<ItemSpec>);

#[derive(Debug, Clone)]
struct ConditionSpec {
    query: QuerySpec,
    after: After,
}

#[derive(Debug, Clone, Copy)]
enum After {
    Beginning,
    /// So many positions before the head when the commit is sent; a negative number lies beyond it.
    BeforeHead(i64),
    Position(u64),
}

#[derive(Debug, Clone)]
struct CommitSpec {
    parts: Vec<(&'static str, Expect, Vec<EventSpec>)>,
    checks: Vec<(&'static str, Expect)>,
    conditions: Vec<ConditionSpec>,
    durability: Durability,
}

#[derive(Debug, Clone)]
struct ReadSpec {
    query: QuerySpec,
    /// A number of the head's size, and whether it is included.
    begin: Option<(u64, bool)>,
    limit: Option<u64>,
    reverse: bool,
    since: Option<i64>,
    until: Option<i64>,
}

#[derive(Debug, Clone)]
enum Operation {
    Send(CommitSpec),
    /// One of the commits that were sent before, again; perhaps with a change.
    Resend(prop::sample::Index, Change),
    Read(ReadSpec),
    Maintain,
    Sync,
    Reopen {
        mode: ReadMode,
        close: bool,
    },
    ReadOnly(ReadSpec),
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Nothing,
    /// The last event is left out.
    Shorter,
    /// The expectations are those of now.
    Expectations(Expect),
    /// Another payload.
    Payload,
}

fn name<const N: usize>(names: [&'static str; N]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(names.to_vec())
}

fn expect() -> impl Strategy<Value = Expect> {
    prop_oneof![
        3 => Just(Expect::Any),
        1 => Just(Expect::NoStream),
        1 => Just(Expect::StreamExists),
        4 => Just(Expect::Near(0)),
        1 => (-2..2_i64).prop_map(Expect::Near),
    ]
}

fn event() -> impl Strategy<Value = EventSpec> {
    let metadata = prop::sample::select(vec![None, Some("{}"), Some("{\"who\":1}")]);
    let tags = prop::collection::vec(name(TAGS), 0..4);
    let payload = prop_oneof![
        9 => (any::<u8>(), 0..20_usize),
        1 => (any::<u8>(), 500..2_000_usize),
    ];
    (any::<u64>(), name(TYPES), payload, 0..40_i64, tags, metadata).prop_map(
        |(id, event_type, payload, time, tags, metadata)| EventSpec { id, event_type, payload, time, tags, metadata },
    )
}

fn item() -> impl Strategy<Value = ItemSpec> {
    let stream = prop::option::weighted(0.3, name(STREAMS));
    let category = prop::option::weighted(0.3, name(["a", "ab", "b", "c"]));
    let types = prop::collection::vec(name(TYPES), 0..3);
    let tags = prop::collection::vec(name(TAGS), 0..3);
    (stream, category, types, tags).prop_map(|(stream, category, mut types, tags)| {
        if stream.is_none() && category.is_none() && tags.is_empty() && types.is_empty() {
            types.push("Two");
        }
        ItemSpec { stream, category, types, tags }
    })
}

fn query() -> impl Strategy<Value = QuerySpec> {
    let only_stream = name(STREAMS).prop_map(|stream| ItemSpec { stream: Some(stream), ..ItemSpec::default() });
    prop_oneof![
        1 => Just(QuerySpec(vec![])),
        2 => only_stream.prop_map(|item| QuerySpec(vec![item])),
        4 => prop::collection::vec(item(), 1..4).prop_map(QuerySpec),
    ]
}

fn condition() -> impl Strategy<Value = ConditionSpec> {
    let after = prop_oneof![1 => Just(After::Beginning), 4 => (-3..6_i64).prop_map(After::BeforeHead)];
    (query(), after).prop_map(|(query, after)| ConditionSpec { query, after })
}

fn commit() -> impl Strategy<Value = CommitSpec> {
    let part = (name(STREAMS), expect(), prop::collection::vec(event(), 1..4));
    let durability = prop::sample::select(vec![Durability::Os, Durability::Synced]);
    let checks = prop::collection::vec((name(STREAMS), expect()), 0..2);
    (prop::collection::vec(part, 1..3), checks, prop::collection::vec(condition(), 0..2), durability)
        .prop_map(|(parts, checks, conditions, durability)| CommitSpec { parts, checks, conditions, durability })
}

fn read() -> impl Strategy<Value = ReadSpec> {
    let begin = prop::option::of((1..120_u64, any::<bool>()));
    let time = || prop::option::weighted(0.3, 0..40_i64);
    (query(), begin, prop::option::weighted(0.3, 0..9_u64), any::<bool>(), time(), time()).prop_map(
        |(query, begin, limit, reverse, since, until)| ReadSpec { query, begin, limit, reverse, since, until },
    )
}

fn operation() -> impl Strategy<Value = Operation> {
    let change = prop_oneof![
        5 => Just(Change::Nothing),
        1 => Just(Change::Shorter),
        2 => expect().prop_map(Change::Expectations),
        1 => Just(Change::Payload),
    ];
    let mode = prop::sample::select(vec![ReadMode::Map, ReadMode::Pread]);
    prop_oneof![
        10 => commit().prop_map(Operation::Send),
        5 => (any::<prop::sample::Index>(), change).prop_map(|(index, change)| Operation::Resend(index, change)),
        8 => read().prop_map(Operation::Read),
        2 => Just(Operation::Maintain),
        1 => Just(Operation::Sync),
        1 => (mode, any::<bool>()).prop_map(|(mode, close)| Operation::Reopen { mode, close }),
        1 => read().prop_map(Operation::ReadOnly),
    ]
}

// --- The model -------------------------------------------------------------------------------------------------------

#[derive(Debug, Clone, PartialEq)]
struct ModelEvent {
    stream: &'static str,
    version: u64,
    commit: u64,
    spec: EventSpec,
}

/// What a commit came to.
#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    Written { first: u64, last: u64, versions: Vec<(String, u64)>, deduplicated: bool },
    Conflict(Vec<ExpectationFailure>),
    Invalid,
}

/// All events, the one at position 1 first, and how many of them are synced at least.
#[derive(Debug, Default)]
struct Model {
    events: Vec<ModelEvent>,
    synced: u64,
}

impl Model {
    fn version(&self, stream: &str) -> u64 {
        self.events.iter().filter(|event| event.stream == stream).count() as u64
    }

    fn send(&mut self, commit: &CommitSpec) -> Outcome {
        if is_invalid(commit) {
            return Outcome::Invalid;
        }
        let mut failures = Vec::new();
        let mut places = Vec::new();
        for (stream, expected) in expectations(commit) {
            let actual = self.version(stream);
            let (holds, place) = match expected {
                Expect::Any => (true, None),
                Expect::NoStream => (actual == 0, Some(1)),
                Expect::StreamExists => (actual > 0, None),
                Expect::Exact(version) => (actual == version, Some(version + 1)),
                Expect::Near(_) => unreachable!("made exact before"),
            };
            if !holds {
                let position = place.and_then(|version| self.position_of(stream, version));
                places.extend(place.and_then(|version| self.place_of(commit, stream, version)));
                failures.push(ExpectationFailure::Stream {
                    stream: stream.to_owned(),
                    expected: expected.expected(),
                    actual: StreamVersion::new(actual),
                    position: position.and_then(Position::new),
                });
            }
        }
        for (condition, spec) in commit.conditions.iter().enumerate() {
            let after = spec.after.position();
            if let Some(position) = (after + 1..=self.head()).find(|at| spec.query.matches(self.at(*at))) {
                places.push(position);
                let position = Position::new(position).unwrap();
                failures.push(ExpectationFailure::Condition { condition, position });
            }
        }
        if failures.is_empty() {
            return self.write(commit);
        }
        let recorded = places.into_iter().find(|place| self.holds_commit(*place, commit));
        match recorded {
            Some(place) => self.told(self.at(place).commit, commit, true),
            None => Outcome::Conflict(failures),
        }
    }

    fn write(&mut self, commit: &CommitSpec) -> Outcome {
        let first = self.head() + 1;
        for (stream, spec) in flat(commit) {
            let version = self.version(stream) + 1;
            self.events.push(ModelEvent { stream, version, commit: first, spec: spec.clone() });
        }
        self.told(first, commit, false)
    }

    fn told(&self, first: u64, commit: &CommitSpec, deduplicated: bool) -> Outcome {
        let last = first + flat(commit).len() as u64 - 1;
        let mut versions: Vec<(String, u64)> = Vec::new();
        for event in &self.events[first as usize - 1..last as usize] {
            match versions.iter_mut().find(|(stream, _)| stream == event.stream) {
                Some((_, version)) => *version = event.version,
                None => versions.push((event.stream.to_owned(), event.version)),
            }
        }
        Outcome::Written { first, last, versions, deduplicated }
    }

    /// Whether the commit that holds a position is this one, as a whole.
    fn holds_commit(&self, position: u64, commit: &CommitSpec) -> bool {
        let first = self.at(position).commit;
        let recorded = self.events.iter().filter(|event| event.commit == first);
        let sent = flat(commit);
        recorded.clone().count() == sent.len()
            && recorded.zip(sent).all(|(event, (stream, spec))| {
                let own = &event.spec;
                (event.stream, own.id, own.event_type, own.payload) == (stream, spec.id, spec.event_type, spec.payload)
            })
    }

    /// The position of the versions that the commit would have given to its events on a stream, from this one on, if they
    /// were all given by one commit.
    fn place_of(&self, commit: &CommitSpec, stream: &str, version: u64) -> Option<u64> {
        let count = flat(commit).iter().filter(|(own, _)| *own == stream).count() as u64;
        let given = |version| self.position_of(stream, version).map(|position| self.at(position).commit);
        let first = given(version)?;
        let is_one = (version..version + count).all(|version| given(version) == Some(first));
        (count > 0 && is_one).then_some(first)
    }

    fn position_of(&self, stream: &str, version: u64) -> Option<u64> {
        let is_it = |event: &ModelEvent| event.stream == stream && event.version == version;
        self.events.iter().position(is_it).map(|index| index as u64 + 1)
    }

    fn head(&self) -> u64 {
        self.events.len() as u64
    }

    fn at(&self, position: u64) -> &ModelEvent {
        &self.events[position as usize - 1]
    }

    /// The positions that a read finds among the first so many events.
    fn read(&self, read: &ReadSpec, head: u64) -> Vec<u64> {
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
}

impl Expect {
    fn expected(self) -> ExpectedVersion {
        match self {
            Expect::Any => ExpectedVersion::Any,
            Expect::NoStream => ExpectedVersion::NoStream,
            Expect::StreamExists => ExpectedVersion::StreamExists,
            Expect::Exact(version) => ExpectedVersion::Exact(StreamVersion::new(version).unwrap()),
            Expect::Near(_) => unreachable!("made exact before"),
        }
    }
}

impl After {
    /// The position, 0 for the beginning.
    fn position(self) -> u64 {
        match self {
            After::Beginning => 0,
            After::Position(position) => position,
            After::BeforeHead(_) => unreachable!("made exact before"),
        }
    }
}

impl QuerySpec {
    fn matches(&self, event: &ModelEvent) -> bool {
        self.0.is_empty() || self.0.iter().any(|item| item.matches(event))
    }

    fn query(&self) -> Query {
        self.0.iter().map(ItemSpec::query).reduce(Query::or).unwrap_or_else(Query::all)
    }
}

impl ItemSpec {
    fn matches(&self, event: &ModelEvent) -> bool {
        self.stream.is_none_or(|stream| stream == event.stream)
            && self.category.is_none_or(|category| category == category_of(event.stream))
            && (self.types.is_empty() || self.types.contains(&event.spec.event_type))
            && self.tags.iter().all(|tag| event.spec.tags.contains(tag))
    }

    fn query(&self) -> Query {
        let query = Query::types(self.types.iter().copied());
        let query = self.tags.iter().fold(query, |query, tag| query.and_tag(*tag));
        let query = self.category.map_or(query.clone(), |category| query.and_category(category));
        self.stream.map_or(query.clone(), |stream| query.and_stream(stream))
    }
}

/// The text before the first dash.
fn category_of(stream: &str) -> &str {
    stream.split('-').next().unwrap()
}

fn flat(commit: &CommitSpec) -> Vec<(&'static str, &EventSpec)> {
    let parts = commit.parts.iter();
    parts.flat_map(|(stream, _, events)| events.iter().map(move |event| (*stream, event))).collect()
}

/// Each stream that is expected anything of, once.
fn expectations(commit: &CommitSpec) -> Vec<(&'static str, Expect)> {
    let mut streams: Vec<(&'static str, Expect)> = Vec::new();
    let parts = commit.parts.iter().map(|(stream, expected, _)| (*stream, *expected));
    for (stream, expected) in parts.chain(commit.checks.iter().copied()) {
        if streams.iter().all(|(known, _)| *known != stream) {
            streams.push((stream, expected));
        }
    }
    streams
}

/// Whether a commit contradicts itself.
fn is_invalid(commit: &CommitSpec) -> bool {
    let known = expectations(commit);
    let parts = commit.parts.iter().map(|(stream, expected, _)| (*stream, *expected));
    let mut named = parts.chain(commit.checks.iter().copied());
    let ids: BTreeSet<u64> = flat(commit).iter().map(|(_, event)| event.id).collect();
    let is_empty = commit.parts.iter().any(|(_, _, events)| events.is_empty());
    is_empty || ids.len() < flat(commit).len() || named.any(|pair| !known.contains(&pair))
}

// --- Both side by side -----------------------------------------------------------------------------------------------

/// A store and its model.
struct Pair {
    options: Options,
    directory: Option<tempfile::TempDir>,
    store: Option<Store>,
    model: Model,
    sent: Vec<CommitSpec>,
}

impl Pair {
    fn new(options: Options, on_disk: bool) -> Self {
        let directory = on_disk.then(|| tempfile::tempdir().unwrap());
        let store = match &directory {
            None => options.clone().in_memory(),
            Some(directory) => options.clone().open(directory.path()),
        };
        Self { options, directory, store: Some(store.unwrap()), model: Model::default(), sent: Vec::new() }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn run(&mut self, operation: &Operation) {
        match operation {
            Operation::Send(commit) => self.send(self.settled(commit)),
            Operation::Resend(index, change) if !self.sent.is_empty() => {
                let commit = changed(index.get(&self.sent).clone(), *change);
                self.send(self.settled(&commit));
            }
            Operation::Resend(..) => {}
            Operation::Read(read) => compare(self.store(), &self.model, read, self.model.head()),
            Operation::Maintain => {
                self.store().maintain().unwrap();
                self.model.synced = self.model.head();
            }
            Operation::Sync => {
                self.store().sync().unwrap();
                self.model.synced = self.model.head();
            }
            Operation::Reopen { mode, close } => self.reopen(*mode, *close),
            Operation::ReadOnly(read) => self.read_only(read),
        }
        self.compare_heads();
    }

    /// The commit with what is relative made absolute: as an application does that has loaded before.
    fn settled(&self, commit: &CommitSpec) -> CommitSpec {
        let mut commit = commit.clone();
        let settle = |stream: &str, expected: &mut Expect| {
            if let Expect::Near(offset) = *expected {
                let version = self.model.version(stream).saturating_add_signed(offset);
                *expected = if version == 0 { Expect::NoStream } else { Expect::Exact(version) };
            }
        };
        commit.parts.iter_mut().for_each(|(stream, expected, _)| settle(stream, expected));
        commit.checks.iter_mut().for_each(|(stream, expected)| settle(stream, expected));
        for condition in &mut commit.conditions {
            if let After::BeforeHead(before) = condition.after {
                condition.after = After::Position((self.model.head() as i64 - before).max(0) as u64);
            }
        }
        commit
    }

    fn send(&mut self, commit: CommitSpec) {
        let expected = self.model.send(&commit);
        let sent = self.store().send(commit_of(&commit));
        assert_eq!(outcome(sent), expected, "{commit:#?}");
        if let Outcome::Written { last, .. } = expected
            && commit.durability == Durability::Synced
        {
            self.model.synced = self.model.synced.max(last);
        }
        self.sent.push(commit);
    }

    fn reopen(&mut self, mode: ReadMode, close: bool) {
        let Some(directory) = &self.directory else { return };
        let store = self.store.take().unwrap();
        if close {
            store.close().unwrap();
        } else {
            drop(store);
        }
        self.store = Some(self.options.clone().read_mode(mode).open_existing(directory.path()).unwrap());
        assert_eq!(self.store().open_report().cut_bytes, 0);
        self.model.synced = self.model.head();
    }

    fn read_only(&self, read: &ReadSpec) {
        let Some(directory) = &self.directory else { return };
        let reader = self.options.clone().open_read_only(directory.path()).unwrap();
        let head = reader.head().unwrap().map_or(0, Position::number);
        assert_eq!(head, self.model.synced);
        compare(&reader, &self.model, read, head);
    }

    fn compare_heads(&mut self) {
        let store = self.store.as_ref().unwrap();
        assert_eq!(store.head().unwrap(), Position::new(self.model.head()));
        // More may be synced than was asked for: what comes before a new segment is.
        let synced = store.synced_head().unwrap().map_or(0, Position::number);
        assert!((self.model.synced..=self.model.head()).contains(&synced), "{synced}");
        self.model.synced = synced;
        for stream in STREAMS {
            assert_eq!(store.version(stream).unwrap(), StreamVersion::new(self.model.version(stream)), "{stream}");
        }
    }
}

fn changed(mut commit: CommitSpec, change: Change) -> CommitSpec {
    match change {
        Change::Nothing => {}
        Change::Shorter => drop(commit.parts.last_mut().unwrap().2.pop()),
        Change::Expectations(expected) => commit.parts.iter_mut().for_each(|part| part.1 = expected),
        Change::Payload => commit.parts.iter_mut().flat_map(|part| &mut part.2).take(1).for_each(|e| e.payload.1 += 1),
    }
    commit
}

fn commit_of(spec: &CommitSpec) -> Commit {
    let mut commit = Commit::new().durability(spec.durability);
    for (stream, expected, events) in &spec.parts {
        commit = commit.append(*stream, expected.expected(), events.iter().map(event_of));
    }
    for (stream, expected) in &spec.checks {
        commit = commit.expect(*stream, expected.expected());
    }
    for condition in &spec.conditions {
        commit = commit.unless_after(condition.query.query(), Position::new(condition.after.position()));
    }
    commit
}

fn id_of(id: u64) -> EventId {
    EventId::from_bytes(u128::from(id).to_be_bytes())
}

fn payload_of(spec: &EventSpec) -> Vec<u8> {
    vec![spec.payload.0; spec.payload.1]
}

fn event_of(spec: &EventSpec) -> NewEvent {
    let event = NewEvent::raw(spec.event_type, payload_of(spec)).id(id_of(spec.id));
    let event = event.time(Timestamp::from_nanos(spec.time)).tags(spec.tags.iter().copied());
    spec.metadata.map_or(event.clone(), |metadata| event.metadata_json(metadata))
}

fn outcome(sent: Result<Appended, AppendError>) -> Outcome {
    match sent.map_err(Error::from) {
        Ok(appended) => Outcome::Written {
            first: appended.first_position().number(),
            last: appended.last_position().number(),
            versions: appended.versions().map(|(stream, version)| (stream.to_owned(), version.number())).collect(),
            deduplicated: appended.deduplicated(),
        },
        Err(Error::Conflict(conflict)) => Outcome::Conflict(conflict.failures),
        Err(Error::Invalid(_)) => Outcome::Invalid,
        Err(other) => panic!("{other}"),
    }
}

/// Holds a read of a store, whose head is `head`, against the model.
fn compare(store: &Store, model: &Model, read: &ReadSpec, head: u64) {
    let mut reading = store.read(read.query.query());
    assert_eq!(reading.head(), Position::new(head));
    reading = match read.begin {
        None => reading,
        Some((begin, true)) => reading.from(Position::new(begin).unwrap()),
        Some((begin, false)) => reading.after(Position::new(begin)),
    };
    if let Some(limit) = read.limit {
        reading = reading.limit(limit);
    }
    if read.reverse {
        reading = reading.reverse();
    }
    if let Some(since) = read.since {
        reading = reading.since(Timestamp::from_nanos(since));
    }
    if let Some(until) = read.until {
        reading = reading.until(Timestamp::from_nanos(until));
    }
    let expected = model.read(read, head);
    let found: Vec<RecordedEvent> = reading.owned().collect::<Result<_, _>>().unwrap();
    let positions: Vec<u64> = found.iter().map(|event| event.position.number()).collect();
    assert_eq!(positions, expected, "{read:#?}");
    for event in &found {
        assert_same(event, model.at(event.position.number()));
    }
}

fn assert_same(event: &RecordedEvent, model: &ModelEvent) {
    assert_eq!((event.stream.as_str(), event.version.number()), (model.stream, model.version));
    assert_eq!((event.commit.number(), event.id), (model.commit, id_of(model.spec.id)));
    assert_eq!((event.event_type.as_str(), &event.payload), (model.spec.event_type, &payload_of(&model.spec)));
    assert_eq!(event.time, Timestamp::from_nanos(model.spec.time));
    assert_eq!(event.metadata.as_deref(), model.spec.metadata.map(str::as_bytes));
    let tags: BTreeSet<&str> = model.spec.tags.iter().copied().collect();
    assert_eq!(event.tags, tags.into_iter().collect::<Vec<_>>());
}

fn tiny() -> Options {
    let options = Options::new().segment_bytes_first(4096).segment_bytes_max(16_384).without_background_work();
    options.index_tail_bytes_max(700).index_memory_bytes_max(64 * 1024)
}

fn check(options: Options, on_disk: bool, operations: &[Operation]) {
    let mut pair = Pair::new(options, on_disk);
    for operation in operations {
        pair.run(operation);
    }
    let all = ReadSpec { query: QuerySpec(vec![]), begin: None, limit: None, reverse: false, since: None, until: None };
    compare(pair.store(), &pair.model, &all, pair.model.head());
    pair.reopen(ReadMode::Map, true);
    compare(pair.store(), &pair.model, &all, pair.model.head());
}

/// So many cases, unless the environment asks for another number, as proptest has it.
fn config(cases: u32) -> Config {
    let default = Config::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { cases };
    Config { cases, failure_persistence: None, ..default }
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn a_store_in_memory_does_what_the_model_does(operations in prop::collection::vec(operation(), 1..90)) {
        check(tiny(), false, &operations);
    }
}

proptest! {
    #![proptest_config(config(40))]

    #[test]
    fn a_store_in_a_directory_does_what_the_model_does(operations in prop::collection::vec(operation(), 1..60)) {
        check(tiny(), true, &operations);
    }
}
