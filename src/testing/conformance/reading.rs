//! Groups 24 to 28: reading.

use super::appending::{batch, draft, race};
use super::conditions::item;
use super::subject::{Batch, EventStore, Item, Part, Selection};
use super::{Cases, Subject, Verdict, same, written};
use crate::RecordedEvent;
use crate::error::ExpectedVersion::Any;
use crate::types::{Position, Timestamp};

pub(super) const CASES: Cases = &[
    ("g24_an_absent_stream_reads_as_empty", g24_an_absent_stream_reads_as_empty),
    ("g25_events_are_read_by_every_query", g25_events_are_read_by_every_query),
    ("g25_events_are_read_in_ranges_and_both_ways", g25_events_are_read_in_ranges_and_both_ways),
    ("g25_events_are_read_by_their_time", g25_events_are_read_by_their_time),
    ("g26_pages_are_the_whole", g26_pages_are_the_whole),
    ("g27_what_is_read_is_what_was_appended", g27_what_is_read_is_what_was_appended),
    ("g28_readers_see_whole_commits_without_holes", g28_readers_see_whole_commits_without_holes),
];

fn positions(events: &[RecordedEvent]) -> Vec<u64> {
    events.iter().map(|event| event.position.number()).collect()
}

fn read(store: &dyn Subject, items: Vec<Item>) -> Result<Vec<u64>, String> {
    Ok(positions(&store.read(&Selection { items, ..Selection::default() })?))
}

fn g24_an_absent_stream_reads_as_empty(store: &mut dyn Subject) -> Verdict {
    let stream = || vec![Item { stream: Some("a-1".into()), ..Item::default() }];
    same("on an empty store", &read(store, stream())?, &vec![])?;
    written("another stream", store.append(&batch("b-1", Any, &["A"])))?;
    same("beside another stream", &read(store, stream())?, &vec![])?;
    same("its version", &store.version("a-1")?, &0)
}

/// Five events on three streams of two categories.
fn seed(store: &mut dyn Subject) -> Verdict {
    for (second, (stream, event_type, tag)) in
        (1..).zip([("a-1", "A", "x"), ("b-1", "A", "y"), ("a-2", "B", "x"), ("a-1", "B", "y"), ("a-1", "C", "x")])
    {
        let mut event = draft(event_type);
        event.tags.push(tag.into());
        event.time = Some(Timestamp::from_millis(second * 1_000));
        let part = Part { stream: stream.into(), expected: Any, events: vec![event] };
        written("a first event", store.append(&Batch { parts: vec![part], ..Batch::default() }))?;
    }
    store.reopen();
    Ok(())
}

fn g25_events_are_read_by_every_query(store: &mut dyn Subject) -> Verdict {
    seed(store)?;
    let stream = |name: &str| Item { stream: Some(name.into()), ..Item::default() };
    let category = |name: &str| Item { category: Some(name.into()), ..Item::default() };
    let cases: [(Vec<Item>, &[u64]); 10] = [
        (vec![], &[1, 2, 3, 4, 5]),
        (vec![stream("a-1")], &[1, 4, 5]),
        (vec![stream("a")], &[]),
        (vec![category("a")], &[1, 3, 4, 5]),
        (vec![item(&["A", "C"], &[])], &[1, 2, 5]),
        (vec![item(&[], &["x"])], &[1, 3, 5]),
        (vec![item(&["B"], &["x"])], &[3]),
        (vec![item(&[], &["x", "y"])], &[]),
        (vec![Item { types: vec!["B".into()], ..stream("a-1") }], &[4]),
        (vec![category("b"), item(&["C"], &[]), stream("b-1")], &[2, 5]),
    ];
    for (items, expected) in cases {
        let what = format!("{items:?}");
        same(&what, &read(store, items.clone())?, &expected.to_vec())?;
        let backwards = store.read(&Selection { items, reverse: true, ..Selection::default() })?;
        same(&format!("{what}, backwards"), &positions(&backwards), &expected.iter().rev().copied().collect())?;
    }
    Ok(())
}

fn g25_events_are_read_in_ranges_and_both_ways(store: &mut dyn Subject) -> Verdict {
    seed(store)?;
    let all = Selection::default();
    let at = |number| Position::new(number);
    let cases: [(Selection, &[u64]); 9] = [
        (Selection { from: at(2), ..all.clone() }, &[2, 3, 4, 5]),
        (Selection { after: at(2), ..all.clone() }, &[3, 4, 5]),
        (Selection { from: at(2), reverse: true, ..all.clone() }, &[2, 1]),
        (Selection { after: at(2), reverse: true, ..all.clone() }, &[1]),
        (Selection { from: at(1_000), reverse: true, ..all.clone() }, &[5, 4, 3, 2, 1]),
        (Selection { from: at(1_000), ..all.clone() }, &[]),
        (Selection { limit: 0, ..all.clone() }, &[]),
        (Selection { limit: 2, after: at(1), ..all.clone() }, &[2, 3]),
        (Selection { limit: 2, items: vec![item(&[], &["x"])], ..all.clone() }, &[1, 3]),
    ];
    for (selection, expected) in cases {
        same(&format!("{selection:?}"), &positions(&store.read(&selection)?), &expected.to_vec())?;
    }
    Ok(())
}

