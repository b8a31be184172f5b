//! What a failed write or sync means for those that wait, for those behind them, and for readers.

use super::*;

/// Fails the given call while one commit is being written and another is staged behind it.
fn check_failure(call: Call, kind: Option<std::io::ErrorKind>) {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let opened = open(&disk, large());
    add(&opened, SYNCED, "before");
    disk.hold(call, ".segment");
    std::thread::scope(|scope| {
        let opened = &opened;
        let first = scope.spawn(|| append(&opened.appender, SYNCED, &[b"first".to_vec()]));
        disk.wait_held();
        let behind: Vec<_> =
            (0..4).map(|_| scope.spawn(|| append(&opened.appender, SYNCED, &[b"behind".to_vec()]))).collect();
        while opened.appender.turn().unwrap().next_position() < 7 {
            std::thread::yield_now();
        }
        disk.inject(Fault { kind, ..Fault::next(call).of(".segment") });
        disk.release();
        match (kind, first.join()) {
            (None, result) => assert!(result.is_err(), "the leader panics"),
            (Some(_), result) => assert!(matches!(result.unwrap(), Err(Error::Indeterminate { .. }))),
        }
        for handle in behind {
            assert!(matches!(handle.join().unwrap(), Err(Error::NotWritten { .. })));
        }
    });
    assert_poisoned(&opened, &disk);
    assert_eq!(texts(&opened.log), ["before"]);
}

/// Nothing more is written or synced; what was visible can be read.
fn assert_poisoned(opened: &Opened, disk: &FaultyDisk) {
    let syncs = disk.calls(Call::Sync);
    let before = heads(opened);
    assert!(matches!(append(&opened.appender, SYNCED, &[b"x".to_vec()]), Err(Error::Poisoned { .. })));
    assert!(matches!(append(&opened.appender, OS, &[b"x".to_vec()]), Err(Error::Poisoned { .. })));
    assert!(opened.appender.failure().is_some());
    assert!(opened.appender.mark().is_err());
    assert!(opened.appender.close().is_err());
    assert_eq!(disk.calls(Call::Sync), syncs, "no sync after one that failed");
    assert_eq!(heads(opened), before);
    read_all(&opened.log);
}

#[test]
fn a_failed_write_leaves_its_batch_in_doubt_and_what_is_behind_unwritten() {
    for kind in [std::io::ErrorKind::Other, std::io::ErrorKind::StorageFull] {
        check_failure(Call::Write, Some(kind));
    }
}

#[test]
fn a_failed_sync_leaves_its_batch_in_doubt_and_what_is_behind_unwritten() {
    check_failure(Call::Sync, Some(std::io::ErrorKind::Other));
}

#[test]
fn a_leader_that_panics_while_it_writes_releases_those_that_wait() {
    check_failure(Call::Write, None);
}

#[test]
fn a_leader_that_panics_while_it_syncs_releases_those_that_wait() {
    check_failure(Call::Sync, None);
}

#[test]
fn commits_before_the_first_synced_one_of_a_batch_survive_its_failed_sync() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let opened = open(&disk, large());
    stage(&opened.appender, OS, 0, &[b"a".to_vec()]).unwrap();
    stage(&opened.appender, SYNCED, 0, &[b"b".to_vec()]).unwrap();
    stage(&opened.appender, OS, 0, &[b"c".to_vec()]).unwrap();
    disk.inject(Fault::next(Call::Sync));
    assert!(matches!(opened.appender.wait_decided(3), Err(Error::Indeterminate { .. })));
    assert!(opened.appender.wait_decided(1).is_ok());
    assert!(matches!(opened.appender.wait_decided(2), Err(Error::Indeterminate { .. })));
    assert_eq!(texts(&opened.log), ["a"]);
    assert_poisoned(&opened, &disk);
}

#[test]
fn a_failed_background_sync_poisons_and_is_never_tried_again() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let opened = open(&disk, large());
    add(&opened, OS, "a");
    disk.inject(Fault::next(Call::Sync));
    assert!(opened.appender.sync().is_err());
    assert_eq!(heads(&opened), (1, 0));
    let syncs = disk.calls(Call::Sync);
    assert!(opened.appender.sync().is_err());
    assert_eq!(disk.calls(Call::Sync), syncs);
    assert_poisoned(&opened, &disk);
}

