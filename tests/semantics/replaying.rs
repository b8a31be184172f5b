//! Replaying: what a read can ask for, through any handler, stopped and resumed, and over several threads.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Barrier, Mutex};

use annals::limits::REPLAY_WORKERS_MAX;
use annals::{
    Error, Event, EventTypes, HandlerError, MemorySink, NewEvent, Outgoing, Position, Projection, Query, Replay,
    ReplayError, ReplayToken, Replayed, Sink, Store, Timestamp, Upcast, Upcaster,
};

use crate::support::{Any, event, p, tagged};
use crate::world::check;

/// Ten events on three streams of two categories; event n happened n seconds after 1970.
fn fill(store: &Store) {
    for number in 1..=10 {
        let stream = ["a-1", "a-2", "b-1"][number % 3];
        let tags: &[&str] = if number % 2 == 0 { &["even"] } else { &[] };
        let one = tagged(if number > 5 { "Late" } else { "Early" }, tags);
        store.append(stream, Any, [one.time(Timestamp::from_millis(number as i64 * 1000))]).unwrap();
    }
}

fn positions(replay: Replay) -> Vec<u64> {
    let mut seen = Vec::new();
    let replayed = replay.run(|event| seen.push(event.position().number())).unwrap();
    assert_eq!(replayed.events, seen.len() as u64);
    assert!(replayed.is_finished);
    seen
}

