//! The end of a store: nothing acknowledged is lost by it, and nobody who waits is left behind.

use super::*;

/// What a thread came to that appended to a store which somebody closes: what was acknowledged.
fn append_until_closed(store: &Store, writer: usize, durability: Durability) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for attempt in 0..3 {
        let payload = format!("{writer}.{attempt}");
        let commit = Commit::new().append(format!("s-{writer}"), Any, [event(&payload)]).durability(durability);
        match store.send(commit).map_err(Error::from) {
            Ok(_) => acknowledged.push(payload),
            Err(Error::Closed) => break,
            Err(other) => panic!("{other}"),
        }
    }
    acknowledged
}

/// An `Os` append that is acknowledged beside a close is covered by the close's sync, or comes too late.
#[test]
fn what_was_acknowledged_before_or_beside_a_close_is_there_after_a_loss_of_power() {
    shuttle(400, || {
        let (store, disk) = in_memory(options(Durability::Synced));
        let writers: Vec<_> = [Durability::Os, Durability::Synced]
            .into_iter()
            .enumerate()
            .map(|(writer, durability)| {
                let store = store.clone();
                spawn(move || append_until_closed(&store, writer, durability))
            })
            .collect();
        let (closer, left) = (store.clone(), disk.clone());
        let closer = spawn(move || {
            closer.close().unwrap();
            // What was acknowledged until here, and no more: later appends are refused.
            left.power_cut(0)
        });
        let acknowledged: Vec<String> = join_all(writers).into_iter().flatten().collect();
        let left = join_all([closer]).remove(0);
        let again = Store::open_on(Arc::new(left), options(Durability::Synced), true).unwrap();
        let mut found: Vec<String> = contents(&again).into_iter().map(|(_, payload)| payload).collect();
        let mut acknowledged = acknowledged;
        found.sort();
        acknowledged.sort();
        assert_eq!(found, acknowledged);
        assert_eq!(again.open_report().confirmed_bytes, 0, "a closed store says that all of it is synced");
        drop(store);
    });
}

#[test]
fn who_waits_for_events_is_told_of_the_close() {
    shuttle(400, || {
        let (store, _) = in_memory(options(Durability::Os));
        let waiters: Vec<_> = [store.watch(), store.watch_synced()]
            .into_iter()
            .map(|watch| {
                spawn(move || {
                    let end = std::iter::repeat_with(|| watch.wait(None)).find_map(Result::err);
                    assert!(matches!(end, Some(Error::Closed)));
                })
            })
            .collect();
        let writer = store.clone();
        let writer = spawn(move || append_until_closed(&writer, 0, Durability::Os).len());
        store.close().unwrap();
        join_all([writer]);
        join_all(waiters);
    });
}

/// A waiter looked at its signal, an append raised it, and the store was closed before the waiter looked at that: it was
/// told of the end without the event before it.
#[test]
fn who_follows_is_told_of_the_close_after_every_event_before_it() {
    shuttle(4_000, || {
        let (store, _) = in_memory(options(Durability::Os));
        let mut follow = store.follow(Query::all()).visible();
        let follower = spawn(move || {
            let mut seen = 0;
            loop {
                while follow.next().unwrap().is_some() {
                    seen += 1;
                }
                match follow.wait(None) {
                    Ok(_) => {}
                    Err(Error::Closed) => return seen,
                    Err(other) => panic!("{other}"),
                }
            }
        });
        let writer = store.clone();
        let writer = spawn(move || append_until_closed(&writer, 0, Durability::Os).len());
        store.close().unwrap();
        assert_eq!(join_all([writer]), join_all([follower]));
    });
}

/// Two close it, one through a clone: when either returns, it is closed, and another program may open it.
#[test]
fn a_second_close_returns_when_the_store_is_closed() {
    shuttle(300, || {
        let (store, disk) = in_memory(options(Durability::Os));
        let threads: Vec<_> = (0..2)
            .map(|closer| {
                let (store, disk) = (store.clone(), disk.clone());
                spawn(move || {
                    append_until_closed(&store, closer, Durability::Os);
                    store.close().unwrap();
                    drop(Store::open_on(Arc::new(disk), options(Durability::Os), false).map_err(|error| match error {
                        // The other one has it open.
                        Error::Locked { .. } => {}
                        other => panic!("{other}"),
                    }));
                })
            })
            .collect();
        drop(store);
        join_all(threads);
        let again = open(&disk, options(Durability::Os));
        contents(&again);
    });
}

/// The last handle is dropped by whoever is last, a reader among them; the reader goes on.
#[test]
fn the_last_handle_that_is_dropped_closes_the_store() {
    shuttle(300, || {
        let (store, disk) = in_memory(options(Durability::Os));
        store.append("s", Any, [event("1")]).unwrap();
        let reader = store.clone();
        let reader = spawn(move || {
            let mut read = reader.read(Query::all());
            drop(reader);
            let mut count = 0;
            while read.next().unwrap().is_some() {
                count += 1;
            }
            count
        });
        let writer = spawn(move || append_until_closed(&store, 0, Durability::Os).len());
        let (seen, written) = (join_all([reader])[0], join_all([writer])[0]);
        assert!((1..=1 + written).contains(&seen));
        let left = contents(&after_power_cut(&disk, 0));
        assert_eq!(left.len(), 1 + written, "dropping the last handle syncs");
    });
}
