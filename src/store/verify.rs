//! Verification: every byte of a store, read and held against everything else that the store says.
//!
//! It changes nothing and takes no lock, so that it works beside a writer and on read-only media. The log is read once,
//! front to back, by `pread`; the index files are compared with it on the way. Whatever is wrong is reported, and the
//! reading goes on.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128;

use super::event::Event;
use super::open::is_store;
use super::state::STATE_DIR;
use crate::error::{Error, Result};
use crate::format::frame::Frame;
use crate::index::{self, EventKeys, FrameAt, IndexAudit, IndexProblem, KeySeed};
use crate::log::verify::{Auditor, Fault, LogAudit, SegmentStart, audit, store_of};
use crate::log::{LOG_DIR, SYNCED_HEAD_PATH};
use crate::storage::{Access, Disk, RealDisk, SubDisk};

/// Bytes between two reports of progress.
const REPORT_BYTES: u64 = 1024 * 1024;

/// How far a verification has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VerifyProgress {
    /// Bytes that were read.
    pub done_bytes: u64,
    /// Bytes that are to be read: the files of the store as they were at the start.
    pub total_bytes: u64,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Events that were read and found right.
    pub events: u64,
    /// Segments of the log.
    pub segments: u64,
    /// Bytes that were read: the log, the index, the synced head and the state.
    pub bytes: u64,
    /// Bytes behind the end of the log that a crash left of commits that were never confirmed. They are no problem: the
    /// next writer cuts them.
    pub torn_bytes: u64,
    /// What is wrong; empty for a sound store. In the order in which it was found.
    pub problems: Vec<Problem>,
}

/// Something in a store that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Where in it, in bytes: the frame or page that is wrong, or 0 for the file as a whole.
    pub offset: u64,
    /// What is wrong there.
    pub reason: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at offset {}: {}", self.file.display(), self.offset, self.reason)
    }
}

impl From<Fault> for Problem {
    fn from(Fault { file, offset, reason }: Fault) -> Self {
        Self { file, offset, reason }
    }
}

impl From<IndexProblem> for Problem {
    fn from(IndexProblem { file, offset, reason }: IndexProblem) -> Self {
        Self { file, offset, reason }
    }
}

/// Reads every byte of the store at `path` and says what is wrong with it. Changes nothing, takes no lock, and works
/// beside a writer, whose later appends are left out, and on read-only media.
///
/// Verified are: what recovery would decide; every header, frame and record of the log with its checksum; that segments
/// continue each other, positions and the versions of each stream have no gaps, and commit times do not go back; that
/// there are zeros where nothing was written; the synced head; every page of the index, and that it leads to each event
/// by position, stream, category, type and tag, and to no other; and the same of the state in `state/`. Index files are
/// derived: one that is missing is none of the problems, one that is damaged is, and is rebuilt when it is needed.
///
/// Memory grows with the number of streams, by about 40 bytes for each (names are told apart by hashes of 128 bits), and
/// with that of the names in the largest index file, by as much again.
///
/// # Errors
/// [`Error::NotFound`] if there is no store; [`Error::Incompatible`] if a newer version wrote it; [`Error::Io`] if the
/// operating system refuses to read the log. Damage is no error: it is in the report.
pub fn verify(path: impl AsRef<Path>, progress: &mut dyn FnMut(VerifyProgress)) -> Result<VerifyReport> {
    verify_on(&(Arc::new(RealDisk::new(path)) as Arc<dyn Disk>), progress)
}

pub(super) fn verify_on(log: &Arc<dyn Disk>, progress: &mut dyn FnMut(VerifyProgress)) -> Result<VerifyReport> {
    if !log.exists() || !is_store(&**log)? {
        return Err(Error::NotFound { path: log.locate("") });
    }
    let state: Arc<dyn Disk> = Arc::new(SubDisk::new(Arc::clone(log), STATE_DIR));
    let has_state = is_store(&*state)?;
    let total = size_of_store(&**log)? + if has_state { size_of_store(&*state)? } else { 0 };
    let mut meter = Meter { progress, done: 0, total, next_report: REPORT_BYTES };
    let mut report = verify_one(log, &mut meter)?;
    if has_state {
        let state = verify_one(&state, &mut meter)?;
        report.torn_bytes += state.torn_bytes;
        report.problems.extend(state.problems);
    }
    report.bytes = meter.done;
    meter.finish();
    Ok(report)
}

