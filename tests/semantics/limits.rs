//! Groups 8, 10 and 27: every limit, at the limit and one beyond.

use annals::{Commit, Error, NewEvent, Options, Query, Store, Violation, limits};

use crate::support::*;
use crate::world::check;

/// The one thing that is wrong with a commit, which wrote nothing.
fn violation(store: &Store, commit: Commit) -> Violation {
    let before = head(store);
    let mut violations = violations(store.send(commit));
    assert_eq!(violations.len(), 1, "{violations:?}");
    assert_eq!(head(store), before);
    violations.remove(0)
}

/// A violation names the event, the field, what was given and what is allowed.
fn assert_names(violation: &Violation, event: Option<usize>, field: &str, given: usize, allowed: usize) {
    assert_eq!((violation.event, violation.field.as_str()), (event, field), "{violation}");
    for number in [given, allowed] {
        assert!(violation.problem.contains(&number.to_string()), "{violation} names {number}");
    }
}

/// The commit of one good event, and this one behind it.
fn second(event: NewEvent) -> Commit {
    Commit::new().append("a", Any, [self::event("Good"), event])
}

#[test]
fn g27_stream_names() {
    check(|world| {
        let max = limits::STREAM_NAME_BYTES_MAX;
        // Bytes count, not characters.
        for longest in ["s".repeat(max), "é".repeat(max / 2)] {
            world.append(&longest, NoStream, [event("Made")]).unwrap();
            world.commit().append("b", Any, [event("Made")]).expect(&longest, exact(1)).send().unwrap();
            world.pause();
            assert_eq!(version(world, &longest), Some(1));
            assert_eq!(found(world, Query::stream(&longest))[0].stream, longest);
            assert_eq!(positions(world, Query::category(&longest)).len(), 1);
        }
        let long = "s".repeat(max + 1);
        let commit = Commit::new().append("a", Any, events(2)).append(&long, Any, events(1));
        assert_names(&violation(world, commit), Some(2), "stream", max + 1, max);
        let check = Commit::new().append("a", Any, events(1)).expect(&long, NoStream);
        assert_names(&violation(world, check), None, "expectations[0].stream", max + 1, max);
        let condition = Commit::new().append("a", Any, events(1)).unless(Query::stream(&long));
        assert_names(&violation(world, condition), None, "conditions[0].items[0].stream", max + 1, max);
        let empty = violation(world, Commit::new().append("", Any, events(1)));
        assert_eq!((empty.event, empty.field.as_str()), (Some(0), "stream"));
        assert_eq!(version(world, &long), None);
    });
}

#[test]
fn g27_type_names() {
    check(|world| {
        let max = limits::TYPE_NAME_BYTES_MAX;
        let longest = "t".repeat(max);
        world.append("a", Any, [event(&longest)]).unwrap();
        world.observe(|store| assert_eq!(types(store, Query::types([&longest])), [longest.as_str()]));
        assert_names(&violation(world, second(event(&"t".repeat(max + 1)))), Some(1), "type", max + 1, max);
        assert_eq!(violation(world, second(event(""))).event, Some(1));
        let condition = Commit::new().append("a", Any, events(1)).unless(Query::types(["t".repeat(max + 1)]));
        assert_names(&violation(world, condition), None, "conditions[0].items[0].types[0]", max + 1, max);
    });
}

#[test]
fn g27_tags() {
    check(|world| {
        let (bytes, count) = (limits::TAG_BYTES_MAX, limits::TAGS_PER_EVENT_MAX);
        let longest = "t".repeat(bytes);
        let tags = |count: usize| (0..count).map(|number| format!("tag:{number:02}"));
        world.append("a", Any, [event("Made").tag(&longest)]).unwrap();
        // Duplicates do not count.
        world.append("a", Any, [event("Made").tags(tags(count)).tags(tags(count))]).unwrap();
        world.observe(|store| {
            assert_eq!(positions(store, Query::tag(&longest)), [1]);
            assert_eq!(found(store, Query::tags(tags(count)))[0].tags, tags(count).collect::<Vec<_>>());
        });
        let long = event("Made").tag("fine").tag("t".repeat(bytes + 1));
        assert_names(&violation(world, second(long)), Some(1), "tags[1]", bytes + 1, bytes);
        assert_names(&violation(world, second(event("Made").tags(tags(count + 1)))), Some(1), "tags", count + 1, count);
        assert_eq!(violation(world, second(event("Made").tag(""))).field, "tags[0]");
    });
}

