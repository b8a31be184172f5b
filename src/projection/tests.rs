//! Embedded projections over a store in memory: what is saved, what is found again, and what a rebuild makes of it.

mod rebuilding;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use super::saving::Ledger;
use super::*;
use crate::error::{Error, ExpectedVersion};
use crate::limits::{COMMIT_BYTES_MAX, READ_MODEL_PART_NAME_BYTES_MAX, READ_MODEL_VALUE_BYTES_MAX};
use crate::storage::{Call, Fault, FaultyDisk, MemoryDisk};
use crate::{
    Checkpoint, HandlerError, HandlerState, ManualClock, NewEvent, OnError, Options, State, Store, Table, Timestamp,
};

const NOW: Duration = Duration::ZERO;
const NEVER: Duration = Duration::from_secs(1_000_000);

/// Holds up a rebuild in the middle of an event.
pub(super) struct Gate {
    is_shut: AtomicBool,
    barrier: Barrier,
}

impl Gate {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { is_shut: AtomicBool::new(false), barrier: Barrier::new(2) })
    }

    /// Who comes by first when it was shut stays here until it is opened.
    pub(super) fn pass(&self) {
        if self.is_shut.swap(false, Ordering::SeqCst) {
            self.barrier.wait();
            self.barrier.wait();
        }
    }

    /// Does something while a rebuild stays here, and returns what came of that.
    pub(super) fn hold<T: Send>(&self, rebuild: impl FnOnce() -> T + Send, meanwhile: impl FnOnce()) -> T {
        self.is_shut.store(true, Ordering::SeqCst);
        std::thread::scope(|scope| {
            let rebuilt = scope.spawn(rebuild);
            self.barrier.wait();
            let met = catch_unwind(AssertUnwindSafe(meanwhile));
            self.barrier.wait();
            let rebuilt = rebuilt.join();
            met.unwrap_or_else(|payload| resume_unwind(payload));
            rebuilt.unwrap()
        })
    }
}

fn append(store: &Store, stream: &str, payload: &str) -> Position {
    let appended = store.append(stream, ExpectedVersion::Any, [NewEvent::raw("Set", payload.to_owned())]);
    appended.unwrap().last_position()
}

/// Rows by text. A payload is `key=value`, `-key` or `large:count`; the values `fail` and `panic` are taken at their word.
type Rows = Table<String, String>;

fn set(rows: &mut Rows, event: &Event<'_>) -> Result<(), HandlerError> {
    let payload = std::str::from_utf8(event.payload())?;
    if let Some((key, value)) = payload.split_once('=') {
        rows.insert(key.into(), value.into());
        // Half of it is done by now.
        assert!(value != "panic", "as asked");
        if value == "fail" {
            return Err("as asked".into());
        }
    } else if let Some(key) = payload.strip_prefix('-') {
        rows.remove(&key.to_owned());
    } else if let Some(count) = payload.strip_prefix("large:") {
        let row = count.repeat(1 << 19);
        (0..count.parse()?).for_each(|number: u32| drop(rows.insert(format!("row {number}"), row.clone())));
    }
    Ok(())
}

fn rows(store: &Store) -> ProjectionBuilder<Rows> {
    store.projection_over("rows", Query::all(), Rows::new(), set).save_within(NOW)
}

fn content(handle: &ProjectionHandle<Rows>) -> BTreeMap<String, String> {
    handle.read(|rows| rows.iter().map(|(key, row)| (key.clone(), row.clone())).collect())
}

