//! A small store with several segments and index files, and what must hold of what is left of it.

use std::sync::LazyLock;

use annals::fuzzing::{self, Files};
use annals::{
    Error, ExpectedVersion, ManualClock, NewEvent, Options, Query, RecordedEvent, Result, SeededRandomness, Store,
    Timestamp,
};

/// The files of a store that was closed, and its events.
pub struct Sample {
    pub files: Files,
    pub events: Vec<RecordedEvent>,
}

/// What damage may take away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Nothing: what is shown is all there was.
    None,
    /// Events from some position on.
    Tail,
    /// Anything may be shown: only that nothing panics or hangs is checked.
    Any,
}

/// The sample; made once.
pub fn get() -> &'static Sample {
    static SAMPLE: LazyLock<Sample> = LazyLock::new(|| make().expect("a store in memory"));
    &SAMPLE
}

/// Options that make much happen in few bytes, and the same each time.
pub fn options() -> Options {
    Options::new()
        .segment_bytes_first(4096)
        .segment_bytes_max(8192)
        .index_tail_bytes_max(2048)
        .without_background_work()
        .clock(ManualClock::new(Timestamp::from_millis(1_000)))
        .randomness(SeededRandomness::new(1))
}

fn make() -> Result<Sample> {
    let mut events = Vec::new();
    let files = fuzzing::closed_store(options(), |store| {
        for number in 0..28u32 {
            let stream = format!("account-{}", number % 5);
            store.append(stream, ExpectedVersion::Any, (0..=number % 2).map(|extra| event(number, extra)))?;
            if number % 8 == 5 {
                store.maintain()?;
            }
        }
        events = store.read(Query::all()).owned().collect::<Result<_>>()?;
        Ok(())
    })?;
    let has = |suffix| files.keys().any(|path: &String| path.ends_with(suffix));
    assert!(has(".run") && has(".positions") && has("2.segment") && has("synced-head"), "too small a sample");
    Ok(Sample { files, events })
}

fn event(number: u32, extra: u32) -> NewEvent {
    let types = ["Opened", "Deposited", "Withdrawn"];
    let event = NewEvent::raw(types[(number + extra) as usize % 3], vec![number as u8; 180]);
    event.tag(format!("branch:{}", number % 5)).tag("all")
}

/// Whether a store opens from these files.
pub fn opens(files: &Files) -> bool {
    fuzzing::with_store(files, options(), |_| Ok(())).is_ok()
}

/// Opens the files for reading and for writing, and checks that what is shown is right, up to what may be lost.
pub fn check(files: &Files, loss: Loss) {
    // An error, of opening or of reading, is an answer: nothing wrong was shown.
    let _ = fuzzing::with_reader(files, options(), |store| look(store, loss).map(drop));
    let mut kept = Vec::new();
    let left = fuzzing::with_store(files, options(), |store| {
        kept = look(store, loss)?;
        store.append("account-0", ExpectedVersion::Any, [event(99, 0)])?;
        let last = store.read(Query::all()).reverse().limit(1).owned().next().expect("an event was appended")?;
        assert!(loss == Loss::Any || last.position.number() == kept.len() as u64 + 1, "appended behind what was shown");
        kept.push(last);
        Ok(())
    });
    let Ok(left) = left else { return };
    // What was served and appended to is whole from now on.
    let reopened = fuzzing::with_store(&left, options(), |store| {
        let again = store.read(Query::all()).owned().collect::<Result<Vec<_>>>()?;
        assert!(loss == Loss::Any || again == kept, "reopened, and something else is shown");
        Ok(())
    });
    match reopened {
        Ok(_) => {}
        Err(error) => assert!(loss == Loss::Any, "a store that took an append does not open again: {error}"),
    }
}

/// Reads everything in every way. The first error ends it.
fn look(store: &Store, loss: Loss) -> Result<Vec<RecordedEvent>, Error> {
    let all: Vec<RecordedEvent> = store.read(Query::all()).owned().collect::<Result<_>>()?;
    let events = &get().events;
    match loss {
        Loss::None => assert!(all == *events, "{} of {} events are shown", all.len(), events.len()),
        Loss::Tail => assert!(events.starts_with(&all), "what is shown is not what was written"),
        Loss::Any => {}
    }
    let mut back = store.read(Query::all()).reverse();
    for event in all.iter().rev() {
        let same = back.next()?.is_some_and(|other| other.to_recorded() == *event);
        assert!(loss == Loss::Any || same, "backwards is not forwards");
    }
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
        let mut wanted = all.iter().filter(|event| query.matches(&event.as_event())).map(|event| event.position);
        while let Some(event) = found.next()? {
            assert!(loss == Loss::Any || Some(event.position()) == wanted.next(), "{query:?} finds another");
        }
        assert!(loss == Loss::Any || wanted.next().is_none(), "{query:?} misses some");
    }
    for number in 0..6 {
        let stream = format!("account-{number}");
        let last = all.iter().rev().find(|event| event.stream == stream).map(|event| event.version);
        assert!(store.version(&stream)? == last || loss == Loss::Any, "the version of {stream}");
    }
    Ok(all)
}
