//! Verification of the index: every page of every file, and what the files say held against the log, event by event.
//!
//! The log is read in order by someone else, who shows each commit here. A positions file is compared at once. Of a run
//! only a digest of the postings of each key is kept, so that its file is read once, front to back, when the log has
//! passed its last position. Memory grows with the number of keys in the largest run, by about 40 bytes each.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::sync::Arc;

use super::fault::{IndexError, IndexFault, IndexFile, Result, refused};
use super::key::EventKeys;
use super::paged::{Files, Unusable};
use super::positions::{Positions, PositionsFile};
use super::run::Run;
use super::window::FrameAt;
use crate::error::Error;
use crate::format::page::PAGE_BYTES;
use crate::format::positions::{Checkpoint, PositionsHeader, ZONE_POSITIONS, Zone};
use crate::randomness::SystemRandomness;
use crate::storage::{Disk, ReadMode};
use crate::types::StoreId;

/// What becomes of a file whose pages are damaged.
const REBUILT: &str = "it is rebuilt from the log by the next writer that needs it";
/// What is to be done with a file whose pages are whole, and wrong.
const WRONG: &str = "delete the file: it is rebuilt from the log";

/// Something in an index file that is not as the log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexProblem {
    pub(crate) file: PathBuf,
    pub(crate) offset: u64,
    pub(crate) reason: String,
}

/// The files of an index while the log is read beside them.
pub(crate) struct IndexAudit {
    files: Files,
    /// In order. Those that are part of another one, which a merge left over, come behind it and are passed over with it.
    runs: std::collections::VecDeque<Arc<Run>>,
    tally: Tally,
    /// The positions files whose pages are whole, by segment: closed, since there is one for each segment.
    positions: HashMap<u64, KnownPositions>,
    /// That of the segment that is being read.
    comparing: Option<PositionsAudit>,
    /// The position behind the last one that was shown; `None` before the first.
    next: Option<u64>,
    /// The first position that the log still has.
    kept_from: u64,
    problems: Vec<IndexProblem>,
    /// A file that there were too few files or maps left to open again: what it says is not known.
    refused: Option<IndexError>,
}

impl IndexAudit {
    /// Opens the files and verifies all their pages; `read` is told how many bytes that were. To be called before the
    /// log is looked at, so that the log has all that they cover.
    pub(crate) fn open(disk: Arc<dyn Disk>, store: StoreId, read: &mut dyn FnMut(u64)) -> Result<Self> {
        let files = Files { disk, store, mode: ReadMode::Pread, randomness: Arc::new(SystemRandomness::new()) };
        let (mut runs, mut positions, mut problems) = (Vec::new(), HashMap::new(), Vec::new());
        for name in files.list()? {
            let Some(id) = IndexFile::parse(&name) else { continue };
            let opened = match id {
                IndexFile::Run { first, last } => Run::open(&files, first, last).map(|run| {
                    read(run.bytes());
                    if note_pages(&mut problems, run.verify()) {
                        runs.push(Arc::new(run));
                    }
                }),
                IndexFile::Positions { segment } => PositionsFile::open(&files, segment).map(|file| {
                    read(file.header().layout().map_or(0, |layout| layout.pages * PAGE_BYTES as u64));
                    if note_pages(&mut problems, file.verify()) {
                        positions.insert(segment, KnownPositions::of(&file));
                    }
                }),
            };
            let reason = match opened {
                Ok(()) | Err(Unusable::Gone) => continue,
                Err(Unusable::Refused(error)) => return Err(refused("open", &files.disk.locate(&id.path()), error)),
                Err(Unusable::Bad | Unusable::Unreadable(_)) => {
                    format!("the index file is damaged, or of another version or store; {REBUILT}")
                }
            };
            problems.push(IndexProblem { file: files.disk.locate(&id.path()), offset: 0, reason });
        }
        runs.sort_by_key(|run: &Arc<Run>| run.order());
        Ok(Self {
            files,
            runs: runs.into(),
            tally: Tally::default(),
            positions,
            comparing: None,
            next: None,
            kept_from: 0,
            problems,
            refused: None,
        })
    }