/// Verifies one log with its index.
fn verify_one(disk: &Arc<dyn Disk>, meter: &mut Meter<'_>) -> Result<VerifyReport> {
    // The index first: beside a writer, the log must have all that the index speaks of.
    let store = store_of(&**disk)?;
    let index = store.map(|store| IndexAudit::open(Arc::clone(disk), store, &mut |bytes| meter.add(bytes)));
    let index = index.transpose()?;
    let mut witness = Witness {
        meter,
        seed: store.map(KeySeed::of),
        index,
        versions: HashMap::new(),
        knows_first_versions: false,
        has_begun: false,
        events: 0,
    };
    let audited = audit(&**disk, &|| index::checkpoints(disk), &mut witness)?;
    let Some(LogAudit { segments, torn_bytes, faults, is_decided }) = audited else {
        return Err(Error::NotFound { path: disk.locate("") });
    };
    let is_whole = is_decided && faults.is_empty();
    let index_problems = witness.index.map_or_else(|| Ok(Vec::new()), |index| index.finish(is_whole))?;
    let problems = faults.into_iter().map(Problem::from).chain(index_problems.into_iter().map(Problem::from)).collect();
    Ok(VerifyReport { events: witness.events, segments, bytes: 0, torn_bytes, problems })
}

/// Bytes of the files of a log and its index.
fn size_of_store(disk: &dyn Disk) -> Result<u64> {
    let mut paths = vec![SYNCED_HEAD_PATH.to_owned()];
    for (dir, endings) in [(LOG_DIR, [".segment", ".segment"]), (index::DIRECTORY, [".run", ".positions"])] {
        let names = disk.list(dir).map_err(|error| Error::io("list", disk.locate(dir), error))?;
        let names = names.iter().filter(|name| endings.iter().any(|ending| name.ends_with(ending)));
        paths.extend(names.map(|name| format!("{dir}/{name}")));
    }
    let mut bytes = 0;
    for path in paths {
        // A writer may take a file away meanwhile.
        match disk.open(&path, Access::Read).and_then(|file| file.len()) {
            Ok(length) => bytes += length,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("open", disk.locate(&path), error)),
        }
    }
    Ok(bytes)
}

/// Counts what was read, and tells of it now and then.
struct Meter<'a> {
    progress: &'a mut dyn FnMut(VerifyProgress),
    done: u64,
    total: u64,
    next_report: u64,
}

impl Meter<'_> {
    fn add(&mut self, bytes: u64) {
        self.done += bytes;
        if self.done >= self.next_report {
            self.next_report = self.done + REPORT_BYTES;
            (self.progress)(VerifyProgress { done_bytes: self.done.min(self.total), total_bytes: self.total });
        }
    }

    fn finish(self) {
        (self.progress)(VerifyProgress { done_bytes: self.total, total_bytes: self.total });
    }
}

/// Looks at the events of the log: their streams, and the index beside them.
struct Witness<'m, 'a> {
    meter: &'m mut Meter<'a>,
    seed: Option<KeySeed>,
    index: Option<IndexAudit>,
    /// The last version of each stream, by the hash of its name.
    versions: HashMap<u128, u64>,
    /// Every stream that is not among the versions begins with its first.
    knows_first_versions: bool,
    has_begun: bool,
    events: u64,
}

impl Auditor for Witness<'_, '_> {
    fn read(&mut self, bytes: u64) {
        self.meter.add(bytes);
    }

    fn begin_segment(&mut self, segment: &SegmentStart) {
        if !std::mem::replace(&mut self.has_begun, true) {
            self.knows_first_versions = segment.is_first_ever;
        }
        if let Some(index) = &mut self.index {
            index.begin_segment(segment.number, segment.salt, segment.first_position);
        }
    }

