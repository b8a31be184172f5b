//! Read-only opens, alone and beside a writer.

use std::cell::Cell;

use super::recovery::{four_segments, frame_offsets};
use super::*;
use crate::log::follower::look_until_steady;

#[test]
fn there_is_nothing_to_follow_where_there_is_no_log() {
    assert!(follow(&MemoryDisk::new(), small()).unwrap().is_none());
}

#[test]
fn a_follower_sees_the_synced_prefix_and_no_more() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, large());
    add(&opened, SYNCED, "a");
    add(&opened, OS, "b");
    let (follower, unconfirmed) = follow(&disk, large()).unwrap().unwrap();
    assert_eq!((texts(follower.log()), unconfirmed), (vec!["a".to_owned()], 1));
    assert_eq!((follower.log().visible(), follower.log().synced()), (1, 1));
    assert_eq!(follower.refresh(|_| Ok(())).unwrap(), 1);
    opened.appender.sync().unwrap();
    assert_eq!(follower.refresh(|_| Ok(())).unwrap(), 2);
    assert_eq!(texts(follower.log()), ["a", "b"]);
}

#[test]
fn a_follower_goes_on_in_new_segments() {
    for read_mode in [ReadMode::Map, ReadMode::Pread] {
        let disk = MemoryDisk::new();
        let options = LogOptions { read_mode, ..small() };
        let opened = open(&disk, options);
        let (follower, _) = follow(&disk, options).unwrap().unwrap();
        for index in 0..40 {
            append(&opened.appender, SYNCED, &[filled(&format!("{index}"), 900)]).unwrap();
            if index % 7 == 0 {
                opened.appender.make_spare().unwrap();
                assert_eq!(follower.refresh(|_| Ok(())).unwrap(), index + 1);
                assert_eq!(texts(follower.log()), texts(&opened.log));
            }
        }
        opened.appender.close().unwrap();
        assert_eq!(follower.refresh(|_| Ok(())).unwrap(), 40);
        assert_eq!(texts(follower.log()), texts(&opened.log));
        assert_eq!(follower.log().segments().iter().len(), opened.log.segments().iter().len());
    }
}

#[test]
fn a_follower_writes_nothing_and_needs_no_leave_to() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, small());
    for index in 0..20 {
        append(&opened.appender, SYNCED, &[filled(&format!("{index}"), 500)]).unwrap();
    }
    let before = files(&disk);
    let read_only = FaultyDisk::new(disk.clone());
    read_only.inject(Fault::all_after(0).kind(std::io::ErrorKind::ReadOnlyFilesystem));
    let (follower, _) = follow(&read_only, small()).unwrap().unwrap();
    assert_eq!(texts(follower.log()).len(), 20);
    follower.refresh(|_| Ok(())).unwrap();
    assert_eq!(read_only.mutations(), 0);
    assert!(files(&disk) == before);
    add(&opened, SYNCED, "20");
    assert_eq!(follower.refresh(|_| Ok(())).unwrap(), 21);
}

#[test]
#[cfg(not(miri))]
fn a_follower_reads_a_real_disk_beside_a_writer() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::new(dir.path());
    let opened = open(&disk, small());
    let (follower, _) = follow(&disk, small()).unwrap().unwrap();
    for index in 0..30 {
        append(&opened.appender, SYNCED, &[filled(&format!("{index}"), 700)]).unwrap();
        assert_eq!(follower.refresh(|_| Ok(())).unwrap(), index + 1);
    }
    assert_eq!(texts(follower.log()), texts(&opened.log));
}

/// Found by ThreadSanitizer's slow run of the test below: a position was told as synced by the writer's process a moment
/// before it was told to followers, which did not see what somebody else knew to be there.
#[test]
fn what_a_writer_knows_to_be_synced_its_followers_see() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let opened = open(&disk, small());
    disk.hold(Call::Write, "synced-head");
    std::thread::scope(|scope| {
        let appending = scope.spawn(|| add(&opened, SYNCED, "a"));
        disk.wait_held();
        let synced = opened.log.synced();
        disk.release();
        appending.join().unwrap();
        assert_eq!(synced, 0, "the followers are not told yet");
    });
    assert_eq!(heads(&opened), (1, 1));
    assert_eq!(follow(&disk, small()).unwrap().unwrap().0.log().visible(), 1);
}

