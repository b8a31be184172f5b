//! The index against a model: a list of events, searched one by one.
//!
//! Random commits, rolls, spills, merges, crashes, lost and damaged files; after each of them the index gives the answers
//! of the model. Seeds are printed by the assertion that fails.

mod bounds;
mod contradictions;
mod repairs;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::format::checksum::Place;
use crate::format::frame::{HEADER_BYTES, Link, encode_commit};
use crate::format::record::RecordFields;
use crate::index::fault::DIRECTORY;
use crate::index::paged::tests::{contents, replace};
use crate::index::plan::PlanKey;
use crate::randomness::SeededRandomness;
use crate::storage::MemoryDisk;
use crate::types::{Codec, category_of};

const STORE: StoreId = StoreId::from_bytes([5; 16]);
const ALL_BITS: u64 = u64::MAX;
/// Leaves 32 hashes.
const FEW_BITS: u64 = 0xE000_0000_0000_0003;

#[derive(Debug, Clone)]
struct Recorded {
    stream: String,
    event_type: String,
    tags: Vec<String>,
    time: i64,
    version: u64,
    place: EventPlace,
}

impl Recorded {
    fn carries(&self, key: &PlanKey) -> bool {
        match key.kind {
            KeyKind::Stream => self.stream == *key.name,
            KeyKind::Category => category_of(&self.stream) == &*key.name,
            KeyKind::Type => self.event_type == *key.name,
            KeyKind::Tag => self.tags.iter().any(|tag| **tag == *key.name),
        }
    }

    fn matches(&self, plan: &Plan) -> bool {
        let carries_one = |any_of: &AnyOf| any_of.keys.iter().any(|key| self.carries(key));
        plan.items.iter().any(|item| item.all_of.iter().all(carries_one))
    }
}

/// A log in memory.
#[derive(Debug, Default)]
struct FakeLog {
    segments: Vec<FakeSegment>,
    /// Of position 1 and on.
    events: Vec<Recorded>,
    kept_from: u64,
}

#[derive(Debug)]
struct FakeSegment {
    number: u64,
    salt: u64,
    first: u64,
    bytes: Vec<u8>,
}

impl FakeSegment {
    fn append(&mut self, first_position: u64, events: &[Recorded]) -> EventPlace {
        let offset = self.bytes.len() as u64;
        let place = Place::of_frame(self.salt, self.number, offset);
        let link = Link { previous: 0, first_position, commit_time: 0, durable: 0 };
        let records = events.iter().map(|event| RecordFields {
            id: [1; 16],
            time: event.time,
            version: event.version,
            schema_version: 1,
            codec: Codec::Raw,
            stream: &event.stream,
            event_type: &event.event_type,
            tags: &event.tags,
            metadata: None,
            payload: b"payload",
        });
        encode_commit(&mut self.bytes, place, link, records);
        EventPlace { segment: self.number, offset }
    }
}

impl FakeLog {
    fn new() -> Self {
        let mut log = Self { kept_from: 1, ..Self::default() };
        log.roll(1);
        log
    }

    fn head(&self) -> u64 {
        self.events.len() as u64
    }

    fn roll(&mut self, salt: u64) -> (u64, u64, u64) {
        let number = self.segments.last().map_or(1, |segment| segment.number + 1);
        let first = self.head() + 1;
        self.segments.push(FakeSegment { number, salt, first, bytes: vec![0; 64] });
        (number, salt, first)
    }

    fn append(&mut self, events: Vec<Recorded>) {
        let first_position = self.head() + 1;
        let place = self.segments.last_mut().unwrap().append(first_position, &events);
        self.events.extend(events.into_iter().map(|event| Recorded { place, ..event }));
    }

    fn spans(&self) -> Vec<SegmentSpan> {
        let ends = self.segments.iter().skip(1).map(|segment| Some(segment.first)).chain([None]);
        let span = |(segment, end_position): (&FakeSegment, _)| SegmentSpan {
            number: segment.number,
            salt: segment.salt,
            first_position: segment.first,
            end_position,
        };
        self.segments.iter().zip(ends).map(span).collect()
    }

