//! Repairs of files that are in use: what stands in their place, in the view and in the directory.

use super::*;
use crate::format::run::RunEntry;
use crate::index::run::Run;
use crate::storage::{Call, FaultyDisk};

/// What a read of a damaged run says.
fn fault_of(run: &Run) -> IndexFault {
    let error = run.found(&RunEntry { key: 0, start: 0, count: 0, last: 0 }).unwrap_err();
    error.fault().unwrap().clone()
}

/// What a read of the damaged positions file of a segment says.
fn fault_of_positions(index: &Index, segment: u64) -> IndexFault {
    let Positions::File(file) = index.view().positions_of(segment) else { panic!("there is a file") };
    let run = index.view().sources[0].as_run().map(|run| fault_of(run)).unwrap();
    let id = IndexFile::Positions { segment };
    IndexFault { file: id, path: id.path().into(), seed: file.seed(), ..run }
}

fn run_at(index: &Index, source: usize) -> Arc<Run> {
    Arc::clone(index.view().sources[source].as_run().unwrap())
}

/// The files that the index works with, in order.
fn files_in_use(index: &Index) -> Vec<String> {
    let view = index.view();
    let runs = view.sources.iter().filter_map(Source::as_run).map(|run| run.id().path());
    let positions = view.segments.iter().filter(|segment| matches!(segment.positions, Positions::File(_)));
    let mut paths: Vec<String> =
        positions.map(|segment| IndexFile::Positions { segment: segment.id.number }.path()).chain(runs).collect();
    paths.sort();
    paths
}

/// Three segments under one run.
fn merged_world(number: u64) -> World {
    let mut world = closed_world(number);
    world.merge();
    let run = run_at(&world.index, 0);
    assert!((run.first(), run.last()) == (1, world.log.head()), "one run over everything");
    world
}

#[test]
fn a_run_over_several_segments_is_rebuilt_in_pieces_that_take_its_place() {
    let mut world = merged_world(41);
    let damaged = run_at(&world.index, 0);
    world.index.repair(&fault_of(&damaged), &world.log).unwrap();
    let starts: Vec<u64> = world.index.view().sources.iter().map(|source| source.first).collect();
    for segment in &world.log.segments {
        assert!(starts.contains(&segment.first), "a piece lies in one segment: {starts:?}");
    }
    assert_eq!(world.files(), files_in_use(&world.index));
    assert!(!world.files().contains(&damaged.id().path()));
    world.check();
    assert_eq!(world.index.verify(), []);
    let mut rebuilt = 0;
    let (options, spans) = (world.index.options.clone(), world.log.spans());
    let progress = &mut |progress: RebuildProgress| rebuilt = progress.done;
    Index::open(Arc::new(world.disk.clone()), STORE, options, &spans, &world.log, progress).unwrap();
    assert_eq!(rebuilt, 0);
}

#[test]
fn a_segment_of_one_event_is_rebuilt_with_the_others() {
    let mut world = World::new(51, ALL_BITS);
    (0..5).for_each(|_| world.commit());
    world.roll();
    let event = world.event(&[]);
    world.log.append(vec![event]);
    world.log.catch_up(&world.index);
    world.roll();
    (0..5).for_each(|_| world.commit());
    world.synced = world.log.head();
    world.index.freeze();
    world.spill();
    world.merge();
    let damaged = run_at(&world.index, 0);
    assert!((damaged.first(), damaged.last()) == (1, world.log.head()), "one run over everything");
    world.index.repair(&fault_of(&damaged), &world.log).unwrap();
    let only = world.log.segments[1].first;
    let view = world.index.view();
    assert!(view.sources.iter().any(|source| (source.first, source.last()) == (only, only)));
    world.check();
}

/// It has the name of what it replaces.
#[test]
fn a_run_in_one_segment_takes_the_place_of_the_damaged_one() {
    let world = closed_world(42);
    let files = world.files();
    let before = run_at(&world.index, 1);
    world.index.repair(&fault_of(&before), &world.log).unwrap();
    let after = run_at(&world.index, 1);
    assert_eq!((world.files(), after.id()), (files.clone(), before.id()));
    assert_ne!(after.seed(), before.seed());
    assert_eq!(files_in_use(&world.index), files);
    // Whoever comes too late with the same fault finds that it was done.
    let bytes = contents(&world.disk, &after.id().path());
    world.index.repair(&fault_of(&before), &world.log).unwrap();
    assert!(contents(&world.disk, &after.id().path()) == bytes && run_at(&world.index, 1).seed() == after.seed());
}

/// What a run holds of segments that were removed cannot be rebuilt, and need not be.
#[test]
fn a_run_that_reaches_before_what_is_kept_is_rebuilt_from_there_on() {
    let mut world = merged_world(43);
    world.forget();
    let damaged = run_at(&world.index, 0);
    assert!(damaged.first() < world.log.kept_from);
    world.index.repair(&fault_of(&damaged), &world.log).unwrap();
    assert_eq!(world.index.view().sources[0].first, world.log.kept_from);
    assert_eq!(world.files(), files_in_use(&world.index));
    world.check();
    assert_eq!(world.index.verify(), []);
}