#[test]
fn followers_never_fail_beside_a_writer() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, small());
    std::thread::scope(|scope| {
        let (opened, disk) = (&opened, &disk);
        let writer = scope.spawn(move || {
            for index in 0..400 {
                let durability = if index % 4 == 0 { SYNCED } else { OS };
                append(&opened.appender, durability, &[filled(&format!("{index}"), index % 900)]).unwrap();
                if index % 3 == 0 {
                    opened.appender.make_spare().unwrap();
                }
            }
        });
        let (follower, _) = follow(disk, small()).unwrap().unwrap();
        let mut seen = 0;
        while !writer.is_finished() {
            let synced = opened.log.synced();
            let head = follower.refresh(|_| Ok(())).unwrap();
            assert!(head >= seen.max(synced), "the head {head} is behind {synced} or {seen}");
            seen = head;
            let commits = read_upto(follower.log(), head).unwrap();
            assert!(commits.iter().enumerate().all(|(index, commit)| text_of(&commit[0]) == index.to_string()));
            let (fresh, _) = follow(disk, small()).unwrap().unwrap();
            assert!(fresh.log().visible() >= synced);
        }
    });
}

#[test]
fn a_follower_serves_what_is_confirmed_of_a_torn_log_and_reports_the_rest() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, large());
    add(&opened, SYNCED, "a");
    add(&opened, OS, "b");
    let torn = append(&opened.appender, OS, &[b"torn".to_vec()]).unwrap();
    drop(opened);
    flip(&disk, &path_of(1), torn.at.offset + 50);
    let before = files(&disk);
    let (follower, unconfirmed) = follow(&disk, large()).unwrap().unwrap();
    assert_eq!((texts(follower.log()), unconfirmed), (vec!["a".to_owned()], 1));
    assert!(files(&disk) == before);
}

#[test]
fn a_follower_goes_on_when_another_writer_took_over_after_a_kill() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, large());
    add(&opened, SYNCED, "a");
    add(&opened, OS, "b");
    let torn = append(&opened.appender, OS, &[b"torn".to_vec()]).unwrap();
    drop(opened);
    flip(&disk, &path_of(1), torn.at.offset + 50);
    let (follower, _) = follow(&disk, large()).unwrap().unwrap();
    let again = open(&disk, large());
    add(&again, SYNCED, "c");
    assert_eq!(follower.refresh(|_| Ok(())).unwrap(), 3);
    assert_eq!(texts(follower.log()), ["a", "b", "c"]);
}

/// It used to stand still, as if the writer had written nothing more.
#[test]
fn a_follower_that_comes_to_damage_or_to_a_newer_writer_says_so() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, large());
    add(&opened, SYNCED, "a");
    let (follower, _) = follow(&disk, large()).unwrap().unwrap();
    let staged = append(&opened.appender, SYNCED, &[b"b".to_vec()]).unwrap();
    drop(opened);
    flip(&disk, &path_of(1), staged.at.offset + 50);
    assert!(matches!(follower.refresh(|_| Ok(())), Err(Error::Corrupt { offset, .. }) if offset == staged.at.offset));
    flip(&disk, &path_of(1), staged.at.offset + 50);
    let mut bytes = bytes_of(&disk, &path_of(1));
    bytes[staged.at.offset as usize + 44] = 9;
    repair_frame(&mut bytes, staged.at.offset as usize);
    overwrite(&disk, &path_of(1), staged.at.offset, &bytes[staged.at.offset as usize..]);
    assert!(matches!(follower.refresh(|_| Ok(())), Err(Error::Incompatible { .. })));
    assert_eq!(texts(follower.log()), ["a"]);
}

