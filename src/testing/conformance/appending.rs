//! Groups 1 to 10: appending, versions, several streams, results.

use super::subject::{Batch, Draft, EventStore, Part, Selection};
use super::{Cases, Subject, Verdict, conflict, invalid, same, written};
use crate::error::{ExpectationFailure, ExpectedVersion};
use crate::types::StreamVersion;
use ExpectedVersion::{Any, NoStream, StreamExists};

pub(super) const CASES: Cases = &[
    ("g01_an_empty_commit_is_invalid", g01_an_empty_commit_is_invalid),
    ("g02_versions_count_the_events_of_a_stream", g02_versions_count_the_events_of_a_stream),
    ("g02_a_version_that_is_not_the_last_is_a_conflict", g02_a_version_that_is_not_the_last_is_a_conflict),
    ("g03_streams_are_expected_to_exist_or_not", g03_streams_are_expected_to_exist_or_not),
    ("g04_of_writers_with_one_expectation_one_wins", g04_of_writers_with_one_expectation_one_wins),
    ("g04_writers_on_streams_of_their_own_leave_no_gap", g04_writers_on_streams_of_their_own_leave_no_gap),
    ("g05_what_was_refused_leaves_nothing", g05_what_was_refused_leaves_nothing),
    ("g06_several_streams_are_written_together", g06_several_streams_are_written_together),
    ("g06_all_expectations_that_fail_are_told", g06_all_expectations_that_fail_are_told),
    ("g07_a_stream_can_be_checked_without_being_written", g07_a_stream_can_be_checked_without_being_written),
    ("g09_what_was_appended_is_told", g09_what_was_appended_is_told),
    ("g10_all_problems_are_told_at_once", g10_all_problems_are_told_at_once),
];

const WRITERS: u64 = 8;

/// An event whose payload is its type.
pub(super) fn draft(event_type: &str) -> Draft {
    Draft { event_type: event_type.into(), payload: event_type.into(), ..Draft::default() }
}

pub(super) fn exact(version: u64) -> ExpectedVersion {
    StreamVersion::new(version).map_or(NoStream, ExpectedVersion::Exact)
}

/// Events of these types for one stream.
pub(super) fn batch(stream: &str, expected: ExpectedVersion, types: &[&str]) -> Batch {
    Batch::default().and(stream, expected, types)
}

impl Batch {
    /// With events of these types for one more stream.
    pub(super) fn and(mut self, stream: &str, expected: ExpectedVersion, types: &[&str]) -> Self {
        let events = types.iter().map(|event_type| draft(event_type)).collect();
        self.parts.push(Part { stream: stream.into(), expected, events });
        self
    }

    pub(super) fn expecting(mut self, stream: &str, expected: ExpectedVersion) -> Self {
        self.checks.push((stream.into(), expected));
        self
    }
}

/// The streams and types of all events.
pub(super) fn all(store: &dyn EventStore) -> Result<Vec<String>, String> {
    let events = store.read(&Selection::default())?;
    Ok(events.iter().map(|event| format!("{} {}", event.stream, event.event_type)).collect())
}

fn g01_an_empty_commit_is_invalid(store: &mut dyn Subject) -> Verdict {
    invalid("nothing at all", store.append(&Batch::default()))?;
    invalid("a stream without events", store.append(&batch("a-1", Any, &[])))?;
    same("the head", &store.head()?, &0)
}

fn g02_versions_count_the_events_of_a_stream(store: &mut dyn Subject) -> Verdict {
    same("the version of an absent stream", &store.version("a-1")?, &0)?;
    written("NoStream on a new stream", store.append(&batch("a-1", NoStream, &["A"])))?;
    written("Exact(1)", store.append(&batch("a-1", exact(1), &["B", "C"])))?;
    store.reopen();
    written("Exact(3) after two more", store.append(&batch("a-1", exact(3), &["D"])))?;
    same("the version", &store.version("a-1")?, &4)?;
    let versions: Vec<u64> = store.read(&Selection::default())?.iter().map(|event| event.version.number()).collect();
    same("the versions of the events", &versions, &vec![1, 2, 3, 4])
}

