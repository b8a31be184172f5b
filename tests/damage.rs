//! Damage to the files of a small store, everywhere: the right data or an error that names the file.
//!
//! One fault at a time. A store that was closed leaves nothing in doubt. One that was not may lose a suffix of whole
//! commits behind what is known to be synced, and says so; never anything before it.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

mod torture;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use annals::Error;

use torture::bench::{Bench, Bits, Sample, is_whole_sweep, options, places, segments, text};
use torture::killed::Killed;
use torture::put_files;

#[test]
fn every_flipped_bit_of_the_log_gives_the_right_data_or_an_error() {
    let sample = Sample::tiny();
    let mut bench = Bench::new(&sample).with_writers_every(5);
    bench.flip("log/", Bits::Each);
    assert!(bench.refused > 5_000, "{}", bench.refused);
}

#[test]
fn every_damaged_byte_of_several_segments_gives_the_right_data_or_an_error() {
    let sample = Sample::small();
    let mut bench = Bench::new(&sample).with_writers_every(8);
    bench.flip("log/", Bits::One);
    assert!(bench.refused > 3_000, "{}", bench.refused);
}

/// The index is derived: its damage never keeps anything from being read. Two tests, since it takes long to try all of it.
#[test]
fn every_damaged_byte_of_the_runs_of_the_index_gives_the_right_data() {
    flip_index_files(".run");
}

#[test]
fn every_damaged_byte_of_positions_files_gives_the_right_data() {
    flip_index_files(".positions");
}

fn flip_index_files(ending: &str) {
    let sample = Sample::tiny();
    let mut bench = Bench::new(&sample).with_writers_every(3);
    bench.flip_if(|path| path.starts_with("index/") && path.ends_with(ending), Bits::One);
    assert_eq!(bench.refused, 0);
    assert!(bench.served > 100, "{}", bench.served);
}

/// What is known to be synced is evidence: without it everything is served, and with another one nothing else.
#[test]
fn every_flipped_bit_of_the_synced_heads_gives_the_right_data() {
    let sample = Sample::tiny();
    let mut bench = Bench::new(&sample);
    bench.flip("synced-head", Bits::Each);
    bench.flip("state/synced-head", Bits::Each);
    assert_eq!(bench.refused, 0);
}

#[test]
fn every_damaged_byte_of_the_state_gives_the_right_data_or_an_error() {
    let sample = Sample::tiny();
    let mut bench = Bench::new(&sample);
    bench.flip("state/log", Bits::One);
    bench.flip("state/index", Bits::One);
    assert!(bench.refused > 300, "{}", bench.refused);
}

#[test]
fn a_closed_store_that_was_truncated_anywhere_is_refused() {
    let sample = Sample::tiny();
    let mut bench = Bench::new(&sample).with_writers_every(3);
    for (path, bytes) in segments(&sample.files) {
        for length in places(bytes) {
            bench.check_file(path, &bytes[..length], &format!("{} of {length} bytes", path.display()));
        }
    }
    assert_eq!(bench.served, 0);
}

#[test]
fn a_closed_store_with_zeros_anywhere_gives_the_right_data_or_an_error() {
    let sample = Sample::tiny();
    let mut bench = Bench::new(&sample).with_writers_every(3);
    for (path, bytes) in segments(&sample.files) {
        for from in places(bytes) {
            for to in [bytes.len(), bytes.len().min(from + 512)] {
                let mut damaged = bytes.clone();
                damaged[from..to].fill(0);
                bench.check_file(path, &damaged, &format!("{}, zeros from {from} to {to}", path.display()));
            }
        }
    }
    assert!(bench.refused > bench.served);
}

#[test]
fn other_files_that_are_too_short_or_empty_give_the_right_data() {
    let sample = Sample::tiny();
    let mut bench = Bench::new(&sample);
    for (path, bytes) in sample.files.iter().filter(|(path, _)| !text(path).ends_with(".segment")) {
        for length in (0..bytes.len()).step_by(if bytes.len() < 512 || is_whole_sweep() { 1 } else { 1024 }) {
            bench.check_file(path, &bytes[..length], &format!("{} of {length} bytes", path.display()));
            let mut damaged = bytes.clone();
            damaged[length..].fill(0);
            bench.check_file(path, &damaged, &format!("{}, zeros from {length}", path.display()));
        }
    }
    assert_eq!(bench.refused, 0);
}

#[test]
fn files_that_changed_places_give_the_right_data_or_an_error() {
    let sample = Sample::small();
    let mut bench = Bench::new(&sample);
    let paths: Vec<&PathBuf> = sample.files.keys().collect();
    for (index, first) in paths.iter().enumerate() {
        for second in &paths[index + 1..] {
            let mut damaged = sample.files.clone();
            damaged.insert((*first).clone(), sample.files[*second].clone());
            damaged.insert((*second).clone(), sample.files[*first].clone());
            bench.check(&damaged, None, &format!("{} and {} swapped", first.display(), second.display()));
        }
    }
    assert!(bench.refused > 0 && bench.served > 0);
}

