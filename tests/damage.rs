//! Damage to the files of a small store, everywhere: the right data or an error that names the file.
//!
//! One fault at a time. A store that was closed leaves nothing in doubt. One that was not may lose a suffix of whole
//! commits behind what is known to be synced, and says so; never anything before it.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

mod torture;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use annals::{
    Durability, Error, ExpectedVersion, ManualClock, NewEvent, NewSnapshot, Options, RecordedEvent, Result,
    SeededRandomness, Store, Timestamp,
};

use torture::{Answers, Files, FrameSpot, directory, files, frames, put_files};

const SYNCED: Durability = Durability::Synced;
const OS: Durability = Durability::Os;
/// Fills segments. A damage of one of these bytes is like that of any other.
const FILLING: u8 = 0xEE;

/// Segments as small as they can be, and an index that goes to disk early.
fn options() -> Options {
    Options::new()
        .segment_bytes_first(4096)
        .segment_bytes_max(4096)
        .index_tail_bytes_max(1500)
        .clock(ManualClock::new(Timestamp::from_millis(1_000_000)))
        .randomness(SeededRandomness::new(11))
        .without_background_work()
}

fn event(number: u64, payload_bytes: usize) -> NewEvent {
    let kind = ["Opened", "Deposited", "Withdrawn"][number as usize % 3];
    let event = NewEvent::raw(kind, vec![number as u8; payload_bytes]).tag(format!("branch:{}", number % 4));
    if number.is_multiple_of(5) { event.metadata_json(format!("{{\"n\":{number}}}")) } else { event.tag("counted") }
}

/// Appends commits of one and two events, on several streams.
fn append(store: &Store, numbers: std::ops::Range<u64>, payload_bytes: usize, durability: Durability) {
    for number in numbers {
        let stream = ["account-1", "account-2", "order-1", "order-2", "singleton"][number as usize % 5];
        let mut commit = store.commit().append(stream, ExpectedVersion::Any, [event(number, payload_bytes)]);
        if number.is_multiple_of(3) {
            commit = commit.append("account-1", ExpectedVersion::Any, [event(number + 100, 10)]);
        }
        commit.durability(durability).send().unwrap();
    }
}

fn answers(store: &Store) -> Answers {
    let events = Answers::of(store, &[]).unwrap().events;
    Answers::of(store, &events).unwrap()
}

/// The files of a store, and what it answered when they were as they are here.
struct Sample {
    files: Files,
    answers: Answers,
    /// The files at earlier times, when the store was closed as well.
    earlier: Vec<Files>,
}

impl Sample {
    /// Some 30 events in several segments, with an index on disk and state, closed.
    fn small() -> Self {
        Self::closed(&[0..6, 7..13, 14..20, 21..23], 40)
    }

    /// As little as a store with files of every kind can be, closed.
    fn tiny() -> Self {
        Self::closed(&[0..3, 4..6], 4)
    }

    fn closed(lives: &[std::ops::Range<u64>], payload_bytes: usize) -> Self {
        let directory = directory();
        let mut earlier = Vec::new();
        let mut known = None;
        for (life, numbers) in lives.iter().enumerate() {
            let store = options().open(directory.path()).unwrap();
            store.state().unwrap().put("checkpoint", numbers.start.to_string()).unwrap();
            append(&store, numbers.clone(), payload_bytes, SYNCED);
            // Most of a segment, so that the next life begins another.
            let filling = NewEvent::raw("Filled", vec![FILLING; 2400]).tag("filling");
            store.append("filling-1", ExpectedVersion::Any, [filling]).unwrap();
            store.state().unwrap().put(format!("life-{life}"), "over").unwrap();
            store.maintain().unwrap();
            // Behind what the index has on disk.
            append(&store, numbers.end..numbers.end + 1, 4, SYNCED);
            let snapshot = NewSnapshot::raw("account-1", store.version("account-1").unwrap().unwrap(), "balance");
            store.save_snapshot(&snapshot).unwrap();
            known = Some(answers(&store));
            store.close().unwrap();
            earlier.push(files(directory.path()));
        }
        let files = earlier.pop().unwrap();
        let counts = [".segment", ".run", ".positions"].map(|ending| count(&files, ending));
        assert!(counts[0] > lives.len() && counts[1] >= 1 && counts[2] >= 2, "{:?}", files.keys());
        Self { files, answers: known.unwrap(), earlier }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn count(files: &Files, ending: &str) -> usize {
    files.keys().filter(|path| text(path).ends_with(ending)).count()
}

/// The segments, of the log and of the state.
fn segments(files: &Files) -> Vec<(&PathBuf, &Vec<u8>)> {
    files.iter().filter(|(path, _)| text(path).ends_with(".segment")).collect()
}

/// A place in which a sample is damaged, opened and restored.
struct Bench<'s> {
    sample: &'s Sample,
    directory: tempfile::TempDir,
    refused: u64,
    served: u64,
    /// The damaged store is opened for writing once in so many times; each time it is opened read-only.
    writers_every: u64,
}

impl<'s> Bench<'s> {
    fn new(sample: &'s Sample) -> Self {
        let directory = directory();
        put_files(directory.path(), &sample.files);
        Self { sample, directory, refused: 0, served: 0, writers_every: 1 }
    }

