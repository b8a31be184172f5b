//! Files of the index whose pages are whole and that contradict the log, or a log that contradicts itself.
//!
//! No wrong answer comes of the first: the file is dropped and made again. Of the second comes an error.

use super::*;
use crate::index::positions::PositionTable;
use crate::index::run::{RunSize, RunWriter};
use crate::storage::{Call, Fault, FaultyDisk};

/// Opens the index of a world anew, and says how many positions were rebuilt for that.
fn reopened(world: &mut World) -> u64 {
    let mut rebuilt = 0;
    let (spans, options) = (world.log.spans(), world.index.options.clone());
    let disk = Arc::new(world.disk.clone());
    let progress = &mut |progress: RebuildProgress| rebuilt = progress.done;
    world.index = Index::open(disk, STORE, options, &spans, &world.log, progress).unwrap();
    world.log.catch_up(&world.index);
    rebuilt
}

/// What stands in the place of an open rebuilds something, answers right, and is kept.
#[track_caller]
fn assert_made_again(world: &mut World, what: &str) {
    assert!(reopened(world) > 0, "{what} is believed");
    world.check();
    assert_eq!(world.index.verify(), [], "{what}");
    assert_eq!(reopened(world), 0, "{what} is made again, once");
}

fn id_of(segment: &FakeSegment) -> SegmentId {
    SegmentId { number: segment.number, salt: segment.salt, first: segment.first }
}

/// The last frames of a segment, the last one first: what a checkpoint says of them.
fn last_frames(log: &FakeLog, number: u64) -> Vec<FrameAt> {
    let mut frames = Vec::new();
    log.scan(number, FIRST_FRAME, u64::MAX, &mut |offset, frame| {
        let end = offset + frame.header.frame_len() as u64;
        let (checksum, first_position) = (frame.header.checksum, frame.header.link.first_position);
        frames.push(FrameAt { segment: number, offset, end, checksum, first_position });
        Ok(())
    })
    .unwrap();
    frames.reverse();
    frames
}

/// The positions of a segment from `first` on, as the log has them, with this checkpoint.
fn table(log: &FakeLog, first: u64, end: u64, checkpoint: FrameAt) -> PositionTable {
    let mut table = PositionTable::new(first, first);
    for event in &log.events[first as usize - 1..end as usize - 1] {
        table.push(event.place.offset, event.time);
    }
    table.end_commit(checkpoint);
    table
}

/// What was made in the place of a file that was dropped was removed under its name, and made again by the next open.
#[test]
fn a_positions_file_that_contradicts_the_log_is_made_again() {
    let mut world = closed_world(31);
    let (id, end) = (id_of(&world.log.segments[0]), world.log.segments[1].first);
    let [last, before, ..] = last_frames(&world.log, 1)[..] else { panic!("several commits") };
    let lies = [
        ("another salt", SegmentId { salt: id.salt + 1, ..id }, last),
        ("another first position", SegmentId { first: id.first + 1, ..id }, last),
        ("another checksum", id, FrameAt { checksum: last.checksum ^ 1, ..last }),
        ("another end", id, FrameAt { end: last.end + 8, ..last }),
        ("a place of no frame", id, FrameAt { offset: last.offset + 8, ..last }),
        ("a place behind the segment", id, FrameAt { offset: 1 << 30, ..last }),
        ("the frame before", id, before),
    ];
    for (what, id, checkpoint) in lies {
        let table = table(&world.log, id.first, end, checkpoint);
        Positions::None.write(&world.index.files, id, &table).unwrap();
        assert_made_again(&mut world, what);
    }
    // The same file without a lie is believed.
    Positions::None.write(&world.index.files, id, &table(&world.log, id.first, end, last)).unwrap();
    assert_eq!(reopened(&mut world), 0);
}

/// A log of which the last commit of the first segment, of so many events, was torn and cut, while its bytes are still
/// there, whole; the table of all positions with that commit.
fn cut_world(number: u64, torn_events: u64) -> (World, PositionTable) {
    let mut world = World::new(number, ALL_BITS);
    (0..12).for_each(|_| world.commit());
    let torn = loop {
        let [last, ..] = last_frames(&world.log, 1)[..] else { panic!("several commits") };
        if world.log.head() + 1 - last.first_position == torn_events {
            break last;
        }
        world.commit();
    };
    let whole = table(&world.log, 1, world.log.head() + 1, torn);
    let events = world.log.events.split_off(torn.first_position as usize - 1);
    let frame = world.log.segments[0].bytes.split_off(torn.offset as usize);
    world.reopen();
    world.synced = world.log.head();
    world.index.freeze();
    world.spill();
    assert!(!events.is_empty());
    world.log.segments[0].bytes.extend(frame);
    world.log.roll(77);
    (world, whole)
}