    fn segment(&self, number: u64) -> &FakeSegment {
        self.segments.iter().find(|segment| segment.number == number).unwrap()
    }

    /// Inserts the commits behind what the index covers.
    fn catch_up(&self, index: &Index) {
        let covered = index.covered();
        for segment in &self.segments {
            self.scan(segment.number, FIRST_FRAME, u64::MAX, &mut |offset, frame| {
                if frame.header.link.first_position > covered {
                    insert(index, segment.number, offset, frame);
                }
                Ok(())
            })
            .unwrap();
        }
        assert_eq!(index.covered(), self.head());
    }
}

impl FrameSource for FakeLog {
    fn header(&self, segment: u64, offset: u64) -> Result<FrameHeader, Error> {
        let segment = self.segment(segment);
        let place = Place::of_frame(segment.salt, segment.number, offset);
        let bytes = segment.bytes.get(offset as usize..).and_then(|rest| rest.first_chunk::<HEADER_BYTES>());
        let fault = |reason: &str| Error::corrupt("fake", offset, reason);
        FrameHeader::decode(bytes.ok_or_else(|| fault("short"))?, place).map_err(|error| fault(error.reason()))
    }

    fn scan(
        &self,
        segment: u64,
        mut offset: u64,
        upto: u64,
        visit: &mut dyn FnMut(u64, &Frame<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let segment = self.segment(segment);
        while (offset as usize) < segment.bytes.len() {
            let place = Place::of_frame(segment.salt, segment.number, offset);
            let frame = Frame::decode(&segment.bytes[offset as usize..], place).unwrap();
            if frame.header.link.first_position > upto {
                break;
            }
            visit(offset, &frame)?;
            offset += frame.header.frame_len() as u64;
        }
        Ok(())
    }
}

fn insert(index: &Index, segment: u64, offset: u64, frame: &Frame<'_>) {
    let records: Vec<_> = (0..frame.header.count)
        .map(|ordinal| crate::format::record::Record::decode(frame.record(ordinal).unwrap()).unwrap())
        .collect();
    let keys: Vec<_> = records
        .iter()
        .map(|record| {
            index.seed().event(record.stream, record.event_type, record.tags(), record.time(), record.version())
        })
        .collect();
    let end = offset + frame.header.frame_len() as u64;
    let first_position = frame.header.link.first_position;
    index.insert(FrameAt { segment, offset, end, checksum: frame.header.checksum, first_position }, &keys);
}

/// A generator that is the same everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }
}

struct World {
    disk: MemoryDisk,
    log: FakeLog,
    index: Index,
    mask: u64,
    limits: WindowLimits,
    dice: Dice,
    synced: u64,
}

impl World {
    fn new(number: u64, mask: u64) -> Self {
        let (disk, log) = (MemoryDisk::new(), FakeLog::new());
        let mut dice = Dice(number);
        let log_bytes_max = 500 + dice.below(20_000);
        let limits = WindowLimits { bytes_max: 1 << 20, log_bytes_max };
        let index = open(&disk, &log, mask, limits, true).unwrap();
        Self { disk, log, index, mask, limits, dice, synced: 0 }
    }

    fn event(&mut self, pending: &[Recorded]) -> Recorded {
        let stream = format!("{}-{}", self.dice.pick(&["a", "b", "c"]), self.dice.below(12));
        let known = self.log.events.iter().chain(pending).filter(|event| event.stream == stream);
        let version = known.count() as u64 + 1;
        let tags: BTreeSet<_> = (0..self.dice.below(4)).map(|_| format!("t:{}", self.dice.below(8))).collect();
        Recorded {
            stream,
            event_type: format!("T{}", self.dice.below(5)),
            tags: tags.into_iter().collect(),
            time: (self.log.head() / 20) as i64 - self.dice.below(30) as i64,
            version,
            place: EventPlace { segment: 0, offset: 0 },
        }
    }

    fn commit(&mut self) {
        let mut events = Vec::new();
        for _ in 0..=self.dice.below(6) {
            let event = self.event(&events);
            events.push(event);
        }
        self.log.append(events);
        self.log.catch_up(&self.index);
        if self.index.is_over_budget() {
            self.index.freeze();
        }
    }

