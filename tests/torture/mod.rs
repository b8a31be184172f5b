//! What the tests that damage, kill and keep stores share: files, and everything that a store answers.

#![allow(dead_code, reason = "no test uses all of it")]

pub(crate) mod bench;
pub(crate) mod killed;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use annals::{Query, RecordedEvent, Result, Store};

/// The files below a directory by their path in it, with their bytes.
pub(crate) type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A directory for stores that are opened thousands of times: in memory where the system offers that.
pub(crate) fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub(crate) fn files(root: &Path) -> Files {
    let mut files = Files::new();
    collect(root, root, &mut files);
    files
}

fn collect(root: &Path, directory: &Path, files: &mut Files) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            files.insert(path.strip_prefix(root).unwrap().to_owned(), std::fs::read(&path).unwrap());
        }
    }
}

/// Makes a directory hold these files and no others.
pub(crate) fn put_files(root: &Path, files: &Files) {
    let strangers = if root.is_dir() { self::files(root) } else { Files::new() };
    for path in strangers.keys().filter(|path| !files.contains_key(*path)) {
        std::fs::remove_file(root.join(path)).unwrap();
    }
    for (path, bytes) in files.iter().filter(|(path, bytes)| strangers.get(*path) != Some(bytes)) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// Everything that is recorded of an event, on a line.
fn line_of(event: &RecordedEvent) -> String {
    let RecordedEvent { position, commit, stream, version, id, event_type, schema_version, codec, .. } = event;
    let (time, commit_time) = (event.time.nanos(), event.commit_time.nanos());
    let metadata = event.metadata.as_deref().map(|metadata| String::from_utf8(metadata.to_vec()).unwrap());
    let payload = event.payload.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    });
    format!(
        "{position} in {commit} at {commit_time}: {stream:?} {version}, {event_type:?} {schema_version}, id {id}, \
         time {time}, tags {:?}, metadata {metadata:?}, {codec} {payload}\n",
        event.tags
    )
}

pub(crate) fn lines_of(store: &Store) -> String {
    store.read(Query::all()).owned().map(|event| line_of(&event.unwrap())).collect()
}

/// A frame of a segment file, found by its lengths (FORMAT, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameSpot {
    pub(crate) offset: usize,
    pub(crate) end: usize,
    pub(crate) first_position: u64,
    pub(crate) durable: u64,
    pub(crate) count: u32,
    /// 1 start, 2 commit, 3 mark.
    pub(crate) kind: u8,
}

/// The frames of an undamaged segment file.
pub(crate) fn frames(segment: &[u8]) -> Vec<FrameSpot> {
    let mut frames = Vec::new();
    let mut offset = 64;
    while offset + 48 <= segment.len() && segment[offset + 44] != 0 {
        let body = u32::from_le_bytes(segment[offset + 4..offset + 8].try_into().unwrap()) as usize;
        let number = |at: usize| u64::from_le_bytes(segment[offset + at..offset + at + 8].try_into().unwrap());
        let end = offset + 48 + body.next_multiple_of(8);
        let (first_position, durable) = (number(16), number(32));
        frames.push(FrameSpot {
            offset,
            end,
            first_position,
            durable,
            count: number(40) as u32,
            kind: segment[offset + 44],
        });
        offset = end;
    }
    frames
}

/// Everything that a store answers, through every kind of read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answers {
    pub(crate) events: Vec<RecordedEvent>,
    /// By the query's text, the positions that it finds.
    found: BTreeMap<String, Vec<u64>>,
    versions: BTreeMap<String, Option<u64>>,
    state: BTreeMap<String, Vec<u8>>,
}