#[test]
fn positions_that_were_cut_are_never_covered() {
    for (lie, torn_events) in [(false, 1), (false, 2), (true, 1), (true, 2)] {
        let (world, whole) = cut_world(32, torn_events);
        let path = IndexFile::Positions { segment: 1 }.path();
        match lie {
            true => drop(Positions::None.write(&world.index.files, id_of(&world.log.segments[0]), &whole).unwrap()),
            false => world.disk.remove(&path).unwrap(),
        }
        let mut rebuilt = 0;
        let (spans, options) = (world.log.spans(), world.index.options.clone());
        let disk = Arc::new(world.disk.clone());
        let progress = &mut |progress: RebuildProgress| rebuilt = progress.done;
        let index = Index::open(disk, STORE, options, &spans, &world.log, progress).unwrap();
        assert_eq!((rebuilt, index.covered()), (world.log.head(), world.log.head()));
        assert_eq!(index.view().positions_of(1).count(), world.log.head());
        check_places(&index, &world.log);
    }
}

#[test]
fn files_of_other_names_are_left_alone() {
    let mut world = closed_world(38);
    let names = ["index/notes", "index/0000000001.positions.bak", "index/1-2.run"];
    for name in names {
        world.disk.create(name).unwrap();
    }
    let unfinished = "index/0000000001.positions.tmp";
    world.disk.create(unfinished).unwrap();
    assert_eq!(reopened(&mut world), 0);
    let files = world.files();
    assert!(names.iter().all(|name| files.iter().any(|path| path == name)), "{files:?}");
    assert!(files.iter().all(|path| path != unfinished), "{files:?}");
}

/// Its positions are not read for themselves before they are read for its runs.
#[test]
fn of_a_segment_without_files_each_position_is_read_once() {
    let mut world = closed_world(51);
    let [first, end] = [0, 1].map(|segment: usize| world.log.segments[segment].first);
    let runs: Vec<String> = (world.index.view().sources.iter().filter_map(Source::as_run))
        .filter(|run| run.last() < end)
        .map(|run| run.id().path())
        .collect();
    assert_eq!(runs.len(), 2);
    for path in [runs, vec![IndexFile::Positions { segment: 1 }.path()]].concat() {
        world.disk.remove(&path).unwrap();
    }
    assert_eq!(reopened(&mut world), end - first);
    world.check();
}

/// Reports come every so many positions, and each says how much there is to do in all.
#[test]
fn a_rebuild_says_how_far_it_is_and_how_much_there_is() {
    const EVENTS: u64 = 34_000;
    let mut world = World::new(39, ALL_BITS);
    let event = world.event(&[]);
    while world.log.head() < EVENTS {
        world.log.append(vec![event.clone(); 500]);
    }
    world.limits.log_bytes_max = u64::MAX;
    for kept in ["none", ".positions", ".run"] {
        let files = world.files();
        files.iter().filter(|path| !path.contains(kept)).for_each(|path| world.disk.remove(path).unwrap());
        if kept == "none" {
            let end = world.log.head();
            let [last, ..] = last_frames(&world.log, 1)[..] else { panic!("a frame") };
            let id = id_of(&world.log.segments[0]);
            Positions::None.write(&world.index.files, id, &table(&world.log, 1, end + 1, last)).unwrap();
        }
        let mut reports = Vec::new();
        let options = IndexOptions { limits: world.limits, ..world.index.options.clone() };
        let (disk, spans) = (Arc::new(world.disk.clone()), world.log.spans());
        let progress = &mut |progress: RebuildProgress| reports.push((progress.done, progress.total));
        Index::open(disk, STORE, options, &spans, &world.log, progress).unwrap();
        assert_eq!(reports, [(16_500, EVENTS), (33_000, EVENTS), (EVENTS, EVENTS)], "{kept}");
    }
    let mut reports = 0;
    let (disk, spans) = (Arc::new(world.disk.clone()), world.log.spans());
    let options = world.index.options.clone();
    Index::open(disk, STORE, options, &spans, &world.log, &mut |_| reports += 1).unwrap();
    assert_eq!(reports, 0, "nothing was rebuilt");
}

