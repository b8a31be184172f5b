//! Merging adjacent runs into one, so that a lookup touches few of them.
//!
//! The policy keeps each run at least twice as large as all newer ones together, so that sizes grow threefold from run
//! to run: a billion events, spilled in windows of 100,000, lie in about nine runs, and never in more than fifteen. An
//! event's postings are written again each time its run is merged, at most about a dozen times until then.
//!
//! A merge is a sequential pass over its inputs, made twice: once to count, once to write. It holds a few pages of
//! each.

use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use super::fault::Result;
use super::paged::Files;
use super::run::{Found, Run, RunSize, RunWriter};
use crate::format::run::{ENTRIES_MAX, POSITIONS_MAX, RunEntry};
use crate::sync::atomic::{AtomicBool, Ordering};

/// Which of these adjacent runs, in the order of their positions, to merge next; `None` if they are fine.
pub(super) fn choose(runs: &[Arc<Run>]) -> Option<Range<usize>> {
    let shapes: Vec<Shape> = runs.iter().map(|run| Shape::of(run)).collect();
    choose_shapes(&shapes)
}

/// What the policy looks at.
#[derive(Debug, Clone, Copy)]
struct Shape {
    positions: u64,
    entries: u64,
    bytes: u64,
}

impl Shape {
    fn of(run: &Run) -> Self {
        Self { positions: run.last() - run.first() + 1, entries: run.header().entries, bytes: run.bytes() }
    }

    /// Both together; `None` if that is more than a run can be.
    fn with(self, other: Shape) -> Option<Shape> {
        let both = Shape {
            positions: self.positions + other.positions,
            entries: self.entries + other.entries,
            bytes: self.bytes + other.bytes,
        };
        (both.positions <= POSITIONS_MAX && both.entries <= ENTRIES_MAX).then_some(both)
    }
}

/// The newest group that is out of shape. Groups that end before the newest run arise where runs were rebuilt.
fn choose_shapes(shapes: &[Shape]) -> Option<Range<usize>> {
    (1..=shapes.len()).rev().map(|end| suffix_of(&shapes[..end])).find(|group| !group.is_empty())
}

/// From the oldest run that is less than twice as large as all behind it together, to the last; empty if there is none.
fn suffix_of(shapes: &[Shape]) -> Range<usize> {
    let end = shapes.len();
    let mut sum = shapes[end - 1];
    let mut start = end;
    for older in (0..end - 1).rev() {
        let is_small = shapes[older].bytes < 2 * sum.bytes;
        let Some(more) = sum.with(shapes[older]) else { break };
        sum = more;
        if is_small {
            start = older;
        }
    }
    start..end
}

/// Writes the postings of adjacent runs as one run, without those below `kept_from`. `None` if it was told to stop.
pub(super) fn merge(files: &Files, runs: &[Arc<Run>], kept_from: u64, stop: &AtomicBool) -> Result<Option<Run>> {
    let mut size = RunSize::default();
    let counted = walk(runs, kept_from, stop, |_, parts| {
        size.entries += 1;
        size.postings += parts.iter().map(|part| u64::from(part.count)).sum::<u64>();
        Ok(())
    })?;
    if !counted {
        return Ok(None);
    }
    let (oldest, newest) = (&runs[0], &runs[runs.len() - 1]);
    let checksum = newest.header().checksum;
    let mut writer = RunWriter::create(files, oldest.first(), newest.last(), checksum, size)?;
    let written = walk(runs, kept_from, stop, |key, parts| write_key(&mut writer, runs, key, parts))?;
    if !written {
        return Ok(None);
    }
    writer.finish(files).map(Some)
}

/// The postings of one key in one of the runs.
#[derive(Debug, Clone, Copy)]
struct Part {
    run: usize,
    start: u64,
    count: u32,
    last: u32,
}

fn write_key(writer: &mut RunWriter, runs: &[Arc<Run>], key: u64, parts: &[Part]) -> Result<()> {
    let base = runs[0].first();
    // Runs are adjacent and a merged one is no longer than a run can be: the differences fit.
    let shift = |part: &Part| (runs[part.run].first() - base) as u32;
    let count = parts.iter().map(|part| part.count).sum();
    let newest = &parts[parts.len() - 1];
    writer.key(key, count, shift(newest) + newest.last)?;
    for part in parts {
        for index in part.start..part.start + u64::from(part.count) {
            writer.posting(shift(part) + runs[part.run].posting(index)?)?;
        }
    }
    Ok(())
}

