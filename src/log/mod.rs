//! The log: frames in segments, one writer, any number of readers. Knows positions; knows no streams.
//!
//! - [`Log`] is what readers share: the segments and the two heads.
//! - [`Appender`] sequences commits, writes them in groups, syncs them, and rolls to the next segment.
//! - [`recovery`] decides what the files of a log mean; [`open`] acts on it.
//! - [`Cursor`] reads commits in order; [`Follower`] keeps a read-only log up to date with its writer.
//!
//! Invariants: bytes below a segment's published end never change; the visible head is published after the bytes, so
//! that whoever sees a position can read it; the synced head never passes what a successful sync covered.

mod appender;
mod batch;
mod cursor;
mod follower;
mod open;
mod recovery;
mod scan;
mod segment;
mod syncer;
#[cfg(test)]
mod tests;
mod trim;
pub(crate) mod verify;
mod watchers;

use std::path::PathBuf;
use std::sync::Arc;

use crossbeam::utils::CachePadded;

use crate::clock::Signal;
use crate::error::Result;
use crate::format::frame::{Frame, FrameHeader, FrameKind};
use crate::storage::{Disk, ReadMode};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{ArcSwap, SwapGuard};
use crate::types::StoreId;

pub(crate) use appender::{Appender, Staged, Ticket, Turn};
pub(crate) use cursor::Cursor;
pub(crate) use follower::Follower;
#[cfg(test)]
pub(crate) use open::Opened;
pub(crate) use open::{Opening, Recovered};
pub(crate) use recovery::Checkpoint;
#[cfg(test)]
pub(crate) use recovery::inspect;
pub(crate) use scan::{Joint, Scanner};
pub(crate) use segment::{FIRST_FRAME, FrameAt, OVERHEAD_BYTES, RecordAt, Segment, SegmentList, path_of};
pub(crate) use watchers::{Watched, Watchers};

/// The directory of the segments.
pub(crate) const LOG_DIR: &str = "log";
/// The file of the synced head.
pub(crate) const SYNCED_HEAD_PATH: &str = "synced-head";

/// How a log is laid out and read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogOptions {
    /// Size of the first segment.
    pub(crate) segment_bytes_first: u64,
    /// Size at which they stop growing.
    pub(crate) segment_bytes_max: u64,
    pub(crate) growth: Growth,
    pub(crate) read_mode: ReadMode,
}

/// How the sizes of segments grow, from the first to the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Growth {
    /// Each is twice as large as the one before, or four times if that was filled faster than it could be synced.
    Doubling,
    /// Each is a sixteenth as large as all that are kept, of a log whose oldest segments go away: those are a good part
    /// of it then, and when little is left the next ones are small again.
    Sixteenths,
}

/// The readable side of a log.
#[derive(Debug)]
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    store: StoreId,
    options: LogOptions,
    segments: ArcSwap<SegmentList>,
    visible: CachePadded<AtomicU64>,
    synced: CachePadded<AtomicU64>,
    watchers: Watchers,
}

impl LogOptions {
    /// The least size of the segment behind one of `active_bytes`, when `unsynced_bytes` of the log are not synced.
    ///
    /// Rolling waits for the disk. Where a good part of a segment was written before any of it was synced, events come so
    /// fast that one of twice the size would soon be full again.
    fn segment_bytes_behind(&self, active_bytes: u64, unsynced_bytes: u64) -> u64 {
        let factor = if unsynced_bytes >= active_bytes / 4 { 4 } else { 2 };
        match self.growth {
            Growth::Doubling => active_bytes.saturating_mul(factor).min(self.segment_bytes_max),
            Growth::Sixteenths => 0,
        }
    }

    /// The usual size of the segment with this number, behind so many bytes of segments that are kept.
    fn segment_bytes(&self, number: u64, kept_bytes: u64) -> u64 {
        let bytes = match self.growth {
            Growth::Doubling => self.segment_bytes_first.saturating_mul(1 << number.saturating_sub(1).min(40)),
            Growth::Sixteenths => self.segment_bytes_first.max(kept_bytes / 16),
        };
        bytes.min(self.segment_bytes_max)
    }
}