    fn roll(&mut self) {
        let salt = self.dice.below(u64::MAX);
        let (number, salt, first) = self.log.roll(salt);
        self.index.roll(number, salt, first);
    }

    fn spill(&mut self) {
        while retry(&self.index, &self.log, || self.index.spill(self.synced)) {}
    }

    fn merge(&mut self) {
        while retry(&self.index, &self.log, || self.index.merge()) {}
    }

    fn reopen(&mut self) {
        self.index = open(&self.disk, &self.log, self.mask, self.limits, true).unwrap();
        self.log.catch_up(&self.index);
    }

    fn files(&self) -> Vec<String> {
        let mut names = self.disk.list(DIRECTORY).unwrap();
        names.sort();
        names.into_iter().map(|name| format!("{DIRECTORY}/{name}")).collect()
    }

    /// Puts these files in the place of all that are there.
    fn restore(&self, files: &[(String, Vec<u8>)]) {
        self.files().iter().for_each(|path| self.disk.remove(path).unwrap());
        for (path, bytes) in files {
            self.disk.create(path).unwrap().write_at(bytes, 0).unwrap();
        }
    }

    /// Loses or damages a file while the store is closed, then opens it.
    fn harm(&mut self) {
        let files = self.files();
        if files.is_empty() {
            return;
        }
        let path = self.dice.pick(&files);
        let mut bytes = contents(&self.disk, &path);
        match self.dice.below(3) {
            0 => self.disk.remove(&path).unwrap(),
            1 => {
                bytes.truncate(self.dice.below(bytes.len() as u64) as usize);
                replace(&self.disk, &path, &bytes);
            }
            _ => {
                let bit = self.dice.below(bytes.len() as u64 * 8) as usize;
                bytes[bit / 8] ^= 1 << (bit % 8);
                replace(&self.disk, &path, &bytes);
            }
        }
        self.reopen();
    }

    fn forget(&mut self) {
        if self.log.segments.len() < 3 {
            return;
        }
        self.log.segments.remove(0);
        let (number, first) = (self.log.segments[0].number, self.log.segments[0].first);
        self.log.kept_from = first;
        self.index.forget_before(number, first).unwrap();
    }

    fn step(&mut self) {
        match self.dice.below(40) {
            0 => self.roll(),
            1 => self.index.freeze(),
            2..=4 => {
                self.synced = self.synced.max(self.dice.below(self.log.head() + 1));
                self.spill();
            }
            5 | 6 => self.merge(),
            7 => self.reopen(),
            8 => self.harm(),
            9 if self.dice.below(4) == 0 => self.forget(),
            _ => self.commit(),
        }
    }

    fn key(&mut self) -> PlanKey {
        let (kind, name) = match self.dice.below(5) {
            0 => (KeyKind::Stream, format!("a-{}", self.dice.below(14))),
            1 => (KeyKind::Category, self.dice.pick(&["a", "b", "d"]).to_owned()),
            2 => (KeyKind::Type, format!("T{}", self.dice.below(6))),
            _ => (KeyKind::Tag, format!("t:{}", self.dice.below(9))),
        };
        self.index.seed().key(kind, &name).into()
    }

    fn plan(&mut self) -> Plan {
        let mut items = Vec::new();
        for _ in 0..=self.dice.below(3) {
            let mut all_of = Vec::new();
            for _ in 0..=self.dice.below(3) {
                let keys = (0..=self.dice.below(2)).map(|_| self.key()).collect();
                all_of.push(AnyOf { keys });
            }
            items.push(PlanItem { all_of });
        }
        Plan { items }
    }

    fn range(&mut self) -> (u64, u64) {
        let limit = self.log.head() + 3;
        match self.dice.below(3) {
            0 => (1, u64::MAX),
            _ => (self.dice.below(limit), self.dice.below(limit)),
        }
    }

