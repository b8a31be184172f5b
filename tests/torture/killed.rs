//! A store as a kill leaves it, whose end is damaged.

use std::path::{Path, PathBuf};

use annals::{Error, RecordedEvent, Result, Store};

use super::bench::{OS, SYNCED, answers, append, is_whole_sweep, options};
use super::{Answers, Files, FrameSpot, directory, files, frames, put_files};

/// A store as a kill leaves it: some commits synced, more handed to the operating system, in one segment.
pub(crate) struct Killed {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) files: Files,
    whole: Answers,
    /// What the segment says of itself.
    pub(crate) frames: Vec<FrameSpot>,
    pub(crate) segment: PathBuf,
    /// Offset in the segment behind what was synced, and its last position.
    synced_end: usize,
    synced_position: u64,
}

impl Killed {
    pub(crate) fn new() -> Self {
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
    pub(crate) fn without_synced_head(mut self) -> Self {
        self.files.remove(Path::new("synced-head"));
        let durable = self.frames.iter().map(|frame| frame.durable).max().unwrap() as usize;
        let last = self.frames.iter().rfind(|frame| frame.end <= durable && frame.count > 0).unwrap();
        self.synced_position = last.first_position + u64::from(last.count) - 1;
        self.synced_end = durable;
        self
    }

    /// Damages the segment from `from` to `to`, and sees what is left.
    pub(crate) fn check(&self, from: usize, to: usize, damage: impl Fn(&mut [u8]), context: &str) {
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
    pub(crate) fn places(&self) -> Vec<usize> {
        let synced = self.frames.iter().rfind(|frame| frame.end <= self.synced_end).unwrap();
        let last = self.frames[self.frames.len() - 1];
        let between = (synced.end..last.offset).step_by(if is_whole_sweep() { 1 } else { 19 });
        let sectors = (64..4096).step_by(512);
        (synced.offset..synced.end).chain(between).chain(last.offset..last.end).chain(sectors).collect()
    }
}
