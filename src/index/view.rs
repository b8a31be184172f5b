//! A view: the index as it stood at one moment, for any number of readers without a lock.
//!
//! Its sources, runs and windows, lie in the order of their positions and do not overlap, so that a search goes through
//! them one by one, in the direction of reading, and yields every position once. The last source is the active window,
//! which grows under the view: a reader takes its upper bound first, the view second.

use std::sync::Arc;

use smallvec::SmallVec;

use super::fault::{IndexError, IndexFault, Result};
use super::key::{Key, KeyKind};
use super::merge;
use super::plan::Plan;
use super::positions::{Positions, zone_first, zone_last};
use super::postings::{Cursor, Direction};
use super::run::{Found, Run, RunPostings};
use super::window::{SegmentId, Spare, Window};
use crate::error::Error;
use crate::format::positions::Zone;

/// Positions of a stream that are looked up at once: most streams are shorter.
pub(super) const STREAM_CHUNK: usize = 16;
/// Bytes of a stream's name that need no allocation.
const INLINE_NAME: usize = 64;

/// The index at one moment.
#[derive(Debug, Clone)]
pub(crate) struct IndexView {
    /// The first position that the log keeps.
    pub(super) kept_from: u64,
    /// In the order of their positions, without gaps; the last one is the active window.
    pub(super) sources: Vec<Source>,
    /// In the order of their numbers.
    pub(super) segments: Vec<SegmentIndex>,
}

/// A range of positions, and what answers for it.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// Here, and not only in what it is part of, so that a search for a position stays in one place.
    pub(super) first: u64,
    pub(super) part: Part,
}

#[derive(Debug, Clone)]
pub(super) enum Part {
    Run(Arc<Run>),
    Window(Arc<Window>),
}

/// A segment, and what is known of its positions outside of windows.
#[derive(Debug, Clone)]
pub(super) struct SegmentIndex {
    pub(super) id: SegmentId,
    pub(super) positions: Positions,
}

/// The segment and the offset at which the frame of an event begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventPlace {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

/// A position whose event may be what was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) position: u64,
    /// Whether it is: names were compared, not only their hashes. Otherwise the record decides.
    pub(crate) exact: bool,
}

/// A range of event times: `since` included, `until` not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct TimeRange {
    pub(crate) since: Option<i64>,
    pub(crate) until: Option<i64>,
}

impl TimeRange {
    fn overlaps(&self, zone: Zone) -> bool {
        self.since.is_none_or(|since| zone.greatest >= since) && self.until.is_none_or(|until| zone.least < until)
    }
}

impl Source {
    pub(super) fn run(run: Arc<Run>) -> Self {
        Self { first: run.first(), part: Part::Run(run) }
    }

    pub(super) fn window(window: Arc<Window>) -> Self {
        Self { first: window.first, part: Part::Window(window) }
    }

    /// The last position; before the first, if there is none.
    pub(super) fn last(&self) -> u64 {
        match &self.part {
            Part::Run(run) => run.last(),
            Part::Window(window) => window.next_position() - 1,
        }
    }

    fn is(&self, other: &Source) -> bool {
        match (&self.part, &other.part) {
            (Part::Run(run), Part::Run(other)) => Arc::ptr_eq(run, other),
            (Part::Window(window), Part::Window(other)) => Arc::ptr_eq(window, other),
            _ => false,
        }
    }

    pub(super) fn as_run(&self) -> Option<&Arc<Run>> {
        match &self.part {
            Part::Run(run) => Some(run),
            Part::Window(_) => None,
        }
    }

    pub(super) fn as_window(&self) -> Option<&Arc<Window>> {
        match &self.part {
            Part::Window(window) => Some(window),
            Part::Run(_) => None,
        }
    }
}

impl IndexView {
    /// The last position that is indexed; 0 if none is.
    pub(crate) fn last(&self) -> u64 {
        self.active().next_position() - 1
    }

