//! Backups: consistent prefixes, verified, restored as a new history.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use annals::{Durability, Error, ExpectedVersion, NewEvent, Options, Position, Query, RecordedEvent, Store};

/// Small segments, so that a few events fill several.
fn options() -> Options {
    Options::new().segment_bytes_first(4096).segment_bytes_max(16 * 1024)
}

fn append(store: &Store, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let event = NewEvent::raw("Counted", vec![number as u8; 200]).tag(format!("number:{number}"));
        let stream = format!("counter-{}", number % 7);
        store.append(stream, ExpectedVersion::Any, [event.clone(), event]).unwrap();
    }
}

fn events(store: &Store) -> Vec<RecordedEvent> {
    store.read(Query::all()).owned().collect::<Result<_, _>>().unwrap()
}

/// The names in the directory that holds a path.
fn siblings(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path.parent().unwrap()).unwrap();
    entries.map(|entry| entry.unwrap().path()).filter(|found| found != path).collect()
}

#[test]
fn a_backup_has_the_same_events_and_another_id() {
    let directory = tempfile::tempdir().unwrap();
    let (path, target) = (directory.path().join("store"), directory.path().join("backup"));
    let store = options().open(path).unwrap();
    append(&store, 0..60);
    let report = store.backup(&target).unwrap();
    assert_eq!((report.head, report.events), (Position::new(120), 120));
    assert_ne!(report.store, store.id());
    let stats = store.stats().unwrap();
    assert!(stats.segments > 2 && report.bytes <= stats.bytes);

    let backup = options().open_existing(&target).unwrap();
    assert_eq!(backup.id(), report.store);
    assert_eq!(events(&backup), events(&store));
    let opened = backup.open_report();
    assert_eq!((opened.cut_bytes, opened.confirmed_bytes, opened.unconfirmed_events), (0, 0, 0));
}

#[test]
fn a_backup_takes_appends_where_the_original_went_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = options().open(directory.path().join("store")).unwrap();
    append(&store, 0..10);
    store.backup(directory.path().join("backup")).unwrap();
    append(&store, 10..20);
    let backup = options().open(directory.path().join("backup")).unwrap();
    append(&backup, 30..40);
    let (mine, theirs) = (events(&store), events(&backup));
    assert_eq!(mine[..20], theirs[..20]);
    assert_eq!((mine.len(), theirs.len()), (40, 40));
    assert_ne!(mine[20..], theirs[20..]);
    let tagged = backup.read(Query::tag("number:31")).owned().collect::<Result<Vec<_>, _>>().unwrap();
    assert_eq!(tagged.len(), 2);
}

#[test]
fn a_backup_beside_appends_is_a_prefix() {
    let directory = tempfile::tempdir().unwrap();
    let store = options().durability(Durability::Os).open(directory.path().join("store")).unwrap();
    let done = AtomicBool::new(false);
    let (store, done) = (&store, &done);
    let backups: Vec<PathBuf> = std::thread::scope(|scope| {
        for writer in 0..2u32 {
            scope.spawn(move || {
                let mut number = writer;
                while !done.load(Ordering::Acquire) {
                    append(store, number..number + 1);
                    number += 2;
                }
            });
        }
        let backups = (0..4).map(|number| {
            let target = directory.path().join(format!("backup-{number}"));
            let report = store.backup(&target).unwrap();
            assert!(report.head <= store.synced_head().unwrap());
            target
        });
        let backups = backups.collect();
        done.store(true, Ordering::Release);
        backups
    });
    let all = events(store);
    let mut before = 0;
    for target in backups {
        let backup = options().open_read_only(&target).unwrap();
        let copied = events(&backup);
        assert_eq!(copied[..], all[..copied.len()]);
        assert!(copied.len() >= before, "later backups hold more");
        assert_eq!(copied.len() % 2, 0, "whole commits");
        before = copied.len();
    }
}

#[test]
fn an_empty_store_has_an_empty_backup() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("backup");
    let report = Store::in_memory().unwrap().backup(&target).unwrap();
    assert_eq!((report.head, report.events), (None, 0));
    let backup = options().open(&target).unwrap();
    assert!(!backup.open_report().created);
    append(&backup, 0..30);
    assert_eq!(backup.head().unwrap(), Position::new(60));
}

#[test]
fn a_reader_backs_up_what_it_sees() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = options().durability(Durability::Os).without_background_work().open(&path).unwrap();
    append(&store, 0..20);
    store.sync().unwrap();
    append(&store, 20..25);
    let reader = options().open_read_only(&path).unwrap();
    let report = reader.backup(directory.path().join("backup")).unwrap();
    assert_eq!(report.head, reader.head().unwrap());
    let backup = Store::open_existing(directory.path().join("backup")).unwrap();
    assert_eq!(events(&backup)[..], events(&store)[..backup.head().unwrap().unwrap().number() as usize]);
}

#[test]
fn a_writer_syncs_before_it_is_backed_up() {
    let directory = tempfile::tempdir().unwrap();
    let store = Options::new().durability(Durability::Os).without_background_work().in_memory().unwrap();
    append(&store, 0..3);
    assert_eq!(store.synced_head().unwrap(), None);
    let report = store.backup(directory.path().join("backup")).unwrap();
    assert_eq!((report.head, store.synced_head().unwrap()), (Position::new(6), Position::new(6)));
}