    /// A segment follows.
    pub(crate) fn begin_segment(&mut self, number: u64, salt: u64, first_position: u64) {
        if self.next.is_none() {
            (self.next, self.kept_from) = (Some(first_position), first_position);
        }
        self.comparing = None;
        let Some(known) = self.positions.get(&number) else { return };
        let is_of_log = (known.header.salt, known.header.first) == (salt, first_position);
        let reason = match is_of_log.then(|| PositionsFile::open(&self.files, number)) {
            Some(Ok(file)) => {
                // Another one was written since, by a writer: it goes further than the log that is looked at.
                self.comparing = (file.seed() == known.seed).then(|| PositionsAudit::new(file));
                return;
            }
            Some(Err(Unusable::Gone)) => return,
            Some(Err(Unusable::Bad)) => format!("the index file is damaged; {REBUILT}"),
            Some(Err(Unusable::Unreadable(error))) => format!("the index file cannot be read: {error}"),
            Some(Err(Unusable::Refused(error))) => {
                let path = IndexFile::Positions { segment: number }.path();
                self.refused = Some(refused("open", &self.files.disk.locate(&path), error));
                return;
            }
            None => format!("the index file is of another history; {REBUILT}"),
        };
        self.reject_positions(number, reason);
    }

    /// A positions file has a problem: it is not looked at any more.
    fn reject_positions(&mut self, segment: u64, reason: String) {
        self.comparing = None;
        self.positions.remove(&segment);
        let file = self.files.disk.locate(&IndexFile::Positions { segment }.path());
        self.problems.push(IndexProblem { file, offset: 0, reason });
    }

    /// A commit of the log, in the order of the log; some may be left out.
    pub(crate) fn add(&mut self, frame: FrameAt, events: &[EventKeys<'_>]) {
        self.skip_to(frame.first_position);
        if let Some(audit) = &mut self.comparing
            && let Err(reason) = audit.compare(frame, events)
        {
            self.reject_positions(frame.segment, format!("{reason}; {WRONG}"));
        }
        for (position, event) in (frame.first_position..).zip(events) {
            self.add_to_run(position, frame, event);
        }
        self.next = Some(frame.first_position + events.len() as u64);
    }

    /// Positions that were left out: what covers them cannot be compared.
    fn skip_to(&mut self, position: u64) {
        while self.next.is_some_and(|next| next < position)
            && let Some(run) = self.runs.front()
            && run.first() < position
        {
            self.runs.pop_front();
            self.tally = Tally::default();
        }
    }

    fn add_to_run(&mut self, position: u64, frame: FrameAt, event: &EventKeys<'_>) {
        // What ends before the log begins is left over, and so is what is part of a run that was compared.
        while self.runs.front().is_some_and(|run| run.last() < position) {
            self.runs.pop_front();
        }
        let Some(run) = self.runs.front().filter(|run| run.first() <= position) else { return };
        self.tally.add(event, (position - run.first()) as u32);
        if position == run.last() {
            let run = Arc::clone(run);
            self.runs.pop_front();
            self.finish_run(&run, frame);
        }
    }

    fn finish_run(&mut self, run: &Run, frame: FrameAt) {
        let tally = std::mem::take(&mut self.tally);
        let is_of_log = run.header().checksum == frame.checksum;
        let compared =
            if is_of_log { tally.compare(run, self.kept_from) } else { Ok(Some("the run is of another history")) };
        match compared {
            Ok(None) => {}
            Ok(Some(reason)) => self.problems.push(run_problem(&*self.files.disk, run, &format!("{reason}; {WRONG}"))),
            // The pages were whole when the file was opened.
            Err(error) => self.problems.push(match error.fault() {
                Some(fault) => page_problem(fault.clone()),
                None => run_problem(&*self.files.disk, run, &Error::from(error).to_string()),
            }),
        }
    }

    /// The log was read to its end, if `is_whole`; what is wrong with the files. An error if that could not be found out.
    pub(crate) fn finish(mut self, is_whole: bool) -> Result<Vec<IndexProblem>> {
        if let Some(error) = self.refused.take() {
            return Err(error);
        }
        if !is_whole {
            return Ok(self.problems);
        }
        let next = self.next.unwrap_or(1);
        let reason = format!("the index file covers positions that the log does not have; {REBUILT}");
        let runs = self.runs.iter().filter(|run| run.last() >= next);
        self.problems.extend(runs.map(|run| run_problem(&*self.files.disk, run, &reason)));
        let beyond = self.positions.iter().filter(|(_, known)| known.header.last() >= next);
        let mut beyond: Vec<u64> = beyond.map(|(segment, _)| *segment).collect();
        beyond.sort_unstable();
        for segment in beyond {
            self.reject_positions(segment, reason.clone());
        }
        Ok(self.problems)
    }
}

/// What is known of a positions file that is closed.
struct KnownPositions {
    header: PositionsHeader,
    seed: u32,
}

impl KnownPositions {
    fn of(file: &PositionsFile) -> Self {
        Self { header: *file.header(), seed: file.seed() }
    }
}

/// A positions file while the log is read beside it.
struct PositionsAudit {
    file: Arc<PositionsFile>,
    zone: Zone,
    /// Positions whose times are in the zone.
    zone_count: u64,
}

impl PositionsAudit {
    fn new(file: PositionsFile) -> Self {
        Self { file: Arc::new(file), zone: Zone::EMPTY, zone_count: 0 }
    }