    /// Where the frame of a position begins; `None` if the log does not have the position.
    #[inline]
    pub(crate) fn locate(&self, position: u64) -> Result<Option<EventPlace>> {
        if position < self.kept_from {
            return Ok(None);
        }
        let (segment, offset) = match &self.sources[self.source_of(position)].part {
            Part::Window(window) => (window.segment.number, window.offset_of(position)),
            Part::Run(_) => {
                let Some(segment) = self.segment_of(position) else { return Ok(None) };
                (segment.id.number, segment.positions.offset_of(position)?)
            }
        };
        Ok(offset.map(|offset| EventPlace { segment, offset }))
    }

    /// The version and the position of the last event of a stream up to `upto`, if a window has it. If none has, the
    /// last candidate of `stream_candidates` tells, and its record decides.
    pub(crate) fn window_head(&self, stream: &Key<'_>, upto: u64) -> Option<(u64, u64)> {
        // Nearly always it is the active one that knows, or none.
        self.active().stream_head(stream, upto).or_else(|| self.frozen_head(stream, upto))
    }

    /// The same, of the windows before the active one.
    pub(crate) fn frozen_head(&self, stream: &Key<'_>, upto: u64) -> Option<(u64, u64)> {
        let (_, before) = self.sources.split_last()?;
        before.iter().rev().map_while(Source::as_window).find_map(|window| window.stream_head(stream, upto))
    }

    /// The positions from `from` to `to`, both included, of the events that may match a plan.
    pub(crate) fn candidates(
        self: &Arc<Self>,
        plan: Arc<Plan>,
        from: u64,
        to: u64,
        direction: Direction,
    ) -> Candidates {
        let walk = Walk::new(Arc::clone(self), from, to, direction);
        Candidates { plan, walk, state: Search::Begin }
    }

    /// The positions from `from` to `to`, both included, of the events that may be of a stream. The way of every load:
    /// it allocates nothing.
    pub(crate) fn stream_candidates(
        self: &Arc<Self>,
        stream: &Key<'_>,
        from: u64,
        to: u64,
        direction: Direction,
    ) -> StreamCandidates {
        debug_assert_eq!(stream.kind, KeyKind::Stream);
        for source in &self.sources {
            // The runs lie far apart in memory: their first lines are fetched side by side.
            if let Part::Run(run) = &source.part
                && (source.first <= to && run.last() >= from)
            {
                run.prefetch(stream.hash);
            }
        }
        StreamCandidates::new(stream, Walk::new(Arc::clone(self), from, to, direction))
    }

    /// The next range of positions between `from` and `to`, both included, in the direction of reading, that may hold
    /// events of these times. What lies before it holds none; the caller goes on behind it.
    pub(crate) fn next_in_time(
        &self,
        times: TimeRange,
        from: u64,
        to: u64,
        direction: Direction,
    ) -> Result<Option<(u64, u64)>> {
        let (mut low, mut high) = (from.max(self.kept_from), to.min(self.last()));
        while low <= high {
            let at = if direction == Direction::Forward { low } else { high };
            let (zone, first, last) = self.zone_at(at)?;
            // Where nothing is known of the times, events may be of any.
            if zone.is_none_or(|zone| times.overlaps(zone)) {
                return Ok(Some((first.max(low), last.min(high))));
            }
            match direction {
                Direction::Forward => low = last + 1,
                Direction::Backward => high = first - 1,
            }
        }
        Ok(None)
    }

    /// The times around a position, and the range of positions that they are of.
    fn zone_at(&self, position: u64) -> Result<(Option<Zone>, u64, u64)> {
        let source = &self.sources[self.source_of(position)];
        let (segment_first, zone) = match (&source.part, self.segment_of(position)) {
            (Part::Window(window), _) => (window.segment.first, window.zone_of(position)),
            (Part::Run(_), Some(segment)) => (segment.id.first, segment.positions.zone_of(segment.id.first, position)?),
            (Part::Run(_), None) => (position, None),
        };
        let first = zone_first(segment_first, position).max(source.first);
        // The zone ends with its segment, and with what its source knows of it.
        let last = zone_last(segment_first, position).min(source.last()).min(self.end_of(position) - 1);
        Ok((zone, first, last))
    }