fn of(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn keys(store: &Store) -> Vec<String> {
    store.state().unwrap().keys("projection.rows/").unwrap()
}

fn state(store: &Store) -> State {
    store.state().unwrap()
}

/// Starts it, waits until it has seen everything, and stops it.
fn run(store: &Store) -> (StartReport, BTreeMap<String, String>) {
    let handle = rows(store).start().unwrap();
    if let Some(head) = store.head().unwrap() {
        handle.wait_for(head).unwrap();
    }
    let found = (handle.start_report(), content(&handle));
    handle.stop().unwrap();
    found
}

#[test]
fn only_rows_that_changed_are_written() {
    let store = Store::in_memory().unwrap();
    let handle = rows(&store).start().unwrap();
    append(&store, "a", "x=1");
    handle.wait_for(append(&store, "a", "y=1")).unwrap();
    let versions = || -> Vec<_> {
        keys(&store).iter().map(|key| state(&store).versioned(key).unwrap().unwrap().version).collect()
    };
    let before = versions();
    handle.wait_for(append(&store, "a", "y=2")).unwrap();
    let after = versions();
    assert_eq!((before.len(), after.len()), (2, 2));
    assert_eq!(before[0], after[0], "x was not written again");
    assert_ne!(before[1], after[1]);
    handle.wait_for(append(&store, "a", "-x")).unwrap();
    assert_eq!(keys(&store).len(), 1);
    drop(handle);
    assert_eq!(run(&store).1, of(&[("y", "2")]));
}

#[test]
fn a_value_is_written_when_it_changed_and_not_otherwise() {
    let store = Store::in_memory().unwrap();
    let count = |count: &mut u64, event: &Event<'_>| {
        *count += u64::from(event.payload() == b"count");
        Ok(())
    };
    let handle = store.projection_over("rows", Query::all(), 0, count).save_within(NOW).start().unwrap();
    handle.wait_for(append(&store, "a", "count")).unwrap();
    let version = || state(&store).versioned("projection.rows/1-state").unwrap().unwrap().version;
    let before = version();
    handle.wait_for(append(&store, "a", "nothing")).unwrap();
    assert_eq!(before, version());
    handle.wait_for(append(&store, "a", "count")).unwrap();
    assert_ne!(before, version());
}

#[test]
fn a_save_larger_than_a_commit_is_found_whole() {
    let store = Store::in_memory().unwrap();
    for (events, payload) in [(1, "large:17"), (2, "large:16")] {
        append(&store, "a", payload);
        let (_, built) = run(&store);
        assert!(built.values().map(String::len).sum::<usize>() > COMMIT_BYTES_MAX);
        let (report, loaded) = run(&store);
        assert_eq!(report, StartReport { resumed_behind: Position::new(events), rebuilt: None });
        assert!(loaded == built, "{payload}");
        assert!(state(&store).get("projection-rows/saving").unwrap().is_none());
    }
}