    fn compare(&mut self, frame: FrameAt, events: &[EventKeys<'_>]) -> Result<(), String> {
        let header = *self.file.header();
        let positions = Positions::File(Arc::clone(&self.file));
        for (position, event) in (frame.first_position..).zip(events) {
            if position > header.last() {
                break;
            }
            if !matches!(positions.offset_of(position), Ok(Some(offset)) if offset == frame.offset) {
                return Err(format!("the index leads position {position} to another frame"));
            }
            let in_zone = (position - header.first) % ZONE_POSITIONS;
            if in_zone == 0 {
                (self.zone, self.zone_count) = (Zone::EMPTY, 0);
            }
            self.zone.add_time(event.time);
            self.zone_count += 1;
            let is_zone_end = in_zone + 1 == ZONE_POSITIONS || position == header.last();
            // A zone of which commits were left out cannot be compared.
            if is_zone_end && self.zone_count == in_zone + 1 {
                let zone = positions.zone_of(header.first, position);
                if !matches!(zone, Ok(Some(zone)) if zone == self.zone) {
                    return Err(format!("the times of the zone of position {position} are not those of its events"));
                }
            }
        }
        let end = frame.first_position + events.len() as u64 - 1;
        let here = Checkpoint { offset: frame.offset, end: frame.end, checksum: frame.checksum };
        match (frame.first_position..=end).contains(&header.last()) {
            true if header.last() < end => Err("the index file ends inside a commit".into()),
            true if header.checkpoint != here => Err("the checkpoint is not the last frame that is covered".into()),
            _ => Ok(()),
        }
    }
}

/// What the log says of the postings of a run: a digest for each key.
#[derive(Default)]
struct Tally {
    keys: HashMap<u64, Digest>,
}

/// A list of postings, told apart from every other by chance alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Digest {
    count: u32,
    last: u32,
    hash: u64,
}

impl Digest {
    fn add(&mut self, posting: u32) {
        self.count += 1;
        self.last = posting;
        // Odd multipliers lose nothing, the rotation lets high bits act on low ones: order and value both count.
        let mixed = (u64::from(posting) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.hash = (self.hash.rotate_left(23) ^ mixed).wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
    }
}

impl Tally {
    fn add(&mut self, event: &EventKeys<'_>, posting: u32) {
        for key in event.keys() {
            match self.keys.entry(key.hash) {
                // Two names of one event that share a hash share a posting.
                Entry::Occupied(digest) if digest.get().last == posting => {}
                Entry::Occupied(mut digest) => digest.get_mut().add(posting),
                Entry::Vacant(entry) => entry.insert(Digest::default()).add(posting),
            }
        }
    }