    /// Begins a new active window behind the last position. One that is empty is replaced.
    pub(super) fn begin_window(&mut self, segment: SegmentId, spare: Spare) {
        let next = self.last() + 1;
        self.active().freeze();
        if self.active().is_empty() {
            self.sources.pop();
        }
        self.sources.push(Source::window(Window::reusing(spare, segment, next).into()));
    }

    pub(super) fn oldest_frozen(&self) -> Option<&Arc<Window>> {
        self.sources[..self.sources.len() - 1].iter().find_map(Source::as_window)
    }

    /// What is known of the positions of a segment.
    pub(super) fn positions_of(&self, segment: u64) -> Positions {
        let known = self.segments.iter().find(|known| known.id.number == segment);
        known.map_or(Positions::None, |known| known.positions.clone())
    }

    pub(super) fn set_positions(&mut self, segment: u64, positions: Positions) {
        if let Some(known) = self.segments.iter_mut().find(|known| known.id.number == segment) {
            known.positions = positions;
        }
    }

    /// The run in which a fault was found, unless it was replaced since.
    pub(super) fn run_with(&self, fault: &IndexFault) -> Option<&Arc<Run>> {
        self.sources.iter().filter_map(Source::as_run).find(|run| run.id() == fault.file && run.seed() == fault.seed)
    }

    /// Puts others in the place of a source; `false` if it is not part of the view.
    pub(super) fn replace(&mut self, source: &Source, others: Vec<Source>) -> bool {
        let Some(place) = self.sources.iter().position(|known| known.is(source)) else { return false };
        self.sources.splice(place..=place, others);
        true
    }

    /// Puts a merged run in the place of its inputs; `false` if one of them is not part of the view.
    pub(super) fn replace_runs(&mut self, inputs: &[Arc<Run>], merged: Arc<Run>) -> bool {
        let is_input = |source: &Source, input: &Arc<Run>| source.as_run().is_some_and(|run| Arc::ptr_eq(run, input));
        let Some(place) = self.sources.iter().position(|source| is_input(source, &inputs[0])) else { return false };
        let range = place..place + inputs.len();
        let known = self.sources.get(range.clone()).unwrap_or_default();
        if known.len() != inputs.len() || !known.iter().zip(inputs).all(|(source, input)| is_input(source, input)) {
            return false;
        }
        self.sources.splice(range, [Source::run(merged)]);
        true
    }

    /// The adjacent runs that should be merged next; empty if none should.
    pub(super) fn runs_to_merge(&self) -> Vec<Arc<Run>> {
        // Windows lie between runs only where nothing is written.
        let runs: Vec<Arc<Run>> = self.sources.iter().map_while(Source::as_run).cloned().collect();
        merge::choose(&runs).map_or(Vec::new(), |group| runs[group].to_vec())
    }

    pub(super) fn active(&self) -> &Arc<Window> {
        let last = self.sources.last().and_then(Source::as_window);
        last.expect("the last source of a view is the active window")
    }

    /// The source that a position belongs to, if any has it.
    #[inline]
    pub(super) fn source_of(&self, position: u64) -> usize {
        self.sources.partition_point(|source| source.first <= position).saturating_sub(1)
    }

    /// The last segment that begins at or before a position.
    #[inline]
    pub(super) fn segment_of(&self, position: u64) -> Option<&SegmentIndex> {
        let behind = self.segments.partition_point(|segment| segment.id.first <= position);
        self.segments.get(behind.checked_sub(1)?)
    }

    /// The position behind the segment of a position.
    fn end_of(&self, position: u64) -> u64 {
        let behind = self.segments.partition_point(|segment| segment.id.first <= position);
        self.segments.get(behind).map_or(u64::MAX, |segment| segment.id.first)
    }
}

/// There is a run over a position, and no segment under it: a bug, or a bit that flipped in memory.
#[cold]
fn unknown(position: u64) -> IndexError {
    Error::corrupt("index", 0, format!("nothing is known of the frame of position {position}")).into()
}

/// A way through the sources of a view, and the range that is left of it.
#[derive(Debug)]
struct Walk {
    view: Arc<IndexView>,
    direction: Direction,
    low: u64,
    high: u64,
    /// The source that is being searched.
    source: usize,
}