/// The kept part lies in one segment, and so is one piece, of another name.
#[test]
fn a_run_of_which_one_segment_is_kept_is_replaced_under_another_name() {
    let mut world = World::new(44, ALL_BITS);
    for _ in 0..3 {
        (0..10).for_each(|_| world.commit());
        world.roll();
    }
    world.index.options.limits.log_bytes_max = u64::MAX;
    world.synced = world.log.head();
    world.index.freeze();
    world.spill();
    world.merge();
    assert_eq!((run_at(&world.index, 0).first(), run_at(&world.index, 0).last()), (1, world.log.head()));
    let damaged = run_at(&world.index, 0);
    world.forget();
    world.forget();
    world.index.repair(&fault_of(&damaged), &world.log).unwrap();
    assert_eq!(run_at(&world.index, 0).first(), world.log.kept_from);
    assert_eq!(world.files(), files_in_use(&world.index));
    world.check();
}

#[test]
fn the_positions_of_a_segment_are_rebuilt_once() {
    let mut world = closed_world(45);
    let fault = fault_of_positions(&world.index, 1);
    let path = IndexFile::Positions { segment: 1 }.path();
    world.index.repair(&fault, &world.log).unwrap();
    let seed = |index: &Index| fault_of_positions(index, 1).seed;
    let after = seed(&world.index);
    assert_ne!(after, fault.seed);
    let bytes = contents(&world.disk, &path);
    world.index.repair(&fault, &world.log).unwrap();
    assert!(seed(&world.index) == after && contents(&world.disk, &path) == bytes, "it was done already");
    world.check();
    assert_eq!(world.index.verify(), []);
}

#[test]
fn a_reader_repairs_in_memory_and_writes_nothing() {
    let mut world = closed_world(46);
    let reader = open(&world.disk, &world.log, ALL_BITS, world.limits, false).unwrap();
    let before: Vec<_> = world.files().into_iter().map(|path| (contents(&world.disk, &path), path)).collect();
    reader.repair(&fault_of_positions(&reader, 1), &world.log).unwrap();
    assert!(matches!(reader.view().positions_of(1), Positions::Memory(_)));
    reader.repair(&fault_of(&run_at(&reader, 0)), &world.log).unwrap();
    assert!(reader.view().sources[0].as_window().is_some());
    let after: Vec<_> = world.files().into_iter().map(|path| (contents(&world.disk, &path), path)).collect();
    assert!(before == after);
    world.log.catch_up(&reader);
    world.index = reader;
    world.check();
}

/// Found by review. It wrote beside the process that it was forked from, and waited for ever for the locks of its threads.
#[test]
#[cfg(all(unix, not(miri)))]
fn a_fork_repairs_in_memory_and_waits_for_nobody() {
    if crate::storage::ran_alone() {
        return;
    }
    let world = closed_world(48);
    let World { disk, log, mut index, .. } = world;
    index.options.owner = Some(crate::storage::Owner::this_process());
    let files: Vec<_> = files_in_use(&index).into_iter().map(|path| (contents(&disk, &path), path)).collect();
    let faults = [fault_of_positions(&index, 1), fault_of(&run_at(&index, 0))];
    let index = Arc::new(index);
    let copy = Arc::clone(&index);
    let _spilling = index.spilling.lock();
    let _merging = index.merging.lock();
    assert!(crate::storage::holds_in_a_fork(move || {
        let is_repaired = faults.iter().all(|fault| copy.repair(fault, &log).is_ok());
        let view = copy.view();
        let is_in_memory =
            matches!(view.positions_of(1), Positions::Memory(_)) && view.sources[0].as_window().is_some();
        is_repaired && is_in_memory && files.iter().all(|(bytes, path)| contents(&disk, path) == *bytes)
    }));
}

/// Its name has to be durable before the damaged file is removed.
#[test]
fn what_a_repair_makes_is_durable() {
    let world = closed_world(47);
    let disk = FaultyDisk::new(world.disk.clone());
    let (options, spans) = (world.index.options.clone(), world.log.spans());
    let index = Index::open(Arc::new(disk.clone()), STORE, options, &spans, &world.log, &mut |_| {}).unwrap();
    for (fault, done) in [(fault_of(&run_at(&index, 0)), 1), (fault_of_positions(&index, 1), 2)] {
        index.repair(&fault, &world.log).unwrap();
        assert_eq!(disk.calls(Call::SyncDir), done, "{:?}", fault.file);
    }
}

