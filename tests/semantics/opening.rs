//! Opening and closing, the two heads, the lock, readers beside a writer, and what a crash leaves.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use annals::{Durability, Error, ManualClock, Options, Query, ReadMode, Store, Timestamp};

use crate::retrying::copy;
use crate::support::*;
use crate::world::tiny;

fn quiet() -> Options {
    Options::new().without_background_work()
}

#[test]
fn opening_nothing_is_not_found_and_creates_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("absent");
    for opened in [Store::open_existing(&absent), Store::open_read_only(&absent)] {
        let Err(Error::NotFound { path }) = opened else { panic!("{opened:?}") };
        assert_eq!(path, absent);
    }
    assert!(!absent.exists());
    // Nor is a directory of something else a store.
    for opened in [Store::open_existing(directory.path()), Store::open_read_only(directory.path())] {
        assert!(matches!(opened, Err(Error::NotFound { .. })), "{opened:?}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_store_is_created_once_and_keeps_its_id() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/er/store");
    let store = Store::open(&path).unwrap();
    assert!(store.open_report().created);
    let id = store.id();
    store.append("a", NoStream, events(2)).unwrap();
    store.close().unwrap();
    for options in [Options::new(), tiny()] {
        let store = options.open(&path).unwrap();
        assert_eq!((store.open_report().created, store.open_report().cut_bytes, store.id()), (false, 0, id));
        assert_eq!((head(&store), version(&store, "a")), (Some(2), Some(2)));
    }
}

#[test]
fn an_empty_store_can_be_reopened_and_read() {
    let directory = tempfile::tempdir().unwrap();
    Store::open(directory.path()).unwrap().close().unwrap();
    for store in [Store::open_read_only(directory.path()).unwrap(), Store::open_existing(directory.path()).unwrap()] {
        assert_eq!((head(&store), store.synced_head().unwrap()), (None, None));
        assert_eq!(positions(&store, Query::all()), [0; 0]);
        assert_eq!(version(&store, "a"), None);
    }
}

#[test]
fn a_second_writer_is_locked_out_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    for opened in [Store::open(directory.path()), Store::open_existing(directory.path())] {
        let Err(Error::Locked { path }) = opened else { panic!("{opened:?}") };
        assert_eq!(path, directory.path());
    }
    store.append("a", NoStream, events(1)).unwrap();
    store.close().unwrap();
    let store = Store::open(directory.path()).unwrap();
    drop(store.clone());
    assert!(matches!(Store::open(directory.path()), Err(Error::Locked { .. })), "a clone still has it");
    drop(store);
    assert_eq!(head(&Store::open(directory.path()).unwrap()), Some(1));
}

/// Set for the child of a test: the store that it is to try.
const CHILD_STORE: &str = "ANNALS_TEST_CHILD_STORE";