#[test]
fn g27_metadata() {
    let store = Store::in_memory().unwrap();
    let max = limits::METADATA_BYTES_MAX;
    let object = |bytes: usize| format!("{{\"k\":\"{}\"}}", "x".repeat(bytes - 8));
    store.append("a", Any, [event("Made").metadata_json(object(max))]).unwrap();
    assert_eq!(found(&store, Query::all())[0].metadata.as_ref().unwrap().len(), max);
    let long = violation(&store, second(event("Made").metadata_json(object(max + 1))));
    assert_names(&long, Some(1), "metadata", max + 1, max);
    for text in ["", "null", "[1]", "\"text\"", "{", "{\"k\":1} x", "{k:1}", "\u{feff}{}"] {
        let odd = violation(&store, second(event("Made").metadata_json(text)));
        assert_eq!((odd.event, odd.field.as_str()), (Some(1), "metadata"), "{text:?}");
    }
    let not_utf8 = violation(&store, second(event("Made").metadata_json(b"{\"k\":\"\xff\"}".to_vec())));
    assert_eq!(not_utf8.field, "metadata");
}

#[test]
fn g27_events_in_a_commit() {
    let store = Store::in_memory().unwrap();
    let max = limits::EVENTS_PER_COMMIT_MAX;
    let many = |count: usize| std::iter::repeat_with(|| NewEvent::raw("T", "")).take(count);
    let appended = store.append("a", Any, many(max)).unwrap();
    assert_eq!((told(&appended), appended.version()), ((1, max as u64, false), v(max as u64)));
    assert_eq!(store.read(Query::stream("a")).count().unwrap(), max as u64);
    let commit = Commit::new().append("a", Any, many(max)).append("b", Any, many(1));
    assert_names(&violation(&store, commit), None, "events", max + 1, max);
}

#[test]
fn g27_expectations_and_conditions_of_a_commit() {
    let store = Store::in_memory().unwrap();
    let with = |checks: usize, conditions: usize| {
        let commit = Commit::new().append("a", Any, events(1));
        let commit = (0..checks).fold(commit, |commit, number| commit.expect(format!("s-{number}"), NoStream));
        (0..conditions).fold(commit, |commit, number| commit.unless(Query::tag(format!("tag:{number}"))))
    };
    let (checks, conditions) = (limits::CHECKS_PER_COMMIT_MAX, limits::CONDITIONS_PER_COMMIT_MAX);
    store.send(with(checks, conditions)).unwrap();
    assert_names(&violation(&store, with(checks + 1, 0)), None, "expectations", checks + 1, checks);
    assert_names(&violation(&store, with(0, conditions + 1)), None, "conditions", conditions + 1, conditions);
    // Each of them is looked at.
    store.append("s-1023", Any, events(1)).unwrap();
    assert_eq!(conflict(store.send(with(checks, 0))).failures, [stream_failure("s-1023", NoStream, 1, 2)]);
    store.append("b", Any, [tagged("Made", &["tag:255"])]).unwrap();
    assert_eq!(conflict(store.send(with(0, conditions))).failures, [condition_failure(255, 3)]);
}

#[test]
fn g27_items_and_names_of_a_query() {
    let store = Store::in_memory().unwrap();
    store.append("a", Any, [tagged("type:0", &["tag:1023", "tag:0"]), event("type:255")]).unwrap();
    let (items, names) = (limits::QUERY_ITEMS_MAX, limits::QUERY_ITEM_NAMES_MAX);
    let tags = |count: usize| (1..count).fold(Query::tag("tag:0"), |q, n| q.or(Query::tag(format!("tag:{n}"))));
    let types = |count: usize| Query::types((0..count).map(|number| format!("type:{number}")));
    let all_of = |count: usize| Query::tags((0..count).map(|number| format!("tag:{number}")));
    assert_eq!(positions(&store, tags(items)), [1]);
    assert_eq!(positions(&store, types(names)), [1, 2]);
    assert_eq!(positions(&store, all_of(names)), [0; 0]);
    let refused = [
        (tags(items + 1), "items", items),
        (types(names + 1), "items[0].types", names),
        (all_of(names + 1), "items[0].tags", names),
    ];
    for (query, field, max) in refused {
        let read = store.read(query.clone()).count();
        let Err(Error::Invalid(invalid)) = read else { panic!("{field}: {read:?}") };
        assert_eq!(invalid.violations.len(), 1, "{invalid}");
        assert_names(&invalid.violations[0], None, &format!("query.{field}"), max + 1, max);
        let commit = Commit::new().append("a", Any, events(1)).unless(query);
        assert_names(&violation(&store, commit), None, &format!("conditions[0].{field}"), max + 1, max);
    }
}

/// Bytes of a frame with one event beside its payload: header, directory entry, fixed part of the record, names.
const AROUND_A_PAYLOAD: usize = 48 + 8 + 48 + "a".len() + "T".len();

