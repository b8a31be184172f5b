//! Groups 16 to 20: conditions on queries.

use super::appending::{batch, draft, race};
use super::subject::{Batch, Condition, EventStore, Item, Part, Selection};
use super::{Cases, Subject, Verdict, conflict, same, written};
use crate::error::ExpectedVersion::Any;
use crate::types::Position;

pub(super) const CASES: Cases = &[
    ("g16_a_condition_fails_by_what_lies_after_its_position", g16_a_condition_fails_by_what_lies_after_its_position),
    ("g17_conditions_of_every_kind", g17_conditions_of_every_kind),
    ("g18_tags_are_compared_as_a_whole", g18_tags_are_compared_as_a_whole),
    ("g20_of_writers_with_overlapping_conditions_one_wins", g20_of_writers_with_overlapping_conditions_one_wins),
    ("g20_writers_with_disjoint_conditions_all_win", g20_writers_with_disjoint_conditions_all_win),
];

fn tagged(stream: &str, event_type: &str, tags: &[&str]) -> Batch {
    let mut event = draft(event_type);
    event.tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
    Batch { parts: vec![Part { stream: stream.into(), expected: Any, events: vec![event] }], ..Batch::default() }
}

pub(super) fn item(types: &[&str], tags: &[&str]) -> Item {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Item { types: owned(types), tags: owned(tags), ..Item::default() }
}

fn unless(mut batch: Batch, items: Vec<Item>, after: u64) -> Batch {
    batch.conditions.push(Condition { items, after: Position::new(after) });
    batch
}

/// Events at 1 to 3: type1 with X, type2 with A and B, type3 with A and C.
fn seed(store: &dyn Subject) -> Verdict {
    for (event_type, tags) in [("type1", &["X"][..]), ("type2", &["A", "B"]), ("type3", &["A", "C"])] {
        written("a first event", store.append(&tagged("seed-1", event_type, tags)))?;
    }
    Ok(())
}

fn g16_a_condition_fails_by_what_lies_after_its_position(store: &mut dyn Subject) -> Verdict {
    seed(store)?;
    let x = || vec![item(&[], &["X"])];
    conflict("any match", store.append(&unless(batch("a-1", Any, &["N"]), x(), 0)))?;
    let c = || vec![item(&[], &["C"])];
    conflict("a match after 2", store.append(&unless(batch("a-1", Any, &["N"]), c(), 2)))?;
    written("a match at 3 and none after", store.append(&unless(batch("a-1", Any, &["N"]), c(), 3)))?;
    written("after beyond the head", store.append(&unless(batch("a-1", Any, &["N"]), c(), 1_000))).map(drop)
}

fn g17_conditions_of_every_kind(store: &mut dyn Subject) -> Verdict {
    seed(store)?;
    store.reopen();
    let failing: [(Vec<Item>, u64); 10] = [
        (vec![], 0),
        (vec![], 1),
        (vec![item(&["type1"], &[])], 0),
        (vec![item(&["type2"], &[])], 1),
        (vec![item(&[], &["X"])], 0),
        (vec![item(&[], &["A"])], 1),
        (vec![item(&["type2"], &["A"])], 1),
        (vec![item(&[], &["A", "B"])], 0),
        (vec![item(&[], &["B"]), item(&[], &["C"])], 0),
        (vec![item(&[], &["X"]), item(&[], &["Y"])], 0),
    ];
    for (items, after) in failing {
        let what = format!("unless {items:?} after {after}");
        conflict(&what, store.append(&unless(batch("a-1", Any, &["N"]), items, after)))?;
    }
    let holding: [(Vec<Item>, u64); 5] = [
        (vec![item(&["typeN"], &[])], 0),
        (vec![item(&[], &["Y"])], 0),
        (vec![item(&["type1"], &[])], 1),
        (vec![item(&[], &["X"])], 1),
        (vec![item(&[], &["A", "X"])], 0),
    ];
    for (items, after) in holding {
        let what = format!("unless {items:?} after {after}");
        written(&what, store.append(&unless(batch("a-1", Any, &["N"]), items, after)))?;
    }
    same("the head", &store.head()?, &8)
}

fn g18_tags_are_compared_as_a_whole(store: &mut dyn Subject) -> Verdict {
    written("a longer tag", store.append(&tagged("a-1", "A", &["foo:barx"])))?;
    let shorter = vec![item(&[], &["foo:bar"])];
    written("a shorter one", store.append(&unless(tagged("a-1", "A", &["foo:bar"]), shorter.clone(), 0)))?;
    let found = store.read(&Selection { items: shorter, ..Selection::default() })?;
    same("what has the shorter one", &found.len(), &1)?;
    let both = vec![item(&[], &["foo:bar"]), item(&["A"], &[])];
    let swapped = vec![both[1].clone(), both[0].clone()];
    for items in [both, swapped] {
        let found = store.read(&Selection { items, ..Selection::default() })?;
        let positions: Vec<u64> = found.iter().map(|event| event.position.number()).collect();
        same("what matches both items", &positions, &vec![1, 2])?;
    }
    Ok(())
}

fn g20_of_writers_with_overlapping_conditions_one_wins(store: &mut dyn Subject) -> Verdict {
    let store: &dyn EventStore = store;
    let results = race(8, |number| {
        let items = vec![item(&[], &["seat:1"])];
        store.append(&unless(tagged(&format!("a-{number}"), "Taken", &["seat:1"]), items, 0))
    });
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    same("the winners", &won.len(), &1)?;
    lost.into_iter().try_for_each(|result| conflict("a writer that lost", result).map(drop))?;
    same("what is stored", &store.read(&Selection::default())?.len(), &1)
}

fn g20_writers_with_disjoint_conditions_all_win(store: &mut dyn Subject) -> Verdict {
    let store: &dyn EventStore = store;
    let results = race(8, |number| {
        let tag = format!("seat:{number}");
        store.append(&unless(tagged("a-1", "Taken", &[&tag]), vec![item(&[], &[&tag])], 0))
    });
    results.into_iter().try_for_each(|result| written("a writer of its own seat", result).map(drop))?;
    same("what is stored", &store.read(&Selection::default())?.len(), &8)
}