    /// Reads a run and says in what it differs; postings before `kept_from` do not matter.
    fn compare(mut self, run: &Run, kept_from: u64) -> Result<Option<&'static str>> {
        let header = *run.header();
        let (mut start, mut before) = (0, None);
        for index in 0..header.entries {
            let entry = run.entry(index)?;
            if before.is_some_and(|before| before >= entry.key) || entry.start != start {
                return Ok(Some("the entries of the run are not in order"));
            }
            let found = run.found(&entry)?;
            let Some(digest) = digest_of(run, entry.start, entry.count, kept_from)? else {
                return Ok(Some("the postings of a key are not in order"));
            };
            let known = self.keys.remove(&entry.key).unwrap_or_default();
            if known != digest || (digest.count > 0 && digest.last != entry.last) {
                return Ok(Some("the postings of a key are not the events that carry it"));
            }
            if run.lookup(entry.key)? != Some(found) {
                return Ok(Some("a key of the run is not found by its filter and directory"));
            }
            (start, before) = (start + u64::from(entry.count), Some(entry.key));
        }
        let is_complete = self.keys.is_empty() && start == header.postings;
        Ok((!is_complete).then_some("the run lacks a key of an event, or has postings without a key"))
    }
}

/// The digest of postings that ascend, without those before a position; `None` if they do not ascend.
fn digest_of(run: &Run, start: u64, count: u32, kept_from: u64) -> Result<Option<Digest>> {
    let (mut digest, mut before) = (Digest::default(), None);
    for index in start..start + u64::from(count) {
        let posting = run.posting(index)?;
        if before.is_some_and(|before| before >= posting) {
            return Ok(None);
        }
        before = Some(posting);
        if run.first() + u64::from(posting) >= kept_from {
            digest.add(posting);
        }
    }
    Ok(Some(digest))
}

/// Notes the faults of a file's pages; whether it has none.
fn note_pages(problems: &mut Vec<IndexProblem>, faults: Vec<IndexFault>) -> bool {
    let is_whole = faults.is_empty();
    problems.extend(faults.into_iter().map(page_problem));
    is_whole
}

fn page_problem(fault: IndexFault) -> IndexProblem {
    IndexProblem { file: fault.path, offset: fault.offset, reason: format!("{}; {REBUILT}", fault.reason) }
}

fn run_problem(disk: &dyn Disk, run: &Run, reason: &str) -> IndexProblem {
    IndexProblem { file: disk.locate(&run.id().path()), offset: 0, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::format::page::seal;
    use crate::index::DIRECTORY;
    use crate::index::key::KeySeed;
    use crate::index::paged::tests::{contents, files, replace};
    use crate::index::positions::PositionTable;
    use crate::index::run;
    use crate::index::window::{SegmentId, Window};
    use crate::storage::{Call, Fault, FaultyDisk};

    const SEGMENT: SegmentId = SegmentId { number: 3, salt: 9, first: 1 };
    const COUNT: u64 = 1_200;

    fn frame(position: u64) -> FrameAt {
        let offset = 64 + position * 16;
        FrameAt { segment: 3, offset, end: offset + 16, checksum: position as u32, first_position: position }
    }

    fn event(seed: KeySeed, position: u64, streams: &[String]) -> EventKeys<'_> {
        let stream = &streams[position as usize % streams.len()];
        seed.event(stream, "type", ["tag"], position as i64, 1)
    }

    fn streams(count: u64) -> Vec<String> {
        (0..count).map(|number| format!("s-{number}")).collect()
    }

    /// Writes an index of events that are changed by `change`, and reads it beside those that are not.
    fn problems(change: impl Fn(u64) -> (u64, FrameAt), shown: impl Fn(u64) -> bool) -> Vec<String> {
        let (disk, files) = files(ReadMode::Pread);
        let (seed, streams) = (KeySeed::of(files.store), streams(7));
        let window = Window::new(SEGMENT, 1);
        let mut table = PositionTable::new(1, 1);
        for position in 1..=COUNT {
            let (of, at) = change(position);
            window.insert(at, [event(seed, of, &streams)]);
            table.push(at.offset, of as i64);
            table.end_commit(at);
        }
        run::write(&files, &window).unwrap();
        Positions::None.write(&files, SEGMENT, &table).unwrap();
        let mut bytes = 0;
        let mut audit = IndexAudit::open(Arc::clone(&files.disk), files.store, &mut |read| bytes += read).unwrap();
        let names = files.list().unwrap();
        let on_disk = names.iter().map(|name| contents(&disk, &format!("{DIRECTORY}/{name}")).len() as u64);
        assert_eq!(bytes, on_disk.sum::<u64>());
        audit.begin_segment(3, 9, 1);
        for position in (1..=COUNT).filter(|position| shown(*position)) {
            audit.add(frame(position), &[event(seed, position, &streams)]);
        }
        audit.finish(shown(COUNT)).unwrap().into_iter().map(|problem| problem.reason).collect()
    }

    #[test]
    fn an_index_of_the_same_events_is_right() {
        assert_eq!(problems(|position| (position, frame(position)), |_| true), [""; 0]);
    }

    #[test]
    fn an_event_that_is_found_by_another_name_is_noticed() {
        // Its time stays in the range of its zone, so that the run alone is wrong.
        let found = problems(|position| (if position == 700 { 701 } else { position }, frame(position)), |_| true);
        assert_eq!(found, [format!("the postings of a key are not the events that carry it; {WRONG}")]);
    }

    #[test]
    fn a_position_that_leads_elsewhere_is_noticed() {
        for wrong in [1, 700, COUNT] {
            let moved = |position| match position == wrong {
                true => FrameAt { offset: 64, ..frame(position) },
                false => frame(position),
            };
            let found = problems(|position| (position, moved(position)), |_| true);
            assert_eq!(found, [format!("the index leads position {wrong} to another frame; {WRONG}")]);
        }
    }

    #[test]
    fn a_time_outside_of_its_zone_is_noticed() {
        let found =
            problems(|position| (if position == 513 { 513 + 7_000 } else { position }, frame(position)), |_| true);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("the times of the zone of position 1024"), "{found:?}");
    }