fn g25_events_are_read_by_their_time(store: &mut dyn Subject) -> Verdict {
    seed(store)?;
    let second = |second: i64| Some(Timestamp::from_millis(second * 1_000));
    for (since, until, expected) in [
        (second(2), None, &[2, 3, 4, 5][..]),
        (None, second(2), &[1]),
        (second(2), second(4), &[2, 3]),
        (second(9), None, &[]),
    ] {
        let selection = Selection { since, until, ..Selection::default() };
        same(&format!("{selection:?}"), &positions(&store.read(&selection)?), &expected.to_vec())?;
    }
    Ok(())
}

fn g26_pages_are_the_whole(store: &mut dyn Subject) -> Verdict {
    // Many that do not match lie between those that do.
    for number in 0..50 {
        let types: &[&str] = if number % 7 == 0 { &["Wanted", "Other", "Wanted"] } else { &["Other", "Other"] };
        written("events", store.append(&batch(&format!("a-{}", number % 3), Any, types)))?;
    }
    store.reopen();
    let wanted = vec![item(&["Wanted"], &[])];
    let whole = read(store, wanted.clone())?;
    same("the number of events", &whole.len(), &16)?;
    for limit in [1, 3, 16] {
        let (mut pages, mut after) = (Vec::new(), None);
        loop {
            let page = store.read(&Selection { items: wanted.clone(), after, limit, ..Selection::default() })?;
            let Some(last) = page.last() else { break };
            after = Some(last.position);
            pages.extend(positions(&page));
            if pages.len() > whole.len() {
                break;
            }
        }
        same(&format!("pages of {limit}"), &pages, &whole)?;
    }
    Ok(())
}

fn g27_what_is_read_is_what_was_appended(store: &mut dyn Subject) -> Verdict {
    let mut full = draft("Überwiesen\u{7}");
    full.payload = (0..=255).cycle().take(1024 * 1024).collect();
    full.tags = ["b", "a", "b"].map(str::to_owned).to_vec();
    full.metadata = Some(b"{ \"user\":\t\"alice\" }".to_vec());
    let mut empty = draft("t".repeat(crate::limits::TYPE_NAME_BYTES_MAX).as_str());
    empty.payload.clear();
    let without = draft("W");
    let events = vec![full.clone(), empty, without];
    let part = Part { stream: "konto-\u{1F4B6}".into(), expected: Any, events };
    written("unusual events", store.append(&Batch { parts: vec![part], ..Batch::default() }))?;
    store.reopen();
    let events = store.read(&Selection::default())?;
    let [first, second, third] = events.as_slice() else { return Err(format!("expected three, got {events:?}")) };
    same("the stream", &first.stream.as_str(), &"konto-\u{1F4B6}")?;
    same("the type", &first.event_type, &full.event_type)?;
    same("the length of the payload", &first.payload.len(), &full.payload.len())?;
    same("the payload", &(first.payload == full.payload), &true)?;
    same("the tags", &first.tags, &["a", "b"].map(str::to_owned).to_vec())?;
    same("the metadata", &first.metadata, &full.metadata)?;
    same("an empty payload", &second.payload, &vec![])?;
    same("the longest type", &second.event_type.len(), &crate::limits::TYPE_NAME_BYTES_MAX)?;
    same("no metadata", &third.metadata, &None)?;
    same("the commit", &third.commit, &first.position)
}

/// Readers look while writers write commits of two events each.
fn g28_readers_see_whole_commits_without_holes(store: &mut dyn Subject) -> Verdict {
    const COMMITS: usize = 30;
    let store: &dyn EventStore = store;
    let is_writer = |number: u64| number < 2;
    let verdicts = race(4, |number| match is_writer(number) {
        true => (0..COMMITS).try_for_each(|_| {
            written("two events", store.append(&batch(&format!("a-{number}"), Any, &["A", "B"]))).map(drop)
        }),
        false => (0..COMMITS).try_fold(0, |before, _| look(store, before)).map(drop),
    });
    verdicts.into_iter().collect::<Verdict>()?;
    same("what is stored", &look(store, 0)?, &(2 * 2 * COMMITS))
}

/// What a reader sees now, at least as much as before: how many events.
fn look(store: &dyn EventStore, before: usize) -> Result<usize, String> {
    let events = store.read(&Selection::default())?;
    same("the positions", &positions(&events), &(1..=events.len() as u64).collect())?;
    same("a commit that is seen in part", &(events.len() % 2), &0)?;
    same("what was seen and is gone", &before.saturating_sub(events.len()), &0)?;
    Ok(events.len())
}