fn payload(frame_bytes: usize) -> Commit {
    Commit::new().append("a", Any, [NewEvent::raw("T", vec![7; frame_bytes - AROUND_A_PAYLOAD])])
}

/// One without any, which only serde makes, was not refused, and to narrow it was a panic.
#[test]
fn g27_a_query_has_an_item() {
    let empty = || serde_json::from_str::<Query>("[]").unwrap();
    check(|world| {
        world.append("a", Any, [tagged("Made", &["t"])]).unwrap();
        for query in [empty(), empty().and_tag("t"), empty().and_types(["Made"])] {
            let Err(Error::Invalid(read)) = world.read(query.clone()).next().map(drop) else { panic!("{query:?}") };
            assert_eq!(read.violations[0].field, "query.items");
            let wrong = violation(world, Commit::new().append("a", Any, [event("Made")]).unless(query));
            assert_eq!(wrong.field, "conditions[0].items");
        }
        assert_eq!(found(world, empty().or(Query::tag("t"))).len(), 1);
    });
}

#[test]
fn g08_the_largest_commit() {
    let store = Store::in_memory().unwrap();
    let max = limits::COMMIT_BYTES_MAX;
    store.send(payload(max)).unwrap();
    assert_eq!(found(&store, Query::all())[0].payload.len(), max - AROUND_A_PAYLOAD);
    // Frames are padded to a multiple of 8.
    assert_names(&violation(&store, payload(max + 1)), None, "events", max + 8, max);
    store.append("a", exact(1), events(1)).unwrap();
}

#[test]
fn g08_the_largest_commit_of_a_segment() {
    let options = || Options::new().segment_bytes_first(4096).segment_bytes_max(8192);
    let directory = tempfile::tempdir().unwrap();
    for store in [options().in_memory().unwrap(), options().open(directory.path()).unwrap()] {
        // The header of the segment, and the frame that starts it.
        let max = 8192 - 64 - (48 + 64);
        store.append("a", Any, events(3)).unwrap();
        store.send(payload(max)).unwrap();
        assert_names(&violation(&store, payload(max + 1)), None, "events", max + 8, max);
        store.append("a", exact(4), events(1)).unwrap();
        store.send(payload(max)).unwrap();
        assert_eq!(positions(&store, Query::stream("a")), [1, 2, 3, 4, 5, 6]);
    }
}

#[test]
fn g08_a_commit_that_does_not_fit_the_rest_rolls_to_the_next_segment() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::new().segment_bytes_first(4096).segment_bytes_max(4096).without_background_work();
    let store = options.clone().open(directory.path()).unwrap();
    let segments = || std::fs::read_dir(directory.path().join("log")).unwrap().count();
    let room = 4096 - 64 - (48 + 64);
    store.send(payload(room - 800)).unwrap();
    store.send(payload(400)).unwrap();
    assert_eq!(segments(), 1);
    store.send(payload(400)).unwrap();
    assert_eq!(segments(), 1, "it fits to the byte");
    store.send(payload(AROUND_A_PAYLOAD)).unwrap();
    assert_eq!(segments(), 2);
    store.send(payload(room - 104)).unwrap();
    assert_eq!(segments(), 3);
    store.close().unwrap();
    let store = options.open(directory.path()).unwrap();
    let payloads: Vec<usize> = found(&store, Query::all()).iter().map(|event| event.payload.len()).collect();
    let expected = [room - 800, 400, 400, AROUND_A_PAYLOAD, room - 104].map(|bytes| bytes - AROUND_A_PAYLOAD);
    assert_eq!(payloads, expected);
}

#[test]
fn segment_sizes_of_the_options() {
    let (min, max) = (limits::SEGMENT_BYTES_MIN, limits::SEGMENT_BYTES_MAX);
    Options::new()
        .segment_bytes_first(min)
        .segment_bytes_max(min)
        .in_memory()
        .unwrap()
        .append("a", Any, events(1))
        .unwrap();
    Options::new().segment_bytes_max(max).in_memory().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let refused = [
        (Options::new().segment_bytes_first(min - 1), "segment_bytes_first", min - 1),
        (Options::new().segment_bytes_max(max + 1), "segment_bytes_max", max + 1),
    ];
    for (options, field, given) in refused {
        let opened = options.open(directory.path().join("store"));
        let Err(Error::Invalid(invalid)) = opened else { panic!("{opened:?}") };
        assert_names(&invalid.violations[0], None, field, given as usize, max as usize);
    }
    assert!(!directory.path().join("store").exists());
}

#[test]
fn g27_positions_and_versions_count_from_one() {
    assert_eq!((annals::Position::new(0), annals::StreamVersion::new(0)), (None, None));
}
