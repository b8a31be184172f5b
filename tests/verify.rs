//! Verification: sound stores are found sound, and every damage is found and named.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use annals::{Durability, Error, ExpectedVersion, NewEvent, Options, StateBatch, Store, VerifyProgress, VerifyReport};

/// Small segments, so that a few events fill several.
fn options() -> Options {
    Options::new().segment_bytes_first(4096).segment_bytes_max(8192).without_background_work()
}

fn append(store: &Store, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let event = NewEvent::raw(format!("Type{}", number % 3), vec![number as u8; 250]).tag(format!("n:{number}"));
        let stream = format!("counter-{}", number % 5);
        store.append(stream, ExpectedVersion::Any, [event.clone(), event.tag("second")]).unwrap();
    }
}

/// A closed store of several segments, with runs and positions files.
fn closed_store(path: &Path) {
    let store = options().open(path).unwrap();
    append(&store, 0..12);
    store.maintain().unwrap();
    append(&store, 12..20);
    store.maintain().unwrap();
    store.close().unwrap();
}

fn verify(path: &Path) -> VerifyReport {
    annals::verify(path, &mut |_| {}).unwrap()
}

#[track_caller]
fn assert_sound(report: &VerifyReport) {
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
}

/// Every file below a directory, with its bytes.
fn files(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    files
}

fn copy(from: &Path, to: &Path) {
    for (path, bytes) in files(from) {
        let path = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

fn overwrite(file: &Path, offset: usize, byte: u8) {
    let mut file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
    file.seek(SeekFrom::Start(offset as u64)).unwrap();
    file.write_all(&[byte]).unwrap();
}

fn paths_ending_in(path: &Path, ending: &str) -> Vec<PathBuf> {
    files(path).into_keys().filter(|path| path.to_str().unwrap().ends_with(ending)).collect()
}

#[test]
fn a_sound_store_is_found_sound_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    closed_store(&path);
    let before = files(&path);
    let mut seen = Vec::new();
    let report = annals::verify(&path, &mut |progress| seen.push(progress)).unwrap();
    assert_sound(&report);
    assert_eq!((report.events, report.torn_bytes), (40, 0));
    assert!(report.segments > 2);
    let total: u64 = before.values().map(|bytes| bytes.len() as u64).sum();
    assert_eq!(report.bytes, total, "every byte of every file");
    assert_eq!(seen.last(), Some(&VerifyProgress { done_bytes: total, total_bytes: total }));
    assert!(!paths_ending_in(&path, ".run").is_empty() && !paths_ending_in(&path, ".positions").is_empty());
    assert_eq!(files(&path), before);
}

#[test]
fn progress_grows_to_the_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = Options::new().segment_bytes_first(8 * 1024 * 1024).open(&path).unwrap();
    append(&store, 0..3);
    let mut seen: Vec<VerifyProgress> = Vec::new();
    annals::verify(&path, &mut |progress| seen.push(progress)).unwrap();
    assert!(seen.len() > 4);
    assert!(seen.windows(2).all(|pair| pair[0].done_bytes <= pair[1].done_bytes));
    let last = seen[seen.len() - 1];
    assert_eq!(last.done_bytes, last.total_bytes);
}

#[test]
fn what_is_no_store_is_not_found_and_not_created() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    for path in [missing.as_path(), directory.path()] {
        let error = annals::verify(path, &mut |_| {}).unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
    }
    assert!(!missing.exists());
}

#[test]
fn an_empty_store_is_sound() {
    let directory = tempfile::tempdir().unwrap();
    drop(Store::open(directory.path().join("store")).unwrap());
    let report = verify(&directory.path().join("store"));
    assert_sound(&report);
    assert_eq!((report.events, report.segments), (0, 1));
}

/// In a store that was closed there is no byte whose change could be taken for a crash.
#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    closed_store(&path);
    for (file, bytes) in files(&path) {
        for offset in (0..bytes.len()).filter(|offset| *offset < 100 || offset % 61 == 0) {
            overwrite(&file, offset, bytes[offset] ^ (1 << (offset % 8)));
            let problems = verify(&path).problems;
            assert!(problems.iter().any(|problem| problem.file == file), "{} {offset}: {problems:?}", file.display());
            overwrite(&file, offset, bytes[offset]);
        }
    }
    assert_sound(&verify(&path));
}

