//! Reading: a query, a range, a direction, over a view that does not change.
//!
//! A read is pinned to the head of the moment it was asked for: what is appended later is not part of it. Events are
//! lent one by one, without an allocation each.

use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use super::event::{Event, RecordedEvent};
use super::query::Query;
use super::{Guard, Inner};
use crate::error::{Error, Invalid, Result};
use crate::format::frame::FrameHeader;
use crate::format::record::is_of_stream;
use crate::index::{Candidates, Direction, EventPlace, KeyKind, StreamCandidates, TimeRange};
use crate::log::{Cursor, FrameAt, RecordAt, SegmentList};
use crate::types::{Position, Timestamp};

/// Events of a stream whose places are looked up at once.
const STREAM_AHEAD: usize = 16;
/// Bytes of a commit that are fetched ahead: the whole of a small one.
const PREFETCHED_BYTES: usize = 512;

/// A read that is described first, and then read from with [`Read::next`] or [`Read::owned`].
///
/// ```
/// use annals::{ExpectedVersion, NewEvent, Query, Store};
///
/// let store = Store::in_memory()?;
/// store.append("account-alice", ExpectedVersion::NoStream, [NewEvent::raw("Opened", "")])?;
/// let mut read = store.read(Query::stream("account-alice")).limit(10);
/// while let Some(event) = read.next()? {
///     println!("{} {}", event.position(), event.event_type());
/// }
/// # Ok::<(), annals::Error>(())
/// ```
#[must_use = "a read reads nothing before it is asked for events"]
pub struct Read {
    inner: Arc<Inner>,
    _guard: Option<Guard>,
    query: Query,
    head: u64,
    begin: Begin,
    left: u64,
    direction: Direction,
    times: TimeRange,
    way: Way,
    current: Option<Current>,
    /// The segments that hold what is read; empty before the first event.
    segments: Arc<SegmentList>,
    scratch: Vec<u8>,
}

/// Where a read begins.
#[derive(Debug, Clone, Copy)]
enum Begin {
    /// At the beginning, in the direction of reading.
    Open,
    From(u64),
    After(u64),
}

/// The way to the next event.
enum Way {
    Undecided,
    /// The reader could not follow its writer.
    Failed(Error),
    /// All events, forwards: commit by commit, up to `end` of a range that may hold events of the times asked for.
    Log {
        cursor: Cursor,
        commit: Option<(FrameHeader, u32)>,
        from: u64,
        end: u64,
    },
    /// All events, backwards: the position that is next, down to `begin` of such a range.
    Back {
        next: u64,
        begin: u64,
    },
    Stream(Box<StreamWay>),
    Plan(Candidates),
    Ended,
}

/// The event that is lent.
enum Current {
    /// A record of the commit that the cursor went to.
    InCommit {
        header: FrameHeader,
        position: u64,
        range: Range<usize>,
    },
    Record {
        segment: u64,
        at: RecordAt,
        position: u64,
    },
}

impl Read {
    /// A read of what is visible now. `failure` is what kept a reader from following its writer; it comes up at the
    /// first event.
    pub(super) fn new(inner: &Arc<Inner>, query: Query, failure: Option<Error>) -> Self {
        Self {
            head: inner.log.visible(),
            inner: Arc::clone(inner),
            _guard: None,
            query,
            begin: Begin::Open,
            left: u64::MAX,
            direction: Direction::Forward,
            times: TimeRange::default(),
            way: failure.map_or(Way::Undecided, Way::Failed),
            current: None,
            segments: Arc::default(),
            scratch: Vec::new(),
        }
    }

    /// The read, which keeps the guard of the handle that it was begun through.
    pub(super) fn guarded_by(self, guard: Option<Guard>) -> Self {
        Self { _guard: guard, ..self }
    }

    /// Begins at this position, included. Replaces `after`.
    pub fn from(mut self, position: Position) -> Self {
        self.begin = Begin::From(position.number());
        self
    }