    fn with_writers_every(self, writers_every: u64) -> Self {
        Self { writers_every, ..self }
    }

    fn root(&self) -> &Path {
        self.directory.path()
    }

    /// Sees what comes of other bytes in the place of a file.
    fn check_file(&mut self, path: &Path, bytes: &[u8], context: &str) {
        let mut damaged = self.sample.files.clone();
        damaged.insert(path.to_owned(), bytes.to_vec());
        self.check(&damaged, Some(path), context);
    }

    /// Opens the damaged store in both ways, and restores it. `blamed` is the file that an error has to name.
    fn check(&mut self, damaged: &Files, blamed: Option<&Path>, context: &str) {
        put_files(self.root(), damaged);
        let read = options().open_read_only(self.root()).and_then(|store| self.ask(&store));
        self.judge(read, blamed, &format!("{context}, read-only"));
        if (self.refused + self.served).is_multiple_of(self.writers_every) {
            self.check_writer(damaged, blamed, context);
        }
        put_files(self.root(), &self.sample.files);
    }

    fn check_writer(&mut self, damaged: &Files, blamed: Option<&Path>, context: &str) {
        let written = options().open(self.root()).and_then(|store| self.ask(&store));
        if written.is_err() {
            let is_untouched = segments(&files(self.root())) == segments(damaged);
            assert!(is_untouched, "{context}: the log of a store that is refused stays as it is");
        }
        self.judge(written, blamed, &format!("{context}, for writing"));
    }

    fn ask(&self, store: &Store) -> Result<Answers> {
        Answers::of(store, &self.sample.answers.events)
    }

    fn judge(&mut self, result: Result<Answers>, blamed: Option<&Path>, context: &str) {
        match result {
            Ok(answers) => {
                answers.assert_equal(&self.sample.answers, context);
                self.served += 1;
            }
            Err(Error::Corrupt { file, .. } | Error::Incompatible { file, .. }) => {
                let named = file.strip_prefix(self.root()).unwrap();
                assert!(blamed.is_none_or(|blamed| blamed == named), "{context}: {} is blamed", named.display());
                self.refused += 1;
            }
            Err(error) => panic!("{context}: {error}"),
        }
    }

