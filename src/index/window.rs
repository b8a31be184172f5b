//! A window: the index of a range of positions of one segment, in memory.
//!
//! The last window of a store is the active one, which grows with each commit; the others are frozen and wait to be
//! written to disk. Names are compared exactly, so that a window's answers need no second look at the record.
//!
//! Commits are inserted before they are visible: a reader always brings an upper bound. Readers copy what they need in
//! bounded chunks, so that an insertion never waits long for the lock.

use std::borrow::Borrow;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;
use smallvec::SmallVec;

use super::fault::Result;
use super::heads::StreamHead;
use super::key::{EventKeys, Key, KeyKind};
use super::plan::Plan;
use super::positions::PositionTable;
use super::postings::{Cursor, Direction};
use super::view::StreamChunk;
#[cfg(test)]
use crate::format::positions::Checkpoint;
use crate::format::positions::Zone;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{RwLock, RwLockReadGuard};

/// Most matches that are copied under one hold of the lock.
const CHUNK_MATCHES: usize = 1024;
/// Most positions that a search over several keys passes under one hold of the lock.
const CHUNK_POSITIONS: u32 = 8192;
/// About what a key takes in a hash table that is neither full nor nearly empty.
const KEY_BYTES: usize = size_of::<KeyEntry>() * 3 / 2;
/// Postings of a key that need no allocation.
const INLINE_POSTINGS: usize = 4;

/// A frame of the log, and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameAt {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    /// The offset behind the frame.
    pub(crate) end: u64,
    /// Its header checksum.
    pub(crate) checksum: u32,
    pub(crate) first_position: u64,
}

/// The segment that a window is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentId {
    pub(crate) number: u64,
    pub(crate) salt: u64,
    /// The first position of the segment.
    pub(crate) first: u64,
}

/// The index of the positions from `first` on, as far as it goes.
#[derive(Debug)]
pub(crate) struct Window {
    pub(super) segment: SegmentId,
    pub(super) first: u64,
    content: RwLock<Content>,
    // Copies of what the lock protects, for those who only ask for sizes.
    next: AtomicU64,
    bytes: AtomicUsize,
    log_bytes: AtomicU64,
    /// Another window is the active one by now.
    frozen: AtomicBool,
}

/// The memory of a window that is no longer needed.
#[derive(Debug, Default)]
pub(crate) struct Spare(Content);

#[derive(Debug, Default)]
struct Content {
    keys: HashTable<KeyEntry>,
    /// The names of all keys, one behind the other.
    names: Vec<u8>,
    positions: PositionTable,
    /// Bytes of the posting lists that are too long for their entry.
    list_bytes: usize,
    /// Where the first frame begins.
    begin: Option<u64>,
}

/// A key, and the events that carry it: a cache line.
#[derive(Debug)]
#[repr(align(64))]
struct KeyEntry {
    hash: u64,
    /// Positions less the first of the window, ascending.
    postings: SmallVec<[u32; INLINE_POSTINGS]>,
    /// The version of the last event, of a stream.
    version: u64,
    name_at: usize,
    name_len: u16,
    kind: KeyKind,
}

impl Window {
    pub(crate) fn new(segment: SegmentId, first: u64) -> Self {
        Self::reusing(Spare::default(), segment, first)
    }

    /// A window in the memory of another.
    pub(crate) fn reusing(spare: Spare, segment: SegmentId, first: u64) -> Self {
        let mut content = spare.0;
        content.positions.reset(segment.first, first);
        Self {
            segment,
            first,
            content: RwLock::new(content),
            next: AtomicU64::new(first),
            bytes: AtomicUsize::new(0),
            log_bytes: AtomicU64::new(0),
            frozen: AtomicBool::new(false),
        }
    }

    /// Whether another window is the active one by now: nothing is added to this one any more.
    #[inline]
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    pub(super) fn freeze(&self) {
        self.frozen.store(true, Ordering::Release);
    }

