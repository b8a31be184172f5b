//! Sweeps over a small store that leave nothing out: bytes that were right once or elsewhere, over each byte of the last
//! commit and each sector of each file; each file under the name of each other, and under names that nothing has; each
//! file cut at each sector. Flipped bits, zeros and rubbish are in `damage.rs`.
//!
//! Some of the bytes, and once in so many cases the damaged store is opened for writing as well; all of it with
//! `ANNALS_SWEEP=whole cargo test --release --test exhaustive --test damage`.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

mod torture;

use std::path::{Path, PathBuf};

use torture::bench::{Bench, Sample, is_whole_sweep, places, segments, text};
use torture::killed::Killed;
use torture::{Files, frames};

const SECTOR_BYTES: usize = 512;

/// The sectors, and some of the bytes, unless nothing is to be left out.
fn some_of(places: Vec<usize>) -> impl Iterator<Item = usize> {
    let stride = if is_whole_sweep() { 1 } else { 7 };
    places.into_iter().filter(move |place| place.is_multiple_of(SECTOR_BYTES) || place.is_multiple_of(stride))
}

/// Bytes that a place of a file could hold by mistake: those of an earlier time, of the commit before, of the sector
/// before, and of the same place in other files.
fn older_bytes(sample: &Sample, path: &Path) -> Vec<(String, Vec<u8>)> {
    let bytes = &sample.files[path];
    let shifted = |by: usize| {
        let mut shifted = bytes.clone();
        shifted[by..].copy_from_slice(&bytes[..bytes.len() - by]);
        shifted
    };
    let mut sources = vec![("the sector before".to_owned(), shifted(SECTOR_BYTES))];
    let commits: Vec<_> = frames(bytes).into_iter().filter(|frame| frame.kind == 2).collect();
    if let [.., before, last] = commits[..] {
        sources.push(("the commit before".to_owned(), shifted(last.offset - before.offset)));
    }
    for (life, earlier) in sample.earlier.iter().enumerate() {
        sources.extend(earlier.get(path).map(|bytes| (format!("life {life}"), bytes.clone())));
    }
    let others = sample.files.iter().filter(|(other, _)| *other != path && text(other).ends_with(".segment"));
    sources.extend(others.map(|(other, bytes)| (other.display().to_string(), bytes.clone())));
    sources
}

/// Puts a part of older bytes into a file; `None` if it makes no difference.
fn patched(bytes: &[u8], from: usize, to: usize, older: &[u8]) -> Option<Vec<u8>> {
    let to = to.min(bytes.len()).min(older.len());
    let mut damaged = bytes.to_vec();
    damaged.get_mut(from..to)?.copy_from_slice(&older[from..to]);
    (damaged != bytes).then_some(damaged)
}

#[test]
fn older_bytes_from_each_byte_of_the_last_commit_on_give_the_right_data_or_an_error() {
    let sample = Sample::tiny();
    let mut bench = Bench::new(&sample).with_writers_every(5);
    for (path, bytes) in segments(&sample.files) {
        for (source, older) in older_bytes(&sample, path) {
            for from in some_of(places(bytes)) {
                for to in [from + 1, from.next_multiple_of(SECTOR_BYTES).max(from + 1), bytes.len()] {
                    let Some(patched) = patched(bytes, from, to, &older) else { continue };
                    // A whole segment of another log is right in itself: it is the next one that does not fit it.
                    let blamed = (patched != older).then_some(path.as_path());
                    let mut damaged = sample.files.clone();
                    damaged.insert(path.to_owned(), patched);
                    bench.check(&damaged, blamed, &format!("{}, {from} to {to} of {source}", path.display()));
                }
            }
        }
    }
    assert!(bench.refused > 100, "{} refused, {} served", bench.refused, bench.served);
}

#[test]
fn older_bytes_in_each_sector_give_the_right_data_or_an_error() {
    let sample = Sample::small();
    let mut bench = Bench::new(&sample).with_writers_every(8);
    for (path, bytes) in &sample.files {
        for (source, older) in older_bytes_of_any(&sample, path) {
            for from in (0..bytes.len()).step_by(SECTOR_BYTES) {
                let Some(patched) = patched(bytes, from, from + SECTOR_BYTES, &older) else { continue };
                let mut damaged = sample.files.clone();
                damaged.insert(path.clone(), patched);
                bench.check(&damaged, None, &format!("{}, the sector at {from} of {source}", path.display()));
            }
        }
    }
    assert!(bench.refused > 50 && bench.served > 50, "{} refused, {} served", bench.refused, bench.served);
}

