//! Keeping the index up to the log: what follows its last spill is indexed again at open, and a reader takes in what its
//! writer appends.

use std::sync::Arc;

use super::Inner;
use super::event::Event;
use crate::error::{Error, Result};
use crate::format::frame::Frame;
use crate::index::{self, FrameAt as IndexedFrame, Index, IndexOptions, KeySeed, SegmentSpan};
use crate::log::{FIRST_FRAME, Log};
use crate::storage::Disk;

/// An index of so few bytes of the log is not worth a file when the store is closed.
const SETTLED_BYTES_MIN: u64 = 256 * 1024;
/// A reader that holds so many full windows in memory looks whether the writer has put them on disk.
const FULL_WINDOWS_MAX: usize = 2;

/// Brings an index up to a log.
#[derive(Clone, Copy)]
pub(super) struct Indexer<'a> {
    pub(super) log: &'a Log,
    pub(super) index: &'a Index,
    pub(super) seed: KeySeed,
}

impl Indexer<'_> {
    /// Indexes what is visible and not indexed yet; how many events that were.
    pub(super) fn index_tail(&self) -> Result<u64> {
        let head = self.log.visible();
        let begun = self.index.covered();
        while self.index.covered() < head {
            self.index_segment_from(self.index.covered() + 1, head)?;
        }
        Ok(head - begun.min(head))
    }

    fn index_segment_from(&self, next: u64, head: u64) -> Result<()> {
        let segments = self.log.segments();
        let segment = segments.holding(next).ok_or_else(|| {
            let log = self.log.disk().locate(crate::log::LOG_DIR);
            Error::corrupt(log, 0, format!("no segment holds position {next}"))
        })?;
        if self.index.active_segment() != segment.number {
            self.index.roll(segment.number, segment.salt, segment.first_position);
        }
        // Behind the frame of the last position that is indexed, if it is in this segment.
        let before = match next > segment.first_position {
            true => self.index.view().locate(next - 1)?,
            false => None,
        };
        let offset = before.map_or(FIRST_FRAME, |place| place.offset);
        self.log.scan(segment.number, offset, head, &mut |offset, frame| match frame.header.link.first_position {
            first if first < next => Ok(()),
            _ => self.index_frame(segment.number, offset, frame),
        })?;
        match self.index.covered() < next {
            true => Err(segment.corrupt(offset, &format!("position {next} is missing"))),
            false => Ok(()),
        }
    }

    fn index_frame(&self, segment: u64, offset: u64, frame: &Frame<'_>) -> Result<()> {
        let mut events = Vec::with_capacity(frame.header.count as usize);
        for ordinal in 0..frame.header.count {
            let position = frame.header.link.first_position + u64::from(ordinal);
            let event = frame.record(ordinal).and_then(|bytes| Event::decode(&frame.header, position, bytes));
            events.push(event.map_err(|reason| Error::corrupt(self.log.path(segment), offset, reason))?);
        }
        let keys = events
            .iter()
            .map(|event| self.seed.event(event.stream, event.event_type, event.tags(), event.time, event.version));
        let at = IndexedFrame {
            segment,
            offset,
            end: offset + frame.header.frame_len() as u64,
            checksum: frame.header.checksum,
            first_position: frame.header.link.first_position,
        };
        self.index.insert(at, keys);
        if self.index.is_over_budget() {
            self.index.freeze();
            while self.index.spill(self.log.synced())? {}
        }
        Ok(())
    }
}

impl Inner {
    fn indexer(&self) -> Indexer<'_> {
        Indexer { log: &self.log, index: &self.index, seed: self.seed }
    }

    pub(super) fn index_tail(&self) -> Result<u64> {
        self.indexer().index_tail()
    }

    /// Writes the index of the newest events to disk if it is worth it, so that the next open has little to do.
    pub(super) fn settle_index(&self) -> Result<()> {
        if self.index.active_log_bytes() >= SETTLED_BYTES_MIN {
            self.index.freeze();
        }
        while self.index.spill(self.log.synced())? {}
        Ok(())
    }

    /// Lets go of windows that the writer has put on disk by now: the memory of a reader stays bounded, however long it
    /// follows.
    pub(super) fn let_go_of_windows(&self) -> Result<()> {
        let view = self.index.view();
        if view.frozen_windows() < FULL_WINDOWS_MAX {
            return Ok(());
        }
        let visible = self.log.visible();
        let written = index::checkpoints(&self.disk)?.into_iter().map(|known| known.position);
        if written.filter(|position| *position <= visible).max().unwrap_or(0) <= view.run_end() {
            return Ok(());
        }
        let index = self.index.open_again(&spans_of(&self.log), &*self.log)?;
        Indexer { index: &index, ..self.indexer() }.index_tail()?;
        self.index.adopt(&index);
        Ok(())
    }
}

/// Opens the index of a log.
pub(super) fn open_index(
    disk: &Arc<dyn Disk>,
    log: &Log,
    options: IndexOptions,
    progress: &mut dyn FnMut(index::RebuildProgress),
) -> Result<Index> {
    Ok(Index::open(Arc::clone(disk), log.store(), options, &spans_of(log), log, progress)?)
}

fn spans_of(log: &Log) -> Vec<SegmentSpan> {
    let segments = log.segments();
    let mut ends = segments.iter().skip(1).map(|segment| segment.first_position);
    segments
        .iter()
        .map(|segment| SegmentSpan {
            number: segment.number,
            salt: segment.salt,
            first_position: segment.first_position,
            end_position: ends.next(),
        })
        .collect()
}
