//! A clock that jumps while a store is open, and between one life and the next.

use std::time::Duration;

use annals::{Durability, ExpectedVersion, ManualClock, Options, Query, RecordedEvent, Result, Timestamp};

use super::support::{directory, event, options};

/// A second in 2026, in nanoseconds since 1970.
const NOW: i64 = 1_770_000_000_000_000_000;
const YEAR: i64 = 365 * 24 * 3_600 * 1_000_000_000;

/// Where the clock stands when a store is opened, and where it jumps to while it is open.
const JUMPS: [(i64, i64); 7] = [
    (NOW, NOW + YEAR),
    (NOW, NOW - 80 * YEAR),
    (-1, 0),
    (NOW + 200 * YEAR, NOW),
    (i64::MIN, i64::MAX),
    (NOW, NOW + 1),
    (i64::MIN, NOW),
];

fn events(store: &annals::Store) -> Vec<RecordedEvent> {
    store.read(Query::all()).owned().collect::<Result<_>>().unwrap()
}

/// Times of commits never go back, whatever the clock does; what an application says of an event stays as it said it.
#[test]
fn a_clock_that_jumps_costs_nothing_and_commit_times_never_go_back() {
    let directory = directory();
    let mut number = 0;
    for (before, behind) in JUMPS {
        let clock = ManualClock::new(Timestamp::from_nanos(before));
        let open = |options: Options| options.clock(clock.clone()).open(directory.path()).unwrap();
        let store = open(options());
        let known = events(&store);
        let mut append = |durability: Durability| {
            number += 1;
            let own_time = event(number).time(Timestamp::from_nanos(i64::MIN + number as i64));
            let commit = store.commit().append("counter-1", ExpectedVersion::Any, [event(number), own_time]);
            commit.durability(durability).send().unwrap();
        };
        (0..8).for_each(|_| append(Durability::Os));
        clock.set(Timestamp::from_nanos(behind));
        (0..8).for_each(|_| append(Durability::Synced));
        store.maintain().unwrap();
        append(Durability::Os);
        clock.set(Timestamp::from_nanos(before));
        append(Durability::Os);
        let found = events(&store);
        assert_eq!(found[..known.len()], known);
        assert!(found.is_sorted_by_key(|event| event.commit_time), "from {before} to {behind}");
        store.close().unwrap();
        assert_eq!(events(&open(options())), found, "from {before} to {behind}");
    }
    assert!(annals::verify(directory.path(), &mut |_| {}).unwrap().problems.is_empty());
}

/// What waits goes by the time that only goes on: the wall clock neither hurries nor holds it up.
#[test]
fn what_is_synced_in_the_background_waits_for_no_wall_clock() {
    let clock = ManualClock::new(Timestamp::from_nanos(NOW));
    let options = Options::new().durability(Durability::Os).clock(clock.clone());
    let store = options.sync_delay(Duration::from_secs(1)).mark_delay(Duration::from_secs(3_600)).in_memory().unwrap();
    clock.set(Timestamp::from_nanos(NOW - 50 * YEAR));
    store.append("counter-1", ExpectedVersion::NoStream, [event(1)]).unwrap();
    clock.set(Timestamp::from_nanos(NOW + 50 * YEAR));
    while store.synced_head().unwrap().is_none() {
        clock.advance(Duration::from_secs(1));
        std::thread::yield_now();
    }
}