impl Walk {
    fn new(view: Arc<IndexView>, from: u64, to: u64, direction: Direction) -> Self {
        let (low, high) = (from.max(view.kept_from), to.min(view.last()));
        let mut walk = Self { view, direction, low, high, source: 0 };
        walk.begin();
        walk
    }

    /// Goes to the source in which the range begins.
    fn begin(&mut self) {
        self.source = self.view.source_of(match self.direction {
            Direction::Forward => self.low,
            Direction::Backward => self.high,
        });
    }

    /// The source to search; `None` once nothing is left of the range.
    #[inline]
    fn source(&self) -> Option<&Source> {
        (self.low <= self.high).then(|| &self.view.sources[self.source])
    }

    /// Says that everything up to this position was yielded, or holds nothing.
    #[inline]
    fn pass(&mut self, position: u64) {
        match self.direction {
            Direction::Forward => self.low = position + 1,
            Direction::Backward => self.high = position - 1,
        }
    }

    /// Says that the source holds nothing more.
    fn leave_source(&mut self) {
        let source = &self.view.sources[self.source];
        match self.direction {
            Direction::Forward => self.low = self.low.max(source.last() + 1),
            Direction::Backward => self.high = self.high.min(source.first - 1),
        }
        self.begin();
    }

    /// Goes on in another view, from where it stands.
    fn renew(&mut self, view: Arc<IndexView>) {
        self.low = self.low.max(view.kept_from);
        self.view = view;
        self.begin();
    }
}

/// The candidates for a plan, found source by source as they are asked for.
#[derive(Debug)]
pub(crate) struct Candidates {
    plan: Arc<Plan>,
    walk: Walk,
    state: Search,
}

/// Where a search stands in its source.
#[derive(Debug)]
enum Search {
    Begin,
    Run {
        cursor: Cursor<RunPostings>,
        first: u64,
        last: u64,
    },
    /// Copied from a window, and what is left of it to be searched.
    Window {
        found: std::vec::IntoIter<u64>,
        left: Option<(u64, u64)>,
    },
}

impl Candidates {
    /// The next candidate. Ascending or descending, as asked for; no position comes twice. After an error, `renew`
    /// goes on without loss.
    pub(crate) fn next(&mut self) -> Result<Option<Candidate>> {
        while let Some(source) = self.walk.source() {
            let found = match &mut self.state {
                Search::Begin => {
                    match Search::begin(source, &self.plan, &self.walk)? {
                        Some(state) => self.state = state,
                        None => self.walk.leave_source(),
                    }
                    continue;
                }
                Search::Run { cursor, first, last } => {
                    let position = seek_run(cursor, *first, *last, &self.walk)?;
                    position.map(|position| Candidate { position, exact: false })
                }
                Search::Window { found, left } => match (found.next(), *left) {
                    (Some(position), _) => Some(Candidate { position, exact: true }),
                    (None, Some(range)) => {
                        self.state = Search::in_window(source, &self.plan, range, self.walk.direction)?;
                        continue;
                    }
                    (None, None) => None,
                },
            };
            if let Some(candidate) = found {
                self.walk.pass(candidate.position);
                return Ok(found);
            }
            self.state = Search::Begin;
            self.walk.leave_source();
        }
        Ok(None)
    }

    /// Goes on in a newer view: after a repair, which puts other files in the place of damaged ones.
    pub(crate) fn renew(&mut self, view: Arc<IndexView>) {
        self.walk.renew(view);
        self.state = Search::Begin;
    }
}