impl Answers {
    /// Asks a store about all the names that occur in `known`, and some that do not.
    pub(crate) fn of(store: &Store, known: &[RecordedEvent]) -> Result<Self> {
        let events: Vec<RecordedEvent> = store.read(Query::all()).owned().collect::<Result<_>>()?;
        let mut found = BTreeMap::new();
        for query in queries(known) {
            let forwards = same_events(store.read(query.clone()), &events)?;
            let mut backwards = same_events(store.read(query.clone()).reverse(), &events)?;
            backwards.reverse();
            assert_eq!(forwards, backwards, "{query:?} in both directions");
            found.insert(format!("{query:?}"), forwards);
        }
        let mut versions = BTreeMap::new();
        for name in names(known, |event| vec![&event.stream]) {
            versions.insert(name.to_owned(), store.version(name)?.map(annals::StreamVersion::number));
        }
        let keeper = store.state()?;
        let mut state = BTreeMap::new();
        for key in keeper.keys("")? {
            let value = keeper.get(&key)?.expect("a key that is listed has a value");
            state.insert(key, value);
        }
        assert_eq!(store.head()?.map_or(0, annals::Position::number), events.len() as u64, "the head");
        Ok(Self { events, found, versions, state })
    }

    /// The same answers, or a failure that says where they differ.
    #[track_caller]
    pub(crate) fn assert_equal(&self, expected: &Answers, context: &str) {
        assert_eq!(self.events.len(), expected.events.len(), "{context}: the number of events");
        for (event, other) in self.events.iter().zip(&expected.events) {
            assert_eq!(event, other, "{context}");
        }
        for (query, found) in &expected.found {
            assert_eq!(self.found.get(query), Some(found), "{context}: {query}");
        }
        assert_eq!(self.versions, expected.versions, "{context}");
        assert_eq!(self.state, expected.state, "{context}");
    }

    /// What a store with only the first events would answer, as far as it follows from them.
    #[track_caller]
    pub(crate) fn assert_prefix_of(&self, whole: &Answers, context: &str) {
        let events = &whole.events[..self.events.len()];
        assert!(self.events == events, "{context}: the events are not the first that were written");
        let last = events.last().map_or(0, |event| event.position.number());
        if let Some(next) = whole.events.get(events.len()) {
            assert_eq!(next.commit, next.position, "{context}: a commit was cut in the middle");
        }
        for (query, found) in &whole.found {
            let kept: Vec<u64> = found.iter().copied().filter(|position| *position <= last).collect();
            assert_eq!(self.found[query], kept, "{context}: {query}");
        }
        for (stream, version) in &self.versions {
            let newest = events.iter().rev().find(|event| event.stream == *stream);
            assert_eq!(*version, newest.map(|event| event.version.number()), "{context}: {stream}");
        }
    }
}

/// The positions that a read finds. Its events are those that stand there.
fn same_events(mut read: annals::Read, events: &[RecordedEvent]) -> Result<Vec<u64>> {
    let mut positions = Vec::new();
    while let Some(event) = read.next()? {
        let position = event.position().number();
        let expected = events[position as usize - 1].as_event();
        let facts = |event: &annals::Event<'_>| (event.id(), event.version(), event.time(), event.commit());
        assert_eq!(facts(&event), facts(&expected), "position {position}");
        assert!(event.payload() == expected.payload() && event.stream() == expected.stream(), "position {position}");
        positions.push(position);
    }
    Ok(positions)
}

fn queries(known: &[RecordedEvent]) -> Vec<Query> {
    let mut queries = vec![Query::all()];
    queries.extend(names(known, |event| vec![&event.stream]).into_iter().map(Query::stream));
    queries.extend(names(known, |event| vec![annals_category(&event.stream)]).into_iter().map(Query::category));
    queries.extend(names(known, |event| vec![&event.event_type]).into_iter().map(|name| Query::types([name])));
    queries.extend(names(known, |event| event.tags.iter().map(String::as_str).collect()).into_iter().map(Query::tag));
    queries
}

fn annals_category(stream: &str) -> &str {
    stream.split_once('-').map_or(stream, |(category, _)| category)
}

/// Each name once, and one that nothing has.
fn names<'e>(known: &'e [RecordedEvent], of: impl Fn(&'e RecordedEvent) -> Vec<&'e str>) -> BTreeSet<&'e str> {
    known.iter().flat_map(of).chain(["absent"]).collect()
}

/// Numbers that look random and are the same for the same seed (an xorshift of Marsaglia, 2003).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}
