//! Looking events up: the index finds candidates, the record decides, and a damaged index file is rebuilt on the way.

use std::sync::Arc;

use super::Inner;
use super::event::Event;
use super::query::Query;
use crate::error::{Error, Result};
use crate::index::{
    Candidate, Candidates, Direction, EventPlace, IndexError, IndexView, Key, Located, StreamCandidates, StreamHead,
};
use crate::log::{Segment, SegmentList};

impl Inner {
    /// Runs a lookup in the index; after the repair of a damaged file it is run again on a fresh view.
    pub(super) fn with_repair<T>(&self, lookup: impl FnMut() -> Result<T, IndexError>) -> Result<T> {
        self.indexer().with_repair(lookup)
    }

    fn place_of(&self, position: u64) -> Result<EventPlace> {
        let place = self.with_repair(|| self.index.view().locate(position))?;
        place.ok_or_else(|| self.lost(position))
    }

    /// Where the frame of a visible position stands.
    pub(super) fn locate(&self, position: u64) -> Result<(Arc<Segment>, u64)> {
        let EventPlace { segment, offset } = self.place_of(position)?;
        Ok((self.log.segment(segment)?, offset))
    }

    #[cold]
    fn lost(&self, position: u64) -> Error {
        Error::corrupt(self.log.disk().locate("index"), 0, format!("position {position} is not in the index"))
    }