    fn check(&mut self) {
        for direction in [Direction::Forward, Direction::Backward] {
            for _ in 0..4 {
                let (plan, range) = (self.plan(), self.range());
                check_plan(&self.index, &self.log, &plan, range, direction);
                let (stream, range) = (format!("a-{}", self.dice.below(14)), self.range());
                check_stream(&self.index, &self.log, &stream, range, direction);
            }
            let (since, range) = (self.dice.below(self.log.head() / 10 + 3) as i64 - 20, self.range());
            let times = TimeRange { since: Some(since), until: Some(since + self.dice.below(40) as i64) };
            check_times(&self.index, &self.log, times, range, direction);
        }
        check_places(&self.index, &self.log);
    }
}

fn open(disk: &MemoryDisk, log: &FakeLog, mask: u64, limits: WindowLimits, writable: bool) -> Result<Index> {
    let mode = if log.head().is_multiple_of(2) { ReadMode::Map } else { ReadMode::Pread };
    let randomness = Arc::new(SeededRandomness::new(log.head()));
    let options = IndexOptions { writable, owner: None, read_mode: mode, limits, randomness };
    let seed = KeySeed::of(STORE).colliding(mask);
    Index::open_with(Arc::new(disk.clone()), STORE, seed, options, &log.spans(), log, &mut |_| {})
}

/// What a caller does: on a damaged file, repair and ask again.
fn retry<T>(index: &Index, log: &FakeLog, mut ask: impl FnMut() -> Result<T>) -> T {
    for _ in 0..20 {
        match ask() {
            Ok(answer) => return answer,
            Err(error) => index.repair(error.fault().unwrap_or_else(|| panic!("{error:?}")), log).unwrap(),
        }
    }
    panic!("repairing does not help");
}

/// The positions that a search finds, in ascending order, once the records have decided.
fn decided(
    log: &FakeLog,
    direction: Direction,
    matches: impl Fn(&Recorded) -> bool,
    mut next: impl FnMut() -> Option<Candidate>,
) -> Vec<u64> {
    let mut found = Vec::new();
    let mut before = None;
    while let Some(candidate) = next() {
        let in_order = before.is_none_or(|before: u64| match direction {
            Direction::Forward => candidate.position > before,
            Direction::Backward => candidate.position < before,
        });
        assert!(in_order, "{candidate:?} after {before:?}");
        before = Some(candidate.position);
        let is_match = matches(&log.events[candidate.position as usize - 1]);
        assert!(is_match || !candidate.exact, "{candidate:?} is not exact");
        if is_match {
            found.push(candidate.position);
        }
    }
    if direction == Direction::Backward {
        found.reverse();
    }
    found
}

fn expected(log: &FakeLog, (from, to): (u64, u64), matches: impl Fn(&Recorded) -> bool) -> Vec<u64> {
    let range = from.max(log.kept_from)..=to.min(log.head());
    range.filter(|position| matches(&log.events[*position as usize - 1])).collect()
}

/// The next candidate; where a file is damaged, from a view in which it was repaired.
fn resume(
    index: &Index,
    log: &FakeLog,
    mut next: impl FnMut(Option<Arc<IndexView>>) -> Result<Option<Candidate>>,
) -> Option<Candidate> {
    let mut repaired = false;
    retry(index, log, || {
        let view = repaired.then(|| index.view());
        repaired = true;
        next(view)
    })
}

fn check_plan(index: &Index, log: &FakeLog, plan: &Plan, range: (u64, u64), direction: Direction) {
    let matches = |event: &Recorded| event.matches(plan);
    let mut candidates = index.view().candidates(Arc::new(plan.clone()), range.0, range.1, direction);
    let next = || {
        resume(index, log, |view| {
            if let Some(view) = view {
                candidates.renew(view);
            }
            candidates.next()
        })
    };
    let found = decided(log, direction, matches, next);
    assert_eq!(found, expected(log, range, matches), "{plan:?} {range:?} {direction:?}");
}