    /// The number of the segment that it is part of.
    #[inline]
    pub(crate) fn segment(&self) -> u64 {
        self.segment.number
    }

    /// Empties the window and keeps its memory: one that need not grow takes insertions in half the time.
    pub(crate) fn into_spare(self) -> Spare {
        let mut content = self.content.into_inner();
        content.keys.clear();
        content.names.clear();
        content.list_bytes = 0;
        content.begin = None;
        Spare(content)
    }

    /// Memory for another window that takes as much as this one.
    pub(super) fn sized_alike(&self) -> Spare {
        let content = self.content.read();
        Spare(Content {
            keys: HashTable::with_capacity(content.keys.len()),
            names: Vec::with_capacity(content.names.len()),
            ..Content::default()
        })
    }

    /// The position that the next insertion begins at.
    pub(crate) fn next_position(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.next_position() == self.first
    }

    /// About how many bytes of memory the window takes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the log from the first frame to the end of the last.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.log_bytes.load(Ordering::Relaxed)
    }

    /// Adds the events of a commit, whose position is the next one. Callers take turns.
    #[inline]
    pub(crate) fn insert<'e>(&self, frame: FrameAt, events: impl IntoIterator<Item = impl Borrow<EventKeys<'e>>>) {
        assert_eq!(frame.first_position, self.next_position(), "commits are indexed without gaps");
        assert_eq!(frame.segment, self.segment.number, "a window is part of one segment");
        let mut content = self.content.write();
        let begin = *content.begin.get_or_insert(frame.offset);
        let mut posting = u32::try_from(frame.first_position - self.first).expect("a segment has fewer positions");
        // Inside the iterator, where an event's keys are made: they are large, and would be copied on their way out.
        events.into_iter().for_each(|event| {
            let event = event.borrow();
            for key in event.keys() {
                content.add(key, posting, event.version);
            }
            content.positions.push(frame.offset, event.time);
            posting += 1;
        });
        content.positions.end_commit(frame);
        self.bytes.store(content.bytes(), Ordering::Relaxed);
        self.log_bytes.store(frame.end - begin, Ordering::Relaxed);
        self.next.store(self.first + u64::from(posting), Ordering::Release);
    }

    /// The version and position of the last event of a stream up to a position; `None` if this window has none.
    pub(crate) fn stream_head(&self, stream: &Key<'_>, upto: u64) -> Option<(u64, u64)> {
        let limit = upto.checked_sub(self.first)?;
        let content = self.content.read();
        let entry = content.find(stream)?;
        let behind = entry.postings.iter().rev().take_while(|posting| u64::from(**posting) > limit).count();
        let index = entry.postings.len().checked_sub(behind + 1)?;
        // Versions have no gaps, and a window has all events of its range.
        Some((entry.version - behind as u64, self.first + u64::from(entry.postings[index])))
    }

    /// Where the frame of a position lies.
    pub(crate) fn offset_of(&self, position: u64) -> Option<u64> {
        self.content.read().positions.offset_of(position)
    }

    /// The times of the events that share a zone with this position, of this window.
    pub(super) fn zone_of(&self, position: u64) -> Option<Zone> {
        self.content.read().positions.zone_of(position)
    }

    /// The last frame that was inserted.
    #[cfg(test)]
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        self.content.read().positions.checkpoint()
    }

    /// Copies some of the positions of the events of a stream and the offsets of their frames, in the direction of
    /// reading, and returns the range that is left to be searched.
    pub(super) fn find_stream(
        &self,
        hash: u64,
        name: &[u8],
        range: (u64, u64),
        direction: Direction,
        chunk: &mut StreamChunk,
    ) -> Option<(u64, u64)> {
        let (low, high) = self.relative(range)?;
        let content = self.content.read();
        let postings = &content.find_name(KeyKind::Stream, hash, name)?.postings;
        let start = postings.partition_point(|posting| *posting < low);
        let end = start + postings[start..].partition_point(|posting| *posting <= high);
        let mut push = |posting: &u32| {
            chunk.positions[chunk.len] = self.first + u64::from(*posting);
            chunk.offsets[chunk.len] = content.positions.offset_at(*posting as usize);
            chunk.len += 1;
        };
        let (all, count) = (&postings[start..end], chunk.limit.min(end - start));
        match direction {
            Direction::Forward => {
                all[..count].iter().for_each(&mut push);
                all.get(count).map(|next| (self.first + u64::from(*next), range.1))
            }
            Direction::Backward => {
                let (rest, taken) = all.split_at(all.len() - count);
                taken.iter().rev().for_each(&mut push);
                rest.last().map(|next| (range.0, self.first + u64::from(*next)))
            }
        }
    }

    /// Copies some of the positions of events that match a plan, in the direction of reading, and returns the range that
    /// is left to be searched.
    pub(super) fn search(
        &self,
        plan: &Plan,
        range: (u64, u64),
        direction: Direction,
        found: &mut Vec<u64>,
    ) -> Result<Option<(u64, u64)>> {
        let Some((low, high)) = self.relative(range) else { return Ok(None) };
        let (start, end) = match direction {
            Direction::Forward => (low, high),
            Direction::Backward => (high, low),
        };
        // What several keys have in common may be far away: one hold of the lock covers so many positions, no more.
        let pause = if plan.is_one_key() { end } else { direction.advance(start, CHUNK_POSITIONS, end) };
        let content = self.content.read();
        let lookup = |key: &Key<'_>| Ok(content.find(key).map(|entry| direction.upto(&entry.postings, pause)));
        let Some(mut cursor) = plan.cursor(lookup)? else { return Ok(None) };
        let next = search_chunk(&mut cursor, start, pause, direction, |posting| {
            found.push(self.first + u64::from(posting));
        })?;
        let left = next.filter(|next| !direction.passes(*next, end)).map(|next| self.first + u64::from(next));
        Ok(left.map(|next| match direction {
            Direction::Forward => (next, range.1),
            Direction::Backward => (range.0, next),
        }))
    }

    /// The part of a range that this window covers, relative to its first position.
    fn relative(&self, (from, to): (u64, u64)) -> Option<(u32, u32)> {
        let low = from.max(self.first);
        let high = to.min(self.next_position() - 1);
        (low <= high).then(|| ((low - self.first) as u32, (high - self.first) as u32))
    }

    /// Everything in the window, for writing it to disk. Holds the lock: for frozen windows only.
    pub(super) fn read(&self) -> WindowReader<'_> {
        WindowReader { content: self.content.read() }
    }
}