#[test]
fn a_save_that_was_torn_is_noticed_and_the_projection_rebuilt() {
    let store = Store::in_memory().unwrap();
    append(&store, "a", "x=1");
    append(&store, "a", "y=1");
    run(&store);
    // What a kill between the first and the last batch leaves: the mark, and some of the rows.
    state(&store).put("projection-rows/saving", "").unwrap();
    state(&store).put("projection.rows/1-rows/0", r#"["x","torn"]"#).unwrap();
    let (report, content) = run(&store);
    assert_eq!((report.resumed_behind, report.rebuilt), (None, Some(RebuildCause::TornSave)));
    assert_eq!(content, of(&[("x", "1"), ("y", "1")]));
    assert!(keys(&store).iter().all(|key| key.starts_with("projection.rows/2-")), "{:?}", keys(&store));
    assert_eq!(run(&store).0.rebuilt, None);
}

/// The first save of all is larger than a commit, and the process dies in the middle: rows are there that nothing claims.
#[test]
fn rows_of_a_first_save_that_was_torn_never_appear() {
    let store = Store::in_memory().unwrap();
    let manifest = r#"{"version":1,"generation":0,"parts":[["rows",true]],"garbage":[1]}"#;
    state(&store).put("projection-rows", manifest).unwrap();
    state(&store).put("projection.rows/1-rows/7", r#"["ghost","1"]"#).unwrap();
    append(&store, "a", "x=1");
    let (report, content) = run(&store);
    assert_eq!((report, content), (StartReport::default(), of(&[("x", "1")])));
    assert_eq!(run(&store).1, of(&[("x", "1")]));
    assert_eq!(keys(&store), ["projection.rows/2-rows/0"]);
}

#[test]
fn what_cannot_be_read_is_rebuilt_and_said() {
    for (key, value) in [
        ("projection-rows", "no manifest"),
        ("projection.rows/1-rows/0", "no row"),
        ("projection.rows/1-rows/1", r#"["x","its key is there twice"]"#),
    ] {
        let store = Store::in_memory().unwrap();
        append(&store, "a", "x=1");
        run(&store);
        state(&store).put(key, value).unwrap();
        let (report, content) = run(&store);
        assert!(matches!(report.rebuilt, Some(RebuildCause::Unreadable { .. })), "{key}: {report:?}");
        assert_eq!(content, of(&[("x", "1")]), "{key}");
        assert_eq!(keys(&store), ["projection.rows/2-rows/0"], "{key}");
        assert_eq!(run(&store).0.rebuilt, None, "{key}");
    }
}

#[test]
fn other_parts_are_rebuilt() {
    let store = Store::in_memory().unwrap();
    append(&store, "a", "x=1");
    run(&store);
    let handle = store.projection_over("rows", Query::all(), 0_u64, |_, _| Ok(())).start().unwrap();
    assert_eq!(handle.start_report().rebuilt, Some(RebuildCause::OtherParts));
}

#[test]
fn the_largest_value_can_be_saved_and_one_byte_more_is_refused_by_name() {
    // Two bytes are its quotes.
    for (bytes, fits) in [(READ_MODEL_VALUE_BYTES_MAX - 2, true), (READ_MODEL_VALUE_BYTES_MAX - 1, false)] {
        let store = Store::in_memory().unwrap();
        let grow = move |text: &mut String, _: &Event<'_>| {
            *text = "x".repeat(bytes);
            Ok(())
        };
        let start =
            || store.projection_over("text", Query::all(), String::new(), grow).save_within(NOW).start().unwrap();
        let handle = start();
        let position = append(&store, "a", "");
        match handle.wait_for(position) {
            Ok(()) => {
                assert!(fits);
                drop(handle);
                assert_eq!(start().read(String::len), bytes);
            }
            Err(error) => {
                let error = error.to_string();
                let limit = format!("takes {} bytes, at most {READ_MODEL_VALUE_BYTES_MAX} can be saved", bytes + 2);
                assert!(!fits && error.contains(&limit) && error.contains("the part \"state\""), "{error}");
            }
        }
    }
}

struct Named(Vec<String>);

impl Clone for Named {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl ReadModel for Named {
    fn parts(&mut self, parts: &mut Parts<'_>) {
        for name in self.0.clone() {
            parts.value(&name, &mut 0_u8);
        }
    }
}

#[test]
fn names_of_parts_are_checked() {
    let store = Store::in_memory().unwrap();
    let longest = "x".repeat(READ_MODEL_PART_NAME_BYTES_MAX);
    for (names, problem) in [
        (vec![longest.clone(), "y-z".into()], None),
        (vec![longest + "x"], Some("has 65 bytes, at most 64 are allowed")),
        (vec![String::new()], Some("a part has no name")),
        (vec!["a/b".into()], Some("contains a '/'")),
        (vec!["a".into(), "a".into()], Some("is named twice")),
    ] {
        let started = store.projection_over("named", Query::all(), Named(names), |_, _| Ok(())).start();
        match problem {
            None => started.unwrap().stop().unwrap(),
            Some(problem) => assert!(started.unwrap_err().to_string().contains(problem), "{problem}"),
        }
    }
}

#[test]
fn an_event_that_fails_or_panics_leaves_nothing_behind() {
    for kind in ["fail", "panic"] {
        for saved in [NOW, NEVER] {
            let store = Store::in_memory().unwrap();
            append(&store, "a", "x=1");
            append(&store, "a", &format!("x={kind}"));
            append(&store, "b", "y=1");
            let handle = rows(&store).policy(OnError::skip()).save_within(saved).start().unwrap();
            handle.wait_for(append(&store, "b", "z=1")).unwrap();
            assert_eq!(content(&handle), of(&[("x", "1"), ("y", "1"), ("z", "1")]), "{kind}");
            assert_eq!(handle.handler().status().skipped, 1);
            let rebuilt = handle.rebuild().unwrap();
            assert_eq!((rebuilt.events, rebuilt.left_out), (3, 1), "{kind}");
            assert_eq!(content(&handle), of(&[("x", "1"), ("y", "1"), ("z", "1")]), "{kind}");
        }
    }
}

#[test]
fn a_rebuild_leaves_nothing_of_the_old_model_behind() {
    let store = Store::in_memory().unwrap();
    append(&store, "a", "x=1");
    append(&store, "a", "-x");
    append(&store, "a", "y=1");
    let handle = rows(&store).start().unwrap();
    handle.wait_for(append(&store, "a", "z=1")).unwrap();
    for generation in 2..5 {
        handle.rebuild().unwrap();
        let prefix = format!("projection.rows/{generation}-");
        assert!(keys(&store).iter().all(|key| key.starts_with(&prefix)), "{:?}", keys(&store));
        assert_eq!(keys(&store).len(), 2);
    }
    handle.wait_for(append(&store, "a", "z=2")).unwrap();
    handle.stop().unwrap();
    let (report, content) = run(&store);
    assert_eq!(report.resumed_behind, store.head().unwrap());
    assert_eq!(content, of(&[("y", "1"), ("z", "2")]));
}

/// What a kill during a rebuild leaves: rows of a generation that does not count.
#[test]
fn what_an_interrupted_rebuild_wrote_is_deleted() {
    let store = Store::in_memory().unwrap();
    append(&store, "a", "x=1");
    run(&store);
    let manifest = r#"{"version":1,"generation":1,"parts":[["rows",true]],"garbage":[2]}"#;
    state(&store).put("projection-rows", manifest).unwrap();
    state(&store).put("projection.rows/2-rows/0", r#"["ghost","1"]"#).unwrap();
    append(&store, "a", "y=1");
    let (report, content) = run(&store);
    assert_eq!((report.rebuilt, content), (None, of(&[("x", "1"), ("y", "1")])));
    assert!(keys(&store).iter().all(|key| key.starts_with("projection.rows/1-")), "{:?}", keys(&store));
}

/// The handler goes on saving while a model is written beside its own, and deletes garbage with each save.
#[test]
fn a_save_leaves_alone_what_is_being_written_beside() {
    let store = Store::in_memory().unwrap();
    append(&store, "a", "x=1");
    run(&store);
    let checkpoint = Checkpoint::load(&store, "rows").unwrap().unwrap();
    let mut serving = Rows::new();
    let mut ledger = Ledger::load(&store, "rows", 1, &mut serving).unwrap().ledger;
    let mut green = Rows::new();
    green.insert("x".into(), "new".into());
    green.insert("y".into(), "new".into());

    let mut beside = ledger.begin_beside().unwrap();
    ledger.save(ledger.collect(&mut serving).unwrap(), &checkpoint).unwrap();
    let changes = model::collect(&mut green, beside.hashes()).unwrap();
    ledger.write_beside(&mut beside, changes).unwrap();
    ledger.save(ledger.collect(&mut serving).unwrap(), &checkpoint).unwrap();
    assert_eq!(keys(&store).len(), 3, "one row of the old model and two of the new one");
    ledger.swap(beside).unwrap();
    assert_eq!(run(&store).1, of(&[("x", "new"), ("y", "new")]));

    // One that is given up goes, also if the process died before.
    for dies in [false, true] {
        let mut serving = Rows::new();
        let mut ledger = Ledger::load(&store, "rows", 1, &mut serving).unwrap().ledger;
        let mut beside = ledger.begin_beside().unwrap();
        ledger.save(ledger.collect(&mut serving).unwrap(), &checkpoint).unwrap();
        green.mark_unsaved();
        let changes = model::collect(&mut green, beside.hashes()).unwrap();
        ledger.write_beside(&mut beside, changes).unwrap();
        if dies {
            ledger = Ledger::load(&store, "rows", 1, &mut serving).unwrap().ledger;
        } else {
            ledger.give_up_beside();
        }
        ledger.save(ledger.collect(&mut serving).unwrap(), &checkpoint).unwrap();
        assert_eq!(keys(&store).len(), 2, "dies: {dies}");
    }
}

/// Nothing is saved yet, so that there is nothing to build beside.
#[test]
fn what_was_never_saved_can_be_rebuilt() {
    let store = Store::in_memory().unwrap();
    let handle = rows(&store).save_within(NEVER).start().unwrap();
    assert_eq!(handle.rebuild().unwrap(), Rebuilt { position: None, events: 0, left_out: 0 });
    append(&store, "a", "x=1");
    handle.wait_for(append(&store, "a", "y=1")).unwrap();
    assert_eq!(handle.rebuild().unwrap().events, 2);
    assert_eq!(content(&handle), of(&[("x", "1"), ("y", "1")]));
    handle.wait_for(append(&store, "a", "z=1")).unwrap();
    handle.stop().unwrap();
    assert_eq!(run(&store).1, of(&[("x", "1"), ("y", "1"), ("z", "1")]));
}

/// The handler has applied what is not saved; the new model gets exactly that.
#[test]
fn a_rebuild_takes_over_what_is_not_saved_and_dead_letters_that_were_retried() {
    let store = Store::in_memory().unwrap();
    let works = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&works);
    let apply = move |rows: &mut Rows, event: &Event<'_>| {
        if event.stream() == "late" && !gate.load(Ordering::SeqCst) {
            return Err("not yet".into());
        }
        set(rows, event)
    };
    let handle = store
        .projection_over("rows", Query::all(), Rows::new(), apply)
        .policy(OnError::park())
        .save_within(NEVER)
        .start()
        .unwrap();
    append(&store, "a", "x=1");
    let late = append(&store, "late", "x=late");
    handle.wait_for(append(&store, "a", "x=2")).unwrap();
    handle.rebuild().unwrap();
    assert_eq!(content(&handle), of(&[("x", "2")]), "the dead letter is left out");

    works.store(true, Ordering::SeqCst);
    let letters = store.dead_letters("rows").unwrap();
    letters.retry(late).unwrap();
    handle.handler().wait_for_requests().unwrap();
    assert_eq!(content(&handle), of(&[("x", "late")]), "it was applied behind the others");
    append(&store, "a", "y=1");
    handle.wait_for(append(&store, "a", "z=1")).unwrap();
    handle.rebuild().unwrap();
    assert_eq!(content(&handle)["z"], "1");
    handle.stop().unwrap();
    assert!(letters.list().unwrap().is_empty());
    assert_eq!(run(&store).1.len(), 3);
}

#[test]
fn a_model_is_saved_every_so_many_events() {
    let store = Store::in_memory().unwrap();
    for number in 0..10 {
        append(&store, "a", &format!("row {number}=1"));
    }
    let handle = rows(&store).save_every_events(4).save_within(NEVER).start().unwrap();
    handle.wait_for(store.head().unwrap().unwrap()).unwrap();
    assert_eq!(keys(&store).len(), 8, "two saves of four");
    handle.stop().unwrap();
    assert_eq!(keys(&store).len(), 10, "and one at the end");
    assert!(matches!(rows(&store).save_every_events(0).start(), Err(Error::Invalid(_))));
}

#[test]
fn two_of_one_name_are_refused() {
    let store = Store::in_memory().unwrap();
    let handle = rows(&store).start().unwrap();
    assert!(matches!(rows(&store).start(), Err(Error::Held { name }) if name == "rows"));
    drop(handle);
    rows(&store).start().unwrap();
}

#[test]
fn a_projection_of_events_that_are_no_enum_is_refused() {
    #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    struct Nothing;
    impl Projection for Nothing {
        type Event = String;

        fn apply(&mut self, _event: &String, _recorded: &Event<'_>) {}
    }
    let store = Store::in_memory().unwrap();
    assert!(matches!(store.projection("nothing", Nothing).start(), Err(Error::Invalid(_))));
}

#[test]
fn a_row_of_the_initial_model_is_not_overwritten_after_a_restart() {
    let store = Store::in_memory().unwrap();
    let start = || {
        let mut initial = Rows::new();
        initial.insert("seed".into(), "0".into());
        store.projection_over("rows", Query::all(), initial, set).save_within(NOW).start().unwrap()
    };
    for payload in ["x=1", "y=1"] {
        let handle = start();
        handle.wait_for(append(&store, "a", payload)).unwrap();
        handle.stop().unwrap();
    }
    let handle = start();
    assert_eq!(handle.start_report().rebuilt, None);
    assert_eq!(content(&handle), of(&[("seed", "0"), ("x", "1"), ("y", "1")]));
}

#[test]
fn an_event_that_fails_after_a_rebuild_was_given_up_takes_nothing_else_with_it() {
    let store = Store::in_memory().unwrap();
    let fails = Arc::new(AtomicBool::new(false));
    let fails_now = Arc::clone(&fails);
    let apply = move |rows: &mut Rows, event: &Event<'_>| {
        if event.payload() == b"odd=1" && fails_now.load(Ordering::SeqCst) {
            return Err("as asked".into());
        }
        set(rows, event)
    };
    let builder = store.projection_over("rows", Query::all(), Rows::new(), apply);
    let handle = builder.save_within(NEVER).start().unwrap();
    handle.wait_for(append(&store, "a", "x=1")).unwrap();
    save(&handle);
    let odd = append(&store, "a", "odd=1");
    handle.wait_for(odd).unwrap();
    fails.store(true, Ordering::SeqCst);
    let failed = handle.rebuild().unwrap_err();
    assert!(matches!(failed, Error::HandlerFailed { position, .. } if position == Some(odd)), "{failed}");
    fails.store(false, Ordering::SeqCst);
    handle.wait_for(append(&store, "a", "y=fail")).unwrap_err();
    assert_eq!(content(&handle), of(&[("odd", "1"), ("x", "1")]));
    assert!(handle.stop().is_err());
    let again = rows(&store).policy(OnError::skip()).start().unwrap();
    again.wait_for(store.head().unwrap().unwrap()).unwrap();
    assert_eq!(content(&again), of(&[("odd", "1"), ("x", "1")]));
}

/// Saves what is applied, whatever was said about when.
fn save(handle: &ProjectionHandle<Rows>) {
    handle.handler().pause();
    handle.handler().wait_for_state(|state| matches!(state, crate::HandlerState::Paused));
    handle.handler().resume();
}

/// An event that only the rebuild fails at, saved or not: it was left out or tried a hundred times, and nobody was told.
#[test]
fn a_rebuild_deals_with_an_event_that_fails_as_the_policy_says() {
    for is_saved in [true, false] {
        for policy in [OnError::skip(), OnError::park(), OnError::stop()] {
            let store = Store::in_memory().unwrap();
            let fails = Arc::new(AtomicBool::new(false));
            let fails_now = Arc::clone(&fails);
            let apply = move |rows: &mut Rows, event: &Event<'_>| {
                assert!(event.stream() != "odd" || !fails_now.load(Ordering::SeqCst), "as asked");
                set(rows, event)
            };
            let builder = store.projection_over("rows", Query::all(), Rows::new(), apply);
            let handle = builder.policy(policy.clone()).save_within(NEVER).start().unwrap();
            let odd = append(&store, "odd", "odd=1");
            handle.wait_for(append(&store, "a", "x=1")).unwrap();
            if is_saved {
                save(&handle);
            }
            fails.store(true, Ordering::SeqCst);
            let rebuilt = handle.rebuild();
            if policy.stops() {
                let failed = rebuilt.unwrap_err();
                assert!(matches!(failed, Error::HandlerFailed { position, .. } if position == Some(odd)), "{failed}");
                assert!(failed.to_string().contains("it panicked: as asked"), "{failed}");
                assert_eq!(content(&handle), of(&[("odd", "1"), ("x", "1")]), "the old model stays");
            } else {
                assert_eq!(rebuilt.unwrap().left_out, 1);
                assert_eq!(content(&handle), of(&[("x", "1")]));
            }
        }
    }
}

/// Readers could look at the model between an event that failed halfway and the roll back that follows.
#[test]
fn a_reader_never_sees_what_a_failing_event_has_left_half_done() {
    let store = Store::in_memory().unwrap();
    let apply = |sums: &mut (u64, u64), event: &Event<'_>| {
        sums.0 += 1;
        match event.payload() {
            b"fails" => return Err("as asked".into()),
            b"panics" => panic!("as asked"),
            _ => sums.1 += 1,
        }
        Ok(())
    };
    for number in 0..300 {
        append(&store, "a", ["fails", "panics", "works"][number % 3]);
    }
    let builder = store.projection_over("sums", Query::all(), (0, 0), apply).policy(OnError::skip());
    let handle = builder.start().unwrap();
    let last = store.head().unwrap().unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while handle.handler().status().position < Some(last) {
                let sums = *handle.view();
                assert_eq!(sums.0, sums.1);
            }
        });
        handle.wait_for(last).unwrap();
        reader.join().unwrap();
    });
    assert_eq!(*handle.view(), (100, 100));
}