/// Whoever leads is still writing, and wakes but one of them when it is done.
#[test]
fn a_failed_background_sync_releases_all_who_wait_behind_a_slow_write() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let opened = open(&disk, large());
    add(&opened, OS, "written");
    disk.hold(Call::Write, ".segment");
    std::thread::scope(|scope| {
        let opened = &opened;
        let first = scope.spawn(|| append(&opened.appender, SYNCED, &[b"first".to_vec()]));
        disk.wait_held();
        let behind: Vec<_> =
            (0..3).map(|_| scope.spawn(|| append(&opened.appender, SYNCED, &[b"behind".to_vec()]))).collect();
        while opened.appender.turn().unwrap().next_position() < 6 {
            std::thread::yield_now();
        }
        disk.inject(Fault::next(Call::Sync).of(".segment"));
        assert!(opened.appender.sync().is_err());
        for handle in behind {
            assert!(matches!(handle.join().unwrap(), Err(Error::NotWritten { .. })));
        }
        disk.release();
        assert!(matches!(first.join().unwrap(), Err(Error::Indeterminate { .. })));
    });
    assert_poisoned(&opened, &disk);
    assert_eq!(texts(&opened.log), ["written"]);
}

#[test]
fn what_was_staged_when_a_background_sync_failed_was_not_written() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let opened = open(&disk, large());
    add(&opened, OS, "written");
    stage(&opened.appender, OS, 0, &[b"staged".to_vec()]).unwrap();
    disk.inject(Fault::next(Call::Sync));
    assert!(opened.appender.sync().is_err());
    assert!(opened.appender.wait_decided(1).is_ok());
    assert!(matches!(opened.appender.wait_decided(2), Err(Error::NotWritten { .. })));
    assert_poisoned(&opened, &disk);
    assert_eq!(texts(&opened.log), ["written"]);
}

/// A sync that panicked had taken the list of what to sync with it: the next one found nothing to do, and said that
/// everything was durable.
#[test]
fn a_sync_that_panicked_counts_as_failed() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let opened = open(&disk, large());
    add(&opened, OS, "a");
    disk.inject(Fault { kind: None, ..Fault::next(Call::Sync) });
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| opened.appender.sync())).unwrap_err();
    assert!(opened.appender.sync().is_err());
    assert!(opened.appender.has_unsynced());
    assert_poisoned(&opened, &disk);
}

/// After a failed sync the page cache holds what the disk does not, and holds it as clean. The next open reads it from
/// there, and must write it again before it serves it.
#[test]
fn what_is_recovered_after_a_failed_sync_is_written_again_before_it_is_served() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let opened = open(&disk, large());
    add(&opened, SYNCED, "synced");
    disk.inject(Fault::next(Call::Sync));
    assert!(append(&opened.appender, SYNCED, &[b"in doubt".to_vec()]).is_err());
    drop(opened);
    for seed in 0..20 {
        assert_eq!(texts(&open(&disk.power_cut(seed), large()).log), ["synced"], "seed {seed}");
    }
    let again = open(&disk, large());
    assert!(again.recovered.confirmed_bytes > 0);
    assert_eq!(texts(&again.log), ["synced", "in doubt"]);
    assert_eq!(heads(&again), (2, 2));
    for seed in 0..20 {
        assert_eq!(texts(&open(&disk.power_cut(seed), large()).log), ["synced", "in doubt"], "seed {seed}");
    }
}

#[test]
fn a_synced_head_that_cannot_be_written_fails_nothing() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let opened = open(&disk, large());
    disk.inject(Fault { forever: true, ..Fault::next(Call::Write).of(SYNCED_HEAD_PATH) });
    add(&opened, SYNCED, "a");
    opened.appender.close().unwrap();
    assert_eq!(texts(&open(&disk.power_cut(0), large()).log), ["a"]);
}

#[test]
fn an_error_of_any_read_at_open_is_an_error_and_cuts_nothing() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let opened = open(&disk, small());
    for index in 0..20 {
        append(&opened.appender, OS, &[filled(&format!("{index}"), 500)]).unwrap();
    }
    drop(opened);
    let killed = copy_of(&disk);
    for call in [Call::Read, Call::Open, Call::List] {
        for after in 0.. {
            let disk = FaultyDisk::new(copy_of(&killed));
            disk.inject(Fault { after, ..Fault::next(call) });
            match try_open(&disk, small()) {
                Ok(opened) => {
                    assert!(disk.expects_fault(), "{call:?} {after}: the error was passed over");
                    disk.heal();
                    assert_eq!(texts(&opened.log).len(), 20);
                    break;
                }
                Err(error) => assert!(matches!(error, Error::Io { .. }), "{call:?} {after}: {error}"),
            }
            disk.heal();
            assert_eq!(texts(&open(&disk, small()).log).len(), 20, "{call:?} {after}");
        }
    }
}