fn seconds(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

#[test]
fn replays_what_a_query_a_range_and_times_ask_for_in_both_directions() {
    check(|world| {
        fill(world);
        let of = |query| world.replay(query);
        let cases = [
            (of(Query::all()), vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
            (of(Query::stream("a-1")), vec![3, 6, 9]),
            (of(Query::category("b")), vec![2, 5, 8]),
            (of(Query::types(["Late"])), vec![6, 7, 8, 9, 10]),
            (of(Query::tag("even")), vec![2, 4, 6, 8, 10]),
            (of(Query::all()).from(p(9)), vec![9, 10]),
            (of(Query::all()).after(p(9)), vec![10]),
            (of(Query::all()).upto(p(2)), vec![1, 2]),
            (of(Query::all()).since(seconds(4)).until(seconds(6)), vec![4, 5]),
            (of(Query::all()).reverse(), vec![10, 9, 8, 7, 6, 5, 4, 3, 2, 1]),
            (of(Query::stream("a-1")).reverse(), vec![9, 6, 3]),
            (of(Query::tag("even")).from(p(4)).reverse(), vec![4, 2]),
            (of(Query::all()).after(p(3)).reverse(), vec![2, 1]),
            (of(Query::all()).since(seconds(4)).until(seconds(6)).upto(p(4)).reverse(), vec![4]),
        ];
        for (replay, expected) in cases {
            let what = format!("{replay:?}");
            assert_eq!(positions(replay), expected, "{what}");
        }
    });
}

#[test]
fn a_replay_ends_where_the_store_ended_when_it_began() {
    check(|world| {
        fill(world);
        let mut count = 0;
        let replayed = world.replay(Query::all()).run(|_| {
            count += 1;
            world.append("c-1", Any, [event("Later")]).map(drop)
        });
        assert_eq!((replayed.unwrap().events, count), (10, 10));
        let empty = Store::in_memory().unwrap().replay(Query::all()).run(|_| ()).unwrap();
        assert_eq!((empty.events, empty.is_finished, empty.token), (0, true, None));
    });
}

/// Stops after so many events, and says where.
fn run_some(replay: Replay, count: usize, seen: &mut Vec<u64>) -> Replayed {
    let (stopper, before) = (replay.stopper(), seen.len());
    let run = replay.run(|event| {
        seen.push(event.position().number());
        if seen.len() - before == count {
            stopper.stop();
        }
    });
    run.unwrap()
}

#[test]
fn one_that_is_stopped_is_resumed_without_gap_or_duplicate() {
    check(|world| {
        fill(world);
        for is_reverse in [false, true] {
            let new = || if is_reverse { world.replay(Query::all()).reverse() } else { world.replay(Query::all()) };
            let mut seen = Vec::new();
            let first = run_some(new(), 3, &mut seen);
            assert!(!first.is_finished);
            let json = serde_json::to_string(&first.token.unwrap()).unwrap();
            let token: ReplayToken = serde_json::from_str(&json).unwrap();
            let second = run_some(new().resume(token), 4, &mut seen);
            let last = run_some(new().resume(second.token.unwrap()), 100, &mut seen);
            assert!(last.is_finished);
            let mut expected: Vec<u64> = (1..=10).collect();
            if is_reverse {
                expected.reverse();
            }
            assert_eq!(seen, expected);
            assert!(positions(new().resume(last.token.unwrap())).is_empty());
        }
    });
}

#[test]
fn one_that_came_to_its_end_goes_on_with_what_came_later() {
    check(|world| {
        fill(world);
        let token = world.replay(Query::stream("b-1")).run(|_| ()).unwrap().token.unwrap();
        world.append("b-1", Any, [event("Later")]).unwrap();
        assert_eq!(positions(world.replay(Query::all()).resume(token)), [11]);
    });
}

#[test]
fn stopped_before_it_begins_it_does_nothing_and_keeps_its_token() {
    check(|world| {
        fill(world);
        let mut seen = Vec::new();
        let token = run_some(world.replay(Query::all()), 2, &mut seen).token;
        let replay = world.replay(Query::all()).resume(token.unwrap());
        replay.stopper().stop();
        let replayed = replay.run(|_| ()).unwrap();
        assert_eq!((replayed.events, replayed.is_finished, replayed.token), (0, false, token));
    });
}

#[test]
fn a_token_of_another_history_or_direction_is_refused() {
    check(|world| {
        fill(world);
        let token = world.replay(Query::all()).run(|_| ()).unwrap().token.unwrap();
        let other = Store::in_memory().unwrap();
        fill(&other);
        let refused = other.replay(Query::all()).resume(token).run(|_| ());
        assert!(matches!(refused, Err(ReplayError::Store(Error::HistoryChanged { .. }))));
        let refused = world.replay(Query::all()).reverse().resume(token).run(|_| ());
        assert!(matches!(refused, Err(ReplayError::Store(Error::Invalid(_)))));
    });
}

fn failure<T: std::fmt::Debug>(result: Result<T, ReplayError>) -> (Position, String, Option<ReplayToken>) {
    match result {
        Err(ReplayError::Handler { position, source, token }) => (position, source.to_string(), token),
        other => panic!("expected the handler to fail, got {other:?}"),
    }
}

#[test]
fn a_handler_that_fails_names_the_event_and_is_resumed_with_it() {
    check(|world| {
        fill(world);
        let fail =
            |at: u64| move |event: &annals::Event<'_>| if event.position() == p(at) { Err("no") } else { Ok(()) };
        let (position, source, token) = failure(world.replay(Query::all()).run(fail(4)));
        assert_eq!((position, source.as_str()), (p(4), "no"));
        assert_eq!(positions(world.replay(Query::all()).resume(token.unwrap())), (4..=10).collect::<Vec<_>>());
        assert_eq!(failure(world.replay(Query::all()).run(fail(1))).2, None);
        let (_, _, token) = failure(world.replay(Query::all()).reverse().run(fail(4)));
        assert_eq!(positions(world.replay(Query::all()).reverse().resume(token.unwrap())), [4, 3, 2, 1]);
        assert_eq!(failure(world.replay(Query::all()).reverse().run(fail(10))).2, None);
    });
}

#[test]
fn progress_is_told_now_and_then_and_at_the_end() {
    let store = Store::in_memory().unwrap();
    store.append("a-1", Any, (0..2500).map(|_| event("Counted"))).unwrap();
    for (is_reverse, expected) in
        [(false, [(1000, 1000), (2000, 2000), (2500, 2500)]), (true, [(1000, 1501), (2000, 501), (2500, 1)])]
    {
        let told = Rc::new(RefCell::new(Vec::new()));
        let replay = store.replay(Query::all()).on_progress({
            let told = Rc::clone(&told);
            move |progress| {
                assert_eq!(progress.end.number(), if is_reverse { 1 } else { 2500 });
                told.borrow_mut().push((progress.events, progress.position.number()));
            }
        });
        let replay = if is_reverse { replay.reverse() } else { replay };
        replay.run(|_| ()).unwrap();
        assert_eq!(*told.borrow(), expected);
    }
}

#[test]
fn workers_handle_everything_once_and_each_stream_in_order() {
    check(|world| {
        for number in 0..600 {
            world.append(format!("s-{}", number % 11), Any, [event("Counted")]).unwrap();
        }
        let streams = Mutex::new(BTreeMap::<String, Vec<u64>>::new());
        let replayed = world.replay(Query::all()).parallel(3).run(|event| {
            streams.lock().unwrap().entry(event.stream().to_owned()).or_default().push(event.version().number());
        });
        let replayed = replayed.unwrap();
        assert_eq!((replayed.events, replayed.is_finished), (600, true));
        let streams = streams.into_inner().unwrap();
        assert_eq!(streams.values().map(Vec::len).sum::<usize>(), 600);
        for (stream, versions) in streams {
            assert!(versions.iter().copied().eq(1..=versions.len() as u64), "{stream}: {versions:?}");
        }
    });
}

/// Two handlers that wait for each other: they can only return if two threads run them.
#[test]
fn workers_run_side_by_side() {
    let store = Store::in_memory().unwrap();
    // So many streams that both workers get some.
    for number in 0..64 {
        store.append(format!("s-{number}"), Any, [event("Counted")]).unwrap();
    }
    let (meeting, met) = (Barrier::new(2), Mutex::new(std::collections::HashSet::new()));
    let replayed = store.replay(Query::all()).parallel(2).run(|_| {
        if met.lock().unwrap().insert(std::thread::current().id()) {
            meeting.wait();
        }
    });
    assert_eq!(replayed.unwrap().events, 64);
    assert_eq!(met.into_inner().unwrap().len(), 2);
}

#[test]
fn workers_that_are_stopped_have_done_what_the_token_says() {
    check(|world| {
        fill(world);
        for is_reverse in [false, true] {
            let new = || if is_reverse { world.replay(Query::all()).reverse() } else { world.replay(Query::all()) };
            let seen = Mutex::new(Vec::new());
            let note = |event: &annals::Event<'_>| seen.lock().unwrap().push(event.position().number());
            let first = new().upto(p(6)).parallel(2).run(note).unwrap();
            let replay = new();
            let stopper = replay.stopper();
            stopper.stop();
            assert_eq!(replay.parallel(2).run(note).unwrap().token, None);
            if !is_reverse {
                new().resume(first.token.unwrap()).parallel(2).run(note).unwrap();
                let mut seen = seen.into_inner().unwrap();
                seen.sort_unstable();
                assert_eq!(seen, (1..=10).collect::<Vec<_>>());
            }
        }
    });
}

#[test]
fn a_worker_that_fails_leaves_nothing_before_its_event_undone() {
    check(|world| {
        for number in 0..1000 {
            world.append(format!("s-{}", number % 7), Any, [event("Counted")]).unwrap();
        }
        for is_reverse in [false, true] {
            let new = || if is_reverse { world.replay(Query::all()).reverse() } else { world.replay(Query::all()) };
            let done = Mutex::new(std::collections::BTreeSet::new());
            let run = new().parallel(3).run(|event| {
                if event.position().number() % 500 == 250 {
                    return Err(Error::Stopped);
                }
                done.lock().unwrap().insert(event.position().number());
                Ok(())
            });
            let (position, source, token) = failure(run);
            assert_eq!(source, Error::Stopped.to_string());
            let rest = positions(new().resume(token.unwrap()));
            assert_eq!(rest[0], position.number());
            let done = done.into_inner().unwrap();
            let all = done.iter().copied().chain(rest).collect::<std::collections::BTreeSet<_>>();
            assert_eq!(all, (1..=1000).collect());
        }
    });
}

#[test]
fn the_number_of_workers_has_a_limit() {
    let store = Store::in_memory().unwrap();
    fill(&store);
    let run = |workers| store.replay(Query::all()).parallel(workers).run(|_| ());
    assert_eq!(run(1).unwrap().events, 10);
    assert_eq!(run(REPLAY_WORKERS_MAX).unwrap().events, 10);
    for workers in [0, REPLAY_WORKERS_MAX + 1] {
        assert!(matches!(run(workers), Err(ReplayError::Store(Error::Invalid(_)))), "{workers}");
    }
}

/// What the letters of the types that it knows amount to.
#[derive(Default, Debug, PartialEq)]
struct Spelled(String);

#[derive(serde::Deserialize)]
enum Letter {
    A,
    B,
}

impl Projection for Spelled {
    type Event = Letter;

    fn apply(&mut self, event: &Letter, recorded: &Event<'_>) {
        self.0.push(if matches!(event, Letter::A) { 'a' } else { 'b' });
        self.0.push_str(&recorded.position().to_string());
    }

    fn event_types() -> EventTypes<Letter> {
        let split =
            Upcaster::json("Both", 1, |payload| Ok(vec![Upcast::of("A", payload.clone()), Upcast::of("B", payload)]));
        EventTypes::new().upcast(split.to("A", 1).to("B", 1)).upcast(Upcaster::drop("None", 1))
    }
}

/// The same handlers that follow a store take its events once more.
#[test]
fn any_handler_takes_the_events_of_a_replay() {
    check(|world| {
        let types = ["A", "Unknown", "Both", "None", "B"];
        let events = types.map(|event_type| NewEvent::json(event_type, &()).unwrap());
        world.append("a-1", Any, events).unwrap();
        let all = || world.replay(Query::all());

        let mut model = Spelled::default();
        let first = all().upto(p(3)).project(&mut model).unwrap();
        assert_eq!((model.0.as_str(), first.events), ("a1a3b3", 3));
        all().resume(first.token.unwrap()).project(&mut model).unwrap();
        assert_eq!(model.0, "a1a3b3b5");

        let mut sink = MemorySink::new();
        all().run(|event| sink.deliver(&[Outgoing::of(world.id(), event)])).unwrap();
        all().reverse().run(|event| sink.deliver(&[Outgoing::of(world.id(), event)])).unwrap();
        assert_eq!((sink.delivered().len(), sink.duplicates()), (5, 5));

        let refuse = |event: &Event<'_>| match event.event_type() {
            "Both" => Err(HandlerError::permanent("not that one")),
            _ => Ok(()),
        };
        for failed in [all().run(refuse), all().parallel(2).run(refuse)] {
            let failed = failed.unwrap_err();
            assert!(matches!(&failed, ReplayError::Handler { position, .. } if *position == p(3)), "{failed}");
            assert!(failed.to_string().contains("not that one"), "{failed}");
        }
    });
}

#[test]
fn a_projection_is_told_no_event_that_it_cannot_decode() {
    check(|world| {
        world.append("a-1", Any, [event("A"), NewEvent::json("B", &()).unwrap()]).unwrap();
        let mut model = Spelled::default();
        let failed = world.replay(Query::all()).reverse().project(&mut model).unwrap_err();
        assert!(matches!(&failed, ReplayError::Handler { position, .. } if *position == p(1)), "{failed}");
        assert_eq!(model.0, "b2");
    });
}