/// Before the model was rolled back it was noted that the attempt was over, and where that could not be written the handler
/// ended with a torn model: readers waited for ever for somebody to mend it.
#[test]
fn a_reader_waits_for_no_note_of_an_attempt_that_an_outage_ended() {
    let retried_later = OnError::retry(1).backoff(Duration::from_secs(1), Duration::from_secs(1)).without_jitter();
    for policy in [retried_later, OnError::park()] {
        let (disk, clock) = (FaultyDisk::new(MemoryDisk::new()), ManualClock::new(Timestamp::default()));
        let options = Options::new().clock(clock.clone()).without_background_work();
        let store = Store::open_on(Arc::new(disk.clone()), options, true).unwrap();
        let attempts = AtomicU64::new(0);
        let apply = move |rows: &mut Rows, _: &Event<'_>| {
            rows.insert("half".into(), "done".into());
            if attempts.fetch_add(1, Ordering::SeqCst) == 0 {
                return Err("as asked".into());
            }
            disk.inject(Fault { forever: true, ..Fault::next(Call::Write).in_dir("state/") });
            let source = Arc::new(std::io::Error::other("locked"));
            Err(Error::Unavailable { operation: "ask", path: "elsewhere".into(), source }.into())
        };
        let builder = store.projection_over("rows", Query::all(), Rows::new(), apply).save_within(NOW);
        let handle = builder.policy(policy.clone()).start().unwrap();
        let position = append(&store, "a", "x=1");
        if policy == OnError::park() {
            handle.wait_for(position).unwrap();
            store.dead_letters("rows").unwrap().retry_all().unwrap();
        } else {
            handle.handler().wait_for_state(|state| matches!(state, HandlerState::Retrying { .. }));
            clock.advance(Duration::from_secs(1));
        }
        let state = handle.handler().wait_for_state(HandlerState::is_over);
        assert!(matches!(&state, HandlerState::Failed { .. }), "{state:?}");
        assert_eq!(content(&handle), of(&[]));
    }
}

