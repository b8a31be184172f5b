//! Reading commits in order, from a place on, across segments.

use std::sync::Arc;

use super::Log;
use super::segment::{FIRST_FRAME, FrameAt, Segment};
use crate::error::{Error, Result};
use crate::format::frame::{Frame, FrameHeader, FrameKind, HEADER_BYTES};

/// A place between two frames, from which commits are read one after the other.
#[derive(Debug)]
pub(crate) struct Cursor {
    log: Arc<Log>,
    segment: Arc<Segment>,
    offset: u64,
    next_position: u64,
    /// Where the last commit stood.
    current: FrameAt,
    scratch: Vec<u8>,
}

impl Cursor {
    /// A cursor before the frame at this place, which holds `position` or a later one.
    pub(crate) fn at(log: Arc<Log>, at: FrameAt, position: u64) -> Result<Self> {
        let segment = log.segment(at.segment)?;
        Ok(Self { log, segment, offset: at.offset, next_position: position, current: at, scratch: Vec::new() })
    }

    /// A cursor before the first commit of the log that is kept.
    #[cfg(test)]
    pub(crate) fn at_start(log: Arc<Log>) -> Self {
        let segments = log.segments();
        let segment = Arc::clone(segments.iter().next().expect("an open log has a segment"));
        drop(segments);
        let next_position = segment.first_position;
        let current = FrameAt { segment: segment.number, offset: FIRST_FRAME };
        Self { log, segment, offset: FIRST_FRAME, next_position, current, scratch: Vec::new() }
    }

    /// Goes to the next commit, if it begins at `upto`, which is visible, or before; its header, if there is one. Its
    /// records are not yet verified.
    #[inline]
    pub(crate) fn advance(&mut self, upto: u64) -> Result<Option<FrameHeader>> {
        while self.next_position <= upto {
            let Some(header) = self.frame_here()? else {
                self.enter_next_segment()?;
                continue;
            };
            self.current = FrameAt { segment: self.segment.number, offset: self.offset };
            self.offset += header.frame_len() as u64;
            if header.kind == FrameKind::Commit {
                // Whatever led here, no event is ever skipped in silence.
                if header.link.first_position > self.next_position {
                    return Err(self.gap());
                }
                self.next_position = header.next_position();
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    /// The commit that the cursor went to last, borrowed again without another check.
    #[inline]
    pub(crate) fn frame(&self, header: FrameHeader) -> Result<Frame<'_>> {
        let (offset, body_len) = (self.current.offset, header.body_len as usize);
        let mapped = self.segment.file()?.slice(offset + HEADER_BYTES as u64, body_len);
        let body = mapped.unwrap_or_else(|| &self.scratch[HEADER_BYTES..HEADER_BYTES + body_len]);
        Ok(Frame { header, place: self.segment.place(offset), body })
    }

    /// The position behind the commit that the cursor went to last.
    pub(crate) fn next_position(&self) -> u64 {
        self.next_position
    }

    /// The segment of the commit that the cursor went to last.
    pub(crate) fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Where the commit stands that the cursor went to last.
    pub(crate) fn current(&self) -> FrameAt {
        self.current
    }

    /// The header of the frame here, verified with its body; `None` at the end of the segment.
    #[inline]
    fn frame_here(&mut self) -> Result<Option<FrameHeader>> {
        if self.segment.sealed_end().is_some_and(|end| self.offset >= end) {
            return Ok(None);
        }
        Ok(Some(self.segment.frame(self.offset, &mut self.scratch)?.header))
    }

    #[cold]
    fn gap(&self) -> Error {
        let reason = format!("the commit that holds position {} is not before this one", self.next_position);
        self.segment.corrupt(self.current.offset, &reason)
    }

    #[cold]
    fn enter_next_segment(&mut self) -> Result<()> {
        self.segment = self.log.segment(self.segment.number + 1)?;
        self.offset = FIRST_FRAME;
        Ok(())
    }
}
