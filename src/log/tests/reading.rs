//! Reading what an open log has, where files change under it or a place leads astray.

use super::recovery::four_segments;
use super::*;

fn by_pread() -> LogOptions {
    LogOptions { read_mode: ReadMode::Pread, ..large() }
}

#[test]
fn a_cursor_that_is_led_behind_its_position_passes_over_no_event() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, large());
    let staged = ["a", "b"].map(|name| append(&opened.appender, SYNCED, &[name.into()]).unwrap());
    let mut cursor = Cursor::at(Arc::clone(&opened.log), staged[1].at, 1).unwrap();
    assert!(matches!(cursor.advance(2), Err(Error::Corrupt { .. })));
    let mut cursor = Cursor::at(Arc::clone(&opened.log), staged[1].at, 2).unwrap();
    assert!(cursor.advance(2).unwrap().is_some());
}

#[test]
fn a_frame_that_does_not_hold_a_position_is_no_place_of_it() {
    for options in [large(), by_pread()] {
        let opened = open(&MemoryDisk::new(), options);
        let staged = append(&opened.appender, SYNCED, &[b"a".to_vec(), b"b".to_vec()]).unwrap();
        let segment = opened.log.segment(1).unwrap();
        let found = |position| segment.find_record(staged.at.offset, position, &mut Vec::new());
        assert!(found(1).is_ok() && found(2).is_ok());
        for position in [0, 3] {
            let found = found(position);
            let is_told = matches!(&found, Err(Error::Corrupt { reason, .. }) if reason.contains("does not hold"));
            assert!(is_told, "{position}: {found:?}");
        }
    }
}

#[test]
fn a_place_behind_the_end_of_the_log_is_no_frame() {
    for options in [large(), by_pread()] {
        let opened = open(&MemoryDisk::new(), options);
        let staged = append(&opened.appender, SYNCED, &[b"a".to_vec()]).unwrap();
        let segment = opened.log.segment(1).unwrap();
        for offset in [staged.end, staged.end + 8] {
            let found = segment.find_record(offset, 2, &mut Vec::new());
            let Err(Error::Corrupt { reason, .. }) = found else { panic!("{found:?}") };
            // A map lends what there is up to the end, and may say that this is too short for a frame.
            let is_told = reason.contains("beyond the end") || options.read_mode == ReadMode::Map;
            assert!(is_told, "{reason}");
        }
    }
}

/// One record is read without the checksum over the whole directory: its own decides, and lengths are used before.
#[test]
fn a_damaged_directory_leads_nowhere_beyond_its_frame() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, small());
    let staged = append(&opened.appender, SYNCED, &[b"a".to_vec(), b"b".to_vec()]).unwrap();
    for _ in 0..2 {
        append(&opened.appender, SYNCED, &[filled("fills the segment", 3000)]).unwrap();
    }
    drop(opened);
    let directory = staged.at.offset + HEADER_BYTES as u64;
    for read_mode in [ReadMode::Map, ReadMode::Pread] {
        for (byte, position) in [(0, 1), (1, 1), (3, 1), (8, 2), (9, 2), (11, 2)] {
            let damaged = copy_of(&disk);
            flip(&damaged, &path_of(1), directory + byte);
            let opened = open(&damaged, LogOptions { read_mode, ..small() });
            let segment = opened.log.segment(1).unwrap();
            let found = segment.find_record(staged.at.offset, position, &mut Vec::new());
            assert!(matches!(found, Err(Error::Corrupt { .. })), "byte {byte}: {found:?}");
        }
    }
}

#[test]
fn a_sealed_segment_that_was_truncated_since_the_open_is_corrupt() {
    let disk = four_segments();
    let opened = open(&disk, small());
    let whole = bytes_of(&disk, &path_of(2));
    put_file(&disk, &path_of(2), &whole[..2048]);
    let mut cursor = Cursor::at_start(Arc::clone(&opened.log));
    assert!(cursor.advance(4).unwrap().is_some());
    let refused = cursor.advance(4).map(drop);
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
}

#[test]
fn asking_ahead_for_bytes_of_a_file_that_is_not_open_opens_nothing() {
    let disk = FaultyDisk::new(four_segments());
    let opened = open(&disk, small());
    let before = disk.calls(Call::Open);
    opened.log.segment(1).unwrap().prefetch(FIRST_FRAME, 100);
    assert_eq!(disk.calls(Call::Open), before);
}

#[test]
fn a_signal_that_is_not_there_can_be_taken_away() {
    let log = open(&MemoryDisk::new(), large()).log;
    let (known, stranger) = (Arc::new(Signal::new()), Arc::new(Signal::new()));
    log.watchers().add(Watched::Heads, &known);
    log.watchers().remove(&stranger);
    assert!(log.watchers().any());
    log.watchers().remove(&known);
    assert!(!log.watchers().any());
}

#[test]
fn a_follower_tells_that_the_next_segment_cannot_be_opened() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let opened = open(&disk, small());
    add(&opened, SYNCED, "a");
    let (follower, _) = follow(&disk, small()).unwrap().unwrap();
    add(&opened, SYNCED, "b");
    disk.inject(Fault::next(Call::Open).of(NEXT));
    assert!(matches!(follower.refresh(|_| Ok(())), Err(Error::Io { .. })));
    assert_eq!(follower.refresh(|_| Ok(())).unwrap(), 2);
}

/// The segment behind the first.
const NEXT: &str = "log/0000000002.segment";

/// Whoever finds eight mebibytes staged waits for the leader.
#[test]
fn what_is_staged_behind_a_slow_disk_is_bounded_and_all_of_it_is_written() {
    const LARGE: usize = 1024 * 1024;
    let disk = FaultyDisk::new(MemoryDisk::new());
    let options =
        LogOptions { segment_bytes_first: 64 * LARGE as u64, segment_bytes_max: 64 * LARGE as u64, ..large() };
    let opened = open(&disk, options);
    disk.hold(Call::Write, ".segment");
    std::thread::scope(|scope| {
        let opened = &opened;
        let leader = scope.spawn(|| append(&opened.appender, OS, &[b"first".to_vec()]));
        disk.wait_held();
        for _ in 0..8 {
            stage(&opened.appender, OS, 0, &[vec![7; LARGE]]).unwrap();
        }
        let behind = scope.spawn(|| append(&opened.appender, OS, &[b"last".to_vec()]));
        disk.release();
        leader.join().unwrap().unwrap();
        assert_eq!(behind.join().unwrap().unwrap().first_position, 10);
    });
    assert_eq!(read_all(&opened.log).len(), 10);
}
