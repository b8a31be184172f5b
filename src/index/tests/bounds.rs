//! What the index promises beside right answers: when windows are full, what is remembered, what is passed over.

use super::*;
use crate::index::heads::StreamHead;
use crate::storage::{Call, FaultyDisk};

const NO_LIMITS: WindowLimits = WindowLimits { bytes_max: usize::MAX, log_bytes_max: u64::MAX };

fn open_on(disk: &(impl Disk + Clone + 'static), limits: WindowLimits, writable: bool) -> Index {
    let randomness = Arc::new(SeededRandomness::new(1));
    let options = IndexOptions { writable, owner: None, read_mode: ReadMode::Pread, limits, randomness };
    let log = FakeLog::new();
    Index::open(Arc::new(disk.clone()), STORE, options, &log.spans(), &log, &mut |_| {}).unwrap()
}

/// Inserts an event, in a commit of eight bytes; the stream of position p is `s-(p % streams)`.
fn insert_event(index: &Index, position: u64, streams: u64, time: i64) {
    let stream = format!("s-{}", position % streams);
    let event = index.seed().event(&stream, "type", [], time, position / streams + 1);
    let offset = position * 8;
    index.insert(FrameAt { segment: 1, offset, end: offset + 8, checksum: 1, first_position: position }, [event]);
}

fn fill(index: &Index, upto: u64, streams: u64) {
    (index.covered() + 1..=upto).for_each(|position| insert_event(index, position, streams, 0));
}

fn spill_all(index: &Index) {
    index.freeze();
    assert!(index.spill(index.covered()).unwrap());
}

#[test]
fn a_window_is_full_when_either_of_its_bounds_is_reached() {
    let disk = MemoryDisk::new();
    let index = open_on(&disk, NO_LIMITS, true);
    fill(&index, 10, 3);
    assert_eq!(index.active_log_bytes(), 80);
    let bytes_max = index.view().active().bytes();
    for (limits, expected) in [
        (WindowLimits { bytes_max, ..NO_LIMITS }, true),
        (WindowLimits { bytes_max: bytes_max + 1, ..NO_LIMITS }, false),
        (WindowLimits { log_bytes_max: 80, ..NO_LIMITS }, true),
        (WindowLimits { log_bytes_max: 81, ..NO_LIMITS }, false),
    ] {
        let index = open_on(&MemoryDisk::new(), limits, true);
        fill(&index, 10, 3);
        assert_eq!((index.is_over_budget(), index.is_full(&index.active())), (expected, expected), "{limits:?}");
    }
}

#[test]
fn only_the_windows_behind_the_active_one_wait_to_be_written() {
    let index = open_on(&MemoryDisk::new(), NO_LIMITS, true);
    fill(&index, 10, 3);
    assert_eq!((index.view().frozen_windows(), index.view().run_end()), (0, 0));
    index.freeze();
    index.freeze();
    assert_eq!(index.view().frozen_windows(), 1, "an empty window is replaced");
    fill(&index, 20, 3);
    index.freeze();
    assert_eq!(index.view().frozen_windows(), 2);
    assert!(index.spill(20).unwrap());
    assert_eq!((index.view().frozen_windows(), index.view().run_end()), (1, 10));
}

/// An append to a stream that was quiet for a while need not search the runs.
#[test]
fn what_a_window_knew_of_its_streams_is_remembered_when_it_becomes_a_run() {
    let index = open_on(&MemoryDisk::new(), NO_LIMITS, true);
    fill(&index, 100, 7);
    spill_all(&index);
    let view = index.view();
    let key = index.seed().key(KeyKind::Stream, "s-3");
    assert_eq!(view.run_end(), 100);
    assert_eq!(index.known_head(&key, 100), Some(StreamHead { version: 14, position: 94 }));
    assert_eq!(index.known_head(&key, 99), None, "who sees older runs is told nothing");
    let other = index.seed().key(KeyKind::Stream, "other");
    assert_eq!(index.known_head(&other, 100), None);
    index.remember_head(&other, StreamHead::default(), 100);
    assert_eq!(index.known_head(&other, 100), Some(StreamHead::default()));
}

#[test]
fn once_it_was_stopped_nothing_is_merged() {
    let disk = MemoryDisk::new();
    let index = open_on(&disk, NO_LIMITS, true);
    for upto in [100, 200] {
        fill(&index, upto, 7);
        spill_all(&index);
    }
    let files = disk.list(DIRECTORY).unwrap();
    index.stop_merging();
    assert!(!index.merge().unwrap());
    assert_eq!(disk.list(DIRECTORY).unwrap(), files);
    let again = open_on(&disk, NO_LIMITS, false);
    assert_eq!(again.view().runs_to_merge().len(), 0, "of another history, and not used");
    assert_eq!(index.view().runs_to_merge().len(), 2, "there was something to do");
}

#[test]
fn what_lies_outside_of_the_times_is_passed_over() {
    let index = open_on(&MemoryDisk::new(), NO_LIMITS, true);
    // Three zones of 512 events: of the times 0 to 9, 10 to 19 and 20 to 29.
    for position in 1..=1_536 {
        insert_event(&index, position, 7, ((position - 1) / 512 * 10 + position % 10) as i64);
    }
    for _ in ["in memory", "on disk"] {
        for (since, until, forward, backward) in [
            (None, None, Some((1, 512)), Some((1_025, 1_536))),
            (Some(9), None, Some((1, 512)), Some((1_025, 1_536))),
            (Some(10), None, Some((513, 1_024)), Some((1_025, 1_536))),
            (None, Some(20), Some((1, 512)), Some((513, 1_024))),
            (None, Some(21), Some((1, 512)), Some((1_025, 1_536))),
            (Some(10), Some(20), Some((513, 1_024)), Some((513, 1_024))),
            (Some(20), Some(20), None, None),
            (Some(30), None, None, None),
            (None, Some(0), None, None),
        ] {
            let times = TimeRange { since, until };
            let view = index.view();
            let next = |direction| view.next_in_time(times, 1, u64::MAX, direction).unwrap();
            assert_eq!((next(Direction::Forward), next(Direction::Backward)), (forward, backward), "{times:?}");
        }
        let times = TimeRange { since: Some(10), until: Some(20) };
        let next = |direction| index.view().next_in_time(times, 600, 1_000, direction).unwrap();
        assert_eq!([next(Direction::Forward), next(Direction::Backward)], [Some((600, 1_000)); 2]);
        assert_eq!(index.view().next_in_time(times, 1, 512, Direction::Forward).unwrap(), None);
        if index.view().run_end() == 0 {
            spill_all(&index);
        }
    }
}

/// Where a run lies over two segments, each of them has zones of its own.
#[test]
fn a_zone_ends_with_its_segment() {
    let index = open_on(&MemoryDisk::new(), NO_LIMITS, true);
    (1..=100).for_each(|position| insert_event(&index, position, 7, 0));
    index.roll(2, 9, 101);
    for position in 101..=200u64 {
        let event = index.seed().event("s-1", "type", [], 50, 1);
        let offset = position * 8;
        index.insert(FrameAt { segment: 2, offset, end: offset + 8, checksum: 1, first_position: position }, [event]);
    }
    index.freeze();
    while index.spill(200).unwrap() {}
    assert!(index.merge().unwrap());
    assert_eq!(index.view().frozen_windows() + index.view().sources.len(), 2, "one run, and the active window");
    let next =
        |since, until, direction| index.view().next_in_time(TimeRange { since, until }, 1, 200, direction).unwrap();
    assert_eq!(next(Some(50), None, Direction::Forward), Some((101, 200)));
    assert_eq!(next(None, Some(50), Direction::Backward), Some((1, 100)));
    assert_eq!(next(Some(0), Some(1), Direction::Forward), Some((1, 100)));
    assert_eq!(next(Some(50), Some(51), Direction::Backward), Some((101, 200)));
}

/// Of a stream with thousands of events between each of its own: a page of each array, and no more.
#[test]
fn the_head_of_a_stream_costs_a_page_of_each_array() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let index = open_on(&disk, NO_LIMITS, true);
    fill(&index, 6_000, 1_500);
    spill_all(&index);
    let key = index.seed().key(KeyKind::Stream, "s-3");
    let before = disk.calls(Call::Read);
    let view = index.view();
    let mut candidates = view.stream_candidates(&key, 1, u64::MAX, Direction::Backward);
    assert_eq!(candidates.next().unwrap().unwrap().position, 4_503);
    let reads = disk.calls(Call::Read) - before;
    assert!(reads <= 5, "{reads} pages for filter, directory, entry, postings and place");
    for position in [3_003, 1_503, 3] {
        assert_eq!(candidates.next().unwrap().unwrap().position, position);
    }
    assert_eq!(candidates.next().unwrap(), None);
}