/// Found by review. What was new was shown before it was indexed: another thread of the reader had a head up to which no
/// query could lead it, and its queries ended early, without a word.
#[test]
fn a_follower_shows_what_is_new_once_it_is_indexed() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, large());
    add(&opened, SYNCED, "a");
    let (follower, _) = follow(&disk, large()).unwrap().unwrap();
    add(&opened, SYNCED, "b");
    let log = follower.log();
    assert!(matches!(follower.refresh(|_| Err(Error::Closed)), Err(Error::Closed)));
    assert_eq!((log.visible(), log.synced()), (1, 1));
    let indexed = Cell::new(0);
    let index = |head| {
        indexed.set(head);
        assert_eq!((log.visible(), log.synced()), (1, 1));
        Ok(())
    };
    assert_eq!(follower.refresh(index).unwrap(), 2);
    assert_eq!((indexed.get(), log.visible(), log.synced()), (2, 2, 2));
    assert_eq!(follower.refresh(|_| panic!("nothing is new")).unwrap(), 2);
}

/// Found by review. A writer that closes removes the segment that it had made before it was needed. Between two looks of
/// a follower that was an error.
#[test]
fn a_follower_that_finds_a_segment_looks_at_what_it_has_opened() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let opened = open(&disk, small());
    let (follower, _) = follow(&disk, small()).unwrap().unwrap();
    append(&opened.appender, SYNCED, &[filled("0", 3000)]).unwrap();
    opened.appender.make_spare().unwrap();
    disk.inject(
        Fault { after: 1, ..Fault::next(Call::Open).of("0000000002.segment") }.kind(std::io::ErrorKind::NotFound),
    );
    assert_eq!(follower.refresh(|_| Ok(())).unwrap(), 1);
    assert_eq!(disk.failed_calls(), 0);
}

/// The next segment begins where the writer ended this one, not where the follower could not read on.
#[test]
fn a_follower_does_not_pass_over_the_damaged_end_of_a_segment_into_the_next() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, small());
    let (follower, _) = follow(&disk, small()).unwrap().unwrap();
    for index in 0..5 {
        append(&opened.appender, SYNCED, &[filled(&format!("{index}"), 1000)]).unwrap();
    }
    drop(opened);
    let last = frame_offsets(&disk, 1)[3];
    flip(&disk, &path_of(1), last + 50);
    for _ in 0..2 {
        let refreshed = follower.refresh(|_| Ok(()));
        assert!(
            matches!(&refreshed, Err(Error::Corrupt { file, offset, .. })
                if *file == disk.locate(&path_of(1)) && *offset == last),
            "{refreshed:?}"
        );
        assert_eq!(texts(follower.log()), ["0", "1"]);
    }
    flip(&disk, &path_of(1), last + 50);
    assert_eq!(follower.refresh(|_| Ok(())).unwrap(), 5);
    assert_eq!(texts(follower.log()), ["0", "1", "2", "3", "4"]);
}

/// Beside a writer, what is read may be half of the old and half of the new.
#[test]
fn what_looks_damaged_is_looked_at_again_until_it_stays_the_same() {
    let look_while = |change: &dyn Fn(&MemoryDisk, u32)| {
        let (disk, looks) = (four_segments(), Cell::new(0));
        let looked = look_until_steady(&disk, &|| {
            change(&disk, looks.get());
            looks.set(looks.get() + 1);
            Ok(Vec::new())
        });
        (looked.map(|inspection| inspection.is_some()), looks.get())
    };
    let damage = |disk: &MemoryDisk, segment| flip(disk, &path_of(segment), FIRST_FRAME + 8);
    assert!(matches!(look_while(&|_, _| {}), (Ok(true), 1)));
    let passing = |disk: &MemoryDisk, look| {
        if look < 2 {
            damage(disk, 2);
        }
    };
    assert!(matches!(look_while(&passing), (Ok(true), 2)));
    let lasting = |disk: &MemoryDisk, look| {
        if look == 0 {
            damage(disk, 2);
        }
    };
    assert!(matches!(look_while(&lasting), (Err(Error::Corrupt { .. }), 2)));
    let changing = |disk: &MemoryDisk, look: u32| {
        damage(disk, 2 + u64::from(look % 2));
        if look > 0 {
            damage(disk, 2 + u64::from((look - 1) % 2));
        }
    };
    assert!(matches!(look_while(&changing), (Err(Error::Corrupt { .. }), 5)));
}
