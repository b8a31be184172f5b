//! The lines of a file to import, read, checked, cut and written by the code of the program: `annals import` without its
//! arguments and its progress.

use annals::{
    Appended, EventId, ManualClock, NewEvent, Options, Query, RecordedEvent, SeededRandomness, Store, Timestamp,
};
use uuid::Uuid;

use crate::lines::Lines;
use crate::ndjson::EventWriter;

#[path = "../../src/bin/annals/commands/import/batches.rs"]
#[allow(dead_code, reason = "the program uses what this does not")]
mod batches;

use batches::{Batch, Batches, Fault, mismatched};

/// Few, so that lines that name no commit are cut.
const BATCH_LINES_MAX: usize = 3;
/// What a store in memory takes, whatever is imported, of which 20 KiB were seen.
const STORE_BYTES: usize = 40 << 10;
/// What may be allocated for each byte of a file, of which 61 were seen. The shortest line has 34 bytes and becomes an
/// event with its frame, a place in the index, and a line of an export that says all of it; the events are there twice,
/// to be compared.
const FACTOR: usize = 96;

/// Checks a file as the program does. What passes can be written, is what the lines say, and comes back from its export.
pub fn check(text: &[u8]) {
    crate::allocation::within(STORE_BYTES + FACTOR * text.len(), || {
        if let Some(lines) = checked(text) {
            let (first, _) = import(text);
            assert_eq!(first.len() as u64, lines, "a line is lost, or written twice");
            let exported = export(&first);
            assert_eq!(checked(&exported), Some(lines), "what was exported cannot be imported");
            let (again, mismatches) = import(&exported);
            assert_eq!((again, mismatches), (first, 0), "what was exported is imported as something else");
        }
    });
}

/// The number of lines; `None` if one of them is bad.
fn checked(text: &[u8]) -> Option<u64> {
    let mut batches = Batches::new(Lines::new("fuzzed", Box::new(text)), BATCH_LINES_MAX, None);
    let (mut lines, mut is_good) = (0, true);
    loop {
        match batches.next() {
            Ok(None) => return is_good.then_some(lines),
            Ok(Some(batch)) => lines += batch.lines().len() as u64,
            Err(Fault::Bad(line)) => {
                let told = line.to_string();
                let is_printable = |character: char| character == '\n' || !character.is_control();
                assert!(told.starts_with("line ") && told.chars().all(is_printable), "{told:?}");
                is_good = false;
            }
            Err(Fault::Failed(error)) => panic!("text in memory can be read: {error}"),
        }
    }
}

/// The events of the store that the file is imported into, and how many are not where they were before.
fn import(text: &[u8]) -> (Vec<RecordedEvent>, u64) {
    let clock = ManualClock::new(Timestamp::from_millis(1));
    let options = Options::new().segment_bytes_first(4096).segment_bytes_max(8192).index_tail_bytes_max(2048);
    let options = options.without_background_work().clock(clock.clone()).randomness(SeededRandomness::new(1));
    let store = options.in_memory().expect("a store in memory opens");
    let mut batches = Batches::new(Lines::new("fuzzed", Box::new(text)), BATCH_LINES_MAX, Some(Uuid::nil()));
    let (mut mismatches, mut commit_time) = (0, Timestamp::MIN);
    while let Some(batch) = batches.next().expect("all lines are good") {
        let time = batch.commit_time().unwrap_or(Timestamp::from_millis(2));
        clock.set(time);
        commit_time = commit_time.max(time);
        mismatches += send(&store, batch, commit_time);
    }
    let events = store.read(Query::all()).owned().collect::<Result<_, _>>().expect("events can be read");
    store.close().expect("a store in memory closes");
    (events, mismatches)
}

fn send(store: &Store, batch: Batch, commit_time: Timestamp) -> u64 {
    let lines: Vec<(String, Option<EventId>, NewEvent)> =
        batch.lines().iter().map(|line| (line.stream.clone(), line.id, line.event.clone())).collect();
    let (commit, recorded) = batch.into_commit();
    let appended: Appended = store.send(commit).expect("what was checked can be written");
    let mut read = store.read(Query::all()).from(appended.first_position());
    for (stream, id, event) in lines {
        let written = read.next().expect("an event can be read").expect("it was just written").to_recorded();
        assert_eq!((&written.stream, Some(written.id)), (&stream, id));
        let (without_time, with_time) = (rebuilt(&written), rebuilt(&written).time(written.time));
        assert!(event == without_time || event == with_time, "{event:?} was written as {written:?}");
    }
    mismatched(&recorded, &appended, commit_time)
}

/// The event that would be recorded so.
fn rebuilt(event: &RecordedEvent) -> NewEvent {
    let RecordedEvent { event_type, codec, payload, id, schema_version, tags, metadata, .. } = event.clone();
    let new = NewEvent::from_bytes(event_type, codec, payload).id(id).schema_version(schema_version).tags(tags);
    match metadata {
        Some(metadata) => new.metadata_json(metadata),
        None => new,
    }
}

fn export(events: &[RecordedEvent]) -> Vec<u8> {
    let (mut writer, mut text) = (EventWriter::new(), Vec::new());
    for event in events {
        writer.write(&event.as_event(), 0, &mut text).expect("memory can be written to");
        text.push(b'\n');
    }
    text
}
