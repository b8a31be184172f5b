//! Reading from a disk that fails: the right answer or an error of the operating system, never a wrong answer and never
//! one that calls the store damaged. When the disk reads again, the same handle does.

use super::*;

/// How a store is opened on a disk that fails.
type Opener = fn(&FaultyDisk, ReadMode) -> Result<Store>;

fn for_writing(disk: &FaultyDisk, mode: ReadMode) -> Result<Store> {
    open(disk, options().read_mode(mode))
}

fn for_reading(disk: &FaultyDisk, mode: ReadMode) -> Result<Store> {
    Store::open_read_only_on(Arc::new(disk.clone()), options().read_mode(mode))
}

/// A copy of a disk, whose files nobody else changes.
fn copy_of(disk: &MemoryDisk) -> MemoryDisk {
    let copy = MemoryDisk::new();
    crate::storage::copy_files(disk, &copy, &["", "log", "index", "state", "state/log", "state/index"]).unwrap();
    copy
}

#[track_caller]
fn assert_told(error: &Error, context: &str) {
    assert!(matches!(error, Error::Io { .. }), "{context}: {error:?}");
}

/// Fails each call in turn while a store is opened and asked for everything; returns how many there are.
fn fail_at_each(fault: Fault, mode: ReadMode, opener: Opener) -> u64 {
    let good = filled();
    let picture = Picture::of(&open(&copy_of(&good), options()).unwrap()).unwrap();
    // Reads without a map are many and alike.
    let is_whole = std::env::var_os("ANNALS_SWEEP").is_some();
    let stride = if fault.call == Some(Call::Read) && mode == ReadMode::Pread && !is_whole { 13 } else { 1 };
    for after in (0..).step_by(stride) {
        let disk = FaultyDisk::new(copy_of(&good));
        let fault = Fault { after, ..fault };
        disk.inject(fault);
        let context = format!("{fault:?}, {mode:?}");
        let opened = opener(&disk, mode).inspect_err(|error| assert_told(error, &context));
        if let Ok(store) = &opened {
            for pass in 0..2 {
                match Picture::of(store) {
                    Ok(found) => found.assert_is(&picture, &format!("{context}, pass {pass}")),
                    Err(error) => assert_told(&error, &context),
                }
            }
        }
        let is_over = disk.failed_calls() == 0;
        disk.heal();
        if let Ok(store) = opened {
            Picture::of(&store).unwrap().assert_is(&picture, &format!("{context}: the same handle"));
        }
        let store = opener(&disk, mode).unwrap();
        Picture::of(&store).unwrap().assert_is(&picture, &format!("{context}: opened again"));
        if is_over {
            return after;
        }
    }
    unreachable!()
}

fn check(call: Call, least: u64) {
    for (mode, opener) in [
        (ReadMode::Map, for_writing as Opener),
        (ReadMode::Pread, for_writing),
        (ReadMode::Map, for_reading),
        (ReadMode::Pread, for_reading),
    ] {
        for forever in [false, true] {
            let calls = fail_at_each(Fault { forever, ..Fault::next(call) }, mode, opener);
            assert!(calls >= least || (call == Call::Map && mode == ReadMode::Pread), "{call:?}: {calls}");
        }
    }
}

#[test]
fn every_read_that_fails_is_an_error_and_the_store_goes_on() {
    check(Call::Read, 20);
}

#[test]
fn every_file_that_cannot_be_opened_is_an_error_and_the_store_goes_on() {
    check(Call::Open, 10);
}

#[test]
fn every_directory_that_cannot_be_listed_is_an_error_and_the_store_goes_on() {
    check(Call::List, 4);
}

#[test]
fn every_map_that_fails_is_an_error_and_the_store_goes_on() {
    check(Call::Map, 4);
}

#[test]
fn every_length_of_a_file_that_is_not_told_is_an_error_and_the_store_goes_on() {
    check(Call::Len, 4);
}

#[test]
fn a_lock_that_cannot_be_asked_for_is_an_error_and_the_store_goes_on() {
    for mode in [ReadMode::Map, ReadMode::Pread] {
        assert_eq!(fail_at_each(Fault::next(Call::Lock), mode, for_writing), 2);
    }
}
