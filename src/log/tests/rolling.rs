//! Going on in the next segment, spares, and full disks.

use super::*;

fn segment_count(disk: &dyn Disk) -> usize {
    disk.list(LOG_DIR).unwrap().iter().filter(|name| name.ends_with(".segment")).count()
}

/// Appends until the active segment is more than half full.
fn fill_half(opened: &Opened) {
    let active = active(opened);
    while bytes_used(opened) <= SEGMENT_BYTES / 2 {
        append(&opened.appender, SYNCED, &[filled("half", 300)]).unwrap();
    }
    assert_eq!(self::active(opened), active);
}

fn active(opened: &Opened) -> u64 {
    opened.log.segments().last().unwrap().number
}

fn bytes_used(opened: &Opened) -> u64 {
    opened.log.segments().last().unwrap().used_bytes().unwrap()
}

/// A header, and a start frame: so much larger than a commit is the segment that it needs.
#[test]
fn a_segment_has_176_bytes_besides_commits() {
    assert_eq!(OVERHEAD_BYTES, 64 + 48 + 64);
}

/// Sizes of the first five segments of a log whose segments grow from 4 KiB to 64 KiB, of which the first is filled with
/// commits of one durability and the next ones with those of another.
fn sizes(growth: Growth, first: Durability, next: Durability) -> Vec<usize> {
    let read_mode = ReadMode::Map;
    let options = LogOptions { segment_bytes_first: 4096, segment_bytes_max: 64 * 1024, growth, read_mode };
    let disk = MemoryDisk::new();
    let opened = open(&disk, options);
    while active(&opened) < 5 {
        let durability = if active(&opened) == 1 { first } else { next };
        append(&opened.appender, durability, &[filled("x", 1000)]).unwrap();
    }
    (1..=5).map(|number| bytes_of(&disk, &path_of(number)).len()).collect()
}

#[test]
fn segments_double_up_to_the_maximum() {
    assert_eq!(sizes(Growth::Doubling, SYNCED, SYNCED), [4096, 8192, 16_384, 32_768, 65_536]);
}

#[test]
fn segments_that_are_filled_before_they_are_synced_grow_faster() {
    assert_eq!(sizes(Growth::Doubling, OS, OS), [4096, 16_384, 65_536, 65_536, 65_536]);
    assert_eq!(sizes(Growth::Doubling, OS, SYNCED), [4096, 16_384, 32_768, 65_536, 65_536]);
    assert_eq!(sizes(Growth::Sixteenths, OS, OS), [4096; 5]);
}

#[test]
fn segments_of_a_log_that_is_compacted_are_a_sixteenth_of_what_is_kept() {
    let growth = Growth::Sixteenths;
    let options =
        LogOptions { segment_bytes_first: 4096, segment_bytes_max: 64 * 1024, growth, read_mode: ReadMode::Map };
    for (kept, expected) in
        [(0, 4096), (16 * 4096, 4096), (16 * 4097, 4097), (16 * 64 * 1024, 65_536), (1 << 30, 65_536)]
    {
        assert_eq!(options.segment_bytes(9, kept), expected, "{kept} bytes are kept");
    }
}

#[test]
fn the_bytes_that_are_kept_are_those_of_the_segments_that_are() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, small());
    for _ in 0..10 {
        append(&opened.appender, SYNCED, &[filled("x", 1000)]).unwrap();
    }
    let kept = || opened.log.segments().iter().map(|segment| segment.used_bytes().unwrap()).sum::<u64>();
    assert_eq!(opened.log.kept_bytes(), kept());
    let before = kept();
    let removed = opened.log.trim_before(&opened.appender, 3, |_| {}).unwrap();
    assert_eq!(removed.iter().map(|segment| segment.number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(opened.log.kept_bytes(), kept());
    assert!(kept() < before);
}

#[test]
fn a_commit_larger_than_a_segment_gets_one_that_holds_it() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, small());
    let payloads = [filled("a", 100), filled("b", 20_000), filled("c", 3000), filled("d", 100_000), filled("e", 10)];
    for payload in &payloads {
        append(&opened.appender, SYNCED, std::slice::from_ref(payload)).unwrap();
    }
    opened.appender.close().unwrap();
    drop(opened);
    let commits = read_all(&open(&disk, small()).log);
    assert_eq!(commits, payloads.map(|payload| vec![payload]));
}

#[test]
fn a_commit_larger_than_the_spare_makes_the_spare_larger() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, small());
    fill_half(&opened);
    opened.appender.make_spare().unwrap();
    assert_eq!(segment_count(&disk), 2);
    append(&opened.appender, SYNCED, &[filled("large", 50_000)]).unwrap();
    assert_eq!((active(&opened), segment_count(&disk)), (2, 2));
    assert_eq!(texts(&opened.log).last().unwrap(), "large");
    assert_eq!(texts(&open(&copy_of(&disk), small()).log).last().unwrap(), "large");
}

