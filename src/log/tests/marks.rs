//! Marks, and logs that are opened and closed without appends.

use super::*;
use crate::format::frame::FrameKind;

fn last_kind(log: &Log) -> FrameKind {
    let segments = log.segments();
    let segment = segments.last().unwrap();
    let (mut offset, mut kind) = (FIRST_FRAME, FrameKind::Start);
    while offset < segment.used_bytes().unwrap() {
        let header = segment.header(offset).unwrap();
        (offset, kind) = (offset + header.frame_len() as u64, header.kind);
    }
    kind
}

fn used(log: &Log) -> u64 {
    log.segments().last().unwrap().used_bytes().unwrap()
}

#[test]
fn a_mark_is_written_once_when_nothing_happens() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let opened = open(&disk, large());
    add(&opened, OS, "a");
    let before = used(&opened.log);
    opened.appender.mark().unwrap();
    assert_eq!((used(&opened.log), last_kind(&opened.log)), (before + 48, FrameKind::Mark));
    assert_eq!(heads(&opened), (1, 1));
    let writes = (disk.calls(Call::Write), disk.calls(Call::Sync));
    opened.appender.mark().unwrap();
    assert_eq!((disk.calls(Call::Write), disk.calls(Call::Sync)), writes);
    add(&opened, SYNCED, "b");
    opened.appender.mark().unwrap();
    assert_eq!(last_kind(&opened.log), FrameKind::Mark);
    assert_eq!(texts(&opened.log), ["a", "b"]);
}

#[test]
fn an_empty_log_needs_no_mark() {
    let opened = open(&MemoryDisk::new(), large());
    opened.appender.mark().unwrap();
    assert_eq!(last_kind(&opened.log), FrameKind::Start);
}

#[test]
fn opening_and_closing_without_appends_leaves_every_byte_as_it_is() {
    for commits in [0, 1, 30] {
        let disk = MemoryDisk::new();
        let opened = open(&disk, small());
        for index in 0..commits {
            add(&opened, SYNCED, &format!("{index}"));
        }
        opened.appender.close().unwrap();
        drop(opened);
        let before = files(&disk);
        for _ in 0..3 {
            let opened = open(&disk, small());
            assert_eq!(opened.recovered, Recovered::default());
            opened.appender.close().unwrap();
        }
        assert!(files(&disk) == before, "{commits} commits");
    }
}

#[test]
fn a_mark_that_does_not_fit_is_left_out() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, small());
    let room = SEGMENT_BYTES - used(&opened.log) - frame_len(&[Vec::new()]) as u64 - 8;
    append(&opened.appender, SYNCED, &[filled("x", room as usize)]).unwrap();
    assert!(SEGMENT_BYTES - used(&opened.log) < 48);
    opened.appender.close().unwrap();
    assert_eq!(last_kind(&opened.log), FrameKind::Commit);
    let again = open(&disk, small());
    assert_eq!(again.recovered, Recovered::default());
    assert_eq!(add(&again, SYNCED, "y"), 2);
    assert_eq!(again.log.segments().last().unwrap().number, 2);
}

/// A mark says that everything before it is on the disk. Written while another thread's sync was still under way, it
/// could get there first; after a loss of power the store was then refused as corrupt.
#[test]
fn no_mark_is_written_while_a_sync_is_under_way() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let opened = open(&disk, large());
    add(&opened, OS, "a");
    disk.hold(Call::Sync, ".segment");
    std::thread::scope(|scope| {
        let syncing = scope.spawn(|| opened.appender.sync());
        disk.wait_held();
        // What `mark` does behind its own sync, which waits for the other one. It must not come to a write.
        disk.inject(Fault::next(Call::Write).of(".segment"));
        let marked = opened.appender.mark_synced(opened.appender.turn().unwrap());
        disk.heal();
        disk.release();
        marked.unwrap();
        syncing.join().unwrap().unwrap();
    });
    opened.appender.mark().unwrap();
    assert_eq!(last_kind(&opened.log), FrameKind::Mark);
}

#[test]
fn marks_beside_appends_and_syncs_of_other_threads_always_tell_the_truth() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let opened = open(&disk, small());
    std::thread::scope(|scope| {
        let opened = &opened;
        let writers: Vec<_> = (0..2)
            .map(|thread| {
                scope.spawn(move || {
                    for index in 0..100 {
                        add(opened, if index % 5 == 0 { SYNCED } else { OS }, &format!("{thread}/{index}"));
                    }
                })
            })
            .collect();
        scope.spawn(|| (0..100).for_each(|_| opened.appender.sync().unwrap()));
        let mut seed = 0;
        while writers.iter().any(|writer| !writer.is_finished()) {
            opened.appender.mark().unwrap();
            opened.appender.make_spare().unwrap();
            let synced = opened.log.synced();
            let again = try_open(&disk.power_cut(seed), small()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            assert!(again.log.visible() >= synced, "seed {seed}");
            seed += 1;
        }
    });
    assert_eq!(read_all(&opened.log).len(), 200);
}