#[test]
fn a_damage_is_named_and_the_rest_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    closed_store(&path);
    let damage = |segment: &str, offset: usize| {
        let file = path.join("log").join(segment);
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[offset] ^= 0x10;
        std::fs::write(&file, bytes).unwrap();
        file
    };
    // Inside a payload of the first commit, and inside a header of a frame of the second segment.
    let first = damage("0000000001.segment", 176 + 300);
    let second = damage("0000000002.segment", 176 + 20);
    let report = verify(&path);
    let places: Vec<_> = report.problems.iter().map(|problem| (&problem.file, problem.offset)).collect();
    assert_eq!(places, [(&first, 176), (&second, 176)]);
    assert_eq!(report.problems[0].reason, "the checksum of a record does not match");
    assert!(report.events > 4 && report.events < 38, "{}", report.events);
}

#[test]
fn a_missing_or_short_segment_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    closed_store(&path);
    let segment = path.join("log/0000000002.segment");
    let bytes = std::fs::read(&segment).unwrap();
    std::fs::write(&segment, &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(verify(&path).problems[0].file, segment);
    std::fs::remove_file(&segment).unwrap();
    let report = verify(&path);
    assert!(!report.problems.is_empty() && report.events > 0);
    std::fs::remove_dir_all(path.join("log")).unwrap();
    assert!(!verify(&path).problems.is_empty(), "the synced head knows that there was a log");
}

#[test]
fn a_segment_of_another_store_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let (path, other) = (directory.path().join("store"), directory.path().join("other"));
    closed_store(&path);
    closed_store(&other);
    std::fs::copy(other.join("log/0000000002.segment"), path.join("log/0000000002.segment")).unwrap();
    assert!(!verify(&path).problems.is_empty());
}

#[test]
fn a_torn_tail_is_no_problem() {
    let directory = tempfile::tempdir().unwrap();
    let (path, killed) = (directory.path().join("store"), directory.path().join("killed"));
    let store = Options::new().segment_bytes_first(16 * 1024).without_background_work().open(&path).unwrap();
    append(&store, 0..5);
    copy(&path, &killed);
    let segment = killed.join("log/0000000001.segment");
    let mut bytes = std::fs::read(&segment).unwrap();
    let end = store.stats().unwrap().bytes as usize;
    bytes[end + 8..end + 100].fill(7);
    std::fs::write(&segment, bytes).unwrap();
    let report = verify(&killed);
    assert_sound(&report);
    assert_eq!((report.torn_bytes, report.events), (100, 10));
    let opened = Store::open(&killed).unwrap();
    assert_eq!(opened.open_report().cut_bytes, 100);
    append(&opened, 5..6);
    opened.close().unwrap();
    let report = verify(&killed);
    assert_sound(&report);
    assert_eq!((report.torn_bytes, report.events), (0, 12), "what was cut is no tail any more");
}

#[test]
fn damage_of_what_was_synced_is_no_torn_tail() {
    let directory = tempfile::tempdir().unwrap();
    let (path, killed) = (directory.path().join("store"), directory.path().join("killed"));
    let store = Options::new().segment_bytes_first(16 * 1024).without_background_work().open(&path).unwrap();
    append(&store, 0..5);
    copy(&path, &killed);
    let segment = killed.join("log/0000000001.segment");
    let mut bytes = std::fs::read(&segment).unwrap();
    let end = store.stats().unwrap().bytes as usize;
    bytes[end - 200] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let report = verify(&killed);
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert_eq!(report.problems[0].file, segment);
    assert_eq!(report.events, 8);
}