    const FEW: u64 = 4;
    const RUN: IndexFile = IndexFile::Run { first: 1, last: FEW };

    /// A run, entry by entry: the key, its postings, and the last one as the entry says.
    struct Lie {
        entries: Vec<(u64, Vec<u32>, u32)>,
        /// Behind those of the entries.
        stray: Vec<u32>,
        checksum: u32,
    }

    impl Lie {
        /// What the run of the first few events says, with nothing wrong.
        fn none(seed: KeySeed) -> Self {
            let streams = streams(1);
            let mut keys: Vec<u64> = event(seed, 1, &streams).keys().map(|key| key.hash).collect();
            keys.sort_unstable();
            keys.dedup();
            let entries = keys.into_iter().map(|key| (key, vec![0, 1, 2, 3], 3)).collect();
            Self { entries, stray: Vec::new(), checksum: FEW as u32 }
        }

        fn write(&self, files: &Files) {
            let postings = self.entries.iter().map(|(_, postings, _)| postings.len()).sum::<usize>() + self.stray.len();
            let size = run::RunSize { entries: self.entries.len() as u64, postings: postings as u64 };
            let mut writer = run::RunWriter::create(files, 1, FEW, self.checksum, size).unwrap();
            for (key, postings, last) in &self.entries {
                writer.key(*key, postings.len() as u32, *last).unwrap();
                for posting in postings {
                    writer.posting(*posting).unwrap();
                }
            }
            for posting in &self.stray {
                writer.posting(*posting).unwrap();
            }
            writer.finish(files).unwrap();
        }
    }

    /// Reads the files beside the first few events, from this position on.
    fn audit_from(files: &Files, seed: KeySeed, from: u64) -> Vec<String> {
        audit_of(files, seed, from, from..=FEW)
    }