/// Seeks on until enough was found, or everything up to `pause`; returns where to go on.
fn search_chunk(
    cursor: &mut Cursor<&[u32]>,
    start: u32,
    pause: u32,
    direction: Direction,
    mut found: impl FnMut(u32),
) -> Result<Option<u32>> {
    let mut target = start;
    for _ in 0..CHUNK_MATCHES {
        let Some(posting) = cursor.seek(target, direction)? else { return Ok(direction.step(pause)) };
        found(posting);
        // Lists end with `pause`: what lies behind it is not found.
        let Some(next) = direction.step(posting) else { return Ok(None) };
        target = next;
    }
    Ok(Some(target))
}

impl Content {
    fn add(&mut self, key: &Key<'_>, posting: u32, version: u64) {
        let names = &mut self.names;
        let is_same = |entry: &KeyEntry| entry.is(key.kind, key.hash, key.name.as_bytes(), names);
        let entry = match self.keys.entry(key.hash, is_same, |entry| entry.hash) {
            Slot::Occupied(slot) => slot.into_mut(),
            Slot::Vacant(slot) => {
                let entry = KeyEntry::new(key, names.len());
                names.extend_from_slice(key.name.as_bytes());
                slot.insert(entry).into_mut()
            }
        };
        let capacity = entry.postings.capacity();
        entry.postings.push(posting);
        entry.version = version;
        if entry.postings.capacity() != capacity {
            let inline = if capacity <= INLINE_POSTINGS { 0 } else { capacity };
            self.list_bytes += (entry.postings.capacity() - inline) * size_of::<u32>();
        }
    }

