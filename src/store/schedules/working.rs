//! Background work beside appends, on its own thread, and the state beside the log.

use std::time::Duration;

use super::*;
use crate::sync::explored::thread::yield_now;

/// The thread of a store: it syncs what appends left unsynced once their time is over, marks the log, and ends with it.
#[test]
fn background_work_syncs_in_time_and_ends_with_the_store() {
    shuttle(200, || {
        let clock = ManualClock::new(Timestamp::from_millis(1_000));
        let disk = FaultyDisk::new(MemoryDisk::new());
        let plain = Options::new().durability(Durability::Os).segment_bytes_first(64 * 1024);
        let store = open(&disk, plain.clock(clock.clone()).randomness(SeededRandomness::new(1)));
        let writer = store.clone();
        let writer = spawn(move || {
            for commit in 0..2 {
                writer.append("s", Any, [event(commit.to_string())]).map(drop).unwrap();
            }
        });
        join_all([writer]);
        let watch = store.watch_synced();
        while number(watch.synced_head().unwrap()) < 2 {
            // It counts from when it saw that something is unsynced, which may be after this.
            clock.advance(Duration::from_secs(2));
            yield_now();
        }
        assert_eq!(contents(&after_power_cut(&disk, 0)).len(), 2);
        store.close().unwrap();
    });
}

/// Each adds to the same key, expecting the version that it has read.
#[test]
fn no_change_of_the_state_is_lost() {
    shuttle(100, || {
        let (store, _) = in_memory(options(Durability::Synced));
        let state = store.state().unwrap();
        state.put("sum", "0").unwrap();
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let state = state.clone();
                spawn(move || {
                    loop {
                        let value = state.versioned("sum").unwrap().unwrap();
                        let sum: u64 = String::from_utf8(value.bytes).unwrap().parse().unwrap();
                        let batch = StateBatch::new().expect("sum", value.version).put("sum", (sum + 1).to_string());
                        match state.write(batch) {
                            Ok(_) => return,
                            Err(Error::Conflict(_)) => {}
                            Err(other) => panic!("{other}"),
                        }
                    }
                })
            })
            .collect();
        join_all(threads);
        assert_eq!(state.get("sum").unwrap().as_deref(), Some(&b"2"[..]));
    });
}