    /// Shows the event at a visible position.
    pub(super) fn with_event<T>(&self, position: u64, show: impl FnOnce(&Event<'_>) -> T) -> Result<T> {
        self.with_event_at(position, self.place_of(position)?, show)
    }

    pub(super) fn with_event_at<T>(
        &self,
        position: u64,
        place: EventPlace,
        show: impl FnOnce(&Event<'_>) -> T,
    ) -> Result<T> {
        let segments = self.log.segments();
        let segment = self.segment_in(&segments, place.segment)?;
        let mut scratch = Vec::new();
        let (header, bytes) = segment.record(place.offset, position, &mut scratch)?;
        let event = Event::decode(&header, position, bytes);
        Ok(show(&event.map_err(|reason| segment.corrupt(place.offset, reason))?))
    }

    /// Shows the events of the commit that holds a visible position, in order.
    pub(super) fn visit_commit(&self, position: u64, visit: &mut dyn FnMut(&Event<'_>)) -> Result<()> {
        let (segment, offset) = self.locate(position)?;
        let mut scratch = Vec::new();
        let frame = segment.frame(offset, &mut scratch)?;
        for ordinal in 0..frame.header.count {
            let at = frame.header.link.first_position + u64::from(ordinal);
            let event = frame.record(ordinal).and_then(|bytes| Event::decode(&frame.header, at, bytes));
            visit(&event.map_err(|reason| segment.corrupt(offset, reason))?);
        }
        Ok(())
    }

    /// The checksum of the commit that holds a visible position: it tells histories apart.
    pub(super) fn checksum_at(&self, position: u64) -> Result<u32> {
        let (segment, offset) = self.locate(position)?;
        Ok(segment.header(offset)?.checksum)
    }

    /// The head of a stream among the positions that the runs cover.
    pub(super) fn head_in_runs(&self, view: &Arc<IndexView>, stream: &Key<'_>) -> Result<StreamHead> {
        let run_end = view.run_end();
        if let Some(head) = self.index.known_head(stream, run_end) {
            return Ok(head);
        }
        let head = self.head_between(view, stream, run_end)?;
        if head.version > 0 {
            self.index.remember_head(stream, head, run_end);
        }
        Ok(head)
    }

    /// The head of a stream as it is visible.
    pub(super) fn visible_head_of(&self, stream: &Key<'_>) -> Result<StreamHead> {
        let visible = self.log.visible();
        let view = self.index.view();
        match view.window_head(stream, visible) {
            Some((version, position)) => Ok(StreamHead { version, position }),
            None => self.head_between(&view, stream, visible.min(view.run_end())),
        }
    }

    fn head_between(&self, view: &Arc<IndexView>, stream: &Key<'_>, upto: u64) -> Result<StreamHead> {
        let mut candidates = view.stream_candidates(stream, 1, upto, Direction::Backward);
        while let Some(found) = self.next_of_stream(&mut candidates)? {
            let own = |event: &Event<'_>| (event.stream == stream.name).then_some(event.version);
            if let Some(version) = self.with_event_at(found.position, found.place, own)? {
                return Ok(StreamHead { version, position: found.position });
            }
        }
        Ok(StreamHead::default())
    }

    #[inline]
    pub(super) fn next_of_stream(&self, candidates: &mut StreamCandidates) -> Result<Option<Located>> {
        self.with_repair(|| candidates.next().inspect_err(|_| candidates.renew(self.index.view())))
    }

    pub(super) fn next_of_plan(&self, candidates: &mut Candidates) -> Result<Option<Candidate>> {
        self.with_repair(|| candidates.next().inspect_err(|_| candidates.renew(self.index.view())))
    }

    /// A visible position and its place; `None` if the log does not keep it any more.
    pub(super) fn place_if_kept(&self, position: u64) -> Result<Option<(u64, EventPlace)>> {
        if position < self.first_kept_position() {
            return Ok(None);
        }
        self.place_of(position).map(|place| Some((position, place)))
    }

    /// A segment of a list that a read holds.
    #[inline]
    pub(super) fn segment_in<'s>(&self, segments: &'s SegmentList, number: u64) -> Result<&'s Segment> {
        segments.numbered(number).map(|segment| &**segment).ok_or_else(|| {
            Error::corrupt(self.log.path(number), 0, "the index leads to a segment that the log does not have")
        })
    }

    /// The position of the event with this version of a stream, which is visible.
    pub(super) fn position_of_version(&self, stream: &Key<'_>, version: u64) -> Result<Option<u64>> {
        let view = self.index.view();
        let mut candidates = view.stream_candidates(stream, 1, self.log.visible(), Direction::Backward);
        while let Some(found) = self.next_of_stream(&mut candidates)? {
            let own = |event: &Event<'_>| (event.stream == stream.name).then_some(event.version);
            match self.with_event_at(found.position, found.place, own)? {
                Some(own) if own == version => return Ok(Some(found.position)),
                Some(own) if own < version => return Ok(None),
                _ => {}
            }
        }
        Ok(None)
    }

    /// The first event after `after` and up to `upto`, which is visible, that matches a query.
    pub(super) fn first_match(&self, query: &Query, after: u64, upto: u64) -> Result<Option<u64>> {
        let after = after.max(self.first_kept_position() - 1);
        if after >= upto {
            return Ok(None);
        }
        let Some(plan) = query.plan(self.seed) else { return Ok(Some(after + 1)) };
        let mut candidates = self.index.view().candidates(Arc::new(plan), after + 1, upto, Direction::Forward);
        loop {
            let Some(candidate) = self.next_of_plan(&mut candidates)? else { return Ok(None) };
            if candidate.exact || self.with_event(candidate.position, |event| query.matches(event))? {
                return Ok(Some(candidate.position));
            }
        }
    }

    /// The first event after `after` in the windows of the index, in-flight commits included, that matches a query.
    /// Windows compare names, so that no record is needed.
    pub(super) fn first_match_in_windows(
        &self,
        view: &Arc<IndexView>,
        query: &Query,
        after: u64,
    ) -> Result<Option<u64>> {
        let after = after.max(view.run_end());
        let last = view.last();
        if after >= last {
            return Ok(None);
        }
        let Some(plan) = query.plan(self.seed) else { return Ok(Some(after + 1)) };
        let mut candidates = view.candidates(Arc::new(plan), after + 1, last, Direction::Forward);
        let found = candidates.next().map_err(Error::from)?;
        debug_assert!(found.is_none_or(|candidate| candidate.exact));
        Ok(found.map(|candidate| candidate.position))
    }
}
