//! A small store with several segments, index files and a state, and what must hold of what is left of it.

use std::sync::LazyLock;

use annals::fuzzing::{self, Files};
use annals::{
    Error, ExpectedVersion, ManualClock, NewEvent, NewSnapshot, Options, Query, RecordedEvent, Result,
    SeededRandomness, Snapshot, SnapshotQuery, StateBatch, Store, StreamVersion, Timestamp,
};

/// The files of a store that was closed, and what was written to it.
pub struct Sample {
    pub files: Files,
    /// The files when it was closed once before.
    pub earlier: Files,
    pub events: Vec<RecordedEvent>,
    /// The states of snapshots begin with their stream and version.
    pub snapshots: Vec<(String, StreamVersion)>,
}

/// What must be shown.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// These events, all of them.
    All(Vec<RecordedEvent>),
    /// The first of these events: what is shown may end before they do.
    First(Vec<RecordedEvent>),
    /// Anything may be shown: only that nothing panics or hangs is checked.
    Any,
}

/// What holds of files that were damaged.
#[derive(Debug, Clone)]
pub struct Expected {
    /// What is shown to readers, who must not show what is not known to be synced.
    pub read: Wanted,
    /// What is shown to a writer.
    pub written: Wanted,
    /// The index may lie: then what it leads to can be too little, and the versions of streams wrong.
    pub index_lies: bool,
    pub must_be_refused: bool,
}

/// Streams of the sample, and more.
const STREAMS: u32 = 6;
const KEYS: [&str; 3] = ["lease", "checkpoint-mailer", "setting"];
/// How often each key was written to.
const VALUES: u8 = 4;

/// The sample; made once.
pub fn get() -> &'static Sample {
    static SAMPLE: LazyLock<Sample> = LazyLock::new(|| make().expect("a store in memory"));
    &SAMPLE
}

/// Options that make much happen in few bytes, and the same each time. Each open of one store draws its own ids.
pub fn options(seed: u64) -> Options {
    Options::new()
        .segment_bytes_first(4096)
        .segment_bytes_max(8192)
        .index_tail_bytes_max(2048)
        .without_background_work()
        .clock(ManualClock::new(Timestamp::from_millis(1_000)))
        .randomness(SeededRandomness::new(seed))
}

fn make() -> Result<Sample> {
    let (mut events, mut snapshots) = (Vec::new(), Vec::new());
    let earlier = fuzzing::closed_store(options(1), |store| write(store, 0..16, &mut snapshots))?;
    let files = fuzzing::with_store(&earlier, options(2), |store| {
        write(store, 16..28, &mut snapshots)?;
        events = store.read(Query::all()).owned().collect::<Result<_>>()?;
        Ok(())
    })?;
    let has = |suffix| files.keys().any(|path: &String| path.ends_with(suffix));
    assert!(has(".run") && has(".positions") && has("2.segment") && has("synced-head"), "too small a sample");
    assert!(has("state/log/0000000001.segment") && !snapshots.is_empty(), "a sample without state");
    Ok(Sample { files, earlier, events, snapshots })
}

fn write(
    store: &Store,
    numbers: std::ops::Range<u32>,
    snapshots: &mut Vec<(String, StreamVersion)>,
) -> Result<()> {
    for number in numbers {
        let stream = format!("account-{}", number % 5);
        let appended =
            store.append(&stream, ExpectedVersion::Any, (0..=number % 2).map(|extra| event(number, extra)))?;
        if number % 8 == 5 {
            store.maintain()?;
        }
        if number % 7 == 0 {
            let key = KEYS[number as usize % KEYS.len()];
            store.state()?.write(StateBatch::new().put(key, value(key, (number / 7) as u8)))?;
            let version = appended.version();
            store.save_snapshot(&NewSnapshot::raw(&stream, version, state_of(&stream, version)).schema(7))?;
            snapshots.push((stream, version));
        }
    }
    Ok(())
}

fn event(number: u32, extra: u32) -> NewEvent {
    let types = ["Opened", "Deposited", "Withdrawn"];
    let event = NewEvent::raw(types[(number + extra) as usize % 3], vec![number as u8; 180]);
    event.tag(format!("branch:{}", number % 5)).tag("all")
}

fn value(key: &str, number: u8) -> Vec<u8> {
    [key.as_bytes(), &[number; 16]].concat()
}

/// The state of the snapshot of a stream at a version.
pub fn state_of(stream: &str, version: StreamVersion) -> Vec<u8> {
    format!("{stream} at {version}, and more").into_bytes()
}

/// Whether a store opens from these files.
pub fn opens(files: &Files) -> bool {
    fuzzing::with_store(files, options(3), |_| Ok(())).is_ok()
}

/// Bytes of files.
pub fn bytes_of(files: &Files) -> usize {
    files.values().map(Vec::len).sum()
}