fn check_stream(index: &Index, log: &FakeLog, stream: &str, range: (u64, u64), direction: Direction) {
    let matches = |event: &Recorded| event.stream == stream;
    let key = index.seed().key(KeyKind::Stream, stream);
    let mut candidates = index.view().stream_candidates(&key, range.0, range.1, direction);
    let next = || {
        resume(index, log, |view| {
            if let Some(view) = view {
                candidates.renew(view);
            }
            let found = candidates.next()?;
            Ok(found.map(|found| {
                assert_eq!(found.place, log.events[found.position as usize - 1].place);
                Candidate { position: found.position, exact: found.exact }
            }))
        })
    };
    let expected = expected(log, range, matches);
    assert_eq!(decided(log, direction, matches, next), expected, "{stream} {range:?} {direction:?}");
    let view = index.view();
    let head = log.events[..range.1.min(log.head()) as usize].iter().rposition(matches);
    let in_windows = head
        .map(|head| (log.events[head].version, head as u64 + 1))
        .filter(|(_, at)| *at > view.run_end() && *at >= log.kept_from);
    assert_eq!(view.window_head(&key, range.1), in_windows, "{stream} up to {}", range.1);
}

fn check_times(index: &Index, log: &FakeLog, times: TimeRange, range: (u64, u64), direction: Direction) {
    let is_inside = |event: &Recorded| {
        times.since.is_none_or(|since| event.time >= since) && times.until.is_none_or(|until| event.time < until)
    };
    let (mut from, mut to) = range;
    let mut found = Vec::new();
    while let Some((low, high)) = retry(index, log, || index.view().next_in_time(times, from, to, direction)) {
        assert!(from.max(log.kept_from) <= low && low <= high && high <= to.min(log.head()));
        found.extend((low..=high).filter(|position| is_inside(&log.events[*position as usize - 1])));
        match direction {
            Direction::Forward => from = high + 1,
            Direction::Backward => to = low - 1,
        }
    }
    found.sort_unstable();
    assert_eq!(found, expected(log, range, is_inside), "{times:?} {range:?} {direction:?}");
}

fn check_places(index: &Index, log: &FakeLog) {
    for position in 0..log.head() + 2 {
        let place = retry(index, log, || index.view().locate(position));
        let event = (position >= log.kept_from).then(|| log.events.get(position as usize - 1)).flatten();
        assert_eq!(place, event.map(|event| event.place), "position {position}");
    }
}

fn run_world(number: u64, mask: u64, steps: u64) {
    let mut world = World::new(number, mask);
    for step in 0..steps {
        world.step();
        if step % 8 == 7 {
            world.check();
        }
    }
    world.synced = world.log.head();
    world.index.freeze();
    world.spill();
    world.merge();
    world.check();
    assert_eq!(world.index.verify(), []);
}

#[test]
fn random_histories_give_the_answers_of_the_model() {
    for number in 0..40 {
        run_world(number, if number % 3 == 0 { FEW_BITS } else { ALL_BITS }, 250);
    }
}

/// Two streams whose names have the same hash answer only their own events, in memory and on disk.
#[test]
fn names_that_collide_are_candidates_on_disk_and_exact_in_memory() {
    for mask in [0, FEW_BITS] {
        run_world(1_000, mask, 150);
    }
}

/// A closed store of a few segments, all of it on disk.
fn closed_world(number: u64) -> World {
    let mut world = World::new(number, ALL_BITS);
    for round in 0..6 {
        (0..12).for_each(|_| world.commit());
        if round % 2 == 1 {
            world.roll();
        }
        world.synced = world.log.head();
        world.index.freeze();
        world.spill();
    }
    world
}

#[test]
fn every_flipped_bit_is_noticed_or_harmless() {
    let mut world = closed_world(7);
    let files: Vec<(String, Vec<u8>)> =
        world.files().into_iter().map(|path| (path.clone(), contents(&world.disk, &path))).collect();
    for (path, bytes) in &files {
        // Each byte of what is in use, and then some: a page is mostly padding here.
        let mut bit = 0;
        while bit < bytes.len() * 8 {
            world.restore(&files);
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            replace(&world.disk, path, &flipped);
            world.reopen();
            check_places(&world.index, &world.log);
            for direction in [Direction::Forward, Direction::Backward] {
                check_stream(&world.index, &world.log, "a-3", (1, u64::MAX), direction);
                let plan = Plan::of(world.index.seed().key(KeyKind::Type, "T1"));
                check_plan(&world.index, &world.log, &plan, (1, u64::MAX), direction);
            }
            assert!(world.index.verify().len() <= 1);
            bit += if bit % 32_768 < 1_024 { 61 } else { 1_999 };
        }
    }
}

