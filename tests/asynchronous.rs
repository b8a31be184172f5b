//! Awaited appends and subscriptions as streams, in memory and in a directory, under both kinds of executor and under
//! none: what a future promises must not depend on who polls it.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]
#![cfg(feature = "tokio")]

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;

use annals::ExpectedVersion::{Any, NoStream};
use annals::{
    Clock, Commit, Durability, Error, EventStream, Item, ManualClock, Metadata, NewEvent, Options, Position, Query,
    Signal, Store, Timestamp,
};
use tokio_stream::StreamExt;

fn event(payload: &str) -> NewEvent {
    NewEvent::raw("Counted", payload)
}

/// Runs a case on both stores, under both executors.
fn check<F: Future<Output = ()>>(case: impl Fn(Store) -> F) {
    let run = |runtime: &mut tokio::runtime::Builder| {
        let runtime = runtime.build().unwrap();
        runtime.block_on(case(Store::in_memory().unwrap()));
        runtime.block_on(case(Store::open(tempfile::tempdir().unwrap().path()).unwrap()));
    };
    run(&mut tokio::runtime::Builder::new_current_thread());
    run(tokio::runtime::Builder::new_multi_thread().worker_threads(2));
}

fn payloads(store: &Store) -> Vec<String> {
    store.read(Query::all()).owned().map(|event| String::from_utf8(event.unwrap().payload).unwrap()).collect()
}

/// The position of the next event of a stream.
async fn next(events: &mut EventStream) -> u64 {
    loop {
        match events.next().await.unwrap().unwrap() {
            Item::Event(delivery) => return delivery.position.number(),
            Item::CaughtUp => {}
        }
    }
}

/// Polls a future once.
fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn an_awaited_append_is_like_any_other() {
    check(|store| async move {
        let first = store.append_async("a-1", NoStream, [event("1"), event("2")]).await.unwrap();
        assert_eq!((first.last_position().number(), first.version().number()), (2, 2));
        let conflict = store.append_async("a-1", NoStream, [event("3")]).await.unwrap_err();
        assert!(matches!(conflict.error(), Error::Conflict(_)));
        assert_eq!(conflict.into_commit().len(), 1);
        let invalid = store.send_async(Commit::new()).await.unwrap_err();
        assert!(matches!(invalid.error(), Error::Invalid(_)));
        assert_eq!(payloads(&store), ["1", "2"]);
        assert_eq!(store.synced_head().unwrap(), Position::new(2));
    });
}

#[test]
fn tasks_append_side_by_side() {
    check(|store| async move {
        let tasks: Vec<_> =
            (0..200).map(|n| tokio::spawn(store.append_async(format!("s-{n}"), NoStream, [event("x")]))).collect();
        let mut positions = Vec::new();
        for task in tasks {
            positions.push(task.await.unwrap().unwrap().last_position().number());
        }
        positions.sort_unstable();
        assert_eq!(positions, (1..=200).collect::<Vec<_>>());
    });
}

#[test]
fn each_handle_gives_its_own_metadata() {
    check(|store| async move {
        let handles = [
            store.clone(),
            store.with_metadata(&Metadata::new().correlation_id("1")).unwrap(),
            store.with_metadata(&Metadata::new().correlation_id("2")).unwrap(),
        ];
        let tasks: Vec<_> = (0..30)
            .map(|n| tokio::spawn(handles[n % 3].append_async(format!("s-{}", n % 3), Any, [event("")])))
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        for (number, expected) in [None, Some("1"), Some("2")].into_iter().enumerate() {
            for event in store.read(Query::stream(format!("s-{number}"))).owned() {
                let event = event.unwrap();
                assert_eq!(event.read_metadata().unwrap().correlation_id.as_deref(), expected);
                assert_eq!(event.metadata.is_some(), expected.is_some());
            }
        }
    });
}

#[test]
fn what_is_not_polled_is_not_sent_and_what_was_handed_over_is_not_cancelled() {
    check(|store| async move {
        drop(store.append_async("a-1", Any, [event("never")]));
        let watch = store.watch();
        {
            let mut sent = pin!(store.append_async("a-1", Any, [event("dropped")]));
            // The first poll hands it over: there is room.
            let _ = poll(sent.as_mut());
        }
        while store.head().unwrap().is_none() {
            watch.wait(None).unwrap();
        }
        store.append_async("a-1", Any, [event("later")]).await.unwrap();
        assert_eq!(payloads(&store), ["dropped", "later"]);
    });
}