/// It was saved as `null`, and a process that went on from there had another value, without a word.
#[test]
fn a_model_that_json_cannot_tell_again_is_not_saved() {
    let store = Store::in_memory().unwrap();
    let apply = |mean: &mut Option<f64>, _: &Event<'_>| {
        *mean = Some(f64::NAN);
        Ok(())
    };
    let handle = store.projection_over("mean", Query::all(), None, apply).save_within(NOW).start().unwrap();
    append(&store, "a", "x=1");
    let state = handle.handler().wait_for_state(HandlerState::is_over);
    assert!(matches!(&state, HandlerState::Failed { error, .. } if error.contains("NaN is no number")), "{state:?}");
}

/// A value that is written and never read.
#[derive(Clone, serde::Serialize)]
struct Unreadable(u64);

impl<'de> serde::Deserialize<'de> for Unreadable {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("it cannot be read")
    }
}

/// Where going back panicked the handler ended with a torn model, and readers waited for ever.
#[test]
fn a_reader_waits_for_no_model_that_panics_when_it_is_loaded_again() {
    let store = Store::in_memory().unwrap();
    let apply = |value: &mut Unreadable, event: &Event<'_>| {
        value.0 += 1;
        if event.payload() == b"fails" { Err("as asked".into()) } else { Ok(()) }
    };
    let builder = store.projection_over("value", Query::all(), Unreadable(0), apply).save_within(NOW);
    let handle = builder.start().unwrap();
    handle.wait_for(append(&store, "a", "works")).unwrap();
    assert_eq!(handle.read(|value| value.0), 1);
    append(&store, "a", "fails");
    let state = handle.handler().wait_for_state(HandlerState::is_over);
    assert!(matches!(&state, HandlerState::Failed { error, .. } if error.contains("cannot be read")), "{state:?}");
    assert_eq!((handle.read(|value| value.0), handle.view().position()), (0, None));
}