    fn find(&self, key: &Key<'_>) -> Option<&KeyEntry> {
        self.find_name(key.kind, key.hash, key.name.as_bytes())
    }

    fn find_name(&self, kind: KeyKind, hash: u64, name: &[u8]) -> Option<&KeyEntry> {
        self.keys.find(hash, |entry| entry.is(kind, hash, name, &self.names))
    }

    fn bytes(&self) -> usize {
        // Not what was allocated: the memory of a window before this one may be larger than it needs.
        self.keys.len() * KEY_BYTES + self.names.len() + self.positions.bytes() + self.list_bytes
    }
}

impl KeyEntry {
    fn new(key: &Key<'_>, name_at: usize) -> Self {
        let name_len = u16::try_from(key.name.len()).expect("names are short");
        Self { hash: key.hash, postings: SmallVec::new(), version: 0, name_at, name_len, kind: key.kind }
    }

    #[inline]
    fn is(&self, kind: KeyKind, hash: u64, name: &[u8], names: &[u8]) -> bool {
        self.hash == hash
            && self.kind == kind
            && &names[self.name_at..self.name_at + usize::from(self.name_len)] == name
    }
}

/// A window that is held still.
pub(super) struct WindowReader<'a> {
    content: RwLockReadGuard<'a, Content>,
}