impl Log {
    fn new(disk: Arc<dyn Disk>, store: StoreId, options: LogOptions, segments: Vec<Arc<Segment>>, head: u64) -> Self {
        Self {
            disk,
            store,
            options,
            segments: ArcSwap::from_pointee(SegmentList::new(segments)),
            visible: AtomicU64::new(head).into(),
            synced: AtomicU64::new(head).into(),
            watchers: Watchers::default(),
        }
    }

    pub(crate) fn store(&self) -> StoreId {
        self.store
    }

    pub(crate) fn options(&self) -> &LogOptions {
        &self.options
    }

    /// Who watches the heads.
    pub(crate) fn watchers(&self) -> &Watchers {
        &self.watchers
    }

    /// Raises the signal whenever the log closes; without an appender nothing else is known here.
    pub(crate) fn watch(&self, watched: Watched, signal: &Arc<Signal>) {
        self.watchers.add(watched, signal);
    }

    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The last visible position; 0 for none.
    pub(crate) fn visible(&self) -> u64 {
        self.visible.load(Ordering::Acquire)
    }

    /// The last synced position that is visible; 0 for none. A batch is synced before it is shown: who reads up to here
    /// must not be led to bytes that are not published yet, and what goes to a run must be visible.
    pub(crate) fn synced(&self) -> u64 {
        let synced = self.synced.load(Ordering::Acquire);
        synced.min(self.visible())
    }

    /// Shows everything up to `position`, whose bytes are published.
    fn show(&self, position: u64) {
        debug_assert!(position >= self.visible());
        self.visible.store(position, Ordering::Release);
    }

    fn confirm(&self, position: u64) {
        self.synced.fetch_max(position, Ordering::AcqRel);
    }

    /// Shows everything up to `position`, which is synced.
    fn show_synced(&self, position: u64) {
        self.confirm(position);
        self.show(position);
    }

    /// Adds a segment, and forgets those before `first_kept`.
    fn add(&self, segment: Arc<Segment>, first_kept: u64) {
        let segments = SegmentList::clone(&self.segments()).without_before(first_kept);
        self.segments.store(Arc::new(segments.with(segment)));
    }

    pub(crate) fn segments(&self) -> SwapGuard<Arc<SegmentList>> {
        self.segments.load()
    }

    pub(crate) fn path(&self, segment: u64) -> PathBuf {
        self.disk.locate(&path_of(segment))
    }

    /// The segment with this number, which an index entry or a position led to.
    pub(crate) fn segment(&self, number: u64) -> Result<Arc<Segment>> {
        let segments = self.segments();
        segments.numbered(number).cloned().ok_or_else(|| {
            crate::error::Error::corrupt(
                self.path(number),
                0,
                "a position leads to a segment that the log does not have",
            )
        })
    }

    /// Bytes of the segments that are kept, up to the end of what is written.
    pub(crate) fn kept_bytes(&self) -> u64 {
        let segments = self.segments();
        let first = segments.iter().next().expect("an open log has a segment");
        let last = segments.last().expect("an open log has a segment");
        last.base - first.base + last.used_bytes().unwrap_or(0)
    }

    /// The verified header of the frame at this place.
    pub(crate) fn header(&self, at: FrameAt) -> Result<FrameHeader> {
        self.segment(at.segment)?.header(at.offset)
    }

    /// Visits the commits of a segment from the frame at `offset` up to the one that holds position `upto`, every
    /// record verified. Stops at the end of the segment. Reads by `pread`: an unreadable file is an error.
    pub(crate) fn scan(
        &self,
        segment: u64,
        offset: u64,
        upto: u64,
        visit: &mut dyn FnMut(u64, &Frame<'_>) -> Result<()>,
    ) -> Result<()> {
        let segment = self.segment(segment)?;
        let end = segment.used_bytes()?;
        let file = segment.open_file()?;
        let mut scanner = Scanner::new(&*file, segment.number, segment.salt);
        let mut offset = offset;
        while offset < end {
            let frame = scanner.any_frame(offset);
            let frame = frame.map_err(|error| crate::error::Error::io("read", self.path(segment.number), error))?;
            let frame = frame.map_err(|fault| segment.corrupt(offset, fault.reason()))?;
            if frame.header.link.first_position > upto {
                break;
            }
            let len = frame.header.frame_len() as u64;
            if frame.header.kind == FrameKind::Commit {
                visit(offset, &frame)?;
            }
            offset += len;
        }
        Ok(())
    }
}