fn g02_a_version_that_is_not_the_last_is_a_conflict(store: &mut dyn Subject) -> Verdict {
    conflict("Exact(1) on an absent stream", store.append(&batch("a-1", exact(1), &["A"])))?;
    written("three events", store.append(&batch("a-1", NoStream, &["A", "B", "C"])))?;
    for version in [0, 1, 2, 4] {
        let failed = conflict("not the last version", store.append(&batch("a-1", exact(version), &["D"])))?;
        let actual = failed.failures.first().and_then(|failure| match failure {
            ExpectationFailure::Stream { actual, .. } => *actual,
            _ => None,
        });
        same("the actual version that is told", &actual, &StreamVersion::new(3))?;
    }
    written("the last version", store.append(&batch("a-1", exact(3), &["D"]))).map(drop)
}

fn g03_streams_are_expected_to_exist_or_not(store: &mut dyn Subject) -> Verdict {
    conflict("StreamExists on an absent stream", store.append(&batch("a-1", StreamExists, &["A"])))?;
    written("Any on an absent stream", store.append(&batch("a-1", Any, &["A"])))?;
    written("Any again", store.append(&batch("a-1", Any, &["B"])))?;
    written("StreamExists", store.append(&batch("a-1", StreamExists, &["C"])))?;
    conflict("NoStream on a stream", store.append(&batch("a-1", NoStream, &["D"])))?;
    // A name that is the beginning of another is another.
    written("NoStream on another", store.append(&batch("a-11", NoStream, &["E"])))?;
    same("the events", &all(store)?.len(), &4)
}

/// Runs a writer on each of so many threads, and collects what they say.
pub(super) fn race<T: Send>(writers: u64, writer: impl Fn(u64) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..writers)
            .map(|number| {
                let writer = &writer;
                scope.spawn(move || writer(number))
            })
            .collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    })
}

fn g04_of_writers_with_one_expectation_one_wins(store: &mut dyn Subject) -> Verdict {
    let store: &dyn EventStore = store;
    let types: Vec<String> = (0..WRITERS).map(|number| format!("W{number}")).collect();
    let results = race(WRITERS, |number| store.append(&batch("a-1", NoStream, &[&types[number as usize]])));
    let winners: Vec<usize> = (0..results.len()).filter(|index| results[*index].is_ok()).collect();
    let [winner] = winners.as_slice() else { return Err(format!("expected one winner, got {results:?}")) };
    for result in results.iter().filter(|result| result.is_err()) {
        conflict("a writer that lost", result.clone())?;
    }
    let events = store.read(&Selection::default())?;
    let payloads: Vec<&[u8]> = events.iter().map(|event| event.payload.as_slice()).collect();
    same("what is stored", &payloads, &vec![types[*winner].as_bytes()])
}

fn g04_writers_on_streams_of_their_own_leave_no_gap(store: &mut dyn Subject) -> Verdict {
    let store: &dyn EventStore = store;
    let results = race(WRITERS, |number| {
        let stream = format!("a-{number}");
        (0..5).try_for_each(|version| {
            written("an event on its own stream", store.append(&batch(&stream, exact(version), &["E"]))).map(drop)
        })
    });
    results.into_iter().collect::<Verdict>()?;
    let positions: Vec<u64> = store.read(&Selection::default())?.iter().map(|event| event.position.number()).collect();
    same("the positions", &positions, &(1..=5 * WRITERS).collect())
}