#[test]
fn an_index_that_is_missing_is_no_problem_and_one_that_is_damaged_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    closed_store(&path);
    let damaged = paths_ending_in(&path, ".run").remove(0);
    let mut bytes = std::fs::read(&damaged).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    let report = verify(&path);
    assert_eq!(report.problems.len(), 1);
    assert_eq!((&report.problems[0].file, report.problems[0].offset), (&damaged, 4096));
    assert!(report.problems[0].reason.contains("rebuilt from the log"));
    std::fs::remove_dir_all(path.join("index")).unwrap();
    assert_sound(&verify(&path));
}

/// Each page is whole, and the files are not those of this log.
#[test]
fn an_index_that_knows_more_than_the_log_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let (path, younger) = (directory.path().join("store"), directory.path().join("younger"));
    let store = options().open(&path).unwrap();
    append(&store, 0..2);
    store.sync().unwrap();
    copy(&path, &younger);
    append(&store, 2..20);
    store.maintain().unwrap();
    store.close().unwrap();
    copy(&path.join("index"), &younger.join("index"));
    for file in paths_ending_in(&younger, ".positions") {
        std::fs::remove_file(file).unwrap();
    }
    let runs = paths_ending_in(&younger, ".run");
    let report = verify(&younger);
    let named: Vec<_> = report.problems.iter().map(|problem| problem.file.clone()).collect();
    assert!(!runs.is_empty() && runs.iter().all(|run| named.contains(run)), "{:?}", report.problems);
}

#[test]
fn a_store_is_verified_beside_its_writer() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let options = Options::new().segment_bytes_first(64 * 1024).segment_bytes_max(64 * 1024);
    let store = options.durability(Durability::Os).index_tail_bytes_max(32 * 1024).open(&path).unwrap();
    append(&store, 0..1);
    store.sync().unwrap();
    // So many commits the writer may make; it goes on while the store is verified, and not without end.
    let (allowed, asked) = std::sync::mpsc::channel::<u32>();
    std::thread::scope(|scope| {
        let store = &store;
        scope.spawn(move || {
            let mut number = 1;
            for commits in asked {
                append(store, number..number + commits);
                number += commits;
            }
        });
        let mut events = 0;
        for _ in 0..20 {
            allowed.send(200).unwrap();
            let report = verify(&path);
            assert_sound(&report);
            assert!(report.events >= events);
            events = report.events;
        }
        drop(allowed);
    });
    store.sync().unwrap();
    assert_eq!(verify(&path).events, 2 * (1 + 20 * 200));
}

#[test]
fn the_state_is_verified_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    closed_store(&path);
    let alone = verify(&path);
    closed_store(&path.join("state"));
    let both = verify(&path);
    assert_sound(&both);
    assert_eq!((both.events, both.segments), (alone.events, alone.segments));
    assert!(both.bytes > alone.bytes);
    let segment = path.join("state/log/0000000001.segment");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[500] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let problems = verify(&path).problems;
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].file, segment);
}

#[test]
fn a_state_that_was_compacted_is_sound() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = options().open(&path).unwrap();
    let state = store.state().unwrap();
    state.put("kept", "from the first segment").unwrap();
    // Segments double in size: so much fills as many as a compaction waits for.
    for number in 0..40u32 {
        let batch = StateBatch::new().put(format!("key-{}", number % 3), vec![number as u8; 1024 * 1024]);
        state.write(batch.durability(Durability::Os)).unwrap();
    }
    store.maintain().unwrap();
    assert!(!path.join("state/log/0000000001.segment").exists());
    assert_sound(&verify(&path));
    store.close().unwrap();
    assert_sound(&verify(&path));
}

#[test]
fn a_backup_verifies_clean() {
    let directory = tempfile::tempdir().unwrap();
    let (path, target) = (directory.path().join("store"), directory.path().join("backup"));
    closed_store(&path);
    let store = options().open(&path).unwrap();
    let made = store.backup(&target).unwrap();
    for _ in 0..2 {
        let report = verify(&target);
        assert_sound(&report);
        assert_eq!((report.events, report.torn_bytes), (made.events, 0));
        // Once as it was made, once after it was opened.
        options().open(&target).unwrap().maintain().unwrap();
    }
}
