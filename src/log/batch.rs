//! A batch: the frames that are staged while the batch before is written, and then written together.

use std::sync::Arc;

use super::segment::{Segment, SegmentWriter};
use crate::error::Result;
use crate::storage::File;

/// Whoever leads a batch brings the right to write to the segment that it begins in.
const LED: &str = "a batch that is led has what writes it";

/// Frames that follow each other in one segment.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) segment: Arc<Segment>,
    /// What writes to the segment. That of the first piece comes from whoever led the batch before, unless it is the
    /// piece that starts the segment.
    pub(super) writer: Option<SegmentWriter>,
    /// Where in the segment the first frame goes.
    pub(super) offset: u64,
    /// The frames' bytes in the batch.
    pub(super) bytes: std::ops::Range<usize>,
    /// The first frame is a start frame: everything before it must be synced before it is written.
    pub(super) starts_segment: bool,
    /// The position, and the header checksum, of the last frame.
    pub(super) last_position: u64,
    pub(super) checksum: u32,
}

impl Piece {
    pub(super) fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    /// The file that it was written to.
    pub(super) fn file(&self) -> &Arc<dyn File> {
        self.writer.as_ref().expect(LED).file()
    }
}

/// Frames of one group commit.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Counts the batches of the process, from 0.
    pub(super) number: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) pieces: Vec<Piece>,
    /// Somebody waits for the sync.
    pub(super) wants_sync: bool,
    /// The last position before the first commit that asks for a sync: up to there all is visible as soon as it is written.
    pub(super) unsynced: Option<u64>,
    /// Pieces of which the syncer knows that they were written.
    pub(super) noted: usize,
    /// The segment of the last piece before the batch was emptied: nearly always that of the next one, too.
    pub(super) segment_before: Option<Arc<Segment>>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Drops the bytes of a frame whose encoding panicked: they would be written between two frames.
    pub(super) fn discard_unfinished(&mut self) {
        self.bytes.truncate(self.pieces.last().map_or(0, |piece| piece.bytes.end));
    }

    /// Notes that `frame_len` bytes of a frame were appended to `bytes`, for this place.
    pub(super) fn push(&mut self, segment: &Arc<Segment>, offset: u64, frame_len: usize, position: u64, checksum: u32) {
        let end = self.bytes.len();
        let starts_segment = offset == super::FIRST_FRAME;
        match self.pieces.last_mut() {
            Some(piece) if !starts_segment => {
                debug_assert_eq!(piece.end(), offset);
                piece.bytes.end = end;
                piece.last_position = position;
                piece.checksum = checksum;
            }
            _ => self.pieces.push(Piece {
                segment: shared(self.segment_before.take(), segment),
                writer: None,
                offset,
                bytes: end - frame_len..end,
                starts_segment,
                last_position: position,
                checksum,
            }),
        }
        if !self.wants_sync {
            self.unsynced = Some(position);
        }
    }

    /// Gives the last piece, which starts a segment, what writes it.
    pub(super) fn begin_with(&mut self, writer: SegmentWriter) {
        self.pieces.last_mut().expect("a segment begins with a frame").writer = Some(writer);
    }

    /// The last position of the batch.
    pub(super) fn last_position(&self) -> u64 {
        self.pieces.last().map_or(0, |piece| piece.last_position)
    }

    /// Writes a piece, and lends its bytes to readers from then on. They look for them when the head is shown.
    pub(super) fn write(&mut self, index: usize) -> Result<()> {
        let piece = &mut self.pieces[index];
        let end = piece.end();
        let writer = piece.writer.as_mut().expect(LED);
        piece.segment.write(writer, &self.bytes[piece.bytes.clone()], piece.offset)?;
        writer.publish(end);
        Ok(())
    }

    /// The written pieces that were not noted yet, which are now.
    pub(super) fn note(&mut self, written: usize) -> &[Piece] {
        let noted = std::mem::replace(&mut self.noted, written);
        &self.pieces[noted..written]
    }

    /// Empties the batch, keeping its memory, and numbers it anew.
    pub(super) fn reset(&mut self, number: u64) {
        const KEPT_BYTES: usize = 1024 * 1024;
        self.number = number;
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        self.segment_before = self.pieces.drain(..).next_back().map(|piece| piece.segment);
        self.noted = 0;
        self.wants_sync = false;
        self.unsynced = None;
    }
}

/// The segment, by the reference that is there if it is one to it: two threads that count references to one segment, the
/// leader and whoever stages, take its cache line from each other.
fn shared(known: Option<Arc<Segment>>, segment: &Arc<Segment>) -> Arc<Segment> {
    known.filter(|known| Arc::ptr_eq(known, segment)).unwrap_or_else(|| Arc::clone(segment))
}