fn g05_what_was_refused_leaves_nothing(store: &mut dyn Subject) -> Verdict {
    written("an event", store.append(&batch("a-1", NoStream, &["A"])))?;
    conflict("a stale commit", store.append(&batch("a-1", NoStream, &["B"]).and("b-1", NoStream, &["C"])))?;
    invalid("an event without a type", store.append(&batch("b-1", Any, &["D", ""])))?;
    store.reopen();
    same("the events", &all(store)?, &vec!["a-1 A".to_owned()])?;
    same("the head", &store.head()?, &1)?;
    same("the other stream", &store.version("b-1")?, &0)?;
    let corrected = written("the corrected commit", store.append(&batch("a-1", exact(1), &["B"])))?;
    same("its position", &corrected.first, &2)
}

fn g06_several_streams_are_written_together(store: &mut dyn Subject) -> Verdict {
    written("A at 3", store.append(&batch("a-1", NoStream, &["1", "2", "3"])))?;
    written("B at 2", store.append(&batch("b-1", NoStream, &["1", "2"])))?;
    let commit = batch("a-1", exact(3), &["x"]).and("b-1", StreamExists, &["y"]).and("c-1", NoStream, &["z"]);
    let appended = written("all three", store.append(&commit))?;
    let versions = [("a-1", 4), ("b-1", 3), ("c-1", 1)].map(|(stream, version)| (stream.to_owned(), version));
    same("their versions", &appended.versions, &versions.to_vec())?;
    let mixed = batch("a-1", Any, &["p"]).and("b-1", Any, &["q"]).and("a-1", Any, &["r"]);
    written("events of two streams by turns", store.append(&mixed))?;
    let order = all(store)?.split_off(8);
    same("their order", &order, &["a-1 p", "b-1 q", "a-1 r"].map(str::to_owned).to_vec())
}

fn g06_all_expectations_that_fail_are_told(store: &mut dyn Subject) -> Verdict {
    let commit = batch("a-1", exact(1), &["x"]).and("b-1", Any, &["y"]).and("c-1", exact(2), &["z"]);
    let failed = conflict("on an empty store", store.append(&commit))?;
    let streams: Vec<&str> = failed.failures.iter().filter_map(stream_of).collect();
    same("the streams that are told", &streams, &vec!["a-1", "c-1"])
}

pub(super) fn stream_of(failure: &ExpectationFailure) -> Option<&str> {
    match failure {
        ExpectationFailure::Stream { stream, .. } => Some(stream),
        _ => None,
    }
}

fn g07_a_stream_can_be_checked_without_being_written(store: &mut dyn Subject) -> Verdict {
    written("a policy", store.append(&batch("policy-1", NoStream, &["P"])))?;
    let checked = batch("a-1", NoStream, &["A"]).expecting("policy-1", exact(1));
    written("with what holds", store.append(&checked))?;
    same("the stream that was checked", &store.version("policy-1")?, &1)?;
    let stale = batch("a-1", exact(1), &["B"]).expecting("policy-1", exact(2));
    conflict("with what does not hold", store.append(&stale))?;
    same("the stream that was to be written", &store.version("a-1")?, &1)
}

fn g09_what_was_appended_is_told(store: &mut dyn Subject) -> Verdict {
    written("an event", store.append(&batch("a-1", NoStream, &["A"])))?;
    let appended = written("two more", store.append(&batch("a-1", Any, &["B"]).and("b-1", Any, &["C"])))?;
    same("the positions", &(appended.first, appended.last), &(2, 3))?;
    same("the versions", &appended.versions, &vec![("a-1".to_owned(), 2), ("b-1".to_owned(), 1)])?;
    same("deduplicated", &appended.deduplicated, &false)
}

fn g10_all_problems_are_told_at_once(store: &mut dyn Subject) -> Verdict {
    written("an event", store.append(&batch("a-1", NoStream, &["A"])))?;
    let long = "t".repeat(crate::limits::TYPE_NAME_BYTES_MAX + 1);
    // Stale as well: what is invalid is told before that.
    let problems = invalid("three bad events", store.append(&batch("a-1", NoStream, &["", &long, ""])))?;
    same("the number of problems", &problems, &3)
}