/// A run without keys, of these positions and with this checksum of its last frame.
fn empty_run(world: &World, first: u64, last: u64, checksum: u32) -> String {
    let writer = RunWriter::create(&world.index.files, first, last, checksum, RunSize::default()).unwrap();
    writer.finish(&world.index.files).unwrap().id().path()
}

#[test]
fn a_run_that_contradicts_the_log_is_made_again() {
    let mut world = closed_world(33);
    let [last, ..] = last_frames(&world.log, 1)[..] else { panic!("several commits") };
    let upto = world.log.segments[1].first - 1;
    let head = world.log.head();
    for (what, last, checksum) in [
        ("another checksum", upto, last.checksum ^ 1),
        ("an end inside of a commit", upto - 1, last.checksum),
        ("more than the log has", head + 5, last.checksum),
    ] {
        for path in world.files().iter().filter(|path| path.contains(".run")) {
            world.disk.remove(path).unwrap();
        }
        let path = empty_run(&world, 1, last, checksum);
        let lie = contents(&world.disk, &path);
        assert_made_again(&mut world, what);
        assert!(!world.files().contains(&path) || contents(&world.disk, &path) != lie, "{what}: {path}");
    }
}

/// A run that says of one stream that it has these events, relative to the first, and of no other anything.
fn run_of_one_stream(world: &World, name: &str, postings: &[u32], last: u32) {
    let [frame, ..] = last_frames(&world.log, 1)[..] else { panic!("several commits") };
    let upto = world.log.segments[1].first - 1;
    let size = RunSize { entries: 1, postings: postings.len() as u64 };
    let mut writer = RunWriter::create(&world.index.files, 1, upto, frame.checksum, size).unwrap();
    let key = world.index.seed().key(KeyKind::Stream, name);
    writer.key(key.hash, postings.len() as u32, last).unwrap();
    for posting in postings {
        writer.posting(*posting).unwrap();
    }
    writer.finish(&world.index.files).unwrap();
}