/// Calls `each` with every key of the runs, ascending, and its parts in the order of positions. Returns whether it came
/// to the end.
fn walk(
    runs: &[Arc<Run>],
    kept_from: u64,
    stop: &AtomicBool,
    mut each: impl FnMut(u64, &[Part]) -> Result<()>,
) -> Result<bool> {
    let mut readers = runs.iter().map(|run| EntryReader::new(run)).collect::<Result<SmallVec<[_; 16]>>>()?;
    let mut parts: SmallVec<[Part; 16]> = SmallVec::new();
    while let Some(key) = readers.iter().filter_map(EntryReader::key).min() {
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        parts.clear();
        for (run, reader) in readers.iter_mut().enumerate() {
            if reader.key() == Some(key) {
                parts.extend(reader.part(run, kept_from)?);
                reader.advance()?;
            }
        }
        if !parts.is_empty() {
            each(key, &parts)?;
        }
    }
    Ok(true)
}

/// Reads the entries of a run in order.
struct EntryReader<'a> {
    run: &'a Run,
    next: u64,
    entry: Option<RunEntry>,
}

impl<'a> EntryReader<'a> {
    fn new(run: &'a Run) -> Result<Self> {
        let mut reader = Self { run, next: 0, entry: None };
        reader.advance()?;
        Ok(reader)
    }

    fn key(&self) -> Option<u64> {
        self.entry.map(|entry| entry.key)
    }

    fn advance(&mut self) -> Result<()> {
        self.entry = match self.next < self.run.header().entries {
            true => Some(self.run.entry(self.next)?),
            false => None,
        };
        self.next += 1;
        Ok(())
    }