    /// Reads the files beside these events of a log that begins at `first`.
    fn audit_of(files: &Files, seed: KeySeed, first: u64, shown: impl IntoIterator<Item = u64>) -> Vec<String> {
        let streams = streams(1);
        let mut audit = IndexAudit::open(Arc::clone(&files.disk), files.store, &mut |_| {}).unwrap();
        audit.begin_segment(3, 9, first);
        for position in shown {
            audit.add(frame(position), &[event(seed, position, &streams)]);
        }
        audit.finish(true).unwrap().into_iter().map(|problem| problem.reason).collect()
    }

    fn told(change: impl Fn(&mut Lie)) -> Vec<String> {
        let (_, files) = files(ReadMode::Pread);
        let seed = KeySeed::of(files.store);
        let mut lie = Lie::none(seed);
        change(&mut lie);
        lie.write(&files);
        audit_from(&files, seed, 1)
    }

    #[test]
    fn a_run_that_lies_in_any_way_is_told() {
        type Change = fn(&mut Lie);
        assert_eq!(told(|_| {}), [""; 0]);
        let lies: [(&str, Change); 10] = [
            ("the run is of another history", |lie| lie.checksum += 1),
            ("the entries of the run are not in order", |lie| lie.entries.swap(2, 3)),
            ("the entries of the run are not in order", |lie| lie.entries[3].0 = lie.entries[2].0),
            ("the postings of a key are not in order", |lie| lie.entries[1].1.swap(0, 1)),
            ("the postings of a key are not in order", |lie| lie.entries[1].1[1] = 0),
            ("the postings of a key are not the events that carry it", |lie| lie.entries[1].1 = vec![0, 1, 3]),
            ("the postings of a key are not the events that carry it", |lie| lie.entries[1].2 = 2),
            ("the postings of a key are not the events that carry it", |lie| lie.entries[1].0 += 1),
            ("the run lacks a key of an event, or has postings without a key", |lie| lie.entries.truncate(3)),
            ("the run lacks a key of an event, or has postings without a key", |lie| lie.stray.push(0)),
        ];
        for (reason, lie) in lies {
            assert_eq!(told(lie), [format!("{reason}; {WRONG}")]);
        }
        let beyond = "an entry of a run reaches beyond its postings";
        assert_eq!(told(|lie| lie.entries[3].2 = 4), [format!("{beyond}; {REBUILT}")]);
    }

    #[test]
    fn a_key_that_the_filter_denies_is_told() {
        let (disk, files) = files(ReadMode::Pread);
        let seed = KeySeed::of(files.store);
        Lie::none(seed).write(&files);
        let run = Run::open(&files, 1, FEW).unwrap();
        let page = run.header().layout().unwrap().filter.first_page;
        let mut bytes = contents(&disk, &RUN.path());
        let begin = page as usize * PAGE_BYTES;
        bytes[begin..begin + PAGE_BYTES].fill(0);
        seal(&mut bytes[begin..begin + PAGE_BYTES], run.seed(), page);
        replace(&disk, &RUN.path(), &bytes);
        let expected = format!("a key of the run is not found by its filter and directory; {WRONG}");
        assert_eq!(audit_from(&files, seed, 1), [expected]);
    }

    #[test]
    fn names_that_collide_share_their_postings() {
        let (_, files) = files(ReadMode::Pread);
        let seed = KeySeed::of(files.store).colliding(0);
        let lie = Lie::none(seed);
        assert_eq!(lie.entries.len(), 1);
        lie.write(&files);
        assert_eq!(audit_from(&files, seed, 1), [""; 0]);
    }

    /// A merge will leave them out.
    #[test]
    fn what_a_run_holds_of_removed_segments_does_not_matter() {
        let (_, files) = files(ReadMode::Pread);
        let seed = KeySeed::of(files.store);
        let mut lie = Lie::none(seed);
        lie.entries[0].1 = vec![2, 3];
        // A key that only they have.
        lie.entries.insert(0, (1, vec![0, 1], 1));
        lie.write(&files);
        assert_eq!(audit_from(&files, seed, 3), [""; 0]);
        assert_eq!(audit_from(&files, seed, 4), [""; 0]);
        assert_eq!(audit_from(&files, seed, 2).len(), 1);
    }