impl WindowReader<'_> {
    /// The streams of the window, whose first position this is: hash, name and head.
    pub(super) fn heads(&self, first: u64) -> impl Iterator<Item = (u64, &[u8], StreamHead)> {
        let streams = self.content.keys.iter().filter(|entry| entry.kind == KeyKind::Stream);
        streams.map(move |entry| {
            let name = &self.content.names[entry.name_at..entry.name_at + usize::from(entry.name_len)];
            let last = entry.postings.last().copied().unwrap_or_default();
            (entry.hash, name, StreamHead { version: entry.version, position: first + u64::from(last) })
        })
    }

    pub(super) fn positions(&self) -> &PositionTable {
        &self.content.positions
    }

    /// The keys and their postings, by ascending hash. A hash may occur more than once.
    pub(super) fn lists(&self) -> Vec<(u64, &[u32])> {
        let mut lists: Vec<_> = self.content.keys.iter().map(|entry| (entry.hash, entry.postings.as_slice())).collect();
        lists.sort_unstable_by_key(|(hash, _)| *hash);
        lists
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::key::KeySeed;
    use crate::index::plan::{AnyOf, PlanItem};
    use crate::types::StoreId;

    const SEGMENT: SegmentId = SegmentId { number: 3, salt: 9, first: 100 };

    fn seed() -> KeySeed {
        KeySeed::of(StoreId::from_bytes([1; 16]))
    }

    /// One event a commit; the stream of position p is `s-(p % 7)`, its type `even` or `odd`.
    fn window(seed: KeySeed, count: u64) -> Window {
        let window = Window::new(SEGMENT, 150);
        for position in 150..150 + count {
            let stream = format!("s-{}", position % 7);
            let event_type = if position % 2 == 0 { "even" } else { "odd" };
            let event = seed.event(&stream, event_type, ["t"], position as i64, position / 7);
            let offset = position * 8;
            window.insert(
                FrameAt { segment: 3, offset, end: offset + 8, checksum: 1, first_position: position },
                &[event],
            );
        }
        window
    }

    fn search(window: &Window, plan: &Plan, from: u64, to: u64, direction: Direction) -> Vec<u64> {
        let mut found = Vec::new();
        let mut left = Some((from, to));
        while let Some(range) = left {
            left = window.search(plan, range, direction, &mut found).unwrap();
        }
        found
    }

    #[test]
    fn a_search_finds_exactly_what_matches_in_both_directions() {
        let window = window(seed(), 40_000);
        let key = |kind, name: &str| AnyOf { keys: vec![seed().key(kind, name).into()] };
        let both =
            Plan { items: vec![PlanItem { all_of: vec![key(KeyKind::Stream, "s-3"), key(KeyKind::Type, "even")] }] };
        for (from, to) in [(0, u64::MAX), (151, 30_000), (200, 200), (40_149, 50_000), (300, 299), (1, 149)] {
            let positions = from.max(150)..=to.min(40_149);
            let mut expected: Vec<u64> = positions.filter(|position| position % 7 == 3 && position % 2 == 0).collect();
            assert_eq!(search(&window, &both, from, to, Direction::Forward), expected);
            expected.reverse();
            assert_eq!(search(&window, &both, from, to, Direction::Backward), expected);
        }
    }

    #[test]
    fn the_positions_of_a_key_come_in_chunks() {
        let window = window(seed(), 100);
        let stream = seed().key(KeyKind::Stream, "s-3");
        for direction in [Direction::Forward, Direction::Backward] {
            let mut found: Vec<u64> = Vec::new();
            let mut left = Some((0, 200));
            while let Some(range) = left {
                let mut chunk = StreamChunk::new(3);
                left = window.find_stream(stream.hash, stream.name.as_bytes(), range, direction, &mut chunk);
                assert!((1..=3).contains(&chunk.len));
                assert!((0..chunk.len).all(|index| chunk.offsets[index] == chunk.positions[index] * 8));
                found.extend(&chunk.positions[..chunk.len]);
            }
            let mut expected: Vec<u64> = (150..=200).filter(|position| position % 7 == 3).collect();
            if direction == Direction::Backward {
                expected.reverse();
            }
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn the_head_of_a_stream_is_known_at_every_position() {
        let window = window(seed(), 100);
        let stream = seed().key(KeyKind::Stream, "s-3");
        for upto in 140..300u64 {
            let expected = (150..=upto.min(249)).rev().find(|position| position % 7 == 3);
            let head = window.stream_head(&stream, upto);
            assert_eq!(head, expected.map(|position| (position / 7, position)), "up to {upto}");
        }
        assert_eq!(window.stream_head(&seed().key(KeyKind::Stream, "s-9"), u64::MAX), None);
    }

    #[test]
    fn names_that_collide_are_told_apart() {
        let colliding = seed().colliding(0);
        let window = window(colliding, 100);
        let plan = Plan::of(colliding.key(KeyKind::Stream, "s-3"));
        let expected: Vec<u64> = (150..250).filter(|position| position % 7 == 3).collect();
        assert_eq!(search(&window, &plan, 0, u64::MAX, Direction::Forward), expected);
        assert_eq!(window.stream_head(&colliding.key(KeyKind::Tag, "s-3"), u64::MAX), None);
    }

    #[test]
    fn it_knows_its_frames_and_its_size() {
        let window = window(seed(), 1_000);
        assert_eq!(
            [149, 150, 1_149, 1_150].map(|position| window.offset_of(position)),
            [None, Some(1_200), Some(9_192), None]
        );
        assert_eq!(window.checkpoint(), Checkpoint { offset: 9_192, end: 9_200, checksum: 1 });
        assert_eq!(window.log_bytes(), 8_000);
        // Zones are those of the segment: positions 100 to 611, 612 to 1123.
        assert_eq!(window.zone_of(150), Some(Zone { least: 150, greatest: 611 }));
        assert_eq!(window.zone_of(1_149), Some(Zone { least: 1_124, greatest: 1_149 }));
    }

    /// A window is full when it has so many bytes, and a store has so many windows: what it says must be what it takes.
    #[test]
    fn its_bytes_are_those_of_its_keys_names_lists_and_frames() {
        assert_eq!(Window::new(SEGMENT, 150).bytes(), 0);
        for count in [1, 4, 5, 40, 1_000] {
            let window = window(seed(), count);
            let content = window.content.read();
            let lists = content.keys.iter().map(|entry| entry.postings.capacity());
            let list_bytes: usize =
                lists.filter(|capacity| *capacity > INLINE_POSTINGS).map(|capacity| capacity * 4).sum();
            let names = content.keys.iter().map(|entry| usize::from(entry.name_len)).sum::<usize>();
            // The zones are those of the positions 100 to 611, and of those behind.
            let zones = if count <= 462 { 1 } else { 3 };
            let expected = content.keys.len() * KEY_BYTES + names + list_bytes + count as usize * 4 + zones * 16;
            assert_eq!(window.bytes(), expected, "{count} events");
        }
    }

    /// One that grows stands still each time its table is doubled.
    #[test]
    fn a_window_in_the_memory_of_another_need_not_grow() {
        let before = window(seed(), 1_000);
        let keys = before.content.read().keys.len();
        let alike = before.sized_alike();
        assert!(alike.0.keys.capacity() >= keys && alike.0.names.capacity() >= before.content.read().names.len());
        let capacity = before.content.read().keys.capacity();
        let spare = before.into_spare();
        assert_eq!((spare.0.keys.len(), spare.0.keys.capacity()), (0, capacity));
        let again = Window::reusing(spare, SEGMENT, 1_150);
        assert_eq!((again.first, again.next_position(), again.bytes(), again.log_bytes()), (1_150, 1_150, 0, 0));
        assert_eq!(again.stream_head(&seed().key(KeyKind::Stream, "s-3"), u64::MAX), None);
    }

    /// An insertion never waits for a search longer than that.
    #[test]
    fn a_search_over_several_keys_lets_go_of_the_lock_after_some_positions() {
        let window = window(seed(), 40_000);
        let key = |name: &str| AnyOf { keys: vec![seed().key(KeyKind::Stream, name).into()] };
        let none = Plan { items: vec![PlanItem { all_of: vec![key("s-3"), key("s-4")] }] };
        let step = u64::from(CHUNK_POSITIONS) + 1;
        let mut found = Vec::new();
        let forward = window.search(&none, (150, 40_149), Direction::Forward, &mut found).unwrap();
        assert_eq!(forward, Some((150 + step, 40_149)));
        let backward = window.search(&none, (150, 40_149), Direction::Backward, &mut found).unwrap();
        assert_eq!((backward, found.len()), (Some((150, 40_149 - step)), 0));
    }

    #[test]
    fn a_search_for_one_key_goes_on_until_it_has_found_enough() {
        let window = window(seed(), 40_000);
        let plan = Plan::of(seed().key(KeyKind::Stream, "s-3"));
        let mut found = Vec::new();
        let left = window.search(&plan, (150, 40_149), Direction::Forward, &mut found).unwrap();
        let last = *found.last().unwrap();
        assert_eq!((found.len(), left), (CHUNK_MATCHES, Some((last + 1, 40_149))));
        let seldom = Window::new(SEGMENT, 150);
        for position in 150..40_150 {
            let stream = if position % 39_999 == 150 { "seldom" } else { "often" };
            let event = seed().event(stream, "type", [], 0, 1);
            seldom.insert(FrameAt { segment: 3, offset: 64, end: 72, checksum: 1, first_position: position }, &[event]);
        }
        let (plan, mut found) = (Plan::of(seed().key(KeyKind::Stream, "seldom")), Vec::new());
        let left = seldom.search(&plan, (150, 40_149), Direction::Forward, &mut found).unwrap();
        assert_eq!((found, left), (vec![150, 40_149], None));
    }
}