    /// Flips the bits of each byte that `patterns` gives, one pattern at a time, in the files whose path has this part.
    fn flip(&mut self, part: &str, patterns: impl Fn(usize, u8) -> Vec<u8>) {
        for (path, bytes) in self.sample.files.iter().filter(|(path, _)| text(path).starts_with(part)) {
            for (offset, byte) in bytes.iter().enumerate() {
                for pattern in patterns(offset, *byte) {
                    let mut damaged = bytes.clone();
                    damaged[offset] ^= pattern;
                    self.check_file(path, &damaged, &format!("{} at {offset} by {pattern:#04x}", path.display()));
                }
            }
        }
    }
}

/// Every bit of a byte where something stands, and one bit in each 251 bytes of zeros or filling.
fn every_bit(offset: usize, byte: u8) -> Vec<u8> {
    match one_bit(offset, byte).as_slice() {
        [] => Vec::new(),
        _ if byte != 0 && byte != FILLING => (0..8).map(|bit| 1 << bit).collect(),
        bit => bit.to_vec(),
    }
}

/// One bit of a byte where something stands, or in each 251 bytes of zeros or filling.
fn one_bit(offset: usize, byte: u8) -> Vec<u8> {
    match byte {
        0 | FILLING if !offset.is_multiple_of(251) => Vec::new(),
        _ => vec![1 << (offset % 8)],
    }
}

#[test]
fn every_flipped_bit_of_the_log_gives_the_right_data_or_an_error() {
    let sample = Sample::tiny();
    let mut bench = Bench::new(&sample).with_writers_every(5);
    bench.flip("log/", every_bit);
    assert!(bench.refused > 5_000, "{}", bench.refused);
}

#[test]
fn every_damaged_byte_of_several_segments_gives_the_right_data_or_an_error() {
    let sample = Sample::small();
    let mut bench = Bench::new(&sample).with_writers_every(8);
    bench.flip("log/", one_bit);
    assert!(bench.refused > 3_000, "{}", bench.refused);
}

/// The index is derived: its damage never keeps anything from being read.
#[test]
fn every_damaged_byte_of_the_index_gives_the_right_data() {
    let sample = Sample::tiny();
    let mut bench = Bench::new(&sample).with_writers_every(3);
    bench.flip("index/", one_bit);
    assert_eq!(bench.refused, 0);
}

/// What is known to be synced is evidence: without it everything is served, and with another one nothing else.
#[test]
fn every_flipped_bit_of_the_synced_heads_gives_the_right_data() {
    let sample = Sample::tiny();
    let mut bench = Bench::new(&sample);
    bench.flip("synced-head", every_bit);
    bench.flip("state/synced-head", every_bit);
    assert_eq!(bench.refused, 0);
}

#[test]
fn every_damaged_byte_of_the_state_gives_the_right_data_or_an_error() {
    let sample = Sample::tiny();
    let mut bench = Bench::new(&sample);
    bench.flip("state/log", one_bit);
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
        for length in (0..bytes.len()).step_by(if bytes.len() < 512 { 1 } else { 1024 }) {
            bench.check_file(path, &bytes[..length], &format!("{} of {length} bytes", path.display()));
            let mut damaged = bytes.clone();
            damaged[length..].fill(0);
            bench.check_file(path, &damaged, &format!("{}, zeros from {length}", path.display()));
        }
    }
    assert_eq!(bench.refused, 0);
}