/// Opens the files for reading and for writing, and checks that what is shown is right.
pub fn check(files: &Files, expected: &Expected) {
    // An error, of opening or of reading, is an answer: nothing wrong was shown.
    let read = fuzzing::with_reader(files, options(3), |store| look(store, &expected.read, expected).map(drop));
    let mut kept = Vec::new();
    let left = fuzzing::with_store(files, options(4), |store| {
        kept = look(store, &expected.written, expected)?;
        let appended = store.append("account-0", ExpectedVersion::Any, [event(99, 0)])?;
        let last = store.read(Query::all()).reverse().limit(1).owned().next().expect("an event was appended")?;
        assert_eq!(last.position, appended.first_position());
        // A log whose first segments are gone begins at any position.
        let follows = kept.last().is_none_or(|shown| shown.position.number() + 1 == last.position.number());
        assert!(follows || matches!(expected.written, Wanted::Any), "appended behind what was shown");
        kept.push(last);
        Ok(())
    });
    assert!(!expected.must_be_refused || (read.is_err() && left.is_err()), "synced data are gone, and it opens");
    let Ok(left) = left else { return };
    // What was served and appended to is whole from now on.
    let reopened = fuzzing::with_store(&left, options(5), |store| {
        let again = store.read(Query::all()).owned().collect::<Result<Vec<_>>>()?;
        assert!(matches!(expected.written, Wanted::Any) || again == kept, "reopened, and something else is shown");
        Ok(())
    });
    if let Err(error) = reopened {
        assert!(
            matches!(expected.written, Wanted::Any) || expected.index_lies,
            "a store that took an append does not open again: {error}"
        );
    }
}

/// Reads everything in every way. The first error ends it.
fn look(store: &Store, wanted: &Wanted, expected: &Expected) -> Result<Vec<RecordedEvent>, Error> {
    let all: Vec<RecordedEvent> = store.read(Query::all()).owned().collect::<Result<_>>()?;
    match wanted {
        Wanted::All(events) => assert!(all == *events, "{} of {} events are shown", all.len(), events.len()),
        Wanted::First(events) => assert!(events.starts_with(&all), "what is shown is not what was written"),
        Wanted::Any => {}
    }
    let is_any = matches!(wanted, Wanted::Any);
    let may_miss = is_any || expected.index_lies;
    let mut back = store.read(Query::all()).reverse();
    for event in all.iter().rev() {
        match back.next()? {
            Some(other) => assert!(is_any || other.to_recorded() == *event, "backwards is not forwards"),
            None => assert!(may_miss, "backwards is less than forwards"),
        }
    }
    check_queries(store, &all, is_any, may_miss)?;
    for number in 0..STREAMS {
        let stream = format!("account-{number}");
        let last = all.iter().rev().find(|event| event.stream == stream).map(|event| event.version);
        assert!(store.version(&stream)? == last || may_miss, "the version of {stream}");
    }
    Ok(all)
}

fn check_queries(store: &Store, all: &[RecordedEvent], is_any: bool, may_miss: bool) -> Result<()> {
    let queries = [
        Query::stream("account-3"),
        Query::stream("account-9"),
        Query::category("account"),
        Query::types(["Opened", "Withdrawn"]),
        Query::tag("branch:2"),
        Query::tags(["all", "branch:4"]).or(Query::stream("account-1")),
    ];
    for query in queries {
        let mut found = store.read(query.clone());
        let mut wanted = all.iter().filter(|event| query.matches(&event.as_event()));
        while let Some(event) = found.next()? {
            let event = event.to_recorded();
            let is_next = if may_miss { wanted.any(|other| *other == event) } else { wanted.next() == Some(&event) };
            assert!(is_any || is_next, "{query:?} finds another");
        }
        assert!(may_miss || wanted.next().is_none(), "{query:?} misses some");
    }
    Ok(())
}

/// Looks at the state of a store whose log is whole: what is found there was put there once.
pub fn look_at_state(store: &Store, sample: &Sample) -> Result<()> {
    let state = store.state()?;
    for key in KEYS {
        let found = state.get(key)?;
        let is_known = |found: Vec<u8>| (0..VALUES).any(|number| value(key, number) == found);
        assert!(found.is_none_or(is_known), "a value of {key:?} that it never had");
    }
    for key in state.keys("")? {
        assert!(KEYS.contains(&key.as_str()) || key.starts_with("snapshot-"), "{key:?} was never written");
    }
    for number in 0..STREAMS {
        let stream = format!("account-{number}");
        let found = store.load_snapshot(&stream, SnapshotQuery::new().schema(7))?.snapshot;
        assert!(found.is_none_or(|found| is_kept(&found, sample)), "a snapshot of {stream:?} that was never saved");
    }
    Ok(())
}

fn is_kept(found: &Snapshot, sample: &Sample) -> bool {
    let mut saved = sample.snapshots.iter();
    saved.any(|(stream, version)| *stream == found.stream && *version == found.version)
        && found.state == state_of(&found.stream, found.version)
}