#[test]
fn nothing_is_replaced_by_less_than_there_was() {
    for segment in [1, 2] {
        let mut world = closed_world(48);
        // Two runs for each segment.
        let run = run_at(&world.index, segment * 2 - 1);
        let faults = [fault_of_positions(&world.index, segment as u64), fault_of(&run)];
        let of_segment = |event: &&Recorded| event.place.segment == segment as u64;
        let last = world.log.events.iter().filter(of_segment).map(|event| event.place.offset).max().unwrap();
        world.log.segments[segment - 1].bytes.truncate(last as usize);
        let before: Vec<_> = world.files().into_iter().map(|path| (contents(&world.disk, &path), path)).collect();
        for fault in faults {
            let error = Error::from(world.index.repair(&fault, &world.log).unwrap_err());
            assert!(error.to_string().contains(&format!("000000000{segment}.segment")), "{error}");
        }
        assert_eq!(files_in_use(&world.index), before.iter().map(|(_, path)| path.clone()).collect::<Vec<_>>());
        assert!(before.iter().all(|(bytes, path)| contents(&world.disk, path) == *bytes));
    }
}

/// Meanwhile one of them was repaired, or removed.
#[test]
fn a_merge_takes_the_place_of_its_inputs_or_of_nothing() {
    let world = closed_world(50);
    let view = world.index.view();
    let runs: Vec<Arc<Run>> = view.sources.iter().filter_map(Source::as_run).cloned().collect();
    assert!(runs.len() >= 3);
    let merged = || Arc::clone(&runs[0]);
    let firsts = |view: &IndexView| view.sources.iter().map(|source| source.first).collect::<Vec<_>>();
    let tried = |inputs: &[Arc<Run>]| {
        let mut view = IndexView::clone(&view);
        (view.replace_runs(inputs, merged()), firsts(&view))
    };
    let [first, second, third] = [0, 1, 2].map(|index| Arc::clone(&runs[index]));
    let shorter = [&firsts(&view)[..1], &firsts(&view)[2..]].concat();
    assert_eq!(tried(&[Arc::clone(&first), second]), (true, shorter));
    let unchanged = (false, firsts(&view));
    assert_eq!(tried(&[Arc::clone(&first), third]), unchanged, "another stands in the place of the second");
    let stranger = Arc::new(Run::open(&world.index.files, first.first(), first.last()).unwrap());
    assert_eq!(tried(&[stranger]), unchanged);
    let last = runs.last().unwrap();
    assert_eq!(tried(&[Arc::clone(last), Arc::clone(last), Arc::clone(last)]), unchanged, "more than there are");
}

/// At the boundary: a run that ends with the last position before, and one that ends with the first that is kept.
#[test]
fn what_is_forgotten_is_what_lies_before_the_first_kept_position() {
    let mut world = World::new(49, ALL_BITS);
    (0..5).for_each(|_| world.commit());
    for _ in 0..2 {
        world.synced = world.log.head();
        world.index.freeze();
        world.spill();
        world.roll();
        let event = world.event(&[]);
        world.log.append(vec![event]);
        world.log.catch_up(&world.index);
    }
    let kept = run_at(&world.index, 1);
    assert_eq!((kept.first(), kept.last()), (world.log.segments[1].first, world.log.segments[1].first));
    world.forget();
    assert_eq!(run_at(&world.index, 0).id(), kept.id());
    assert_eq!(world.files(), files_in_use(&world.index));
    assert_eq!(world.files().len(), 2, "{:?}", world.files());
    assert_eq!(world.index.view().segments[0].id.number, 2);
    world.check();
}

/// A log that has something done while it is scanned.
struct Meanwhile<'a> {
    log: &'a FakeLog,
    done: &'a dyn Fn(),
}

impl FrameSource for Meanwhile<'_> {
    fn header(&self, segment: u64, offset: u64) -> Result<FrameHeader, Error> {
        self.log.header(segment, offset)
    }

    fn scan(
        &self,
        segment: u64,
        offset: u64,
        upto: u64,
        visit: &mut dyn FnMut(u64, &Frame<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        (self.done)();
        self.log.scan(segment, offset, upto, visit)
    }
}

/// Found by review. A reader that made the damaged positions of a segment again put them in the place of those that it had
/// got from its writer meanwhile, and which covered more: behind them the log was called corrupt.
#[test]
fn a_repair_leaves_an_index_alone_that_was_adopted_meanwhile() {
    let mut world = World::new(52, ALL_BITS);
    let grow = |world: &mut World| {
        (0..5).for_each(|_| world.commit());
        world.synced = world.log.head();
        world.index.freeze();
        world.spill();
    };
    grow(&mut world);
    let reader = open(&world.disk, &world.log, ALL_BITS, world.limits, false).unwrap();
    let fault = fault_of_positions(&reader, 1);
    grow(&mut world);
    let adopt = || reader.adopt(&reader.open_again(&world.log.spans(), &world.log).unwrap());
    reader.repair(&fault, &Meanwhile { log: &world.log, done: &adopt }).unwrap();
    for position in 1..=world.log.head() {
        assert!(reader.view().locate(position).unwrap().is_some(), "{position}");
    }
}
