//! The watermark and the hand-over between leaders, under all schedules with few preemptions and under all values that
//! the orderings of the atomics allow.
//!
//! These are the log's own types on a disk in memory. Loom sees each byte that a map lends out, and fails where the write
//! of it is not ordered before. What is larger, with an index and streams, is explored at random in `store::schedules`.

use super::*;
use crate::log::appender::STAGED_BYTES_MAX;
use crate::storage::PublishedFile;
use crate::sync::explored::thread::spawn;
use crate::sync::explored::{loom, shuttle};

/// The smallest file that grows, with a header in front that is not looked at.
fn growing() -> (Arc<PublishedFile>, crate::storage::FileWriter) {
    let disk = MemoryDisk::new();
    disk.create_dir("").unwrap();
    let file = disk.create("file").unwrap();
    file.allocate(64).unwrap();
    PublishedFile::open_growing(file, ReadMode::Map, 0).unwrap()
}

#[test]
fn bytes_before_the_published_end_are_written() {
    loom(3, || {
        let (file, mut writer) = growing();
        let reader = Arc::clone(&file);
        let reader = spawn(move || {
            for _ in 0..2 {
                let end = reader.published();
                let bytes = reader.slice(0, end as usize).expect("it is published");
                assert!(bytes.iter().all(|byte| *byte == 7), "bytes are lent before they are written");
                assert_eq!(reader.slice(end, 64), None);
            }
        });
        for end in [8, 16] {
            writer.write(&[7; 8], end - 8).unwrap();
            writer.publish(end);
        }
        reader.join().unwrap();
    });
}

fn open_log() -> Arc<Opened> {
    Arc::new(open(&MemoryDisk::new(), large()))
}

/// What a reader of the log sees at one moment.
fn look(log: &Arc<Log>) -> u64 {
    let synced = log.synced();
    let visible = log.visible();
    assert!(synced <= visible, "the synced head is ahead of the visible one");
    let commits = read_upto(log, visible).unwrap();
    assert_eq!(commits.len() as u64, visible);
    visible
}

#[test]
fn whoever_sees_a_position_can_read_it() {
    loom(2, || {
        let opened = open_log();
        let log = Arc::clone(&opened.log);
        let reader = spawn(move || {
            let before = look(&log);
            assert!(look(&log) >= before, "the head went back");
        });
        append(&opened.appender, SYNCED, &[b"a".to_vec()]).unwrap();
        append(&opened.appender, OS, &[b"b".to_vec()]).unwrap();
        reader.join().unwrap();
        assert_eq!(heads(&opened), (2, 1));
    });
}

#[test]
fn leaders_hand_over_and_acknowledge_only_what_is_visible_and_synced() {
    for (durability, other) in [(SYNCED, SYNCED), (SYNCED, OS)] {
        loom(2, move || {
            let opened = open_log();
            let second = Arc::clone(&opened);
            let second = spawn(move || {
                let staged = append(&second.appender, other, &[b"b".to_vec()]).unwrap();
                assert!(second.log.visible() >= staged.first_position);
            });
            let staged = append(&opened.appender, durability, &[b"a".to_vec()]).unwrap();
            assert!(opened.log.visible() >= staged.first_position);
            assert!(opened.log.synced() >= staged.first_position, "acknowledged before it was synced");
            second.join().unwrap();
            assert_eq!(opened.log.visible(), 2);
            assert_eq!(read_all(&opened.log).len(), 2);
        });
    }
}

/// While one leads, two stage behind it: one of them leads next, and the other is not forgotten.
#[test]
fn none_of_those_who_wait_is_forgotten() {
    loom(1, || {
        let opened = open_log();
        let others: Vec<_> = ["b", "c"]
            .into_iter()
            .map(|payload| {
                let opened = Arc::clone(&opened);
                spawn(move || append(&opened.appender, SYNCED, &[payload.into()]).map(|_| ()).unwrap())
            })
            .collect();
        append(&opened.appender, SYNCED, &[b"a".to_vec()]).unwrap();
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(heads(&opened), (3, 3));
    });
}

/// Two close the log while one leads: the end of the batch is told to both.
#[test]
fn none_of_those_who_close_is_forgotten() {
    loom(2, || {
        let opened = open_log();
        let closers: Vec<_> = (0..2)
            .map(|_| {
                let opened = Arc::clone(&opened);
                spawn(move || opened.appender.finish_staged())
            })
            .collect();
        let appended = append(&opened.appender, OS, &[b"a".to_vec()]);
        for closer in closers {
            closer.join().unwrap();
        }
        assert_eq!(opened.log.visible(), u64::from(appended.is_ok()));
    });
}

/// While one leads, so much is staged behind it that a third has to wait for its turn, and then makes nothing of it: the
/// signal for those whose commits are staged must not have gone to that one. Whom a signal reaches is for shuttle to
/// choose, which is why it is not loom that runs this.
#[test]
fn who_waits_for_room_takes_no_signal_from_those_whose_commits_are_staged() {
    let large = Arc::new(vec![7; STAGED_BYTES_MAX]);
    shuttle(60, move || {
        let opened = open_log();
        let (staging, waiting) = (Arc::clone(&opened), Arc::clone(&opened));
        let large = Arc::clone(&large);
        let staging = spawn(move || append(&staging.appender, OS, std::slice::from_ref(&large)).map(drop).unwrap());
        let waiting = spawn(move || drop(waiting.appender.turn().unwrap()));
        append(&opened.appender, OS, &[b"a".to_vec()]).unwrap();
        staging.join().unwrap();
        waiting.join().unwrap();
        assert_eq!(heads(&opened).0, 2);
    });
}