    /// Begins behind this position, in the direction of reading; `None` begins at the beginning. Replaces `from`.
    pub fn after(mut self, position: impl Into<Option<Position>>) -> Self {
        self.begin = position.into().map_or(Begin::Open, |position| Begin::After(position.number()));
        self
    }

    /// Reads up to this position, included; `None` is no bound. It bounds [`head`](Read::head) as well.
    pub fn upto(mut self, position: impl Into<Option<Position>>) -> Self {
        if let Some(position) = position.into() {
            self.head = self.head.min(position.number());
        }
        self
    }

    /// Reads at most so many events that match.
    pub fn limit(mut self, events: u64) -> Self {
        self.left = events;
        self
    }

    /// Reads from the last event to the first.
    pub fn reverse(mut self) -> Self {
        self.direction = Direction::Backward;
        self
    }

    /// Reads only events that happened at this time or later.
    pub fn since(mut self, time: Timestamp) -> Self {
        self.times.since = Some(time.nanos());
        self
    }

    /// Reads only events that happened before this time.
    pub fn until(mut self, time: Timestamp) -> Self {
        self.times.until = Some(time.nanos());
        self
    }

    /// The head of the store when the read was asked for, up to which what it finds is complete: the `after` of the
    /// append that rests on it.
    pub fn head(&self) -> Option<Position> {
        Position::new(self.head)
    }

