//! Rebuilding what is missing of the index from the log, which is the truth.

use super::fault::{IndexError, Result};
use super::key::{EventKeys, KeySeed};
use super::positions::PositionTable;
use super::window::{FrameAt, SegmentId, Window};
use super::{FrameSource, RebuildProgress, WindowLimits};
use crate::error::Error;
use crate::format::frame::Frame;
use crate::format::record::Record;
use crate::format::segment::HEADER_BYTES;

/// Positions between two reports of progress.
const POSITIONS_PER_REPORT: u64 = 16_384;

/// Where the first frame of a segment lies.
pub(super) const FIRST_FRAME: u64 = HEADER_BYTES as u64;

/// Reads the log again.
pub(super) struct Rebuilder<'a> {
    pub(super) source: &'a dyn FrameSource,
    pub(super) seed: KeySeed,
    pub(super) limits: WindowLimits,
    pub(super) progress: Progress<'a>,
}

impl Rebuilder<'_> {
    /// The frames and times of the positions of a segment up to `upto`, as far as the log has them.
    pub(super) fn positions(&mut self, segment: SegmentId, upto: u64) -> Result<PositionTable> {
        let mut table = PositionTable::new(segment.first, segment.first);
        let progress = &mut self.progress;
        self.source.scan(segment.number, FIRST_FRAME, upto, &mut |offset, frame| {
            if frame.header.link.first_position != table.next() {
                return Err(gap(frame));
            }
            let times = times_of(frame)?;
            progress.add(times.len() as u64);
            for time in times {
                table.push(offset, time);
            }
            table.end_commit(frame_at(segment, offset, frame));
            Ok(())
        })?;
        Ok(table)
    }

    /// The windows of the positions from `from` to `upto` of one segment, one after the other, as far as the log has
    /// them. The frame of `from` lies at `offset` or behind it.
    pub(super) fn windows(
        &mut self,
        segment: SegmentId,
        offset: u64,
        (from, upto): (u64, u64),
        each: &mut dyn FnMut(Window) -> Result<()>,
    ) -> Result<()> {
        let mut window = Window::new(segment, from);
        let mut failure = None;
        let (progress, limits, seed) = (&mut self.progress, self.limits, self.seed);
        let scanned = self.source.scan(segment.number, offset, upto, &mut |offset, frame| {
            if frame.header.link.first_position < from {
                return Ok(());
            }
            if frame.header.link.first_position != window.next_position() {
                return Err(gap(frame));
            }
            window.insert(frame_at(segment, offset, frame), &keys_of(seed, frame)?);
            progress.add(u64::from(frame.header.count));
            if limits.is_reached_by(&window) {
                let next = Window::new(segment, window.next_position());
                let full = std::mem::replace(&mut window, next);
                // The scan passes on errors of the log only: ours is kept beside it.
                each(full).inspect_err(|error| failure = Some(error.clone())).map_err(Error::from)?;
            }
            Ok(())
        });
        if let Some(error) = failure {
            return Err(error);
        }
        scanned.map_err(IndexError::from)?;
        if window.is_empty() { Ok(()) } else { each(window) }
    }
}

/// Counts what was rebuilt, and tells of it now and then.
pub(super) struct Progress<'a> {
    report: &'a mut dyn FnMut(RebuildProgress),
    done: u64,
    total: u64,
    next_report: u64,
}

impl<'a> Progress<'a> {
    pub(super) fn new(report: &'a mut dyn FnMut(RebuildProgress)) -> Self {
        Self { report, done: 0, total: 0, next_report: POSITIONS_PER_REPORT }
    }

    /// So many positions more are to be rebuilt.
    pub(super) fn expect(&mut self, positions: u64) {
        self.total += positions;
    }

    fn add(&mut self, positions: u64) {
        self.done += positions;
        if self.done >= self.next_report {
            self.next_report = self.done + POSITIONS_PER_REPORT;
            self.tell();
        }
    }

    pub(super) fn finish(&mut self) {
        if self.done > 0 {
            self.tell();
        }
    }

    fn tell(&mut self) {
        (self.report)(RebuildProgress { done: self.done, total: self.total.max(self.done) });
    }
}

fn frame_at(segment: SegmentId, offset: u64, frame: &Frame<'_>) -> FrameAt {
    FrameAt {
        segment: segment.number,
        offset,
        end: offset + frame.header.frame_len() as u64,
        checksum: frame.header.checksum,
        first_position: frame.header.link.first_position,
    }
}

fn keys_of<'a>(seed: KeySeed, frame: &Frame<'a>) -> Result<Vec<EventKeys<'a>>, Error> {
    records_of(frame, |record| {
        seed.event(record.stream, record.event_type, record.tags(), record.time(), record.version())
    })
}

fn times_of(frame: &Frame<'_>) -> Result<Vec<i64>, Error> {
    records_of(frame, |record| record.time())
}

fn records_of<'a, T>(frame: &Frame<'a>, each: impl Fn(Record<'a>) -> T) -> Result<Vec<T>, Error> {
    let record = |ordinal| frame.record(ordinal).and_then(Record::decode).map_err(|reason| corrupt(frame, reason));
    (0..frame.header.count).map(|ordinal| record(ordinal).map(&each)).collect()
}

fn gap(frame: &Frame<'_>) -> Error {
    corrupt(frame, "the positions of the log have a gap")
}

fn corrupt(frame: &Frame<'_>, reason: &str) -> Error {
    Error::corrupt("log", 0, format!("{reason}, in the commit at position {}", frame.header.link.first_position))
}