fn in_another_process(test: &str, store: &Path) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.args(["--exact", test, "--nocapture"]).env(CHILD_STORE, store).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_writer_in_another_process_is_locked_out_and_a_reader_is_not() {
    if let Some(path) = std::env::var_os(CHILD_STORE) {
        let opened = Store::open(&path);
        let is_locked = matches!(opened, Err(Error::Locked { .. }));
        let reader = Store::open_read_only(&path).unwrap();
        println!("locked: {is_locked}, read: {:?}", positions(&reader, Query::all()));
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.append("a", NoStream, events(3)).unwrap();
    let test = "opening::a_writer_in_another_process_is_locked_out_and_a_reader_is_not";
    let told = in_another_process(test, directory.path());
    assert!(told.contains("locked: true, read: [1, 2, 3]"), "{told}");
    store.close().unwrap();
    let told = in_another_process(test, directory.path());
    assert!(told.contains("locked: false, read: [1, 2, 3]"), "{told}");
}

/// The child leaves without a destructor, as a killed process does; what it was told to be written is there.
#[test]
fn a_process_that_dies_loses_nothing_acknowledged() {
    if let Some(path) = std::env::var_os(CHILD_STORE) {
        let store = tiny().open(path).unwrap();
        store.append("a", NoStream, events(50)).unwrap();
        for _ in 0..50 {
            store.commit().append("a", Any, events(1)).durability(Durability::Os).send().unwrap();
        }
        std::process::exit(0);
    }
    let directory = tempfile::tempdir().unwrap();
    in_another_process("opening::a_process_that_dies_loses_nothing_acknowledged", directory.path());
    let store = tiny().open_existing(directory.path()).unwrap();
    assert_eq!(store.open_report().cut_bytes, 0);
    assert_eq!(positions(&store, Query::stream("a")), (1..=100).collect::<Vec<_>>());
    store.append("a", exact(100), events(1)).unwrap();
}

#[test]
fn the_heads_follow_the_durability_of_each_commit() {
    let directory = tempfile::tempdir().unwrap();
    for store in [quiet().in_memory().unwrap(), quiet().open(directory.path()).unwrap()] {
        let heads = || (head(&store), store.synced_head().unwrap().map(annals::Position::number));
        assert_eq!(heads(), (None, None));
        store.append("a", Any, events(1)).unwrap();
        assert_eq!(heads(), (Some(1), Some(1)));
        store.commit().append("a", Any, events(2)).durability(Durability::Os).send().unwrap();
        assert_eq!(heads(), (Some(3), Some(1)));
        // A sync covers all that came before.
        store.commit().append("a", Any, events(1)).durability(Durability::Synced).send().unwrap();
        assert_eq!(heads(), (Some(4), Some(4)));
        store.commit().append("a", Any, events(1)).durability(Durability::Os).send().unwrap();
        assert_eq!(heads(), (Some(5), Some(4)));
        store.sync().unwrap();
        assert_eq!(heads(), (Some(5), Some(5)));
        store.sync().unwrap();
        store.commit().append("a", Any, events(1)).durability(Durability::Os).send().unwrap();
        store.maintain().unwrap();
        assert_eq!(heads(), (Some(6), Some(6)));
    }
}

#[test]
fn a_sync_covers_earlier_segments() {
    let directory = tempfile::tempdir().unwrap();
    let options = tiny().without_background_work().durability(Durability::Os);
    let store = options.open(directory.path()).unwrap();
    for _ in 0..300 {
        store.append("a", Any, events(1)).unwrap();
    }
    assert!(std::fs::read_dir(directory.path().join("log")).unwrap().count() > 2);
    store.sync().unwrap();
    assert_eq!(store.synced_head().unwrap(), Some(p(300)));
    assert_eq!(positions(&Store::open_read_only(directory.path()).unwrap(), Query::all()).len(), 300);
}

#[test]
fn what_the_operating_system_has_is_synced_in_the_background() {
    let clock = ManualClock::new(Timestamp::from_millis(0));
    let options = Options::new().durability(Durability::Os).clock(clock.clone()).sync_delay(Duration::from_secs(1));
    let store = options.mark_delay(Duration::from_secs(3_600)).in_memory().unwrap();
    store.append("a", Any, events(1)).unwrap();
    // The background thread waits on this clock alone: it is moved until it has done its work.
    while store.synced_head().unwrap().is_none() {
        clock.advance(Duration::from_secs(1));
        std::thread::yield_now();
    }
    assert_eq!(store.synced_head().unwrap(), Some(p(1)));
}

#[test]
fn a_closed_store_takes_no_appends_and_can_be_read() {
    let directory = tempfile::tempdir().unwrap();
    for store in [Store::in_memory().unwrap(), Store::open(directory.path()).unwrap()] {
        store.append("a", NoStream, events(2)).unwrap();
        store.clone().close().unwrap();
        let error = store.append("a", Any, events(1)).unwrap_err();
        assert!(matches!(error.error(), Error::Closed), "{error}");
        assert_eq!(positions(&store, Query::stream("a")), [1, 2]);
        assert_eq!(version(&store, "a"), Some(2));
        store.close().unwrap();
    }
}

#[test]
fn closing_makes_everything_durable() {
    let directory = tempfile::tempdir().unwrap();
    let store = quiet().durability(Durability::Os).open(directory.path()).unwrap();
    store.append("a", NoStream, events(2)).unwrap();
    let reader = store.clone();
    store.close().unwrap();
    assert_eq!(reader.synced_head().unwrap(), Some(p(2)));
    let opened = Store::open_existing(directory.path()).unwrap();
    assert_eq!((opened.open_report().confirmed_bytes, opened.open_report().cut_bytes), (0, 0));
}

#[test]
fn dropping_without_closing_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..4 {
        let options = if round % 2 == 0 { tiny() } else { tiny().without_background_work() };
        let store = options.durability(Durability::Os).open(directory.path()).unwrap();
        assert_eq!(store.open_report().cut_bytes, 0);
        for _ in 0..20 {
            store.append("a", Any, events(1)).unwrap();
        }
        drop(store);
        let reader = Store::open_read_only(directory.path()).unwrap();
        assert_eq!(positions(&reader, Query::all()), (1..=20 * (round + 1)).collect::<Vec<_>>());
    }
}