    /// The next event, borrowed until the next call; `None` at the end, and from then on.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the query breaks a limit; [`Error::Corrupt`] if an event on disk is damaged; [`Error::Io`]
    /// if it cannot be read.
    #[expect(clippy::should_implement_trait, reason = "it lends; `owned` gives an iterator")]
    pub fn next(&mut self) -> Result<Option<Event<'_>>> {
        match self.advance() {
            Ok(true) => self.lend().map(Some),
            Ok(false) => {
                self.way = Way::Ended;
                Ok(None)
            }
            Err(error) => {
                self.way = Way::Ended;
                Err(error)
            }
        }
    }

    /// The event that [`Read::next`] gave last, once more; `None` before the first and at the end.
    ///
    /// # Errors
    /// Those of [`Read::next`].
    pub fn current(&self) -> Result<Option<Event<'_>>> {
        match self.way {
            Way::Undecided | Way::Failed(_) | Way::Ended => Ok(None),
            _ => self.current.as_ref().map(|_| self.lend()).transpose(),
        }
    }

    /// An iterator over the events, each owned.
    pub fn owned(self) -> OwnedEvents {
        OwnedEvents { read: self }
    }

    /// Counts the events that are left.
    ///
    /// # Errors
    /// Those of [`Read::next`].
    pub fn count(mut self) -> Result<u64> {
        let mut count = 0;
        while self.next()?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    /// Goes to the next event that matches.
    fn advance(&mut self) -> Result<bool> {
        match &self.way {
            Way::Undecided => {
                self.way = self.decide()?;
                self.segments = Arc::clone(&self.inner.log.segments());
            }
            Way::Failed(error) => return Err(error.clone()),
            _ => {}
        }
        if self.left == 0 {
            return Ok(false);
        }
        while self.step()? {
            if self.is_wanted()? {
                self.left -= 1;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn decide(&self) -> Result<Way> {
        let mut violations = Vec::new();
        self.query.violations("query", &mut violations);
        if !violations.is_empty() {
            return Err(Error::Invalid(Invalid { violations }));
        }
        let (low, high) = match (self.direction, self.begin) {
            (_, Begin::Open) => (1, self.head),
            (Direction::Forward, Begin::From(position)) => (position, self.head),
            (Direction::Forward, Begin::After(position)) => (position.saturating_add(1), self.head),
            (Direction::Backward, Begin::From(position)) => (1, position.min(self.head)),
            (Direction::Backward, Begin::After(position)) => (1, (position - 1).min(self.head)),
        };
        if low > high {
            return Ok(Way::Ended);
        }
        if let Some(stream) = self.query.only_stream() {
            let key = self.inner.seed.key(KeyKind::Stream, stream);
            let candidates = self.inner.index.view().stream_candidates(&key, low, high, self.direction);
            return Ok(Way::Stream(Box::new(StreamWay::new(candidates))));
        }
        match (self.query.plan(self.inner.seed), self.direction) {
            (Some(plan), direction) => {
                Ok(Way::Plan(self.inner.index.view().candidates(Arc::new(plan), low, high, direction)))
            }
            (None, Direction::Backward) => Ok(Way::Back { next: high, begin: u64::MAX }),
            (None, Direction::Forward) => self.cursor_from(low),
        }
    }

    /// The way through the log from a position on, to the end of the first range that may hold what is asked for.
    fn cursor_from(&self, low: u64) -> Result<Way> {
        let low = low.max(self.inner.first_kept_position());
        let Some((low, end)) = self.range_in_time(low, self.head)? else { return Ok(Way::Ended) };
        let (segment, offset) = self.inner.locate(low)?;
        let cursor = Cursor::at(Arc::clone(&self.inner.log), FrameAt { segment: segment.number, offset }, low)?;
        Ok(Way::Log { cursor, commit: None, from: low, end })
    }

    /// The next range of positions that may hold events of the times asked for: all of them, unless times were given.
    fn range_in_time(&self, from: u64, to: u64) -> Result<Option<(u64, u64)>> {
        if from > to {
            return Ok(None);
        }
        if self.times == TimeRange::default() {
            return Ok(Some((from, to)));
        }
        self.inner.with_repair(|| self.inner.index.view().next_in_time(self.times, from, to, self.direction))
    }

    /// Goes to the next event that may match.
    #[inline]
    fn step(&mut self) -> Result<bool> {
        let place = match &mut self.way {
            Way::Undecided | Way::Failed(_) | Way::Ended => None,
            Way::Log { .. } => return self.step_in_log(),
            Way::Back { .. } => self.step_back()?,
            Way::Stream(way) => way.next(&self.inner, &self.segments, self.left)?,
            Way::Plan(candidates) => match self.inner.next_of_plan(candidates)? {
                Some(candidate) => self.inner.place_if_kept(candidate.position)?,
                None => None,
            },
        };
        let Some((position, place)) = place else { return Ok(false) };
        let segment = self.inner.segment_in(&self.segments, place.segment)?;
        let at = segment.find_record(place.offset, position, &mut self.scratch)?;
        self.current = Some(Current::Record { segment: place.segment, at, position });
        Ok(true)
    }

    fn step_back(&mut self) -> Result<Option<(u64, EventPlace)>> {
        let Way::Back { next, begin } = self.way else { return Ok(None) };
        let (position, begin) = match next < begin {
            false => (next, begin),
            true => match self.range_in_time(self.inner.first_kept_position(), next)? {
                Some((begin, position)) => (position, begin),
                None => return Ok(None),
            },
        };
        self.way = Way::Back { next: position - 1, begin };
        self.inner.place_if_kept(position)
    }

    #[inline]
    fn step_in_log(&mut self) -> Result<bool> {
        loop {
            let Way::Log { cursor, commit, from, end } = &mut self.way else { return Ok(false) };
            if let Some((header, ordinal)) = commit
                && *ordinal < header.count
            {
                let position = header.link.first_position + u64::from(*ordinal);
                // The read may have been asked to end in the middle of a commit.
                if position > self.head {
                    return Ok(false);
                }
                let range = cursor.frame(*header)?.record_range(*ordinal);
                let range = range.map_err(|reason| cursor.segment().corrupt(cursor.current().offset, reason))?;
                *ordinal += 1;
                self.current = Some(Current::InCommit { header: *header, position, range });
                return Ok(true);
            }
            if let Some(header) = cursor.advance(*end)? {
                let skipped = from.saturating_sub(header.link.first_position) as u32;
                *commit = Some((header, skipped));
            } else if *end < self.head {
                // The last commit may have reached beyond the range.
                let low = cursor.next_position().max(*end + 1);
                self.way = self.cursor_from(low)?;
            } else {
                return Ok(false);
            }
        }
    }

    /// Whether the event that the read went to is one of those asked for.
    #[inline]
    fn is_wanted(&self) -> Result<bool> {
        if self.times == TimeRange::default() {
            match (&self.way, &self.current) {
                (Way::Stream(_), Some(Current::Record { segment, at, .. })) => {
                    let segment = self.inner.segment_in(&self.segments, *segment)?;
                    let stream = self.query.only_stream().unwrap_or_default();
                    return Ok(is_of_stream(segment.lend(at, &self.scratch)?, stream));
                }
                _ if self.query.is_all() => return Ok(true),
                _ => {}
            }
        }
        let event = self.lend()?;
        Ok(self.query.matches(&event)
            && self.times.since.is_none_or(|since| event.time >= since)
            && self.times.until.is_none_or(|until| event.time < until))
    }

    #[inline]
    fn lend(&self) -> Result<Event<'_>> {
        match (&self.current, &self.way) {
            (Some(Current::InCommit { header, position, range }), Way::Log { cursor, .. }) => {
                let frame = cursor.frame(*header)?;
                let event = Event::decode(header, *position, &frame.body[range.clone()]);
                event.map_err(|reason| cursor.segment().corrupt(cursor.current().offset, reason))
            }
            (Some(Current::Record { segment, at, position }), _) => {
                let segment = self.inner.segment_in(&self.segments, *segment)?;
                let event = Event::decode(&at.header, *position, segment.lend(at, &self.scratch)?);
                event.map_err(|reason| segment.corrupt(0, &format!("position {position}: {reason}")))
            }
            _ => unreachable!("an event is lent only after the read went to it"),
        }
    }
}

/// The way along a stream: places are looked up some events ahead, so that the processor fetches the records of one
/// load side by side and not one after the other.
struct StreamWay {
    candidates: StreamCandidates,
    ahead: SmallVec<[(u64, EventPlace); STREAM_AHEAD]>,
    taken: usize,
}

impl StreamWay {
    fn new(candidates: StreamCandidates) -> Self {
        Self { candidates, ahead: SmallVec::new(), taken: 0 }
    }

    #[inline]
    fn next(&mut self, inner: &Inner, segments: &SegmentList, wanted: u64) -> Result<Option<(u64, EventPlace)>> {
        if self.taken == self.ahead.len() {
            self.look_ahead(inner, segments, wanted)?;
        }
        let next = self.ahead.get(self.taken).copied();
        self.taken += 1;
        Ok(next)
    }

    fn look_ahead(&mut self, inner: &Inner, segments: &SegmentList, wanted: u64) -> Result<()> {
        self.taken = 0;
        self.ahead.clear();
        let wanted = wanted.min(STREAM_AHEAD as u64) as usize;
        while self.ahead.len() < wanted
            && let Some(found) = inner.next_of_stream(&mut self.candidates)?
        {
            if let Some(segment) = segments.numbered(found.place.segment) {
                segment.prefetch(found.place.offset, PREFETCHED_BYTES);
            }
            self.ahead.push((found.position, found.place));
        }
        Ok(())
    }
}

impl std::fmt::Debug for Read {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Read").field("query", &self.query).field("head", &self.head).finish_non_exhaustive()
    }
}

/// The events of a read, each owned. Ends after the first error.
#[derive(Debug)]
pub struct OwnedEvents {
    read: Read,
}

impl Iterator for OwnedEvents {
    type Item = Result<RecordedEvent>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read.next().map(|event| event.map(|event| event.to_recorded())).transpose()
    }
}