#[test]
fn a_store_with_a_file_missing_gives_the_right_data_or_an_error() {
    let sample = Sample::small();
    let mut bench = Bench::new(&sample);
    for path in sample.files.keys() {
        let mut damaged = sample.files.clone();
        damaged.remove(path);
        let refused = bench.refused;
        bench.check(&damaged, None, &format!("without {}", path.display()));
        assert_eq!(bench.refused > refused, text(path).ends_with(".segment"), "{}", path.display());
    }
}

/// Each file as it was when the store was closed before: bytes that were right once.
#[test]
fn a_store_with_an_older_file_gives_the_right_data_or_an_error() {
    let sample = Sample::small();
    let mut bench = Bench::new(&sample);
    let mut replaced = 0;
    for (life, earlier) in sample.earlier.iter().enumerate() {
        for (path, bytes) in earlier {
            if sample.files.get(path).is_some_and(|now| now != bytes) {
                bench.check_file(path, bytes, &format!("{} as after life {life}", path.display()));
                replaced += 1;
            } else if !sample.files.contains_key(path) {
                let mut damaged = sample.files.clone();
                damaged.insert(path.clone(), bytes.clone());
                bench.check(&damaged, None, &format!("{} again, as after life {life}", path.display()));
            }
        }
    }
    assert!(replaced > 5 && bench.refused > 0 && bench.served > 0);
}

#[test]
fn an_index_that_is_gone_is_rebuilt_and_says_how_far_it_is() {
    let sample = Sample::small();
    let bench = Bench::new(&sample);
    let whole = std::fs::read_dir(bench.root().join("index")).unwrap().count();
    for damage in ["the directory", ".positions", ".run"] {
        let indexed = |is_read_only: bool| {
            put_files(bench.root(), &sample.files);
            match damage {
                "the directory" => std::fs::remove_dir_all(bench.root().join("index")).unwrap(),
                ending => sample.files.keys().filter(|path| text(path).ends_with(ending)).for_each(|path| {
                    std::fs::remove_file(bench.root().join(path)).unwrap();
                }),
            }
            let (calls, done, total) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), AtomicU64::new(0));
            let total = Arc::new(total);
            let (own_calls, own_done, own_total) = (Arc::clone(&calls), Arc::clone(&done), Arc::clone(&total));
            let options = options().on_rebuild(move |progress| {
                own_calls.fetch_add(1, Ordering::Relaxed);
                own_done.store(progress.done, Ordering::Relaxed);
                own_total.store(progress.total, Ordering::Relaxed);
            });
            let opened = if is_read_only { options.open_read_only(bench.root()) } else { options.open(bench.root()) };
            let store = opened.unwrap();
            bench.ask(&store).unwrap().assert_equal(&sample.answers, damage);
            assert!(calls.load(Ordering::Relaxed) > 0, "{damage}");
            assert_eq!(done.load(Ordering::Relaxed), total.load(Ordering::Relaxed), "{damage}");
            total.load(Ordering::Relaxed)
        };
        assert!(indexed(true) > 0, "{damage}");
        assert!(indexed(false) > 0, "{damage}");
        let rebuilt = std::fs::read_dir(bench.root().join("index")).unwrap().count();
        assert!(rebuilt >= whole, "{damage}: {rebuilt} files of {whole}");
    }
}

#[test]
fn zeros_and_rubbish_at_the_end_of_a_killed_store_cost_no_synced_commit() {
    for killed in [Killed::new(), Killed::new().without_synced_head()] {
        for from in killed.places() {
            killed.check(from, 4096, |bytes| bytes.fill(0), &format!("zeros from {from}"));
            killed.check(from, from + 1, |bytes| bytes[0] ^= 0x20, &format!("a flipped bit at {from}"));
            if from.is_multiple_of(8) {
                let rubbish = |byte: &mut u8| *byte = byte.wrapping_mul(31).wrapping_add(7);
                let (to, context) = ((from + 512).min(4096), format!("rubbish from {from}"));
                killed.check(from, to, |bytes| bytes.iter_mut().for_each(rubbish), &context);
                killed.check(from, to, |bytes| bytes.fill(0), &format!("zeros from {from} to {to}"));
            }
        }
    }
}

/// The file had its length before anything was written to it, so that no crash makes it shorter.
#[test]
fn a_killed_store_that_was_truncated_is_refused() {
    let killed = Killed::new();
    let path = killed.directory.path().join("damaged");
    for length in killed.places() {
        let mut files = killed.files.clone();
        files.get_mut(&killed.segment).unwrap().truncate(length);
        put_files(&path, &files);
        for opened in [options().open_read_only(&path), options().open(&path)] {
            let error = opened.unwrap_err();
            assert!(matches!(&error, Error::Corrupt { file, .. } if *file == path.join(&killed.segment)), "{error}");
        }
    }
}