    fn commit(&mut self, segment: u64, offset: u64, frame: &Frame<'_>) -> Vec<String> {
        let first = frame.header.link.first_position;
        let mut reasons = Vec::new();
        let mut keys: Vec<EventKeys<'_>> = Vec::with_capacity(frame.header.count as usize);
        for ordinal in 0..frame.header.count {
            let position = first + u64::from(ordinal);
            let event = frame.record(ordinal).and_then(|bytes| Event::decode(&frame.header, position, bytes));
            match event {
                Ok(event) => {
                    reasons.extend(self.check_version(&event));
                    let seed = self.seed;
                    keys.extend(seed.map(|seed| {
                        seed.event(event.stream, event.event_type, event.tags(), event.time, event.version)
                    }));
                }
                Err(reason) => reasons.push(format!("{reason}, in the event at position {position}")),
            }
        }
        self.events += (frame.header.count as usize - reasons.len()) as u64;
        let end = offset + frame.header.frame_len() as u64;
        let at = FrameAt { segment, offset, end, checksum: frame.header.checksum, first_position: first };
        // A commit with an event that cannot be read is left out, as one that is missing.
        if let Some(index) = self.index.as_mut().filter(|_| keys.len() == frame.header.count as usize) {
            index.add(at, &keys);
        }
        reasons
    }

    fn lose(&mut self) {
        // Any stream may have gone on in what is lost.
        self.versions.clear();
        self.knows_first_versions = false;
    }
}

impl Witness<'_, '_> {
    /// What is wrong with the version of an event, which must follow that of the event before it in its stream.
    fn check_version(&mut self, event: &Event<'_>) -> Option<String> {
        let before = match self.versions.entry(xxh3_128(event.stream.as_bytes())) {
            Entry::Occupied(mut known) => std::mem::replace(known.get_mut(), event.version),
            Entry::Vacant(unknown) => {
                unknown.insert(event.version);
                if !self.knows_first_versions {
                    return None;
                }
                0
            }
        };
        (event.version != before + 1).then(|| {
            let (stream, version, position) = (event.stream, event.version, event.position);
            format!("stream {stream:?} goes from version {before} to {version} at position {position}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;
    use crate::format::record::RecordFields;
    use crate::storage::MemoryDisk;
    use crate::store::{Side, Store};
    use crate::types::{Codec, Durability};

    /// Commits one event below the store, which would have given it the right version.
    fn write(store: &Store, stream: &str, version: u64) {
        let Side::Writing(appender) = &store.handle.inner.side else { panic!("a writer") };
        let record = RecordFields {
            id: [0; 16],
            time: 0,
            version,
            schema_version: 1,
            codec: Codec::Raw,
            stream,
            event_type: "type",
            tags: &[],
            metadata: None,
            payload: b"payload",
        };
        let mut turn = appender.turn().unwrap();
        turn.reserve(1000).unwrap();
        turn.stage(Durability::Synced, 0, [record].into_iter());
        turn.see_through().unwrap();
    }

    fn reasons(versions: &[(&str, u64)]) -> Vec<String> {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
        let options = Options::new().without_background_work().segment_bytes_max(4096);
        let store = Store::open_on(Arc::clone(&disk), options, true).unwrap();
        for (stream, version) in versions {
            write(&store, stream, *version);
        }
        let mut meter = Meter { progress: &mut |_| {}, done: 0, total: 0, next_report: u64::MAX };
        let report = verify_one(&disk, &mut meter).unwrap();
        assert_eq!(report.events, (versions.len() - report.problems.len()) as u64);
        report.problems.into_iter().map(|problem| problem.reason).collect()
    }

    #[test]
    fn the_versions_of_each_stream_have_no_gaps() {
        assert_eq!(reasons(&[("a", 1), ("ab", 1), ("a", 2), ("ab", 2), ("a", 3)]), [""; 0]);
        assert_eq!(reasons(&[("a", 1), ("a", 3)]), [r#"stream "a" goes from version 1 to 3 at position 2"#]);
        assert_eq!(reasons(&[("a", 1), ("a", 1)]), [r#"stream "a" goes from version 1 to 1 at position 2"#]);
        assert_eq!(reasons(&[("a", 2), ("a", 3)]), [r#"stream "a" goes from version 0 to 2 at position 1"#]);
    }

    #[test]
    fn versions_are_followed_across_segments() {
        let versions: Vec<_> = (1..100).map(|version| ("a", version)).collect();
        assert_eq!(reasons(&versions), [""; 0]);
    }
}