#[test]
fn an_append_beside_a_sync_and_a_close_is_synced_or_refused() {
    loom(2, || {
        let opened = open_log();
        let closing = Arc::clone(&opened);
        let closing = spawn(move || closing.appender.close().unwrap());
        let appended = append(&opened.appender, OS, &[b"a".to_vec()]);
        closing.join().unwrap();
        match appended {
            Ok(_) => assert_eq!(heads(&opened), (1, 1), "acknowledged beside a close, and not synced by it"),
            Err(error) => assert!(matches!(error, Error::Closed)),
        }
    });
}

#[test]
fn a_failed_sync_is_told_to_who_leads_and_to_who_waits() {
    loom(2, || {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let opened = Arc::new(open(&disk, large()));
        disk.inject(Fault { forever: true, ..Fault::next(Call::Sync).of(".segment") });
        let other = Arc::clone(&opened);
        let other = spawn(move || append(&other.appender, SYNCED, &[b"b".to_vec()]).map(|_| ()).unwrap_err());
        append(&opened.appender, SYNCED, &[b"a".to_vec()]).unwrap_err();
        other.join().unwrap();
        assert_eq!(heads(&opened), (0, 0));
    });
}

/// Found by review. Whoever closed the log after a failed sync did not wait for the leader, who wrote on when the lock
/// was another's: over what that one had appended and acknowledged.
#[test]
fn nothing_is_written_behind_a_close_also_where_a_sync_has_failed() {
    loom(2, || {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let opened = Arc::new(open(&disk, large()));
        append(&opened.appender, OS, &[b"a".to_vec()]).unwrap();
        disk.inject(Fault { forever: true, ..Fault::next(Call::Sync).of(".segment") });
        let appending = Arc::clone(&opened);
        let appending = spawn(move || drop(append(&appending.appender, OS, &[b"b".to_vec()])));
        opened.appender.sync().unwrap_err();
        opened.appender.close().unwrap_err();
        let written = disk.calls(Call::Write);
        appending.join().unwrap();
        assert_eq!(disk.calls(Call::Write), written);
    });
}

/// A lost wake-up is a deadlock, which loom reports.
#[test]
fn a_watcher_that_registers_beside_an_append_sees_the_head_or_the_signal() {
    for watched in [Watched::Heads, Watched::SyncedHead] {
        loom(2, move || {
            let opened = open_log();
            let watching = Arc::clone(&opened);
            let watcher = spawn(move || {
                let signal = Arc::new(Signal::new());
                watching.appender.watch(watched, &signal);
                while watching.log.synced() < 1 {
                    crate::clock::Clock::wait(&crate::clock::SystemClock, &signal, None);
                }
                watching.log.watchers().remove(&signal);
            });
            append(&opened.appender, SYNCED, &[b"a".to_vec()]).unwrap();
            watcher.join().unwrap();
        });
    }
}

/// The same where the synced head is moved by a sync beside the appends, which takes no lock that watchers take.
#[test]
fn a_watcher_that_registers_beside_a_sync_sees_the_head_or_the_signal() {
    loom(2, || {
        let opened = open_log();
        append(&opened.appender, OS, &[b"a".to_vec()]).unwrap();
        let watching = Arc::clone(&opened);
        let watcher = spawn(move || {
            let signal = Arc::new(Signal::new());
            watching.appender.watch(Watched::SyncedHead, &signal);
            while watching.log.synced() < 1 {
                crate::clock::Clock::wait(&crate::clock::SystemClock, &signal, None);
            }
        });
        opened.appender.sync().unwrap();
        watcher.join().unwrap();
    });
}

#[test]
fn a_signal_that_is_raised_wakes_who_waits_for_it() {
    loom(4, || {
        let signal = Arc::new(Signal::new());
        let waiting = Arc::clone(&signal);
        let waiter = spawn(move || assert!(crate::clock::Clock::wait(&crate::clock::SystemClock, &waiting, None)));
        signal.raise();
        waiter.join().unwrap();
        assert!(!signal.take(), "waiting lowers it");
    });
}

#[test]
fn background_work_that_rests_is_stirred_by_the_next_append() {
    loom(2, || {
        let disk = MemoryDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let randomness: Arc<dyn Randomness> = Arc::new(SeededRandomness::new(1));
        let signal = Arc::new(Signal::new());
        let opening =
            Opening { disk: &disk, options: large(), randomness: &randomness, signal: &signal, checkpoints: &[] };
        let opened = Arc::new(opening.open(true).unwrap().unwrap());
        let working = Arc::clone(&opened);
        let worker = spawn(move || {
            // What a round of background work does at its end: it rests, looks once more, and sleeps.
            while working.appender.is_settled() {
                working.appender.rest();
                if working.appender.is_settled() {
                    crate::clock::Clock::wait(&crate::clock::SystemClock, &signal, None);
                }
            }
        });
        append(&opened.appender, OS, &[b"a".to_vec()]).unwrap();
        worker.join().unwrap();
    });
}
