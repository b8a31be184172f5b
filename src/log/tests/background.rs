//! What the appender asks of background work, and when: at each bound and one step behind it.

use super::*;

const MIB: u64 = 1024 * 1024;

/// A log whose first segment has so many bytes, and the signal that calls for background work.
fn open_signalled(segment_bytes: u64) -> (Opened, Arc<Signal>) {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let randomness: Arc<dyn Randomness> = Arc::new(SeededRandomness::new(1));
    let signal = Arc::new(Signal::new());
    let options =
        LogOptions { segment_bytes_first: segment_bytes, segment_bytes_max: segment_bytes.max(64 * MIB), ..large() };
    let opening = Opening { disk: &disk, options, randomness: &randomness, signal: &signal, checkpoints: &[] };
    (opening.open(true).unwrap().unwrap(), signal)
}

/// Appends a commit whose frame has so many bytes, and returns the offset behind it.
fn push(opened: &Opened, durability: Durability, frame_bytes: u64) -> u64 {
    let payload = vec![7; frame_bytes as usize - frame_len(&[Vec::new()]) + 6];
    let staged = append(&opened.appender, durability, &[payload]).unwrap();
    assert_eq!(staged.end - staged.at.offset, frame_bytes);
    staged.end
}

/// Fills the first segment up to an offset with what is synced.
fn fill(opened: &Opened, upto: u64) {
    let begin = push(opened, SYNCED, 1000);
    assert_eq!(push(opened, SYNCED, upto - begin), upto);
    assert!(!opened.appender.wants_sync());
}

#[test]
fn a_sync_is_called_for_once_much_is_unsynced() {
    let (opened, signal) = open_signalled(64 * MIB);
    push(&opened, OS, 8 * MIB);
    assert!(!opened.appender.wants_sync() && !signal.take());
    push(&opened, OS, 1000);
    assert!(opened.appender.wants_sync() && signal.take());
    push(&opened, OS, 1000);
    assert!(!signal.take(), "it was called for already");
    opened.appender.sync().unwrap();
    assert!(!opened.appender.wants_sync());
}

/// Found by review. Who staged commits and had not come to see them through let any number of others stage as much, all of
/// it in memory and then written at once, behind no sync.
#[test]
fn who_comes_where_much_is_staged_writes_it_first_if_nobody_else_does() {
    let (opened, _) = open_signalled(64 * MIB);
    let payload = || vec![vec![7; 5 * MIB as usize]];
    for (staged, visible) in [(1, 0), (2, 0), (3, 2), (4, 2), (5, 4)] {
        stage(&opened.appender, OS, 0, &payload()).unwrap();
        assert_eq!(opened.log.visible(), visible, "{staged} were staged");
    }
}

/// A segment is synced to its end before the next one begins, while others wait.
#[test]
fn a_sync_is_called_for_earlier_where_the_segment_ends_soon() {
    const LITTLE: u64 = 256 * 1024;
    // With an eighth of 4 MiB left, with one step less, and with little unsynced.
    for (end, unsynced, expected) in [
        (4 * MIB - 512 * 1024, LITTLE + 8, false),
        (4 * MIB - 512 * 1024 + 8, LITTLE + 8, true),
        (4 * MIB - 512 * 1024 + 8, LITTLE, false),
        (4 * MIB, LITTLE + 8, true),
    ] {
        let (opened, signal) = open_signalled(4 * MIB);
        fill(&opened, end - unsynced);
        signal.take();
        assert_eq!(push(&opened, OS, unsynced), end);
        assert_eq!(opened.appender.wants_sync(), expected, "{unsynced} bytes up to {end}");
        assert_eq!(signal.take(), expected, "{unsynced} bytes up to {end}");
    }
}

#[test]
fn only_background_work_that_rests_is_woken_by_an_append_and_only_once() {
    let (opened, signal) = open_signalled(64 * 1024);
    push(&opened, OS, 200);
    assert!(!signal.take(), "nobody rests");
    opened.appender.rest();
    assert!(!signal.take());
    push(&opened, OS, 200);
    assert!(signal.take());
    push(&opened, OS, 200);
    assert!(!signal.take(), "nobody rests any more");
    opened.appender.call_background();
    assert!(signal.take());
}

#[test]
fn a_log_is_settled_behind_a_mark_until_something_is_appended() {
    let (opened, _) = open_signalled(64 * 1024);
    assert!(opened.appender.is_settled());
    push(&opened, OS, 200);
    assert!(!opened.appender.is_settled());
    opened.appender.sync().unwrap();
    assert!(!opened.appender.is_settled());
    opened.appender.mark().unwrap();
    assert!(opened.appender.is_settled());
}