#[test]
fn every_lost_file_is_rebuilt_and_a_second_open_rebuilds_nothing() {
    let mut world = closed_world(8);
    for path in world.files() {
        let before = world.files();
        world.disk.remove(&path).unwrap();
        let mut rebuilt = 0;
        for expected in [true, false] {
            let options = IndexOptions { ..world.index.options.clone() };
            let spans = world.log.spans();
            let disk = Arc::new(world.disk.clone());
            world.index =
                Index::open(disk, STORE, options, &spans, &world.log, &mut |progress| rebuilt = progress.done).unwrap();
            assert_eq!(rebuilt > 0, expected, "{path}");
            rebuilt = 0;
        }
        world.log.catch_up(&world.index);
        world.check();
        assert_eq!(world.files().len(), before.len(), "{path}");
    }
}

#[test]
fn a_read_only_index_answers_and_changes_nothing() {
    let mut world = closed_world(9);
    for path in world.files() {
        world.disk.remove(&path).unwrap();
        let before = world.files();
        let index = open(&world.disk, &world.log, ALL_BITS, world.limits, false).unwrap();
        world.log.catch_up(&index);
        let writer = std::mem::replace(&mut world.index, index);
        world.check();
        assert!(!world.index.spill(u64::MAX).unwrap() && !world.index.merge().unwrap());
        assert_eq!(world.files(), before);
        drop(writer);
    }
}

#[test]
fn the_index_of_another_history_is_not_used() {
    let mut world = closed_world(10);
    let lengths: Vec<usize> = world.files().iter().map(|path| contents(&world.disk, path).len()).collect();
    // The same positions, in segments of the same salts, with other events.
    let mut other = FakeLog::new();
    for segment in 0..world.log.segments.len() {
        let end = world.log.segments.get(segment + 1).map_or(u64::MAX, |next| next.first);
        while other.head() + 1 < end.min(world.log.head() + 1) {
            let event = Recorded { stream: "other-1".into(), version: other.head() + 1, ..world.log.events[0].clone() };
            other.append(vec![event]);
        }
        if let Some(next) = world.log.segments.get(segment + 1) {
            other.roll(next.salt);
        }
    }
    world.log = other;
    world.reopen();
    world.check();
    check_stream(&world.index, &world.log, "other-1", (1, u64::MAX), Direction::Forward);
    assert!(!lengths.is_empty());
}

#[test]
fn a_crash_between_a_positions_file_and_its_run_loses_nothing() {
    let mut world = World::new(11, ALL_BITS);
    (0..30).for_each(|_| world.commit());
    world.index.freeze();
    let window = Arc::clone(world.index.view().oldest_frozen().unwrap());
    let table = window.read().positions().clone();
    Positions::None.write(&world.index.files, window.segment, &table).unwrap();
    let path = IndexFile::Positions { segment: 1 }.path();
    let bytes = contents(&world.disk, &path);
    world.reopen();
    assert!(contents(&world.disk, &path) == bytes, "what is there is not written again");
    world.check();
    assert!(world.files().iter().any(|path| path.contains(".run")), "{:?}", world.files());
}

#[test]
fn a_crash_between_a_merge_and_the_removal_of_its_inputs_is_resolved() {
    let mut world = closed_world(12);
    let before: Vec<(String, Vec<u8>)> =
        world.files().into_iter().map(|path| (path.clone(), contents(&world.disk, &path))).collect();
    world.merge();
    let after = world.files();
    for (path, bytes) in before.iter().filter(|(path, _)| !after.contains(path)) {
        world.disk.create(path).unwrap().write_at(bytes, 0).unwrap();
    }
    world.disk.create("index/0000000001.positions.tmp").unwrap();
    assert!(world.files().len() > after.len());
    world.reopen();
    assert_eq!(world.files(), after);
    world.check();
}