impl Search {
    /// Looks up the keys in a source; `None` if it has no match.
    fn begin(source: &Source, plan: &Plan, walk: &Walk) -> Result<Option<Self>> {
        match &source.part {
            Part::Run(run) => {
                let lookup = |key: &Key<'_>| {
                    let found = run.lookup(key.hash)?;
                    Ok(found.map(|found| RunPostings { run: Arc::clone(run), found }))
                };
                let cursor = plan.cursor(lookup)?;
                Ok(cursor.map(|cursor| Search::Run { cursor, first: run.first(), last: run.last() }))
            }
            Part::Window(_) => Self::in_window(source, plan, (walk.low, walk.high), walk.direction).map(Some),
        }
    }

    fn in_window(source: &Source, plan: &Plan, range: (u64, u64), direction: Direction) -> Result<Self> {
        let mut found = Vec::new();
        let left = source.as_window().map(|window| window.search(plan, range, direction, &mut found)).transpose()?;
        Ok(Search::Window { found: found.into_iter(), left: left.flatten() })
    }
}

/// The next position of a run that lies in the range that is left.
fn seek_run(cursor: &mut Cursor<RunPostings>, first: u64, last: u64, walk: &Walk) -> Result<Option<u64>> {
    let (low, high) = (walk.low.max(first), walk.high.min(last));
    if low > high {
        return Ok(None);
    }
    let target = if walk.direction == Direction::Forward { low } else { high };
    let posting = cursor.seek((target - first) as u32, walk.direction)?;
    let position = posting.map(|posting| first + u64::from(posting));
    Ok(position.filter(|position| (low..=high).contains(position)))
}

/// A candidate, and where its frame begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) position: u64,
    /// As in [`Candidate`].
    pub(crate) exact: bool,
    pub(crate) place: EventPlace,
}

/// The candidates for one stream, with their places.
///
/// They are found in chunks: the places of a chunk lie far apart in memory, and looking them up side by side costs
/// hardly more than looking up one.
#[derive(Debug)]
pub(crate) struct StreamCandidates {
    hash: u64,
    name: SmallVec<[u8; INLINE_NAME]>,
    walk: Walk,
    state: StreamSearch,
    chunk: StreamChunk,
}

#[derive(Debug, Clone, Copy)]
enum StreamSearch {
    Begin,
    /// The postings from `low` up to `high` are left.
    Run {
        found: Found,
        low: u32,
        high: u32,
    },
    /// This range is left.
    Window {
        left: Option<(u64, u64)>,
    },
}

/// Candidates that were found and not yet asked for; all of one segment.
#[derive(Debug)]
pub(super) struct StreamChunk {
    pub(super) positions: [u64; STREAM_CHUNK],
    pub(super) offsets: [u64; STREAM_CHUNK],
    pub(super) len: usize,
    /// Most that are found at once.
    pub(super) limit: usize,
    taken: usize,
    segment: u64,
    exact: bool,
}

impl StreamCandidates {
    fn new(stream: &Key<'_>, walk: Walk) -> Self {
        // Who reads backwards wants the head, more often than not.
        let limit = if walk.direction == Direction::Forward { STREAM_CHUNK } else { 1 };
        let chunk = StreamChunk::new(limit);
        let name = SmallVec::from_slice(stream.name.as_bytes());
        Self { hash: stream.hash, name, walk, state: StreamSearch::Begin, chunk }
    }