/// Found by the fuzz target `index`: what postings said in any order was shown in that order, and twice if they said so.
#[test]
fn of_postings_that_are_not_in_order_none_is_told_twice_or_late() {
    let mut world = closed_world(34);
    for (postings, direction, before) in [
        ([2, 0, 4], Direction::Forward, vec![]),
        ([0, 2, 2], Direction::Forward, vec![]),
        ([2, 0, 4], Direction::Backward, vec![5]),
        ([4, 4, 4], Direction::Backward, vec![5]),
        ([2, 2, 4], Direction::Backward, vec![5]),
    ] {
        for path in world.files().iter().filter(|path| path.contains(".run")) {
            world.disk.remove(path).unwrap();
        }
        run_of_one_stream(&world, "liar", &postings, postings[2]);
        reopened(&mut world);
        let key = world.index.seed().key(KeyKind::Stream, "liar");
        let mut candidates = world.index.view().stream_candidates(&key, 1, world.log.head(), direction);
        let mut told = Vec::new();
        let end = loop {
            match candidates.next() {
                Ok(Some(located)) => told.push(located.position),
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        assert_eq!(told, before, "{postings:?} {direction:?}");
        assert!(matches!(end, Some(IndexError::Damaged(_))), "{postings:?} {direction:?}: {end:?}");
    }
}

/// Takes the last commit of the first segment away from the log.
fn shorten_first_segment(world: &mut World) {
    let [last, ..] = last_frames(&world.log, 1)[..] else { panic!("several commits") };
    world.log.segments[0].bytes.truncate(last.offset as usize);
}

/// Takes a commit in the middle of the first segment away.
fn tear_first_segment(world: &mut World) {
    let frames = last_frames(&world.log, 1);
    let (behind, torn) = (&frames[..frames.len() / 2], frames[frames.len() / 2]);
    let events_of = |frame: &FrameAt| -> Vec<Recorded> {
        let place = EventPlace { segment: 1, offset: frame.offset };
        world.log.events.iter().filter(|event| event.place == place).cloned().collect()
    };
    let behind: Vec<_> = behind.iter().rev().map(|frame| (frame.first_position, events_of(frame))).collect();
    let segment = &mut world.log.segments[0];
    segment.bytes.truncate(torn.offset as usize);
    for (first_position, events) in behind {
        segment.append(first_position, &events);
    }
}

fn refused(world: &World) -> String {
    let opened = open(&world.disk, &world.log, ALL_BITS, world.limits, true);
    let error = opened.map(drop).unwrap_err();
    assert!(matches!(&error, IndexError::Failed(error) if matches!(**error, Error::Corrupt { .. })), "{error:?}");
    Error::from(error).to_string()
}

/// By its last commit, of one event. With and without runs over it: the index asks for positions, or for keys.
#[test]
fn a_log_that_is_shorter_than_it_was_is_an_error() {
    for kept in [".run", "none"] {
        let mut world = World::new(34, ALL_BITS);
        (0..12).for_each(|_| world.commit());
        let event = world.event(&[]);
        world.log.append(vec![event]);
        world.log.catch_up(&world.index);
        world.roll();
        world.commit();
        world.synced = world.log.head();
        world.index.freeze();
        world.spill();
        world.merge();
        for path in world.files().iter().filter(|path| !path.contains(kept)) {
            world.disk.remove(path).unwrap();
        }
        shorten_first_segment(&mut world);
        let error = refused(&world);
        assert!(error.contains("0000000001.segment") && error.contains("ends before"), "{kept}: {error}");
    }
}

#[test]
fn a_log_whose_positions_have_a_gap_is_an_error() {
    for kept in [".run", "none"] {
        let mut world = closed_world(35);
        world.merge();
        for path in world.files().iter().filter(|path| !path.contains(kept)) {
            world.disk.remove(path).unwrap();
        }
        tear_first_segment(&mut world);
        let error = refused(&world);
        assert!(error.contains("the positions of the log have a gap"), "{kept}: {error}");
    }
}

/// A writer was killed behind the end of a segment whose positions were written in part, and of that part a page rots.
#[test]
fn a_damaged_positions_file_is_made_again_before_it_grows() {
    let mut world = World::new(36, ALL_BITS);
    world.index.options.limits.log_bytes_max = u64::MAX;
    // The run is checked where it ends, on the second page.
    while world.log.head() < 1_200 {
        world.commit();
    }
    world.synced = world.log.head();
    world.index.freeze();
    world.spill();
    (0..12).for_each(|_| world.commit());
    world.roll();
    let path = IndexFile::Positions { segment: 1 }.path();
    let mut bytes = contents(&world.disk, &path);
    bytes[4_096 + 3] ^= 1;
    replace(&world.disk, &path, &bytes);
    assert_made_again(&mut world, "the positions file");
}

/// A writer replaces files while a reader lists them.
#[test]
fn a_reader_lists_again_what_was_replaced_while_it_looked() {
    let world = closed_world(37);
    for (forever, listings) in [(false, 2), (true, 16)] {
        let disk = FaultyDisk::new(world.disk.clone());
        disk.inject(Fault { forever, ..Fault::next(Call::Open).of(".run").kind(std::io::ErrorKind::NotFound) });
        let options = IndexOptions { writable: false, ..world.index.options.clone() };
        let mut rebuilt = 0;
        let progress = &mut |progress: RebuildProgress| rebuilt = progress.done;
        let index =
            Index::open(Arc::new(disk.clone()), STORE, options, &world.log.spans(), &world.log, progress).unwrap();
        assert_eq!((disk.calls(Call::List), rebuilt > 0), (listings, forever));
        world.log.catch_up(&index);
        check_places(&index, &world.log);
    }
    let disk = FaultyDisk::new(world.disk.clone());
    disk.inject(Fault { forever: true, ..Fault::next(Call::Open).of(".run").kind(std::io::ErrorKind::NotFound) });
    let (spans, options) = (world.log.spans(), world.index.options.clone());
    Index::open(Arc::new(disk.clone()), STORE, options, &spans, &world.log, &mut |_| {}).unwrap_err();
    assert_eq!(disk.calls(Call::List), 1, "a writer is alone: what is gone is gone");
}
