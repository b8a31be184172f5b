//! A small store that is damaged in one place, opened and restored, thousands of times.

use std::path::{Path, PathBuf};

use annals::{
    Durability, Error, ExpectedVersion, ManualClock, NewEvent, NewSnapshot, Options, Result, SeededRandomness,
    SnapshotQuery, Store, Timestamp,
};

use super::{Answers, Files, directory, files, frames, put_files};

pub(crate) const SYNCED: Durability = Durability::Synced;
pub(crate) const OS: Durability = Durability::Os;
/// Fills segments. A damage of one of these bytes is like that of any other.
pub(crate) const FILLING: u8 = 0xEE;

/// Segments as small as they can be, and an index that goes to disk early.
pub(crate) fn options() -> Options {
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
pub(crate) fn append(store: &Store, numbers: std::ops::Range<u64>, payload_bytes: usize, durability: Durability) {
    for number in numbers {
        let stream = ["account-1", "account-2", "order-1", "order-2", "singleton"][number as usize % 5];
        let mut commit = store.commit().append(stream, ExpectedVersion::Any, [event(number, payload_bytes)]);
        if number.is_multiple_of(3) {
            commit = commit.append("account-1", ExpectedVersion::Any, [event(number + 100, 10)]);
        }
        commit.durability(durability).send().unwrap();
    }
}

pub(crate) fn answers(store: &Store) -> Answers {
    let events = Answers::of(store, &[]).unwrap().events;
    Answers::of(store, &events).unwrap()
}

/// The files of a store, and what it answered when they were as they are here.
pub(crate) struct Sample {
    pub(crate) files: Files,
    pub(crate) answers: Answers,
    /// The files at earlier times, when the store was closed as well.
    pub(crate) earlier: Vec<Files>,
}

impl Sample {
    /// Some 30 events in several segments, with an index on disk and state, closed.
    pub(crate) fn small() -> Self {
        Self::closed(&[0..6, 7..13, 14..20, 21..23], 40)
    }

    /// As little as a store with files of every kind can be, closed.
    pub(crate) fn tiny() -> Self {
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

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn count(files: &Files, ending: &str) -> usize {
    files.keys().filter(|path| text(path).ends_with(ending)).count()
}

/// The segments, of the log and of the state.
pub(crate) fn segments(files: &Files) -> Vec<(&PathBuf, &Vec<u8>)> {
    files.iter().filter(|(path, _)| text(path).ends_with(".segment")).collect()
}

/// A place in which a sample is damaged, opened and restored.
pub(crate) struct Bench<'s> {
    sample: &'s Sample,
    directory: tempfile::TempDir,
    /// How many damaged stores there were, and what came of opening them.
    stores: u64,
    pub(crate) refused: u64,
    pub(crate) served: u64,
    /// The damaged store is opened for writing once in so many times; each time it is opened read-only.
    writers_every: u64,
}

impl<'s> Bench<'s> {
    pub(crate) fn new(sample: &'s Sample) -> Self {
        let directory = directory();
        put_files(directory.path(), &sample.files);
        Self { sample, directory, stores: 0, refused: 0, served: 0, writers_every: 1 }
    }

    /// Every time, if nothing is to be left out.
    pub(crate) fn with_writers_every(mut self, writers_every: u64) -> Self {
        self.writers_every = if is_whole_sweep() { 1 } else { writers_every };
        self
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    /// Sees what comes of other bytes in the place of a file.
    pub(crate) fn check_file(&mut self, path: &Path, bytes: &[u8], context: &str) {
        let mut damaged = self.sample.files.clone();
        damaged.insert(path.to_owned(), bytes.to_vec());
        self.check(&damaged, Some(path), context);
    }

    /// Opens the damaged store in both ways, and restores it. `blamed` is the file that an error has to name.
    pub(crate) fn check(&mut self, damaged: &Files, blamed: Option<&Path>, context: &str) {
        put_files(self.root(), damaged);
        let read = options().open_read_only(self.root()).and_then(|store| self.ask(&store));
        self.judge(read, blamed, &format!("{context}, read-only"));
        self.stores += 1;
        if self.stores.is_multiple_of(self.writers_every) {
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

    /// What the store answers. A snapshot is the one that was saved, or none.
    pub(crate) fn ask(&self, store: &Store) -> Result<Answers> {
        let saved = store.load_snapshot("account-1", SnapshotQuery::new())?.snapshot;
        let version = store.version("account-1")?;
        assert!(saved.is_none_or(|saved| saved.state == b"balance" && Some(saved.version) <= version), "a snapshot");
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

    /// Flips bits of each byte, one at a time, in the files whose path begins so.
    pub(crate) fn flip(&mut self, part: &str, bits: Bits) {
        self.flip_if(|path| path.starts_with(part), bits);
    }

    /// The same in those that are chosen by their path.
    pub(crate) fn flip_if(&mut self, is_chosen: impl Fn(&str) -> bool, bits: Bits) {
        for (path, bytes) in self.sample.files.iter().filter(|(path, _)| is_chosen(text(path))) {
            for offset in 0..bytes.len() {
                for pattern in bits.of(bytes, offset) {
                    let mut damaged = bytes.clone();
                    damaged[offset] ^= pattern;
                    self.check_file(path, &damaged, &format!("{} at {offset} by {pattern:#04x}", path.display()));
                }
            }
        }
    }
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        let Self { stores, refused, served, .. } = self;
        println!("{stores} damaged stores, opened {} times, {refused} times in vain", *refused + *served);
    }
}

/// Which bits are flipped. Of bytes that are like thousands of others, zeros where nothing was written and filling, one
/// bit in each 251 bytes, unless nothing is to be left out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bits {
    /// All of a byte.
    Each,
    /// One of a byte, each time another, unless nothing is to be left out.
    One,
}

impl Bits {
    fn of(self, bytes: &[u8], offset: usize) -> Vec<u8> {
        let is_alike = bytes[offset] == FILLING || is_in_zeros(bytes, offset);
        match self {
            _ if is_whole_sweep() => (0..8).map(|bit| 1 << bit).collect(),
            _ if is_alike && !offset.is_multiple_of(251) => Vec::new(),
            Bits::Each if !is_alike => (0..8).map(|bit| 1 << bit).collect(),
            Bits::Each | Bits::One => vec![1 << (offset % 8)],
        }
    }
}

/// Whether a byte stands among so many zeros that no field is as long.
fn is_in_zeros(bytes: &[u8], offset: usize) -> bool {
    const FIELD_BYTES_MAX: usize = 16;
    let around = offset.saturating_sub(FIELD_BYTES_MAX)..bytes.len().min(offset + FIELD_BYTES_MAX + 1);
    bytes[around].iter().all(|byte| *byte == 0)
}

/// Offsets of a segment: each one of its last commit, and each sector.
pub(crate) fn places(segment: &[u8]) -> Vec<usize> {
    let last = *frames(segment).iter().rev().find(|frame| frame.kind == 2).unwrap();
    let is_told = |at: &usize| is_whole_sweep() || segment[*at] != FILLING || at.is_multiple_of(64);
    let within = (last.offset..last.end).filter(is_told);
    within.chain((0..segment.len()).step_by(512)).collect()
}

/// Whether nothing is left out, however long it takes.
pub(crate) fn is_whole_sweep() -> bool {
    std::env::var("ANNALS_SWEEP").is_ok_and(|sweep| sweep == "whole")
}