    #[test]
    fn files_that_cover_more_than_the_log_has_are_told_if_it_was_read_to_its_end() {
        let (_, files) = files(ReadMode::Pread);
        let (seed, streams) = (KeySeed::of(files.store), streams(1));
        Lie::none(seed).write(&files);
        let mut table = PositionTable::new(1, 1);
        (1..=FEW).for_each(|position| table.push(frame(position).offset, position as i64));
        table.end_commit(frame(FEW));
        Positions::None.write(&files, SEGMENT, &table).unwrap();
        for (upto, is_whole, expected) in [(FEW, true, 0), (FEW - 1, true, 2), (FEW - 1, false, 0), (0, true, 2)] {
            let mut audit = IndexAudit::open(Arc::clone(&files.disk), files.store, &mut |_| {}).unwrap();
            for position in 1..=upto {
                if position == 1 {
                    audit.begin_segment(3, 9, 1);
                }
                audit.add(frame(position), &[event(seed, position, &streams)]);
            }
            let problems = audit.finish(is_whole).unwrap();
            assert_eq!(problems.len(), expected, "{upto} {is_whole}: {problems:?}");
            assert!(problems.iter().all(|problem| problem.reason.contains("positions that the log does not have")));
        }
    }

    /// Found by review. It was told as a problem of the store.
    #[test]
    fn a_file_that_there_are_too_few_files_left_to_open_again_is_no_problem_of_the_index() {
        let (memory, files) = files(ReadMode::Pread);
        let mut table = PositionTable::new(1, 1);
        (1..=FEW).for_each(|position| table.push(frame(position).offset, position as i64));
        table.end_commit(frame(FEW));
        Positions::None.write(&files, SEGMENT, &table).unwrap();
        let disk = FaultyDisk::new(memory);
        let audit = || IndexAudit::open(Arc::new(disk.clone()), files.store, &mut |_| {}).unwrap();
        for (kind, problems) in [(ErrorKind::Other, Some(1)), (ErrorKind::OutOfMemory, None)] {
            let mut audit = audit();
            disk.inject(Fault::next(Call::Open).kind(kind));
            audit.begin_segment(3, 9, 1);
            assert_eq!(audit.finish(false).ok().map(|problems| problems.len()), problems, "{kind:?}");
        }
    }

    /// Positions files of commits of two events, with this many positions and this checkpoint.
    fn positions_told(salt: u64, count: u64, checkpoint: FrameAt) -> Vec<String> {
        let (_, files) = files(ReadMode::Pread);
        let (seed, streams) = (KeySeed::of(files.store), streams(1));
        let mut table = PositionTable::new(1, 1);
        (1..=count).for_each(|position| table.push(frame((position - 1) / 2 * 2 + 1).offset, position as i64));
        table.end_commit(checkpoint);
        Positions::None.write(&files, SegmentId { salt, ..SEGMENT }, &table).unwrap();
        let mut audit = IndexAudit::open(Arc::clone(&files.disk), files.store, &mut |_| {}).unwrap();
        audit.begin_segment(3, 9, 1);
        for position in [1, 3] {
            audit.add(frame(position), &[position, position + 1].map(|of| event(seed, of, &streams)));
        }
        audit.finish(true).unwrap().into_iter().map(|problem| problem.reason).collect()
    }

    #[test]
    fn a_positions_file_that_lies_in_any_way_is_told() {
        let last = frame(3);
        assert_eq!(positions_told(9, 4, last), [""; 0]);
        assert_eq!(positions_told(9, 2, frame(1)), [""; 0], "the log has gone on since");
        assert_eq!(positions_told(8, 4, last), [format!("the index file is of another history; {REBUILT}")]);
        for count in [1, 3] {
            let expected = format!("the index file ends inside a commit; {WRONG}");
            assert_eq!(positions_told(9, count, frame(count)), [expected], "{count}");
        }
        let expected = format!("the checkpoint is not the last frame that is covered; {WRONG}");
        for checkpoint in [frame(1), FrameAt { end: last.end + 8, ..last }, FrameAt { checksum: 0, ..last }] {
            assert_eq!(positions_told(9, 4, checkpoint), std::slice::from_ref(&expected), "{checkpoint:?}");
        }
    }