/// A reader goes on with the files that its writer has made since.
#[test]
fn a_reader_adopts_what_the_writer_has_written_since() {
    let mut world = World::new(21, ALL_BITS);
    (0..20).for_each(|_| world.commit());
    let reader = open(&world.disk, &world.log, ALL_BITS, world.limits, false).unwrap();
    world.log.catch_up(&reader);
    assert_eq!(reader.view().run_end(), 0);
    world.synced = world.log.head();
    world.index.freeze();
    world.spill();
    let run_end = world.index.view().run_end();
    reader.adopt(&reader.open_again(&world.log.spans(), &world.log).unwrap());
    assert_eq!((reader.view().run_end(), reader.covered()), (run_end, run_end));
    let key = reader.seed().key(KeyKind::Stream, "a-3");
    reader.remember_head(&key, StreamHead { version: 1, position: 1 }, run_end);
    assert!(reader.known_head(&key, run_end).is_some(), "what is remembered holds for the new runs");
    (0..5).for_each(|_| world.commit());
    world.log.catch_up(&reader);
    check_places(&reader, &world.log);
}

/// The directory is synced where files were made in it, and only there.
#[test]
fn an_open_syncs_the_directory_if_it_has_written_there() {
    let world = closed_world(22);
    let positions = world.files().into_iter().find(|path| path.contains(".positions")).unwrap();
    for (removed, writable, expected) in [(false, true, 0), (true, false, 0), (true, true, 1)] {
        let disk = MemoryDisk::new();
        disk.create_dir(DIRECTORY).unwrap();
        for path in world.files().iter().filter(|path| !removed || **path != positions) {
            disk.create(path).unwrap().write_at(&contents(&world.disk, path), 0).unwrap();
        }
        let disk = FaultyDisk::new(disk);
        let options = IndexOptions { writable, ..world.index.options.clone() };
        let spans = world.log.spans();
        let index = Index::open(Arc::new(disk.clone()), STORE, options, &spans, &world.log, &mut |_| {}).unwrap();
        assert_eq!(disk.calls(Call::SyncDir), expected, "{removed} {writable}");
        check_places(&index, &world.log);
    }
}
