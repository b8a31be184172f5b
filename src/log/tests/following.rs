//! Read-only opens, alone and beside a writer.

use super::*;

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
    assert_eq!(follower.refresh().unwrap(), 1);
    opened.appender.sync().unwrap();
    assert_eq!(follower.refresh().unwrap(), 2);
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
                assert_eq!(follower.refresh().unwrap(), index + 1);
                assert_eq!(texts(follower.log()), texts(&opened.log));
            }
        }
        opened.appender.close().unwrap();
        assert_eq!(follower.refresh().unwrap(), 40);
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
    follower.refresh().unwrap();
    assert_eq!(read_only.mutations(), 0);
    assert!(files(&disk) == before);
    add(&opened, SYNCED, "20");
    assert_eq!(follower.refresh().unwrap(), 21);
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
        assert_eq!(follower.refresh().unwrap(), index + 1);
    }
    assert_eq!(texts(follower.log()), texts(&opened.log));
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
            let head = follower.refresh().unwrap();
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
    assert_eq!(follower.refresh().unwrap(), 3);
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
    assert!(matches!(follower.refresh(), Err(Error::Corrupt { offset, .. }) if offset == staged.at.offset));
    flip(&disk, &path_of(1), staged.at.offset + 50);
    let mut bytes = bytes_of(&disk, &path_of(1));
    bytes[staged.at.offset as usize + 44] = 9;
    repair_frame(&mut bytes, staged.at.offset as usize);
    overwrite(&disk, &path_of(1), staged.at.offset, &bytes[staged.at.offset as usize..]);
    assert!(matches!(follower.refresh(), Err(Error::Incompatible { .. })));
    assert_eq!(texts(follower.log()), ["a"]);
}
