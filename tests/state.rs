//! State beside the log: values by key, atomic batches, what survives, and what the log never notices.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use annals::limits::{COMMIT_BYTES_MAX, STATE_KEY_BYTES_MAX};
use annals::{
    Durability, Error, ExpectationFailure, ExpectedVersion, ManualClock, NewEvent, Options, Query, SeededRandomness,
    State, StateBatch, Store, Timestamp,
};

fn text(state: &State, key: &str) -> Option<String> {
    state.get(key).unwrap().map(|value| String::from_utf8(value).unwrap())
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// A store without a thread of its own: what it does in the background happens when it is told to.
fn still() -> Options {
    Options::new().without_background_work()
}

#[test]
fn the_newest_value_of_a_key_counts() {
    let state = Store::in_memory().unwrap().state().unwrap();
    assert_eq!(text(&state, "a"), None);
    state.put("a", "1").unwrap();
    state.put("ab", "other").unwrap();
    state.put("a", "2").unwrap();
    assert_eq!(text(&state, "a").as_deref(), Some("2"));
    assert_eq!(text(&state, "ab").as_deref(), Some("other"));
    state.delete("a").unwrap();
    state.delete("a").unwrap();
    state.delete("never").unwrap();
    assert_eq!(text(&state, "a"), None);
    state.put("a", "").unwrap();
    assert_eq!(text(&state, "a").as_deref(), Some(""));
}

/// Commits on several keys change them together, and expectations guard all of them.
#[test]
fn a_batch_is_written_as_a_whole_or_not_at_all() {
    let state = Store::in_memory().unwrap().state().unwrap();
    let written = state.write(StateBatch::new().put("a", "1").put("b", "2").delete("c").put("a", "3")).unwrap();
    assert_eq!(text(&state, "a").as_deref(), Some("3"));
    assert_eq!(written.version_of("a"), state.versioned("a").unwrap().map(|value| value.version));
    assert_eq!(written.version_of("c"), None);

    let stale = state.versioned("b").unwrap().unwrap().version;
    state.put("b", "4").unwrap();
    let batch = StateBatch::new().put("a", "5").delete("b").expect("b", stale).expect("c", None).expect("d", stale);
    let Err(Error::Conflict(conflict)) = state.write(batch) else { panic!("the batch expects an old value") };
    let expected = [
        ExpectationFailure::Key { key: "b".into(), exists: true },
        ExpectationFailure::Key { key: "d".into(), exists: false },
    ];
    assert_eq!(conflict.failures, expected);
    assert_eq!(text(&state, "a").as_deref(), Some("3"));
    assert_eq!(text(&state, "b").as_deref(), Some("4"));
}

#[test]
fn compare_and_set_has_one_winner() {
    let state = Store::in_memory().unwrap().state().unwrap();
    let claim = |holder: usize| StateBatch::new().expect("lease", None).put("lease", holder.to_string());
    let winners: Vec<usize> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|holder| {
                scope.spawn({
                    let state = &state;
                    move || state.write(claim(holder)).is_ok().then_some(holder)
                })
            })
            .collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(winners.len(), 1);
    assert_eq!(text(&state, "lease"), Some(winners[0].to_string()));
}