#[test]
fn a_spare_is_made_once_the_segment_is_half_full_and_not_before() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, small());
    add(&opened, SYNCED, "little");
    opened.appender.make_spare().unwrap();
    assert_eq!(segment_count(&disk), 1);
    fill_half(&opened);
    opened.appender.make_spare().unwrap();
    opened.appender.make_spare().unwrap();
    assert_eq!(segment_count(&disk), 2);
}

#[test]
fn rolling_to_a_spare_makes_no_file() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let opened = open(&disk, small());
    fill_half(&opened);
    opened.appender.make_spare().unwrap();
    let before = disk.calls(Call::Create);
    append(&opened.appender, SYNCED, &[filled("next", 2000)]).unwrap();
    assert_eq!((active(&opened), disk.calls(Call::Create)), (2, before));
}

#[test]
fn a_spare_is_discarded_at_close_and_at_open() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, small());
    fill_half(&opened);
    opened.appender.make_spare().unwrap();
    let killed = copy_of(&disk);
    opened.appender.close().unwrap();
    assert_eq!(segment_count(&disk), 1);

    assert_eq!(segment_count(&killed), 2);
    let again = open(&killed, small());
    assert_eq!(segment_count(&killed), 1);
    assert_eq!(texts(&again.log), texts(&opened.log));
    append(&again.appender, SYNCED, &[filled("next", 3000)]).unwrap();
    assert_eq!(texts(&open(&copy_of(&killed), small()).log), texts(&again.log));
}

#[test]
fn a_full_disk_takes_nothing_and_loses_nothing() {
    for with_spare in [false, true] {
        let disk = MemoryDisk::new();
        let opened = open(&disk, small());
        fill_half(&opened);
        if with_spare {
            opened.appender.make_spare().unwrap();
        }
        let before = (heads(&opened), texts(&opened.log));
        let files_before = files(&disk);
        disk.set_budget(disk.used() + 1000);
        for _ in 0..2 {
            let error = append(&opened.appender, SYNCED, &[filled("too much", 50_000)]).unwrap_err();
            assert!(matches!(error, Error::Full { .. }), "{error}");
        }
        assert_eq!((heads(&opened), texts(&opened.log)), before);
        assert!(opened.appender.failure().is_none());
        assert_eq!(files(&disk), files_before);
        add(&opened, SYNCED, "small ones still fit");

        disk.set_budget(u64::MAX);
        let staged = append(&opened.appender, SYNCED, &[filled("now", 50_000)]).unwrap();
        assert_eq!(staged.first_position, before.0.0 + 2);
        assert_eq!(texts(&open(&copy_of(&disk), small()).log), texts(&opened.log));
    }
}

#[test]
fn a_full_disk_hinders_no_spare_that_fits_later() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, small());
    fill_half(&opened);
    disk.set_budget(disk.used());
    assert!(matches!(opened.appender.make_spare(), Err(Error::Full { .. })));
    assert_eq!(segment_count(&disk), 1);
    disk.set_budget(u64::MAX);
    opened.appender.make_spare().unwrap();
    assert_eq!(segment_count(&disk), 2);
}

#[test]
fn every_error_while_a_segment_is_made_leaves_the_log_as_it_was() {
    let calls = [Call::Create, Call::Allocate, Call::Write, Call::Sync, Call::Rename, Call::SyncDir, Call::Map];
    for call in calls {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let opened = open(&disk, small());
        add(&opened, SYNCED, "before");
        disk.inject(Fault::next(call));
        let error = append(&opened.appender, SYNCED, &[filled("large", 5000)]).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{call:?}: {error}");
        assert!(opened.appender.failure().is_none(), "{call:?}");
        assert_eq!(add(&opened, SYNCED, "after"), 2, "{call:?}");
        append(&opened.appender, SYNCED, &[filled("large", 5000)]).unwrap();
        assert_eq!(texts(&opened.log), ["before", "after", "large"], "{call:?}");
        assert_eq!(texts(&open(&disk.power_cut(0), small()).log), ["before", "after", "large"], "{call:?}");
    }
}

/// A turn that rolled and was then given up, because of a conflict for example, leaves a staged start frame.
#[test]
fn a_turn_that_is_given_up_after_a_roll_harms_nothing() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let opened = open(&disk, small());
    add(&opened, OS, "before");
    let mut turn = opened.appender.turn().unwrap();
    turn.reserve(5000).unwrap();
    drop(turn);
    opened.appender.mark().unwrap();
    assert_eq!(texts(&open(&disk.power_cut(1), small()).log), ["before"]);
    add(&opened, SYNCED, "after");
    assert_eq!(texts(&open(&disk.power_cut(2), small()).log), ["before", "after"]);
    opened.appender.close().unwrap();
    assert_eq!(texts(&open(&disk.power_cut(3), small()).log), ["before", "after"]);
}