#[test]
fn a_read_only_store_refuses_to_change() {
    let directory = tempfile::tempdir().unwrap();
    Store::open(directory.path()).unwrap().append("a", NoStream, events(1)).unwrap();
    let reader = Store::open_read_only(directory.path()).unwrap();
    let error = reader.append("a", Any, events(1)).unwrap_err();
    assert!(matches!(error.error(), Error::ReadOnly), "{error}");
    assert!(matches!(reader.sync(), Err(Error::ReadOnly)));
    assert!(matches!(reader.maintain(), Err(Error::ReadOnly)));
    let writer = Store::open(directory.path()).unwrap();
    writer.append("a", exact(1), events(1)).unwrap();
    reader.close().unwrap();
    writer.append("a", exact(2), events(1)).unwrap();
}

#[test]
fn a_reader_sees_the_synced_prefix_and_follows() {
    for mode in [ReadMode::Map, ReadMode::Pread] {
        let directory = tempfile::tempdir().unwrap();
        let writer = tiny().without_background_work().open(directory.path()).unwrap();
        writer.append("a-1", NoStream, [tagged("Made", &["t"])]).unwrap();
        let reader = tiny().read_mode(mode).open_read_only(directory.path()).unwrap();
        let queries =
            || [Query::all(), Query::category("a"), Query::types(["Made"]), Query::tag("t"), Query::stream("a-1")];
        let sees = |last: u64| {
            assert_eq!(head(&reader), Some(last));
            assert_eq!(reader.synced_head().unwrap(), Some(p(last)));
            assert_eq!(version(&reader, "a-1"), Some(last));
            for query in queries() {
                assert_eq!(positions(&reader, query.clone()), (1..=last).collect::<Vec<_>>(), "{query:?}");
            }
        };
        sees(1);
        let old = reader.read(Query::all());
        let os = |_| writer.commit().append("a-1", Any, [tagged("Made", &["t"])]).durability(Durability::Os).send();
        os(2).unwrap();
        sees(1);
        writer.sync().unwrap();
        sees(2);
        // Through new segments, and runs that the writer makes and merges meanwhile.
        for number in 3..=250 {
            os(number).unwrap();
            if number % 50 == 0 {
                writer.maintain().unwrap();
                sees(number);
            }
        }
        assert_eq!(positions_of(old), [1], "a read keeps to its head");
        writer.close().unwrap();
        sees(250);
        let writer = tiny().open(directory.path()).unwrap();
        writer.append("a-1", exact(250), [tagged("Made", &["t"])]).unwrap();
        sees(251);
    }
}

#[test]
fn a_reader_that_is_opened_changes_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let store = tiny().open(directory.path()).unwrap();
    (0..100).for_each(|_| drop(store.append("a", Any, events(3)).unwrap()));
    store.close().unwrap();
    std::fs::remove_dir_all(directory.path().join("index")).unwrap();
    let before = files(directory.path());
    let reader = tiny().open_read_only(directory.path()).unwrap();
    assert_eq!(positions(&reader, Query::stream("a")).len(), 300);
    assert_eq!(reader.open_report().unconfirmed_events, 0);
    drop(reader);
    assert_eq!(files(directory.path()), before);
}

/// Paths and contents of all files below a directory.
fn files(directory: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let contents = std::fs::read(&path).unwrap();
                found.push((path, contents));
            }
        }
    }
    found.sort();
    found
}