/// A clock that notes which threads ask it for the time, as whoever sends a commit does.
#[derive(Debug, Clone)]
struct WatchedClock {
    clock: ManualClock,
    asked: Arc<Mutex<Vec<ThreadId>>>,
}

impl Clock for WatchedClock {
    fn now(&self) -> Timestamp {
        self.asked.lock().unwrap().push(thread::current().id());
        self.clock.now()
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    fn wait(&self, signal: &Arc<Signal>, deadline: Option<Duration>) -> bool {
        self.clock.wait(signal, deadline)
    }
}

#[test]
fn the_thread_that_polls_sends_nothing() {
    let clock = WatchedClock { clock: ManualClock::new(Timestamp::default()), asked: Arc::default() };
    let store = Options::new().clock(clock.clone()).without_background_work().in_memory().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let sent_elsewhere = || {
        let asked = std::mem::take(&mut *clock.asked.lock().unwrap());
        !asked.is_empty() && !asked.contains(&thread::current().id())
    };
    runtime.block_on(async {
        store.append_async("a-1", Any, [event("1")]).await.unwrap();
        assert!(sent_elsewhere());
        let mut events = store.subscribe("mailer").open().unwrap().into_stream().unwrap();
        let Item::Event(delivery) = events.next().await.unwrap().unwrap() else { panic!("an event comes first") };
        clock.asked.lock().unwrap().clear();
        delivery.ack_async().await.unwrap();
    });
    assert_eq!(store.subscription_checkpoint("mailer").unwrap().unwrap().position, Position::FIRST);
    assert!(sent_elsewhere());
}

#[test]
fn a_closed_store_says_so() {
    check(|store| async move {
        store.append_async("a-1", Any, [event("1")]).await.unwrap();
        let other = store.clone();
        store.close().unwrap();
        let error = other.append_async("a-1", Any, [event("2")]).await.unwrap_err();
        assert!(matches!(error.error(), Error::Closed));
        assert_eq!(error.into_commit().len(), 1);
    });
}

/// The last handle of the store is the one that the job holds: the committer closes the store, and itself.
#[test]
fn the_store_may_be_dropped_while_it_commits() {
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..20 {
        let store = Store::open(directory.path()).unwrap();
        let watch = store.watch();
        let mut sent = Box::pin(store.append_async("a-1", Any, [event("x")]));
        drop(store);
        let _ = poll(sent.as_mut());
        drop(sent);
        // Until it is closed, which is told as an error.
        while watch.wait(None).is_ok() {}
    }
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.head().unwrap(), Position::new(20));
}

#[test]
fn a_rule_that_panics_panics_for_who_waits_and_the_store_goes_on() {
    let panics = Arc::new(AtomicBool::new(true));
    let store = Options::new()
        .admission({
            let panics = Arc::clone(&panics);
            move |_| {
                assert!(!panics.load(Ordering::SeqCst), "the rule is broken");
                Ok(())
            }
        })
        .in_memory()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    runtime.block_on(async {
        let panicked = tokio::spawn(store.append_async("a-1", Any, [event("1")])).await.unwrap_err().into_panic();
        assert_eq!(*panicked.downcast_ref::<&str>().unwrap(), "the rule is broken");
        panics.store(false, Ordering::SeqCst);
        store.append_async("a-1", Any, [event("2")]).await.unwrap();
    });
    assert_eq!(payloads(&store), ["2"]);
}