/// The same for files that are no segments.
fn older_bytes_of_any(sample: &Sample, path: &Path) -> Vec<(String, Vec<u8>)> {
    let earlier = sample.earlier.iter().enumerate();
    let mut sources: Vec<_> =
        earlier.filter_map(|(life, files)| Some((format!("life {life}"), files.get(path)?.clone()))).collect();
    let ending = path.extension();
    let others = sample.files.iter().filter(|(other, _)| *other != path && other.extension() == ending);
    sources.extend(others.map(|(other, bytes)| (other.display().to_string(), bytes.clone())));
    sources
}

#[test]
fn each_file_in_the_place_of_each_other_gives_the_right_data_or_an_error() {
    let sample = Sample::small();
    let mut bench = Bench::new(&sample).with_writers_every(2);
    for (target, replaced) in &sample.files {
        for (source, bytes) in sample.files.iter().filter(|(source, bytes)| *source != target && *bytes != replaced) {
            // Which one of two that do not belong together is in the wrong place, nothing tells.
            let mut damaged = sample.files.clone();
            damaged.insert(target.clone(), bytes.clone());
            bench.check(&damaged, None, &format!("{} in the place of {}", source.display(), target.display()));
        }
    }
    assert!(bench.refused > 0 && bench.served > 0);
}

/// Names that the store would give, or that look like it, and that nothing has.
fn free_names(files: &Files) -> Vec<PathBuf> {
    let last =
        |dir: &str| files.keys().filter(|path| path.starts_with(dir) && text(path).ends_with(".segment")).count();
    let mut names = Vec::new();
    for (log, index, last) in [("log", "index", last("log")), ("state/log", "state/index", last("state/log"))] {
        names.extend([0, last + 1, last + 2].map(|number| format!("{log}/{number:010}.segment")));
        names.extend([0, last + 1].map(|number| format!("{index}/{number:010}.positions")));
        names.extend([(1, 1), (2, 9), (1, 99)].map(|(first, last)| format!("{index}/{first:020}-{last:020}.run")));
        names.extend([format!("{log}/0000000001.segment.tmp"), format!("{log}/1.segment"), format!("{index}/x.run")]);
    }
    names.extend(["synced-head.tmp", "segment", "log.segment"].map(str::to_owned));
    names.into_iter().map(PathBuf::from).filter(|name| !files.contains_key(name)).collect()
}

#[test]
fn each_file_once_more_under_another_name_gives_the_right_data_or_an_error() {
    let sample = Sample::small();
    let mut bench = Bench::new(&sample);
    for (source, bytes) in &sample.files {
        for name in free_names(&sample.files) {
            let mut damaged = sample.files.clone();
            damaged.insert(name.clone(), bytes.clone());
            bench.check(&damaged, None, &format!("{} as {} as well", source.display(), name.display()));
        }
    }
    assert!(bench.refused > 0 && bench.served > bench.refused);
}

#[test]
fn each_file_cut_at_each_sector_gives_the_right_data_or_an_error() {
    let sample = Sample::small();
    let mut bench = Bench::new(&sample).with_writers_every(2);
    for (path, bytes) in &sample.files {
        for length in (0..bytes.len()).step_by(SECTOR_BYTES) {
            let refused = bench.refused;
            bench.check_file(path, &bytes[..length], &format!("{} of {length} bytes", path.display()));
            assert_eq!(bench.refused > refused, text(path).ends_with(".segment"), "{} of {length}", path.display());
        }
    }
}

#[test]
fn older_bytes_at_the_end_of_a_killed_store_cost_no_synced_commit() {
    for killed in [Killed::new(), Killed::new().without_synced_head()] {
        let bytes = &killed.files[&killed.segment];
        let before = killed.frames[killed.frames.len() - 2];
        let by = killed.frames[killed.frames.len() - 1].offset - before.offset;
        let mut sources = vec![("zeros", vec![0; bytes.len()])];
        for (name, by) in [("the sector before", SECTOR_BYTES), ("the commit before", by)] {
            let mut shifted = bytes.clone();
            shifted[by..].copy_from_slice(&bytes[..bytes.len() - by]);
            sources.push((name, shifted));
        }
        for (source, older) in &sources {
            for from in some_of(killed.places()) {
                for to in [from + 1, from.next_multiple_of(SECTOR_BYTES).max(from + 1), bytes.len()] {
                    let context = format!("{from} to {to} of {source}");
                    killed.check(from, to, |part| part.copy_from_slice(&older[from..to]), &context);
                }
            }
        }
    }
}