    #[test]
    fn a_damaged_page_is_told_once_and_its_file_is_not_compared() {
        for path in [RUN.path(), IndexFile::Positions { segment: 3 }.path()] {
            for (at, reason) in [
                (20, "the index file is damaged, or of another version or store"),
                (4_096 + 20, "the checksum of an index page"),
            ] {
                let (disk, files) = files(ReadMode::Pread);
                let seed = KeySeed::of(files.store);
                Lie::none(seed).write(&files);
                let mut table = PositionTable::new(1, 1);
                (1..=FEW).for_each(|position| table.push(frame(position).offset, position as i64));
                table.end_commit(frame(FEW));
                Positions::None.write(&files, SEGMENT, &table).unwrap();
                let mut bytes = contents(&disk, &path);
                bytes[at] ^= 1;
                replace(&disk, &path, &bytes);
                let told = audit_from(&files, seed, 1);
                assert!(told.len() == 1 && told[0].starts_with(reason) && told[0].ends_with(REBUILT), "{told:?}");
            }
        }
    }

    #[test]
    fn lists_of_postings_have_digests_of_their_own() {
        let digest = |subset: u32| {
            let mut digest = Digest::default();
            (0..12).filter(|posting| subset & (1 << posting) != 0).for_each(|posting| digest.add(posting));
            (digest.count, digest.last, digest.hash)
        };
        let digests: std::collections::HashSet<_> = (0..1 << 12).map(digest).collect();
        assert_eq!(digests.len(), 1 << 12);
    }

    /// A merge that was killed before it removed its inputs.
    #[test]
    fn runs_that_are_part_of_another_are_left_over() {
        let (_, files) = files(ReadMode::Pread);
        let seed = KeySeed::of(files.store);
        Lie::none(seed).write(&files);
        for (first, last) in [(1, 1), (1, 2), (2, 3), (3, 4), (4, 4)] {
            run::RunWriter::create(&files, first, last, 0, run::RunSize::default()).unwrap().finish(&files).unwrap();
        }
        assert_eq!(audit_from(&files, seed, 1), [""; 0]);
    }

    #[test]
    fn what_is_no_file_of_the_index_or_lies_before_the_log_is_passed_over() {
        let (_, files) = files(ReadMode::Pread);
        let seed = KeySeed::of(files.store);
        files.disk.create(&format!("{DIRECTORY}/notes.txt")).unwrap();
        run::RunWriter::create(&files, 1, 2, 0, run::RunSize::default()).unwrap().finish(&files).unwrap();
        assert_eq!(audit_from(&files, seed, 3), [""; 0]);
        assert_eq!(audit_from(&files, seed, 1).len(), 1);
    }

    #[test]
    fn a_run_that_begins_behind_what_the_log_lost_is_compared() {
        let (_, files) = files(ReadMode::Pread);
        let seed = KeySeed::of(files.store);
        for (first, last) in [(1, 2), (3, FEW)] {
            run::RunWriter::create(&files, first, last, 0, run::RunSize::default()).unwrap().finish(&files).unwrap();
        }
        let told = |shown: &[u64]| audit_of(&files, seed, 1, shown.iter().copied()).len();
        assert_eq!([told(&[1, 2, 3, FEW]), told(&[1, 3, FEW]), told(&[1, FEW])], [2, 1, 0]);
    }

    #[test]
    fn what_the_log_lost_is_not_held_against_the_index() {
        let same = |position| (position, frame(position));
        assert_eq!(problems(same, |position| position != 600), [""; 0]);
        assert_eq!(problems(same, |position| position < 600), [""; 0]);
        assert_eq!(problems(same, |position| position > 600), [""; 0]);
    }
}
