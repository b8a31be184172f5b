//! Rebuilds, and what happens meanwhile: a handler that ends, and dead letters that come and go. What an older version of
//! a projection finds when it is put back.

use super::*;

/// So many events are replayed while the handler goes on: what it saves meanwhile takes another round.
const EVENTS: u64 = 200;

/// Positions in the order in which they were applied.
type Applied = Vec<u64>;

fn sorted(handle: &ProjectionHandle<Applied>) -> Applied {
    let mut applied = handle.read(Clone::clone);
    applied.sort_unstable();
    applied
}

/// A handle outlives its handler. Its rebuild took the place of what the next one of the name had saved, and went no
/// further than the old one had come; the next start found that under the newer checkpoint.
#[test]
fn a_projection_that_has_ended_rebuilds_nothing_in_the_place_of_the_next_of_its_name() {
    for is_under_way in [false, true] {
        let (store, gate) = (Store::in_memory().unwrap(), Gate::new());
        let passed = Arc::clone(&gate);
        let apply = move |rows: &mut Rows, event: &Event<'_>| {
            if event.payload() == b"x=1" {
                passed.pass();
            }
            set(rows, event)
        };
        let old = store.projection_over("rows", Query::all(), Rows::new(), apply).save_within(NOW).start().unwrap();
        old.wait_for(append(&store, "a", "x=1")).unwrap();
        let mut next = None;
        let mut succeed = || {
            old.wait_for(append(&store, "a", "y=fail")).unwrap_err();
            let handle = rows(&store).policy(OnError::skip()).start().unwrap();
            handle.wait_for(append(&store, "a", "z=1")).unwrap();
            next = Some(handle);
        };
        let rebuilt = if is_under_way {
            gate.hold(|| old.rebuild(), succeed)
        } else {
            succeed();
            old.rebuild()
        };
        let is_refused = matches!(&rebuilt, Err(Error::HandlerFailed { reason, .. }) if reason == "as asked");
        assert!(is_refused, "under way: {is_under_way}: {rebuilt:?}");
        let next = next.unwrap();
        next.wait_for(append(&store, "a", "w=1")).unwrap();
        next.stop().unwrap();
        let (report, content) = run(&store);
        assert_eq!((report.resumed_behind, report.rebuilt), (store.head().unwrap(), None));
        assert_eq!(content, of(&[("w", "1"), ("x", "1"), ("z", "1")]));
    }
}

/// What was put aside was looked up once, when the rebuild began. It followed the handler beyond that, applied what was
/// parked behind another event meanwhile, and the retry applied it again.
#[test]
fn an_event_that_is_parked_during_a_rebuild_is_applied_once_when_it_is_retried() {
    let (store, gate, works) = (Store::in_memory().unwrap(), Gate::new(), Arc::new(AtomicBool::new(false)));
    let (passed, works_now) = (Arc::clone(&gate), Arc::clone(&works));
    let apply = move |applied: &mut Applied, event: &Event<'_>| {
        match event.stream() {
            "gate" => passed.pass(),
            "late" if !works_now.load(Ordering::SeqCst) => return Err("not yet".into()),
            _ => {}
        }
        applied.push(event.position().number());
        Ok(())
    };
    let late = append(&store, "late", "");
    append(&store, "gate", "");
    for _ in 0..EVENTS {
        append(&store, "a", "");
    }
    let builder = store.projection_over("applied", Query::all(), Applied::new(), apply);
    let handle = builder.policy(OnError::park()).save_within(NOW).start().unwrap();
    handle.wait_for(store.head().unwrap().unwrap()).unwrap();
    works.store(true, Ordering::SeqCst);
    let parked_behind = || handle.wait_for(append(&store, "late", "")).unwrap();
    let rebuilt = gate.hold(|| handle.rebuild().unwrap(), parked_behind);
    let letters = store.dead_letters("applied").unwrap();
    assert_eq!((rebuilt.left_out, letters.list().unwrap().len()), (2, 2));
    letters.retry(late).unwrap();
    handle.handler().wait_for_requests().unwrap();
    assert!(letters.list().unwrap().is_empty());
    assert_eq!(sorted(&handle), (1..=EVENTS + 3).collect::<Applied>());
}

/// A dead letter with nothing behind it that was applied was not taken for one that was retried: the model that had left it
/// out took over, and the event was in no model and no dead letter.
#[test]
fn a_dead_letter_that_is_applied_during_a_rebuild_is_in_the_new_model_if_it_was_the_last_event_too() {
    let (store, gate) = (Store::in_memory().unwrap(), Gate::new());
    let passed = Arc::clone(&gate);
    let apply = move |applied: &mut Applied, event: &Event<'_>| {
        match event.payload() {
            b"gate" => passed.pass(),
            b"never" => return Err("as asked".into()),
            _ => {}
        }
        applied.push(event.position().number());
        Ok(())
    };
    let never = append(&store, "late", "never");
    append(&store, "a", "gate");
    append(&store, "late", "");
    let builder = store.projection_over("applied", Query::all(), Applied::new(), apply);
    let handle = builder.policy(OnError::park()).save_within(NOW).start().unwrap();
    handle.wait_for(store.head().unwrap().unwrap()).unwrap();
    let letters = store.dead_letters("applied").unwrap();
    assert_eq!((letters.list().unwrap().len(), sorted(&handle)), (2, vec![2]));
    let let_the_last_one_follow = || {
        letters.discard(never).unwrap();
        handle.handler().wait_for_requests().unwrap();
    };
    gate.hold(|| handle.rebuild().unwrap(), let_the_last_one_follow);
    assert!(letters.list().unwrap().is_empty());
    assert_eq!(sorted(&handle), [2, 3]);
}

/// What a version had put aside was deleted when another one began, and its model counted until that saved. When it never
/// came to that, and the older one was put back, it went on behind events that were missing and listed nowhere.
#[test]
fn a_version_that_is_put_back_misses_no_event_that_it_does_not_list() {
    let fail = |_: &mut Rows, _: &Event<'_>| -> Result<(), HandlerError> { Err("as asked".into()) };
    let fail_as_version_two = |store: &Store| {
        let two = store.projection_over("rows", Query::all(), Rows::new(), fail).version(2).start().unwrap();
        assert_eq!(two.start_report().rebuilt, Some(RebuildCause::NewVersion { saved: 1, current: 2 }));
        two.handler().wait_for_state(HandlerState::is_over);
        two.stop().unwrap_err();
    };
    for policy in [OnError::park(), OnError::skip()] {
        let store = Store::in_memory().unwrap();
        append(&store, "a", "x=1");
        append(&store, "late", "y=fail");
        let seen_by_version_one = || {
            let one = rows(&store).policy(policy.clone()).start().unwrap();
            one.wait_for(store.head().unwrap().unwrap()).unwrap();
            let letters = store.dead_letters("rows").unwrap();
            (content(&one), letters.list().unwrap().len() + letters.skipped().unwrap().len())
        };
        seen_by_version_one();
        // The checkpoint behind this one says nothing of what was put aside.
        append(&store, "a", "z=1");
        let seen = seen_by_version_one();
        assert_eq!(seen, (of(&[("x", "1"), ("z", "1")]), 1));
        fail_as_version_two(&store);
        assert_eq!(seen_by_version_one(), seen);
    }
    // Where nothing was put aside, the model of the older version is still good.
    let store = Store::in_memory().unwrap();
    append(&store, "a", "x=1");
    run(&store);
    fail_as_version_two(&store);
    assert_eq!(run(&store).0.resumed_behind, store.head().unwrap());
}
