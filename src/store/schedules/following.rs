//! Watches and subscriptions: no wake-up is lost, and replay passes into live without a gap or a duplicate.

use super::*;
use crate::subscription::{Follow, Item};

fn append(store: &Store, count: u64) {
    for _ in 0..count {
        store.append("s", Any, [event("1")]).map(drop).unwrap();
    }
}

/// A lost wake-up leaves the waiter waiting for ever, which the explorer reports as a deadlock.
#[test]
fn no_move_of_the_visible_head_is_missed() {
    for durability in [Durability::Os, Durability::Synced] {
        shuttle(300, move || {
            let (store, _) = in_memory(options(durability));
            let watcher = store.clone();
            let waiter = spawn(move || {
                let watch = watcher.watch();
                while number(watch.head().unwrap()) < 4 {
                    watch.wait(None).unwrap();
                }
            });
            let writers: Vec<_> = (0..2)
                .map(|_| {
                    let store = store.clone();
                    spawn(move || append(&store, 2))
                })
                .collect();
            join_all(writers);
            join_all([waiter]);
        });
    }
}

/// The synced head is moved by appends that ask for it, and by syncs beside them.
#[test]
fn no_move_of_the_synced_head_is_missed() {
    shuttle(400, || {
        let (store, _) = in_memory(options(Durability::Os));
        let watcher = store.clone();
        let waiter = spawn(move || {
            let watch = watcher.watch_synced();
            while number(watch.synced_head().unwrap()) < 3 {
                watch.wait(None).unwrap();
            }
        });
        let writer = store.clone();
        let writer = spawn(move || {
            append(&writer, 2);
            writer.sync().unwrap();
        });
        let other = store.clone();
        let other = spawn(move || {
            other.send(Commit::new().append("o", Any, [event("1")]).durability(Durability::Synced)).map(drop).unwrap();
        });
        join_all([writer, other]);
        store.sync().unwrap();
        join_all([waiter]);
    });
}

#[test]
fn a_watch_that_begins_while_appends_go_on_misses_nothing() {
    shuttle(300, || {
        let (store, _) = in_memory(options(Durability::Os));
        let writer = store.clone();
        let writer = spawn(move || append(&writer, 3));
        let mut watch = store.watch();
        while number(watch.head().unwrap()) < 3 {
            watch.wait(None).unwrap();
            // Another one each time: to register races with the writer as well.
            watch = store.watch();
        }
        join_all([writer]);
    });
}

fn follow_to(mut follow: Follow, last: u64) -> Vec<u64> {
    let mut seen = Vec::new();
    while follow.looked().map_or(0, Position::number) < last {
        while let Some(event) = follow.next().unwrap() {
            seen.push(event.position().number());
        }
        if follow.looked().map_or(0, Position::number) < last {
            follow.wait(None).unwrap();
        }
    }
    seen
}

#[test]
fn replay_passes_into_live_without_a_gap_or_a_duplicate() {
    for is_visible in [true, false] {
        shuttle(300, move || {
            let (store, _) = in_memory(options(Durability::Os));
            append(&store, 2);
            store.sync().unwrap();
            let follower = store.clone();
            let follower = spawn(move || {
                let follow = follower.follow(Query::tag("t"));
                follow_to(if is_visible { follow.visible() } else { follow }, 6)
            });
            let writers: Vec<_> = (0..2)
                .map(|_| {
                    let store = store.clone();
                    spawn(move || append(&store, 2))
                })
                .collect();
            join_all(writers);
            store.sync().unwrap();
            assert_eq!(join_all([follower]), [[1, 2, 3, 4, 5, 6]]);
        });
    }
}

/// Two consumers of one subscription: each event goes to one of them, those of a stream in order, and what was
/// acknowledged is where the checkpoint is.
#[test]
fn consumers_share_a_subscription_without_a_gap_or_a_duplicate() {
    shuttle(100, || {
        let (store, _) = in_memory(options(Durability::Synced));
        append(&store, 1);
        let lease = std::time::Duration::from_secs(1);
        let open = |store: &Store| store.subscribe("mail").from_start().shared(lease).open().unwrap();
        let (first, second) = (open(&store), open(&store));
        let stoppers = [first.stopper(), second.stopper()];
        let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let consumers: Vec<_> = [first, second]
            .into_iter()
            .map(|subscription| {
                let (seen, stoppers) = (Arc::clone(&seen), stoppers.clone());
                spawn(move || {
                    for item in subscription {
                        let Item::Event(delivery) = item.unwrap() else { continue };
                        seen.lock().push((delivery.stream.clone(), delivery.position.number()));
                        delivery.ack().unwrap();
                        if seen.lock().len() == 4 {
                            stoppers.iter().for_each(crate::Stopper::stop);
                        }
                    }
                })
            })
            .collect();
        append(&store, 2);
        store.append("o", Any, [event("1")]).unwrap();
        join_all(consumers);
        let seen = std::mem::take(&mut *seen.lock());
        let own: Vec<u64> = seen.iter().filter(|(stream, _)| stream == "s").map(|(_, position)| *position).collect();
        assert_eq!(own, [1, 2, 3]);
        assert_eq!(seen.len(), 4);
        let checkpoint = store.subscription_checkpoint("mail").unwrap();
        assert_eq!(checkpoint.map(|point| point.position.number()), Some(4));
    });
}