/// Offsets of a segment: each one of its last commit, and each sector.
fn places(segment: &[u8]) -> Vec<usize> {
    let last = *frames(segment).iter().rev().find(|frame| frame.kind == 2).unwrap();
    let within = (last.offset..last.end).filter(|at| segment[*at] != FILLING || at.is_multiple_of(64));
    within.chain((0..segment.len()).step_by(512)).collect()
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

/// A store as a kill leaves it: some commits synced, more handed to the operating system, in one segment.
struct Killed {
    directory: tempfile::TempDir,
    files: Files,
    whole: Answers,
    /// What the segment says of itself.
    frames: Vec<FrameSpot>,
    segment: PathBuf,
    /// Offset in the segment behind what was synced, and its last position.
    synced_end: usize,
    synced_position: u64,
}

impl Killed {
    fn new() -> Self {
        let directory = directory();
        let path = directory.path().join("live");
        let store = options().open(&path).unwrap();
        append(&store, 0..4, 4, SYNCED);
        store.maintain().unwrap();
        append(&store, 4..7, 4, SYNCED);
        let synced_position = store.synced_head().unwrap().unwrap().number();
        append(&store, 7..11, 4, OS);
        let whole = answers(&store);
        let files = files(&path);
        let segment = PathBuf::from("log/0000000001.segment");
        let frames = frames(&files[&segment]);
        let synced = frames.iter().rfind(|frame| frame.count > 0 && frame.first_position <= synced_position).unwrap();
        let synced_end = synced.end;
        assert!(whole.events.len() as u64 > synced_position + 3);
        Self { directory, files, whole, frames, segment, synced_end, synced_position }
    }

    /// Without the file that says how far it is synced, as when that was not synced itself: what the frames say counts.
    fn without_synced_head(mut self) -> Self {
        self.files.remove(Path::new("synced-head"));
        let durable = self.frames.iter().map(|frame| frame.durable).max().unwrap() as usize;
        let last = self.frames.iter().rfind(|frame| frame.end <= durable && frame.count > 0).unwrap();
        self.synced_position = last.first_position + u64::from(last.count) - 1;
        self.synced_end = durable;
        self
    }

    /// Damages the segment from `from` to `to`, and sees what is left.
    fn check(&self, from: usize, to: usize, damage: impl Fn(&mut [u8]), context: &str) {
        let mut files = self.files.clone();
        let bytes = files.get_mut(&self.segment).unwrap();
        damage(&mut bytes[from..to]);
        let is_damaged = *bytes != self.files[&self.segment];
        let damaged = bytes.clone();
        let path = self.directory.path().join("damaged");
        put_files(&path, &files);
        // What the damage leaves of the evidence: a frame whose header it touched tells nothing any more.
        let told = self.frames.iter().filter(|frame| frame.offset + 48 <= from || frame.offset >= to);
        // The first segment had its start frame, synced, before it had its name.
        let told = told.map(|frame| frame.durable as usize).fold(self.frames[0].end, usize::max);
        let has_head = files.contains_key(Path::new("synced-head"));
        let certain = if has_head { self.synced_end } else { told };
        let read = options().open_read_only(&path).and_then(|store| {
            let unconfirmed = store.open_report().unconfirmed_events;
            Ok((Answers::of(&store, &self.whole.events)?, unconfirmed))
        });
        match read {
            Ok((left, unconfirmed)) => {
                assert!(left.events.len() as u64 + unconfirmed >= self.position_before(certain), "{context}");
                left.assert_prefix_of(&self.whole, context);
            }
            Err(error) => self.assert_blamed(&error, from < certain && is_damaged, context),
        }
        let opened = options().open(&path).and_then(|store| Ok((Answers::of(&store, &self.whole.events)?, store)));
        match opened {
            Ok((left, store)) => self.check_recovered(&left, &store, &damaged, certain, context),
            Err(error) => self.assert_blamed(&error, from < certain && is_damaged, context),
        }
    }

    /// The last position of the commits that end at or before an offset.
    fn position_before(&self, offset: usize) -> u64 {
        let last = self.frames.iter().rfind(|frame| frame.end <= offset && frame.count > 0);
        last.map_or(0, |frame| frame.first_position + u64::from(frame.count) - 1)
    }

    fn check_recovered(&self, left: &Answers, store: &Store, damaged: &[u8], certain: usize, context: &str) {
        left.assert_prefix_of(&self.whole, context);
        let count = left.events.len();
        assert!(count as u64 >= self.position_before(certain), "{context}: {count} events are left");
        let report = store.open_report();
        let end = self.frames.iter().rfind(|frame| frame.first_position + u64::from(frame.count) <= count as u64 + 1);
        let rest = &damaged[end.map_or(64, |frame| frame.end)..];
        let torn = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
        assert_eq!(report.cut_bytes, torn, "{context}: the bytes that were cut");
        if torn > 0 {
            assert_eq!(report.cut_after, left.events.last().map(|event| event.position), "{context}");
        }
        // It goes on, and what was recovered stays.
        append(store, 50..52, 4, SYNCED);
        let again = options().open_read_only(self.directory.path().join("damaged")).unwrap();
        let events: Vec<RecordedEvent> = again.read(annals::Query::all()).owned().map(Result::unwrap).collect();
        assert!(events.len() > count && events[..count] == left.events, "{context}: after more appends");
    }

    #[track_caller]
    fn assert_blamed(&self, error: &Error, may_refuse: bool, context: &str) {
        assert!(may_refuse, "{context}: {error}");
        let file = self.directory.path().join("damaged").join(&self.segment);
        assert!(matches!(error, Error::Corrupt { file: named, .. } if *named == file), "{context}: {error}");
    }

    /// Offsets of the commit that was synced last and of the last of all, some between them, and each sector.
    fn places(&self) -> Vec<usize> {
        let synced = self.frames.iter().rfind(|frame| frame.end <= self.synced_end).unwrap();
        let last = self.frames[self.frames.len() - 1];
        let between = (synced.end..last.offset).step_by(19);
        let sectors = (64..4096).step_by(512);
        (synced.offset..synced.end).chain(between).chain(last.offset..last.end).chain(sectors).collect()
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
