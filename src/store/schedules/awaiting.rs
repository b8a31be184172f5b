//! The thread that writes for those who await.

#![cfg(feature = "tokio")]

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::Item;
use crate::asynchronous::JOBS_WAITING_MAX;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::explored::block_on;
use crate::sync::explored::thread::yield_now;

/// Polls a future once.
fn poll<F: Future>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// Opens a store that was dropped, once what was handed over to its committer has let go of it.
fn open_again(disk: &FaultyDisk) -> Store {
    loop {
        match Store::open_on(Arc::new(disk.clone()), options(Durability::Synced), false) {
            Ok(again) => return again,
            Err(Error::Locked { .. }) => yield_now(),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn awaited_appends_are_all_answered_and_the_committer_ends_with_the_store() {
    shuttle(200, || {
        let (store, disk) = in_memory(options(Durability::Synced));
        let threads: Vec<_> = (0..3)
            .map(|writer| {
                let store = store.clone();
                spawn(move || {
                    let payload = writer.to_string();
                    block_on(store.append_async(format!("s-{writer}"), NoStream, [event(payload)])).map(drop).unwrap();
                })
            })
            .collect();
        drop(store);
        join_all(threads);
        // Its threads and its lock are gone: it can be opened again.
        assert_eq!(contents(&open(&disk, options(Durability::Synced))).len(), 3);
    });
}

#[test]
fn an_awaited_append_that_is_dropped_is_written_or_not_and_hangs_nobody() {
    shuttle(200, || {
        let (store, disk) = in_memory(options(Durability::Synced));
        let other = store.clone();
        let other = spawn(move || {
            let _ = poll(&mut Box::pin(other.append_async("dropped", NoStream, [event("dropped")])));
        });
        block_on(store.append_async("s", NoStream, [event("kept")])).unwrap();
        join_all([other]);
        drop(store);
        // What was handed over keeps the store open until it is done.
        let found = contents(&open_again(&disk));
        assert!(found.contains(&("s".into(), "kept".into())) && found.len() == 2, "what was handed over is written");
    });
}

#[test]
fn of_awaited_appends_with_one_expectation_exactly_one_wins() {
    shuttle(200, || {
        let (store, _) = in_memory(options(Durability::Os));
        let threads: Vec<_> = (0..2)
            .map(|writer| {
                let store = store.clone();
                let append = move || block_on(store.append_async("s", NoStream, [event(writer.to_string())])).is_ok();
                spawn(append)
            })
            .collect();
        let blocking = store.append("s", NoStream, [event("2")]).is_ok();
        let won = join_all(threads);
        assert_eq!(won.into_iter().chain([blocking]).filter(|won| *won).count(), 1);
        assert_eq!(contents(&store).len(), 1);
    });
}

/// The future outlives the store, as a task does that its executor never runs again.
#[test]
fn an_answer_that_nobody_takes_keeps_nobody_from_dropping_the_store() {
    shuttle(200, || {
        let (store, disk) = in_memory(options(Durability::Synced));
        let mut answered = Box::pin(store.append_async("s", NoStream, [event("kept")]));
        let _ = poll(&mut answered);
        while store.head().unwrap().is_none() {
            yield_now();
        }
        drop(store);
        assert_eq!(contents(&open_again(&disk)), [("s".into(), "kept".into())]);
        drop(answered);
    });
}

#[test]
fn an_acknowledgement_that_nobody_awaits_keeps_nobody_from_dropping_the_store() {
    shuttle(200, || {
        let (store, disk) = in_memory(options(Durability::Synced));
        store.append("s", NoStream, [event("kept")]).unwrap();
        let mut subscription = store.subscribe("mail").from_start().open().unwrap();
        let Some(Ok(Item::Event(delivery))) = subscription.next() else { panic!("an event comes first") };
        let mut acknowledged = Box::pin(delivery.ack_async());
        let _ = poll(&mut acknowledged);
        while subscription.checkpoint().is_none() {
            yield_now();
        }
        drop(subscription);
        drop(store);
        let checkpoint = open_again(&disk).subscription_checkpoint("mail").unwrap().unwrap();
        assert_eq!(checkpoint.position, Position::FIRST);
        drop(acknowledged);
    });
}

/// It holds the store when nobody else does, and waited among those who hand jobs over.
#[test]
fn an_append_that_waits_for_room_closes_the_store_when_it_is_dropped() {
    shuttle(20, || {
        let (gate, is_at_gate) = (Arc::new(Mutex::new(())), Arc::new(AtomicBool::new(false)));
        let rule = {
            let (gate, is_at_gate) = (Arc::clone(&gate), Arc::clone(&is_at_gate));
            move |_: &Admission<'_>| {
                is_at_gate.store(true, Ordering::SeqCst);
                drop(gate.lock());
                Ok(())
            }
        };
        let (store, disk) = in_memory(options(Durability::Os).admission(rule));
        let shut = gate.lock();
        let handed_over = |store: &Store| {
            let mut append = Box::pin(store.append_async("s", Any, [event("")]));
            assert!(poll(&mut append).is_pending());
            append
        };
        drop(handed_over(&store));
        // The committer has taken this one, and takes no other one before the gate opens.
        while !is_at_gate.load(Ordering::SeqCst) {
            yield_now();
        }
        let waiting = (0..JOBS_WAITING_MAX).map(|_| handed_over(&store)).collect::<Vec<_>>();
        let without_room = handed_over(&store);
        drop((waiting, shut));
        while number(store.head().unwrap()) < JOBS_WAITING_MAX as u64 + 1 {
            yield_now();
        }
        drop(store);
        drop(without_room);
        assert_eq!(number(open_again(&disk).head().unwrap()), JOBS_WAITING_MAX as u64 + 1, "it was not handed over");
    });
}