    /// The next candidate. Ascending or descending, as asked for; no position comes twice. After an error, `renew`
    /// goes on without loss.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<Located>> {
        if self.chunk.taken == self.chunk.len && !self.find_chunk()? {
            return Ok(None);
        }
        let StreamChunk { taken, segment, exact, .. } = self.chunk;
        let place = EventPlace { segment, offset: self.chunk.offsets[taken] };
        self.chunk.taken += 1;
        Ok(Some(Located { position: self.chunk.positions[taken], exact, place }))
    }

    /// Goes on in a newer view: after a repair, which puts other files in the place of damaged ones.
    pub(crate) fn renew(&mut self, view: Arc<IndexView>) {
        self.walk.renew(view);
        self.state = StreamSearch::Begin;
    }

    /// Finds some more; `false` if there are none.
    fn find_chunk(&mut self) -> Result<bool> {
        self.chunk.taken = 0;
        self.chunk.len = 0;
        while let Some(source) = self.walk.source() {
            match (&source.part, self.state) {
                (Part::Run(run), StreamSearch::Run { found, low, high }) => {
                    self.chunk.fill(&self.walk, run, &found, (low, high))?;
                    let count = self.chunk.len as u32;
                    let (low, high) = match self.walk.direction {
                        Direction::Forward => (low + count, high),
                        Direction::Backward => (low, high - count),
                    };
                    self.state = StreamSearch::Run { found, low, high };
                }
                (Part::Window(window), StreamSearch::Window { left: Some(range) }) => {
                    let left = window.find_stream(self.hash, &self.name, range, self.walk.direction, &mut self.chunk);
                    self.chunk.segment = window.segment.number;
                    self.chunk.exact = true;
                    self.state = StreamSearch::Window { left };
                }
                (Part::Run(run), _) => {
                    if let Some(state) = range_in_run(run, self.hash, self.walk.low, self.walk.high)? {
                        prefetch_places(&self.walk.view, run, &state);
                        self.state = state;
                        continue;
                    }
                }
                (Part::Window(_), StreamSearch::Window { left: None }) => {}
                (Part::Window(_), _) => {
                    self.state = StreamSearch::Window { left: Some((self.walk.low, self.walk.high)) };
                    continue;
                }
            }
            if self.chunk.len > 0 {
                self.walk.pass(self.chunk.positions[self.chunk.len - 1]);
                self.chunk.limit = (self.chunk.limit * 4).min(STREAM_CHUNK);
                return Ok(true);
            }
            self.state = StreamSearch::Begin;
            self.walk.leave_source();
        }
        Ok(false)
    }
}

impl StreamChunk {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            positions: [0; STREAM_CHUNK],
            offsets: [0; STREAM_CHUNK],
            len: 0,
            limit,
            taken: 0,
            segment: 0,
            exact: false,
        }
    }

    /// Reads postings of a run, and looks up where their frames begin. After an error the chunk is empty.
    fn fill(&mut self, walk: &Walk, run: &Run, found: &Found, (low, high): (u32, u32)) -> Result<()> {
        self.exact = false;
        let count = self.limit.min((high - low) as usize);
        let mut left = (walk.low, walk.high);
        for (index, position) in (0..).zip(&mut self.positions[..count]) {
            let posting = match walk.direction {
                Direction::Forward => low + index,
                Direction::Backward => high - 1 - index,
            };
            *position = run.position(found, posting)?;
            // A checksum that holds is no promise of their order: none comes twice, or late.
            if !(left.0..=left.1).contains(position) {
                return Err(run.disorder());
            }
            match walk.direction {
                Direction::Forward => left.0 = *position + 1,
                Direction::Backward => left.1 = *position - 1,
            }
        }
        if count == 0 {
            return Ok(());
        }
        let segment = walk.view.segment_of(self.positions[0]).ok_or_else(|| unknown(self.positions[0]))?;
        let (first, end) = (segment.id.first, walk.view.end_of(self.positions[0]));
        // The chunk ends with the segment.
        let same = self.positions[..count].iter().take_while(|position| (first..end).contains(*position)).count();
        segment.positions.offsets_of(&self.positions[..same], &mut self.offsets)?;
        self.segment = segment.id.number;
        self.len = same;
        Ok(())
    }
}

/// Asks the processor for the places of the postings that come first: one chunk ends with its segment, but they need not
/// wait for each other.
fn prefetch_places(view: &IndexView, run: &Run, state: &StreamSearch) {
    let StreamSearch::Run { found, low, high } = state else { return };
    for index in *low..(*high).min(*low + STREAM_CHUNK as u32) {
        if let Ok(position) = run.position(found, index)
            && let Some(segment) = view.segment_of(position)
        {
            segment.positions.prefetch(position);
        }
    }
}

fn range_in_run(run: &Run, hash: u64, low: u64, high: u64) -> Result<Option<StreamSearch>> {
    let Some(found) = run.lookup(hash)? else { return Ok(None) };
    // Nearly always the whole of the run is wanted, and then the postings need not be searched for its ends.
    let begin = if low <= run.first() { 0 } else { run.count_below(&found, low)? };
    let end = if high >= run.last() { found.count } else { run.count_below(&found, high + 1)? };
    Ok(Some(StreamSearch::Run { found, low: begin, high: end }))
}