#[test]
fn a_full_disk_keeps_the_window_until_there_is_space() {
    let mut world = World::new(13, ALL_BITS);
    (0..30).for_each(|_| world.commit());
    world.index.freeze();
    world.synced = world.log.head();
    let files = world.files();
    world.disk.set_budget(world.disk.used() + 5_000);
    let error = world.index.spill(world.synced).unwrap_err();
    assert!(matches!(error, IndexError::Failed(error) if matches!(*error, Error::Full { .. })));
    assert!(world.files().iter().all(|path| !path.contains(".tmp")), "{:?} {files:?}", world.files());
    world.check();
    world.disk.set_budget(u64::MAX);
    world.spill();
    world.check();
    assert!(world.index.view().oldest_frozen().is_none());
}

#[test]
fn what_is_not_synced_is_not_spilled() {
    let mut world = World::new(14, ALL_BITS);
    (0..30).for_each(|_| world.commit());
    world.index.freeze();
    let last = world.index.view().oldest_frozen().unwrap().next_position() - 1;
    assert!(!world.index.spill(last - 1).unwrap());
    assert!(world.index.spill(last).unwrap());
    let disk: Arc<dyn Disk> = Arc::new(world.disk.clone());
    let [checkpoint] = checkpoints(&disk).unwrap()[..] else { panic!("one positions file, one checkpoint") };
    assert_eq!((checkpoint.store, checkpoint.segment, checkpoint.salt, checkpoint.position), (STORE, 1, 1, last));
    assert_eq!(checkpoint.offset, world.log.events[last as usize - 1].place.offset);
    // Under the name of another segment it says nothing, and damaged neither.
    let path = IndexFile::Positions { segment: 1 }.path();
    let mut bytes = contents(&world.disk, &path);
    world.disk.create(&IndexFile::Positions { segment: 2 }.path()).unwrap().write_at(&bytes, 0).unwrap();
    assert_eq!(checkpoints(&disk).unwrap(), [checkpoint]);
    bytes[40] ^= 1;
    replace(&world.disk, &path, &bytes);
    assert_eq!(checkpoints(&disk).unwrap(), []);
}

/// A writer, its maintenance and readers at once: a reader that takes its bound first and the view second finds
/// everything up to it.
#[test]
fn readers_find_everything_while_windows_become_runs() {
    use std::sync::atomic::AtomicU64;
    const EVENTS: u64 = 4_000;
    let limits = WindowLimits { bytes_max: 1 << 20, log_bytes_max: 2_000 };
    let (disk, log) = (MemoryDisk::new(), FakeLog::new());
    let index = open(&disk, &log, ALL_BITS, limits, true).unwrap();
    let visible = AtomicU64::new(0);
    let maintain = || {
        while visible.load(Ordering::Acquire) < EVENTS {
            index.spill(visible.load(Ordering::Acquire)).unwrap();
            index.merge().unwrap();
        }
    };
    let read = || {
        let key = index.seed().key(KeyKind::Stream, "s-3");
        let mut upto = 0;
        while upto < EVENTS {
            upto = visible.load(Ordering::Acquire);
            let view = index.view();
            let mut candidates = view.stream_candidates(&key, 1, upto, Direction::Forward);
            for position in (1..=upto).filter(|position| position % 7 == 3) {
                let found = candidates.next().unwrap().unwrap();
                assert_eq!((found.position, found.place.offset), (position, 64 + position * 8));
            }
            assert_eq!(candidates.next().unwrap(), None);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(maintain);
        scope.spawn(read);
        scope.spawn(read);
        for position in 1..=EVENTS {
            let stream = format!("s-{}", position % 7);
            let event = index.seed().event(&stream, "type", [], 0, position / 7 + 1);
            let offset = 64 + position * 8;
            index.insert(
                FrameAt { segment: 1, offset, end: offset + 8, checksum: 1, first_position: position },
                &[event],
            );
            visible.store(position, Ordering::Release);
            if index.is_over_budget() {
                index.freeze();
            }
        }
    });
}