/// A counter that many threads raise loses no step.
#[test]
fn versions_tell_every_write_apart() {
    let state = Store::in_memory().unwrap().state().unwrap();
    state.put("counter", "0").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut done = 0;
                while done < 25 {
                    let value = state.versioned("counter").unwrap().unwrap();
                    let count: u32 = String::from_utf8(value.bytes).unwrap().parse().unwrap();
                    let raised =
                        StateBatch::new().expect("counter", value.version).put("counter", (count + 1).to_string());
                    match state.write(raised.durability(Durability::Os)) {
                        Ok(_) => done += 1,
                        Err(Error::Conflict(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    assert_eq!(text(&state, "counter").as_deref(), Some("100"));
    // The same bytes written again are another value.
    let before = state.versioned("counter").unwrap().unwrap();
    let after = state.put("counter", "100").unwrap();
    assert_ne!(before.version, after);
}

#[test]
fn keys_are_listed_by_prefix() {
    let state = Store::in_memory().unwrap().state().unwrap();
    for key in ["b", "a-2", "a-1", "a-10", "ab", "a-3"] {
        state.put(key, key).unwrap();
    }
    state.put("a-1", "again").unwrap();
    state.delete("a-3").unwrap();
    assert_eq!(state.keys("a-").unwrap(), ["a-1", "a-10", "a-2"]);
    assert_eq!(state.keys("a-1").unwrap(), ["a-1", "a-10"]);
    assert_eq!(state.keys("a").unwrap(), ["a-1", "a-10", "a-2", "ab"]);
    assert_eq!(state.keys("").unwrap(), ["a-1", "a-10", "a-2", "ab", "b"]);
    assert_eq!(state.keys("c").unwrap(), [""; 0]);
}

/// What stands before the first dash was asked for as a category, though there is none so short or so long: such keys
/// could not be listed.
#[test]
fn keys_are_listed_by_a_prefix_that_begins_with_no_category() {
    let state = Store::in_memory().unwrap().state().unwrap();
    for key in ["-", "-1", "a-1", "--"] {
        state.put(key, key).unwrap();
    }
    assert_eq!(state.keys("-").unwrap(), ["-", "--", "-1"]);
    assert_eq!(state.keys("-1").unwrap(), ["-1"]);
    let long = "k".repeat(STATE_KEY_BYTES_MAX - 1) + "-";
    state.put(&long, "v").unwrap();
    assert_eq!(state.keys(&long).unwrap(), [long.as_str()]);
    assert_eq!(state.keys(&format!("k{long}")).unwrap(), [""; 0]);
    assert_eq!(state.keys(&format!("kk{long}")).unwrap(), [""; 0]);
}

#[test]
fn keys_and_values_have_limits() {
    let state = Store::in_memory().unwrap().state().unwrap();
    let longest = "k".repeat(STATE_KEY_BYTES_MAX);
    state.put(&longest, "v").unwrap();
    assert_eq!(text(&state, &longest).as_deref(), Some("v"));
    for key in [String::new(), "k".repeat(STATE_KEY_BYTES_MAX + 1)] {
        assert!(matches!(state.put(&key, "v"), Err(Error::Invalid(_))));
        assert!(matches!(state.get(&key), Err(Error::Invalid(_))));
        assert!(matches!(state.delete(&key), Err(Error::Invalid(_))));
        assert!(matches!(state.write(StateBatch::new().put("a", "1").expect(key, None)), Err(Error::Invalid(_))));
    }
    assert!(matches!(state.write(StateBatch::new().expect("a", None)), Err(Error::Invalid(_))));
    assert!(matches!(state.put("k", vec![0; COMMIT_BYTES_MAX]), Err(Error::Invalid(_))));
    assert_eq!(text(&state, "k"), None);
    state.put("k", vec![7; COMMIT_BYTES_MAX - 1024]).unwrap();
    assert_eq!(state.get("k").unwrap().unwrap().len(), COMMIT_BYTES_MAX - 1024);
    let version = state.put("a", "1").unwrap();
    let twice = StateBatch::new().expect("a", version).expect("a", None).put("a", "2");
    assert!(matches!(state.write(twice), Err(Error::Invalid(_))));
}

#[test]
fn the_state_lasts_and_the_log_never_notices() {
    let directory = directory();
    let store = Store::open(directory.path()).unwrap();
    store.append("account-alice", ExpectedVersion::NoStream, [NewEvent::raw("Opened", "")]).unwrap();
    let state = store.state().unwrap();
    state.put("checkpoint", "1").unwrap();
    state.put("gone", "x").unwrap();
    state.delete("gone").unwrap();
    assert_eq!(store.head().unwrap().unwrap().number(), 1);
    assert_eq!(store.read(Query::all()).count().unwrap(), 1);
    assert_eq!(store.version("checkpoint").unwrap(), None);
    drop(state);
    store.close().unwrap();

    let store = Store::open(directory.path()).unwrap();
    let state = store.state().unwrap();
    assert_eq!(text(&state, "checkpoint").as_deref(), Some("1"));
    assert_eq!(text(&state, "gone"), None);
    assert_eq!(store.read(Query::all()).count().unwrap(), 1);
    drop((store, state));
    let report = annals::verify(directory.path(), &mut |_| {}).unwrap();
    assert_eq!((report.problems, report.events, report.segments), (vec![], 1, 1));
}

/// Looking for a value makes no files: a store that needs no state has none.
#[test]
fn a_store_without_state_stays_without() {
    let directory = directory();
    let store = Store::open(directory.path()).unwrap();
    let state = store.state().unwrap();
    assert_eq!(text(&state, "a"), None);
    assert_eq!(state.keys("").unwrap(), [""; 0]);
    state.delete("a").unwrap();
    assert!(!directory.path().join("state").exists());
    state.put("a", "1").unwrap();
    assert!(directory.path().join("state/log").exists());
}

/// A state keeps its store open, as a clone of it does; a closed store has no more state to write.
#[test]
fn the_state_closes_with_its_store() {
    let directory = directory();
    let store = Store::open(directory.path()).unwrap();
    let state = store.state().unwrap();
    drop(store);
    state.put("a", "1").unwrap();
    drop(state);
    let store = Store::open(directory.path()).unwrap();
    let (state, unused) = (store.state().unwrap(), store.state().unwrap());
    assert_eq!(text(&state, "a").as_deref(), Some("1"));
    store.close().unwrap();
    assert!(matches!(unused.put("a", "2"), Err(Error::Closed)));
    let store = Store::open(directory.path()).unwrap();
    let state = store.state().unwrap();
    store.clone().close().unwrap();
    assert_eq!(text(&state, "a").as_deref(), Some("1"));
}

#[test]
fn a_reader_sees_what_is_synced_and_writes_nothing() {
    let directory = directory();
    let store = still().open(directory.path()).unwrap();
    let state = store.state().unwrap();
    let reader = still().open_read_only(directory.path()).unwrap();
    let seen = reader.state().unwrap();
    assert_eq!(text(&seen, "a"), None);
    state.put("a", "1").unwrap();
    assert_eq!(text(&seen, "a").as_deref(), Some("1"));
    state.write(StateBatch::new().put("a", "2").durability(Durability::Os)).unwrap();
    assert_eq!(text(&seen, "a").as_deref(), Some("1"));
    state.sync().unwrap();
    assert_eq!(text(&seen, "a").as_deref(), Some("2"));
    assert!(matches!(seen.put("a", "3"), Err(Error::ReadOnly)));
    assert!(matches!(seen.delete("a"), Err(Error::ReadOnly)));
    assert!(matches!(seen.sync(), Err(Error::ReadOnly)));
}

/// Damage of the state is told to who uses the state, and to nobody else.
#[test]
fn a_damaged_state_never_keeps_the_store_from_opening() {
    let directory = directory();
    let store = Store::open(directory.path()).unwrap();
    store.append("account-alice", ExpectedVersion::NoStream, [NewEvent::raw("Opened", "")]).unwrap();
    store.state().unwrap().put("a", "1").unwrap();
    store.close().unwrap();
    let path = directory.path().join("state/log/0000000001.segment");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[10] ^= 1;
    std::fs::write(&path, &bytes).unwrap();

    let store = Store::open(directory.path()).unwrap();
    assert!(matches!(store.state(), Err(Error::Corrupt { .. })));
    store.append("account-alice", ExpectedVersion::Any, [NewEvent::raw("Deposited", "")]).unwrap();
    assert_eq!(store.read(Query::all()).count().unwrap(), 2);
    store.maintain().unwrap();
    // It is looked at again each time: it may have been put right.
    bytes[10] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(text(&store.state().unwrap(), "a").as_deref(), Some("1"));
}

fn segments(directory: &tempfile::TempDir) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory.path().join("state/log"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

/// What is overwritten gives its space back, and nothing that counts is lost.
#[test]
fn what_is_overwritten_is_compacted() {
    let directory = directory();
    let options = || still().durability(Durability::Os).randomness(SeededRandomness::new(7));
    let store = options().open(directory.path()).unwrap();
    let state = store.state().unwrap();
    let kept = state.put("settings", "kept").unwrap();
    state.put("gone", "x").unwrap();
    state.delete("gone").unwrap();
    let mut last = None;
    for round in 0..40 {
        for step in 0..20 {
            last = Some(state.put("checkpoint", vec![round ^ step; 5_000]).unwrap());
        }
        store.maintain().unwrap();
    }
    let left = segments(&directory);
    assert!(left.len() < 16 && left[0] != "0000000001.segment", "{left:?}");
    let bytes: u64 =
        left.iter().map(|name| directory.path().join("state/log").join(name).metadata().unwrap().len()).sum();
    assert!(bytes < 1024 * 1024, "{bytes} bytes for two values");
    let check = |state: &State| {
        assert_eq!(text(state, "settings").as_deref(), Some("kept"));
        // A value that was copied is the same value.
        assert_eq!(state.versioned("settings").unwrap().unwrap().version, kept);
        assert_eq!(Some(state.versioned("checkpoint").unwrap().unwrap().version), last);
        assert_eq!(text(state, "gone"), None);
        assert_eq!(state.keys("").unwrap(), ["checkpoint", "settings"]);
    };
    check(&state);
    drop(state);
    store.close().unwrap();
    // The state's log begins late, and is sound; the store's own is empty.
    let report = annals::verify(directory.path(), &mut |_| {}).unwrap();
    assert_eq!((report.problems, report.events, report.segments), (vec![], 0, 1));
    let store = options().open(directory.path()).unwrap();
    check(&store.state().unwrap());
    store.close().unwrap();
    // A log that begins late is indexed anew from where it begins.
    std::fs::remove_dir_all(directory.path().join("state/index")).unwrap();
    let store = options().open(directory.path()).unwrap();
    let state = store.state().unwrap();
    check(&state);
    state.write(StateBatch::new().expect("settings", kept).expect("gone", None).put("gone", "back")).unwrap();
    assert_eq!(text(&state, "gone").as_deref(), Some("back"));
}

/// A reader that was left behind by a compaction finds its way.
#[test]
fn a_reader_outlives_compactions() {
    let directory = directory();
    let store = still().open(directory.path()).unwrap();
    let state = store.state().unwrap();
    state.put("settings", "kept").unwrap();
    let reader = still().open_read_only(directory.path()).unwrap();
    let seen = reader.state().unwrap();
    assert_eq!(text(&seen, "settings").as_deref(), Some("kept"));
    for round in 0..60 {
        for _ in 0..10 {
            let batch = StateBatch::new().put("checkpoint", vec![round; 10_000]);
            state.write(batch.durability(Durability::Os)).unwrap();
        }
        store.maintain().unwrap();
        if round % 7 == 0 {
            assert_eq!(seen.get("checkpoint").unwrap(), Some(vec![round; 10_000]));
        }
    }
    assert!(segments(&directory)[0] != "0000000001.segment");
    assert_eq!(text(&seen, "settings").as_deref(), Some("kept"));
    assert_eq!(seen.get("checkpoint").unwrap(), Some(vec![59; 10_000]));
}

/// Many threads write while the state is compacted behind them; each ends with what it wrote last.
#[test]
fn compaction_runs_beside_writers_and_readers() {
    let store = Arc::new(Options::new().durability(Durability::Os).in_memory().unwrap());
    let state = store.state().unwrap();
    state.put("still", "here").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let state = &state;
            scope.spawn(move || {
                let key = format!("key-{thread}");
                for step in 0..200_u32 {
                    let mut value = vec![0; 8_000];
                    value[..4].copy_from_slice(&step.to_le_bytes());
                    state.put(&key, value).unwrap();
                    let read = state.get(&key).unwrap().unwrap();
                    assert_eq!(read[..4], step.to_le_bytes());
                    assert_eq!(text(state, "still").as_deref(), Some("here"));
                }
            });
        }
        scope.spawn(|| (0..20).for_each(|_| store.maintain().unwrap()));
    });
    store.maintain().unwrap();
    assert_eq!(state.keys("").unwrap(), ["key-0", "key-1", "key-2", "still"]);
    for thread in 0..3 {
        assert_eq!(state.get(&format!("key-{thread}")).unwrap().unwrap()[..4], 199_u32.to_le_bytes());
    }
}

/// The store's background thread syncs the state within the delay, and compacts it, without being told.
#[test]
fn the_state_is_looked_after_in_the_background() {
    let directory = directory();
    let clock = ManualClock::new(Timestamp::from_millis(0));
    let options = Options::new().clock(clock.clone()).durability(Durability::Os);
    let store = options.open(directory.path()).unwrap();
    let state = store.state().unwrap();
    state.put("a", "1").unwrap();
    let reader = still().open_read_only(directory.path()).unwrap();
    let seen = reader.state().unwrap();
    while text(&seen, "a").is_none() {
        clock.advance(Duration::from_secs(1));
        std::thread::yield_now();
    }
    for _ in 0..200 {
        state.put("busy", vec![1; 5_000]).unwrap();
    }
    while segments(&directory)[0] == "0000000001.segment" {
        clock.advance(Duration::from_secs(1));
        std::thread::yield_now();
    }
    assert_eq!(text(&state, "a").as_deref(), Some("1"));
    assert_eq!(text(&seen, "a").as_deref(), Some("1"));
}