    /// The postings of the current entry that are kept; `None` if none is.
    fn part(&self, run: usize, kept_from: u64) -> Result<Option<Part>> {
        let Some(entry) = &self.entry else { return Ok(None) };
        let found: Found = self.run.found(entry)?;
        let below = if kept_from <= self.run.first() { 0 } else { self.run.count_below(&found, kept_from)? };
        let (start, count) = (found.start + u64::from(below), found.count - below);
        Ok((count > 0).then_some(Part { run, start, count, last: found.last }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::key::{KeyKind, KeySeed};
    use crate::index::paged::tests::{faulty_files, files};
    use crate::index::run;
    use crate::index::window::{FrameAt, SegmentId, Window};
    use crate::storage::{Call, Disk, ReadMode};

    fn shape(bytes: u64) -> Shape {
        Shape { positions: bytes, entries: bytes, bytes }
    }

    fn chosen(sizes: &[u64]) -> Option<Range<usize>> {
        choose_shapes(&sizes.iter().map(|bytes| shape(*bytes)).collect::<Vec<_>>())
    }

    #[test]
    fn a_run_is_merged_unless_it_is_twice_as_large_as_all_newer_ones() {
        assert_eq!(chosen(&[]), None);
        assert_eq!(chosen(&[1]), None);
        assert_eq!(chosen(&[1, 1]), Some(0..2));
        assert_eq!(chosen(&[2, 1]), None);
        assert_eq!(chosen(&[5, 2, 1]), Some(0..3));
        assert_eq!(chosen(&[6, 2, 1]), None);
        assert_eq!(chosen(&[100, 2, 1, 1]), Some(1..4));
        assert_eq!(chosen(&[100, 5, 5, 90, 1]), Some(0..5), "small runs that were rebuilt between large ones");
        assert_eq!(chosen(&[POSITIONS_MAX, 1]), None);
        assert_eq!(chosen(&[POSITIONS_MAX, POSITIONS_MAX]), None, "more than a run can be");
    }

    #[test]
    fn what_is_merged_is_never_more_than_a_run_can_be() {
        let merged = |positions, entries| {
            let older = Shape { positions: positions - 1, entries: entries - 1, bytes: 1 };
            choose_shapes(&[older, shape(1)])
        };
        assert_eq!(merged(POSITIONS_MAX, ENTRIES_MAX), Some(0..2));
        assert_eq!(merged(POSITIONS_MAX + 1, ENTRIES_MAX), None);
        assert_eq!(merged(POSITIONS_MAX, ENTRIES_MAX + 1), None);
    }

    #[test]
    fn a_billion_events_lie_in_few_runs_and_are_seldom_written_again() {
        let (mut runs, mut written, mut most) = (Vec::<u64>::new(), 0, 0);
        let windows = 10_000;
        for _ in 0..windows {
            runs.push(1);
            while let Some(group) = chosen(&runs) {
                let sum = runs[group.clone()].iter().sum();
                written += sum;
                runs.splice(group, [sum]);
            }
            most = most.max(runs.len());
        }
        assert!(most <= 12, "{most} runs");
        assert!(written <= 13 * windows, "{written} windows were written to merge {windows}");
    }

    #[test]
    fn the_policy_looks_at_what_a_run_is() {
        let (_, files) = files(ReadMode::Map);
        let run = write(&files, 11, 100);
        let Shape { positions, entries, bytes } = Shape::of(&run);
        assert_eq!((positions, entries, bytes), (100, run.header().entries, run.bytes()));
    }

    /// The stream of position p is `s-(p % 7)`, with one event a commit.
    fn write(files: &Files, first: u64, count: u64) -> Arc<Run> {
        let seed = KeySeed::of(files.store);
        let window = Window::new(SegmentId { number: 1, salt: 9, first: 1 }, first);
        for position in first..first + count {
            let stream = format!("s-{}", position % 7);
            let tag = format!("{position}");
            let event = seed.event(&stream, "type", [tag.as_str()], 0, 1);
            let frame =
                FrameAt { segment: 1, offset: 64, end: 72, checksum: position as u32, first_position: position };
            window.insert(frame, &[event]);
        }
        Arc::new(run::write(files, &window).unwrap())
    }

    fn positions(run: &Run, kind: KeyKind, name: &str, files: &Files) -> Vec<u64> {
        let found = run.lookup(KeySeed::of(files.store).key(kind, name).hash).unwrap();
        let indexes = found.map_or(0..0, |found| found.start..found.start + u64::from(found.count));
        indexes.map(|index| run.first() + u64::from(run.posting(index).unwrap())).collect()
    }

    #[test]
    fn a_merged_run_has_what_its_inputs_had_and_was_kept() {
        for kept_from in [0, 1, 50, 100, 101, 250] {
            let (disk, files) = files(ReadMode::Map);
            let runs = [write(&files, 1, 100), write(&files, 101, 3), write(&files, 104, 300)];
            let merged = merge(&files, &runs, kept_from, &AtomicBool::new(false)).unwrap().unwrap();
            assert_eq!((merged.first(), merged.last(), merged.header().checksum), (1, 403, 403));
            assert_eq!(merged.verify(), []);
            for stream in 0..7 {
                let expected: Vec<u64> = (kept_from.max(1)..404).filter(|position| position % 7 == stream).collect();
                assert_eq!(positions(&merged, KeyKind::Stream, &format!("s-{stream}"), &files), expected);
            }
            for position in 1..404 {
                let expected = if position < kept_from { vec![] } else { vec![position] };
                assert_eq!(positions(&merged, KeyKind::Tag, &position.to_string(), &files), expected);
            }
            assert_eq!(disk.list("index").unwrap().len(), 4);
        }
    }

    #[test]
    fn a_merge_that_drops_everything_is_an_empty_run() {
        let (_, files) = files(ReadMode::Map);
        let runs = [write(&files, 1, 100), write(&files, 101, 3)];
        let merged = merge(&files, &runs, 104, &AtomicBool::new(false)).unwrap().unwrap();
        assert_eq!((merged.header().entries, merged.header().postings), (0, 0));
        assert_eq!(positions(&merged, KeyKind::Type, "type", &files), [0; 0]);
    }

    #[test]
    fn a_merge_that_is_stopped_leaves_nothing() {
        let (disk, files) = files(ReadMode::Map);
        let runs = [write(&files, 1, 100), write(&files, 101, 3)];
        assert!(merge(&files, &runs, 0, &AtomicBool::new(true)).unwrap().is_none());
        assert_eq!(disk.list("index").unwrap().len(), 2);
    }

    #[test]
    fn a_merge_that_is_stopped_while_it_writes_takes_its_file_away() {
        let (disk, files) = faulty_files(ReadMode::Map);
        let runs = [write(&files, 1, 100), write(&files, 101, 3)];
        let stop = AtomicBool::new(false);
        disk.hold(Call::Create, ".run");
        std::thread::scope(|scope| {
            let merging = scope.spawn(|| merge(&files, &runs, 0, &stop).unwrap().is_none());
            disk.wait_held();
            stop.store(true, Ordering::Relaxed);
            disk.release();
            assert!(merging.join().unwrap());
        });
        assert_eq!(disk.list("index").unwrap().len(), 2);
    }
}