/// The thread that makes spares came in after the spare was taken and before the log had entered it, saw none, made the
/// same segment again and renamed it over the one that commits went to.
#[test]
fn a_spare_never_replaces_the_segment_that_is_entered() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, small());
    std::thread::scope(|scope| {
        let opened = &opened;
        let writer = scope.spawn(move || {
            for index in 0..600 {
                append(&opened.appender, OS, &[filled(&format!("{index}"), 900)]).unwrap();
            }
        });
        while !writer.is_finished() {
            opened.appender.make_spare().unwrap();
        }
    });
    opened.appender.close().unwrap();
    let expected: Vec<String> = (0..600).map(|index| format!("{index}")).collect();
    assert_eq!(texts(&open(&copy_of(&disk), small()).log), expected);
}

#[test]
fn a_segment_is_synced_before_the_next_one_is_written() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let opened = open(&disk, small());
    add(&opened, OS, "first segment");
    let second = append(&opened.appender, OS, &[filled("second segment", 5000)]).unwrap();
    assert_eq!((second.at.segment, heads(&opened)), (2, (2, 1)));
    disk.inject(Fault::next(Call::Sync).of("0000000002"));
    let third = append(&opened.appender, OS, &[filled("third segment", 50_000)]);
    assert!(matches!(third, Err(Error::Indeterminate { .. })));
    let start = bytes_of(&disk, &path_of(3))[64..256].to_vec();
    assert!(start.iter().all(|byte| *byte == 0), "no start frame vouches for what is not synced");
    assert_eq!(texts(&opened.log).len(), 2);
}

#[test]
fn a_roll_that_removes_segments_says_which_are_kept() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, small());
    add(&opened, SYNCED, "a");
    append(&opened.appender, SYNCED, &[filled("b", 5000)]).unwrap();
    let mut turn = opened.appender.turn().unwrap();
    turn.roll(100, 2).unwrap();
    turn.stage(SYNCED, 0, [fields(b"c")].into_iter());
    turn.see_through().unwrap();
    opened.appender.close().unwrap();
    let again = open(&disk, small());
    assert_eq!(disk.list(LOG_DIR).unwrap().len(), 2, "the first segment was removed");
    assert_eq!(again.log.segments().iter().next().unwrap().first_position, 2);
    assert_eq!(again.log.visible(), 3);
}

/// Space that was allocated need not read as zeros after a crash. A short write blanks what the next ones come to, not
/// more, and never what was written.
#[test]
fn a_short_write_blanks_the_space_behind_it() {
    const BLANKED: usize = 16 * 1024;
    let disk = MemoryDisk::new();
    let opened = open(&disk, large());
    let end = bytes_used(&opened);
    let file = disk.open(&path_of(1), Access::ReadWrite).unwrap();
    file.write_at(&vec![0xAA; 64 * 1024 - end as usize], end).unwrap();
    let blank_from = |end: u64| {
        let bytes = bytes_of(&disk, &path_of(1))[end as usize..].to_vec();
        let blank = bytes.iter().take_while(|byte| **byte == 0).count();
        assert!(bytes[blank..].iter().all(|byte| *byte == 0xAA));
        end as usize + blank
    };
    for durability in [OS, SYNCED] {
        add(&opened, durability, "short");
        assert_eq!(blank_from(bytes_used(&opened)), BLANKED);
    }
    let mut count = 2;
    while bytes_used(&opened) <= BLANKED as u64 {
        append(&opened.appender, OS, &[filled("more", 1000)]).unwrap();
        count += 1;
    }
    assert_eq!(blank_from(bytes_used(&opened)), 2 * BLANKED);
    let long = append(&opened.appender, OS, &[filled("long", BLANKED)]).unwrap();
    assert_eq!(blank_from(long.end), long.end as usize, "a long write is enough by itself");
    add(&opened, OS, "short");
    assert_eq!(blank_from(bytes_used(&opened)), 3 * BLANKED);
    assert_eq!(texts(&opened.log).len(), count + 2);
}

/// The end of a segment is no multiple of what is blanked at once.
#[test]
fn blanks_end_with_the_segment() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, small());
    add(&opened, OS, "short");
    assert_eq!(bytes_of(&disk, &path_of(1)).len() as u64, SEGMENT_BYTES);
    assert_eq!(texts(&open(&copy_of(&disk), small()).log), ["short"]);
}