#[test]
fn the_state_is_copied_without_what_belongs_to_the_old_history() {
    let directory = tempfile::tempdir().unwrap();
    let (path, target) = (directory.path().join("store"), directory.path().join("backup"));
    let store = options().open(&path).unwrap();
    append(&store, 0..3);
    let state = store.state().unwrap();
    let bound = [&store.id().to_bytes()[..], b"what is known of position 6"].concat();
    state.put("setting", "old").unwrap();
    state.put("setting", "new").unwrap();
    state.put("empty", "").unwrap();
    state.put("bound", bound).unwrap();
    state.put("gone", "x").unwrap();
    state.delete("gone").unwrap();
    for source in [&store, &Store::open_read_only(&path).unwrap()] {
        state.sync().unwrap();
        let target = target.join(source.open_report().created.to_string());
        source.backup(&target).unwrap();
        assert_eq!(annals::verify(&target, &mut |_| {}).unwrap().problems, []);
        let backup = Store::open(&target).unwrap();
        let copied = backup.state().unwrap();
        assert_eq!(copied.keys("").unwrap(), ["empty", "setting"]);
        assert_eq!(copied.get("setting").unwrap().as_deref(), Some(&b"new"[..]));
        copied.put("more", "1").unwrap();
    }
}

#[test]
fn a_chain_of_backups_keeps_every_event() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = options().open(directory.path().join("0")).unwrap();
    let mut ids = vec![store.id()];
    for generation in 1..6 {
        append(&store, generation * 10..generation * 10 + 7);
        let target = directory.path().join(generation.to_string());
        store.backup(&target).unwrap();
        let backup = options().open(&target).unwrap();
        assert_eq!(events(&backup), events(&store));
        assert!(!ids.contains(&backup.id()));
        ids.push(backup.id());
        store = backup;
    }
    assert_eq!(store.head().unwrap(), Position::new(5 * 14));
}

#[test]
fn a_target_that_is_in_use_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::in_memory().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    let full = directory.path().join("full");
    std::fs::create_dir_all(full.join("nested")).unwrap();
    let other = directory.path().join("other");
    drop(Store::open(&other).unwrap());
    for target in [&file, &full, &other] {
        let before = siblings(target).len();
        let error = store.backup(target).unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
        assert!(error.to_string().contains("must be new, or an empty directory"), "{error}");
        assert_eq!(siblings(target).len(), before);
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    assert!(full.join("nested").is_dir());
}

#[test]
fn an_empty_directory_and_missing_parents_are_fine() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::in_memory().unwrap();
    let empty = directory.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    for target in [empty, directory.path().join("a/b/c")] {
        store.backup(&target).unwrap();
        Store::open_existing(&target).unwrap();
        assert!(siblings(&target).iter().all(|path| !path.to_string_lossy().ends_with(".tmp")));
    }
}

/// What was made beside the target was made in it, as its name was taken to begin behind the slash, and could not take
/// its place.
#[test]
fn a_target_may_end_in_a_slash() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::in_memory().unwrap();
    append(&store, 0..1);
    let empty = directory.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    for target in [empty, directory.path().join("missing"), directory.path().join("a/b/c")] {
        store.backup(target.join("")).unwrap();
        assert_eq!(events(&Store::open_existing(&target).unwrap()), events(&store));
        assert!(siblings(&target).iter().all(|path| !path.to_string_lossy().ends_with(".tmp")));
    }
}

/// It was taken for a directory that is empty, and everything was copied before it was found that no directory can be
/// put in the place of a link.
#[cfg(unix)]
#[test]
fn a_target_that_is_a_link_is_refused_at_once_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::in_memory().unwrap();
    let (empty, link) = (directory.path().join("empty"), directory.path().join("link"));
    std::fs::create_dir(&empty).unwrap();
    std::os::unix::fs::symlink(&empty, &link).unwrap();
    for target in [link.clone(), link.join("")] {
        let error = store.backup(target).unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
        assert!(error.to_string().contains("must be new, or an empty directory"), "{error}");
    }
    assert_eq!(std::fs::read_link(&link).unwrap(), empty);
    assert_eq!((siblings(&link), std::fs::read_dir(&empty).unwrap().count()), (vec![empty.clone()], 0));
}

#[test]
fn what_a_crash_left_of_a_backup_is_in_nobodys_way() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("backup");
    let store = Store::in_memory().unwrap();
    append(&store, 0..3);
    let left = directory.path().join("backup.7f0c.tmp/log");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("0000000001.segment"), "half").unwrap();
    store.backup(&target).unwrap();
    assert_eq!(events(&Store::open_existing(&target).unwrap()), events(&store));
    assert_eq!(std::fs::read(left.join("0000000001.segment")).unwrap(), b"half");
}

#[test]
fn a_damaged_store_has_no_backup_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (path, target) = (directory.path().join("store"), directory.path().join("backup"));
    let store = options().open(&path).unwrap();
    append(&store, 0..40);
    store.close().unwrap();
    let segment = path.join("log/0000000001.segment");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[1500] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let store = options().open(&path).unwrap();
    let error = store.backup(&target).unwrap_err();
    assert!(matches!(&error, Error::Corrupt { file, .. } if file == &segment), "{error}");
    assert_eq!(siblings(&path), [] as [PathBuf; 0]);
}
