//! The thread that writes for those who await.

#![cfg(feature = "tokio")]

use super::*;
use crate::sync::explored::block_on;
use crate::sync::explored::thread::yield_now;

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
            let mut future = Box::pin(other.append_async("dropped", NoStream, [event("dropped")]));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let _ = future.as_mut().poll(&mut context);
        });
        block_on(store.append_async("s", NoStream, [event("kept")])).unwrap();
        join_all([other]);
        drop(store);
        // What was handed over keeps the store open until it is done.
        let again = loop {
            match Store::open_on(Arc::new(disk.clone()), options(Durability::Synced), false) {
                Ok(again) => break again,
                Err(Error::Locked { .. }) => yield_now(),
                Err(other) => panic!("{other}"),
            }
        };
        let found = contents(&again);
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