/// Those that were handed over with it panicked as well, written or not, and nobody got a commit back.
#[test]
fn a_rule_that_panics_for_one_commit_costs_the_others_of_its_group_nothing() {
    let (entered, at_gate) = std::sync::mpsc::channel();
    let (open_gate, opened) = std::sync::mpsc::channel();
    let gate = Mutex::new((entered, opened));
    let store = Options::new()
        .admission(move |commit: &annals::Admission<'_>| {
            let is_on = |name: &str| commit.streams().any(|(stream, _)| stream == name);
            if is_on("gate-1") {
                let (entered, opened) = &*gate.lock().unwrap();
                entered.send(()).unwrap();
                opened.recv().unwrap();
            }
            assert!(!is_on("forbidden-1"), "the rule is broken");
            Ok(())
        })
        .in_memory()
        .unwrap();
    let append = |stream: &'static str| {
        let mut appending = Box::pin(store.append_async(stream, Any, [event(stream)]));
        assert!(poll(appending.as_mut()).is_pending());
        appending
    };
    let first = append("gate-1");
    at_gate.recv().unwrap();
    // The committer takes these together, when it is done with the first.
    let [a, forbidden, b] = ["a-1", "forbidden-1", "b-1"].map(append);
    open_gate.send(()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(first).unwrap();
    runtime.block_on(a).unwrap();
    catch_unwind(AssertUnwindSafe(|| runtime.block_on(forbidden))).unwrap_err();
    runtime.block_on(b).unwrap();
    assert_eq!(payloads(&store), ["gate-1", "a-1", "b-1"]);
}

#[test]
fn a_stream_delivers_backlog_and_live_events_once_in_order_with_one_caught_up() {
    check(|store| async move {
        for _ in 0..100 {
            store.append_async("a-1", Any, [event("backlog")]).await.unwrap();
        }
        let writer = tokio::spawn({
            let store = store.clone();
            async move {
                for _ in 0..100 {
                    store.append_async("a-1", Any, [event("live")]).await.unwrap();
                }
            }
        });
        let mut events = store.subscribe("mailer").open().unwrap().into_stream().unwrap();
        let (mut seen, mut caught_up) = (Vec::new(), 0);
        while seen.len() < 200 || caught_up == 0 {
            match events.next().await.unwrap().unwrap() {
                Item::Event(delivery) => {
                    seen.push(delivery.position.number());
                    delivery.ack_async().await.unwrap();
                }
                Item::CaughtUp => caught_up += 1,
            }
        }
        assert_eq!((seen, caught_up), ((1..=200).collect(), 1));
        writer.await.unwrap();
    });
}

#[test]
fn dropping_a_stream_frees_its_name_and_what_was_read_ahead() {
    check(|store| async move {
        for _ in 0..100 {
            store.append_async("a-1", Any, [event("")]).await.unwrap();
        }
        let open = || store.subscribe("mailer").open().unwrap().into_stream().unwrap();
        let mut events = open();
        let Item::Event(first) = events.next().await.unwrap().unwrap() else { panic!("an event comes first") };
        first.ack_async().await.unwrap();
        drop(events);
        assert_eq!(next(&mut open()).await, 2);
    });
}

#[test]
fn a_stream_that_waits_is_stopped_from_elsewhere_and_ends() {
    check(|store| async move {
        let mut events = store.follow(Query::all()).subscribe().into_stream().unwrap();
        assert!(matches!(events.next().await, Some(Ok(Item::CaughtUp))));
        let stopper = events.stopper();
        let stopped = tokio::spawn(async move { stopper.stop() });
        assert!(events.next().await.is_none());
        stopped.await.unwrap();
    });
}

#[test]
fn closing_the_store_ends_a_stream_with_that_error() {
    check(|store| async move {
        let mut events = store.follow(Query::all()).subscribe().into_stream().unwrap();
        assert!(matches!(events.next().await, Some(Ok(Item::CaughtUp))));
        store.close().unwrap();
        assert!(matches!(events.next().await, Some(Err(Error::Closed))));
        assert!(events.next().await.is_none());
    });
}

#[test]
fn batches_are_acknowledged_by_the_committer_too() {
    check(|store| async move {
        store.append_async("a-1", Any, (0..5).map(|_| event(""))).await.unwrap();
        store.commit().append("a-1", Any, [event("")]).durability(Durability::Synced).send().unwrap();
        let mut subscription = store.subscribe("mailer").batch(10, Duration::ZERO).open().unwrap();
        subscription.next_batch().unwrap().ack_async().await.unwrap();
        assert_eq!(subscription.checkpoint(), Position::new(6));
    });
}

#[test]
fn a_store_whose_appends_were_awaited_is_closed_when_it_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for _ in 0..50 {
        let store = Store::open(directory.path()).unwrap();
        runtime.block_on(store.append_async("a-1", Any, [event("1")])).unwrap();
    }
}
