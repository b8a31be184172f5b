//! Groups 11 to 15: a commit that is sent again is written once.

use super::appending::{batch, draft, exact, stream_of};
use super::subject::{Batch, Condition, Draft, Item, Part, Written};
use super::{Cases, Subject, Verdict, conflict, invalid, same, written};
use crate::error::ExpectedVersion::{self, Any, NoStream};
use crate::types::EventId;

pub(super) const CASES: Cases = &[
    ("g11_the_same_events_at_the_same_place_are_found", g11_the_same_events_at_the_same_place_are_found),
    ("g12_events_are_found_behind_which_others_follow", g12_events_are_found_behind_which_others_follow),
    ("g13_a_commit_of_several_streams_is_found_as_a_whole", g13_a_commit_of_several_streams_is_found_as_a_whole),
    ("g14_a_commit_is_found_under_its_own_condition", g14_a_commit_is_found_under_its_own_condition),
    ("g15_ids_alone_make_no_commit_the_same", g15_ids_alone_make_no_commit_the_same),
];

/// The event `E<number>` with the id of this number.
fn numbered(number: u128) -> Draft {
    Draft { id: Some(EventId::from_bytes(number.to_be_bytes())), ..draft(&format!("E{number}")) }
}

fn events(stream: &str, expected: ExpectedVersion, numbers: &[u128]) -> Batch {
    let events = numbers.iter().map(|number| numbered(*number)).collect();
    Batch { parts: vec![Part { stream: stream.into(), expected, events }], ..Batch::default() }
}

/// The same result as before, but found.
fn found(what: &str, store: &dyn Subject, commit: &Batch, first: &Written) -> Verdict {
    let again = written(what, store.append(commit))?;
    same(what, &again, &Written { deduplicated: true, ..first.clone() })
}

fn g11_the_same_events_at_the_same_place_are_found(store: &mut dyn Subject) -> Verdict {
    let commit = events("a-1", NoStream, &[1, 2]);
    let first = written("two events", store.append(&commit))?;
    found("the same again", store, &commit, &first)?;
    store.reopen();
    found("the same after opening the store again", store, &commit, &first)?;
    for numbers in [&[1][..], &[2, 1], &[1, 2, 3]] {
        conflict("other events with some of the same ids", store.append(&events("a-1", NoStream, numbers)))?;
    }
    same("the head", &store.head()?, &2)
}

fn g12_events_are_found_behind_which_others_follow(store: &mut dyn Subject) -> Verdict {
    written("two events", store.append(&events("a-1", NoStream, &[1, 2])))?;
    let commit = events("a-1", exact(2), &[3]);
    let first = written("a third", store.append(&commit))?;
    found("the third again", store, &commit, &first)?;
    written("a fourth", store.append(&events("a-1", exact(3), &[4])))?;
    found("the third behind which a fourth follows", store, &commit, &first)
}

fn g13_a_commit_of_several_streams_is_found_as_a_whole(store: &mut dyn Subject) -> Verdict {
    let mut commit = events("a-1", NoStream, &[1]);
    commit.parts.extend(events("b-1", NoStream, &[2]).parts);
    let first = written("two streams", store.append(&commit))?;
    found("both again", store, &commit, &first)?;
    let mut other = events("c-1", NoStream, &[3]);
    other.parts.extend(events("a-1", NoStream, &[1]).parts);
    let failed = conflict("one stream was written by another commit", store.append(&other))?;
    let streams: Vec<&str> = failed.failures.iter().filter_map(stream_of).collect();
    same("the streams that are told", &streams, &vec!["a-1"])
}

fn g14_a_commit_is_found_under_its_own_condition(store: &mut dyn Subject) -> Verdict {
    let mut commit = events("a-1", Any, &[1]);
    commit.parts[0].events[0].tags.push("request:1".into());
    let item = Item { tags: vec!["request:1".into()], ..Item::default() };
    commit.conditions.push(Condition { items: vec![item], after: None });
    let first = written("under a condition that it breaks itself", store.append(&commit))?;
    found("again", store, &commit, &first)?;
    let mut other = commit.clone();
    other.parts[0].events = vec![numbered(2)];
    conflict("another commit under that condition", store.append(&other)).map(drop)
}

fn g15_ids_alone_make_no_commit_the_same(store: &mut dyn Subject) -> Verdict {
    invalid("the same id twice", store.append(&events("a-1", NoStream, &[1, 1])))?;
    let commit = events("a-1", NoStream, &[1]);
    written("an event", store.append(&commit))?;
    let mut other = commit.clone();
    other.parts[0].events[0].payload = b"another".to_vec();
    conflict("the same id with another payload", store.append(&other))?;
    // What expects nothing is not looked for.
    written("without an expectation", store.append(&batch("a-1", Any, &["A"])))?;
    written("without an expectation, again", store.append(&batch("a-1", Any, &["A"])))?;
    same("the version", &store.version("a-1")?, &3)
}