/// A store with two synced commits and two that only the operating system has, as its files are without a sync.
fn unsynced(directory: &Path) -> std::path::PathBuf {
    let store = quiet().open(directory.join("live")).unwrap();
    store.append("a", NoStream, events(1)).unwrap();
    store.append("a", exact(1), events(1)).unwrap();
    for version in 2..=3 {
        store.commit().append("a", exact(version), [event("Unsynced")]).durability(Durability::Os).send().unwrap();
    }
    copy(&directory.join("live"), &directory.join("crashed"));
    directory.join("crashed")
}

#[test]
fn intact_commits_that_were_not_synced_are_kept_by_the_next_writer() {
    let directory = tempfile::tempdir().unwrap();
    let crashed = unsynced(directory.path());
    let reader = Store::open_read_only(&crashed).unwrap();
    assert_eq!((head(&reader), reader.open_report().unconfirmed_events), (Some(2), 2));
    let store = quiet().open_existing(&crashed).unwrap();
    let report = store.open_report();
    assert!(report.confirmed_bytes > 0 && report.cut_bytes == 0 && report.cut_after.is_none(), "{report:?}");
    assert_eq!((head(&store), store.synced_head().unwrap()), (Some(4), Some(p(4))));
    store.append("a", exact(4), events(1)).unwrap();
    assert_eq!(positions(&reader, Query::stream("a")), [1, 2, 3, 4, 5]);
}

#[test]
fn a_torn_tail_is_cut_and_reported() {
    let directory = tempfile::tempdir().unwrap();
    let crashed = unsynced(directory.path());
    let segment = crashed.join("log/0000000001.segment");
    let mut bytes = std::fs::read(&segment).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[end] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();

    let reader = Store::open_read_only(&crashed).unwrap();
    assert_eq!((head(&reader), reader.open_report().unconfirmed_events), (Some(2), 1));
    let store = quiet().open_existing(&crashed).unwrap();
    let report = store.open_report();
    assert!(report.cut_bytes > 0, "{report:?}");
    assert_eq!(report.cut_after, Some(p(3)));
    assert_eq!(positions(&store, Query::stream("a")), [1, 2, 3]);
    // The position is given again, to another event.
    assert_eq!(told(&store.append("a", exact(3), [event("Again")]).unwrap()), (4, 4, false));
    store.close().unwrap();
    let store = Store::open_existing(&crashed).unwrap();
    assert_eq!(store.open_report().cut_bytes, 0, "a cut is reported once");
    assert_eq!(types(&store, Query::all()), ["Counted", "Counted", "Unsynced", "Again"]);
}

#[test]
fn a_damage_of_what_was_synced_is_refused_and_nothing_changes() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.append("a", NoStream, events(3)).unwrap();
    store.close().unwrap();
    let segment = directory.path().join("log/0000000001.segment");
    let mut bytes = std::fs::read(&segment).unwrap();
    let payload = bytes.windows(7).position(|window| window == b"Counted").unwrap();
    bytes[payload] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    let before = files(directory.path());
    let opened = Store::open(directory.path());
    let Err(Error::Corrupt { file, .. }) = opened else { panic!("{opened:?}") };
    assert_eq!(file, segment);
    assert_eq!(files(directory.path()), before);
}

#[test]
fn a_lost_index_is_rebuilt_and_told() {
    let directory = tempfile::tempdir().unwrap();
    let store = tiny().open(directory.path()).unwrap();
    (0..200).for_each(|number| drop(store.append(format!("s-{}", number % 7), Any, events(2)).unwrap()));
    let before = picture(&store, &["s", "s-8"]);
    store.close().unwrap();
    std::fs::remove_dir_all(directory.path().join("index")).unwrap();
    let progress = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let told = std::sync::Arc::clone(&progress);
    let options = tiny().on_rebuild(move |progress| told.lock().unwrap().push((progress.done, progress.total)));
    let store = options.open_existing(directory.path()).unwrap();
    assert_eq!(picture(&store, &["s", "s-8"]), before);
    let progress = progress.lock().unwrap();
    assert!(progress.windows(2).all(|pair| pair[0].0 <= pair[1].0), "{progress:?}");
    assert!(progress.iter().all(|(done, total)| done <= total && *total <= 400), "{progress:?}");
    assert!(!progress.is_empty());
}
