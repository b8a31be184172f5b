//! The decisions of recovery (FORMAT, section 7), row by row and step by step.

use super::*;

/// A log that was killed: synced commits, then one that was only handed to the operating system.
pub(super) fn killed(options: LogOptions, synced: &[&str], unsynced: &[Vec<u8>]) -> MemoryDisk {
    let disk = MemoryDisk::new();
    let opened = open(&disk, options);
    for payload in synced {
        add(&opened, SYNCED, payload);
    }
    for payload in unsynced {
        append(&opened.appender, OS, std::slice::from_ref(payload)).unwrap();
    }
    copy_of(&disk)
}

/// Where the frames of a segment begin, and where the last one ends.
pub(super) fn frame_offsets(disk: &dyn Disk, number: u64) -> Vec<u64> {
    let bytes = bytes_of(disk, &path_of(number));
    let header = SegmentHeader::decode(bytes[..64].try_into().unwrap()).unwrap();
    let mut offsets = vec![FIRST_FRAME];
    while let Some(offset) = offsets.last().copied()
        && let Ok(frame) = Frame::decode(&bytes[offset as usize..], Place::of_frame(header.salt, number, offset))
    {
        offsets.push(offset + frame.header.frame_len() as u64);
    }
    offsets
}

/// A log of four segments, closed.
pub(super) fn four_segments() -> MemoryDisk {
    four_segments_of(["one", "two", "three", "four"])
}

fn four_segments_of(names: [&str; 4]) -> MemoryDisk {
    let disk = MemoryDisk::new();
    let opened = open(&disk, small());
    for name in names {
        append(&opened.appender, SYNCED, &[filled(name, 3000)]).unwrap();
    }
    opened.appender.close().unwrap();
    drop(opened);
    assert_eq!(disk.list(LOG_DIR).unwrap().len(), 4);
    disk
}

/// The log opens with these commits, and takes one more that is there after the next open.
#[track_caller]
pub(super) fn assert_recovers(disk: &MemoryDisk, options: LogOptions, expected: &[&str]) -> Recovered {
    let opened = open(disk, options);
    assert_eq!(texts(&opened.log), expected);
    assert_eq!(heads(&opened), (expected.len() as u64, expected.len() as u64));
    add(&opened, SYNCED, "one more");
    let recovered = opened.recovered;
    drop(opened);
    let again = open(disk, options);
    assert_eq!(texts(&again.log), [expected, &["one more"]].concat());
    recovered
}

// --- Step 4, the table ---------------------------------------------------------------------------------------------------

#[test]
fn only_zeros_behind_the_last_frame_is_a_clean_end() {
    let disk = killed(large(), &["a", "b"], &[b"c".to_vec()]);
    let recovered = assert_recovers(&disk, large(), &["a", "b", "c"]);
    assert_eq!((recovered.cut_bytes, recovered.created), (0, false));
    assert!(recovered.confirmed_bytes > 0);
    assert_eq!(disk.list(LOG_DIR).unwrap().len(), 1, "the same segment goes on");
}

#[test]
fn a_last_commit_that_was_not_confirmed_is_cut_at_every_byte() {
    let disk = killed(large(), &["a", "b"], &[b"last".to_vec()]);
    let offsets = frame_offsets(&disk, 1);
    let [.., begin, end] = offsets[..] else { panic!("a log with frames") };
    let whole = bytes_of(&disk, &path_of(1));
    for cut in begin..end {
        let torn = copy_of(&disk);
        overwrite(&torn, &path_of(1), cut, &vec![0; (end - cut) as usize]);
        if bytes_of(&torn, &path_of(1)) == whole {
            continue;
        }
        let left = whole[begin as usize..cut as usize].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let recovered = assert_recovers(&torn, large(), &["a", "b"]);
        assert_eq!(recovered.cut_bytes, left as u64, "cut at {cut}");
        assert_eq!(torn.list(LOG_DIR).unwrap().len(), if left == 0 { 1 } else { 2 }, "cut at {cut}");
    }
}

#[test]
fn a_last_commit_that_was_not_confirmed_is_cut_where_any_sector_is_missing() {
    let disk = killed(large(), &["a"], &[filled("large", 5000)]);
    let offsets = frame_offsets(&disk, 1);
    let [.., begin, end] = offsets[..] else { panic!("a log with frames") };
    for sector in begin / 512..=end / 512 {
        let torn = copy_of(&disk);
        let (from, to) = (begin.max(sector * 512), end.min((sector + 1) * 512));
        overwrite(&torn, &path_of(1), from, &vec![0; (to - from) as usize]);
        assert!(assert_recovers(&torn, large(), &["a"]).cut_bytes > 0, "sector {sector}");
    }
}

#[test]
fn rubbish_behind_the_end_is_a_torn_tail() {
    let disk = killed(large(), &["a"], &[]);
    let end = *frame_offsets(&disk, 1).last().unwrap();
    for (distance, rubbish) in [(0, b"x".to_vec()), (1000, vec![0xFF; 700]), (20_000, b"far".to_vec())] {
        let torn = copy_of(&disk);
        overwrite(&torn, &path_of(1), end + distance, &rubbish);
        let recovered = assert_recovers(&torn, large(), &["a"]);
        assert_eq!(recovered.cut_bytes, distance + rubbish.len() as u64);
    }
}

#[test]
fn whole_commits_behind_a_torn_one_go_with_it() {
    let disk = killed(large(), &["a"], &[b"torn".to_vec(), b"whole".to_vec()]);
    let offsets = frame_offsets(&disk, 1);
    flip(&disk, &path_of(1), offsets[2] + 60);
    let recovered = assert_recovers(&disk, large(), &["a"]);
    assert!(recovered.cut_bytes > offsets[3] - offsets[2]);
}

#[test]
fn any_damage_below_the_durable_address_is_refused() {
    let disk = killed(large(), &["a", "b", "c"], &[]);
    let end = *frame_offsets(&disk, 1).last().unwrap();
    for offset in FIRST_FRAME..end {
        flip(&disk, &path_of(1), offset);
        assert_corrupt(&disk, "");
        flip(&disk, &path_of(1), offset);
    }
    assert_recovers(&disk, large(), &["a", "b", "c"]);
}

#[test]
fn zeros_below_the_durable_address_are_refused() {
    let disk = killed(large(), &["a", "b"], &[]);
    let [.., begin, end] = frame_offsets(&disk, 1)[..] else { panic!("a log with frames") };
    overwrite(&disk, &path_of(1), begin, &vec![0; (end - begin) as usize]);
    assert_corrupt(&disk, "known to have been synced");
}

#[test]
fn a_confirmed_frame_behind_damage_is_refused_without_a_synced_head() {
    let disk = killed(large(), &["a", "b", "c"], &[]);
    disk.remove(SYNCED_HEAD_PATH).unwrap();
    let offsets = frame_offsets(&disk, 1);
    for damaged in &offsets[1..=2] {
        flip(&disk, &path_of(1), damaged + 50);
        assert_corrupt(&disk, "known to have been synced");
        flip(&disk, &path_of(1), damaged + 50);
    }
    // The last commit says only that what is before it was synced.
    flip(&disk, &path_of(1), offsets[3] + 50);
    assert_recovers(&disk, large(), &["a", "b"]);
}

#[test]
fn a_mark_confirms_the_last_commit_without_a_synced_head() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, large());
    add(&opened, SYNCED, "a");
    opened.appender.mark().unwrap();
    drop(opened);
    disk.remove(SYNCED_HEAD_PATH).unwrap();
    flip(&disk, &path_of(1), frame_offsets(&disk, 1)[1] + 50);
    assert_corrupt(&disk, "known to have been synced");
}

#[test]
fn a_synced_head_with_another_checksum_is_another_history() {
    let (disk, other) = (killed(large(), &["a", "b"], &[]), killed(large(), &["a", "c"], &[]));
    put_file(&disk, SYNCED_HEAD_PATH, &bytes_of(&other, SYNCED_HEAD_PATH));
    assert_corrupt(&disk, "another history");
}

#[test]
fn a_synced_head_inside_a_frame_is_another_history() {
    let (disk, other) = (killed(large(), &["a", &"b".repeat(100)], &[]), killed(large(), &["a", "b"], &[]));
    put_file(&disk, SYNCED_HEAD_PATH, &bytes_of(&other, SYNCED_HEAD_PATH));
    assert_corrupt(&disk, "another history");
}

#[test]
fn a_synced_head_behind_the_start_frame_is_compared_too() {
    let heads = ["a", "b"].map(|name| {
        let disk = MemoryDisk::new();
        let opened = open(&disk, small());
        add(&opened, SYNCED, name);
        opened.appender.turn().unwrap().roll(100, 0).unwrap();
        opened.appender.close().unwrap();
        disk
    });
    put_file(&heads[0], SYNCED_HEAD_PATH, &bytes_of(&heads[1], SYNCED_HEAD_PATH));
    assert_corrupt(&heads[0], "another history");
}

#[test]
fn a_synced_head_of_another_history_in_a_sealed_segment_is_refused() {
    let disk = four_segments();
    for payloads in [["one", "2"].as_slice(), &["one", "two", "more"]] {
        let other = MemoryDisk::new();
        let opened = open(&other, LogOptions { segment_bytes_max: 64 * 1024, ..small() });
        for payload in payloads {
            append(&opened.appender, SYNCED, &[filled(payload, 3000)]).unwrap();
        }
        assert_eq!(opened.log.segments().last().unwrap().number, 2);
        put_file(&disk, SYNCED_HEAD_PATH, &bytes_of(&other, SYNCED_HEAD_PATH));
        assert_corrupt(&disk, "another history");
    }
}

#[test]
fn a_synced_head_that_is_older_or_damaged_says_nothing_wrong() {
    let disk = killed(large(), &["a", "b"], &[]);
    let older = bytes_of(&killed(large(), &["a"], &[]), SYNCED_HEAD_PATH);
    let mut damaged = bytes_of(&disk, SYNCED_HEAD_PATH);
    damaged[30] ^= 1;
    for head in [older, damaged, Vec::new(), vec![0; 64]] {
        let disk = copy_of(&disk);
        disk.remove(SYNCED_HEAD_PATH).unwrap();
        put_file(&disk, SYNCED_HEAD_PATH, &head);
        assert_recovers(&disk, large(), &["a", "b"]);
    }
}

/// A log of one segment that took the place of another one was served as if it had always been there: a state whose
/// segment was replaced by that of the log was empty, and nothing said so.
#[test]
fn a_log_and_a_synced_head_of_two_stores_are_refused() {
    let disk = killed(large(), &["a", "b"], &[]);
    let stranger = MemoryDisk::new();
    let stranger_disk: Arc<dyn Disk> = Arc::new(stranger.clone());
    add(&open_with(&stranger_disk, large(), 99).unwrap(), SYNCED, "one of another store");
    for path in [SYNCED_HEAD_PATH, &path_of(1)] {
        let disk = copy_of(&disk);
        disk.remove(path).unwrap();
        put_file(&disk, path, &bytes_of(&stranger, path));
        assert_corrupt(&disk, "two different stores");
    }
}

// --- A newer writer ------------------------------------------------------------------------------------------------------

#[test]
fn a_frame_that_a_newer_program_wrote_is_refused() {
    let disk = killed(large(), &["a", "b"], &[]);
    let offset = frame_offsets(&disk, 1)[2] as usize;
    let cases: [(&str, usize, u8, &str); 7] = [
        ("kind", 44, 9, "unknown kind"),
        ("start kind", 44, 1, "lengths"),
        ("flags", 45, 1, "unknown flags"),
        ("reserved", 47, 1, "unknown flags"),
        ("position", 16, 7, "positions"),
        ("commit time", 31, 0x80, "committed before"),
        ("durable address", 36, 1, "what follows it"),
    ];
    for (what, at, value, reason) in cases {
        let newer = copy_of(&disk);
        let mut bytes = bytes_of(&newer, &path_of(1));
        assert_ne!(bytes[offset + at], value, "{what}");
        bytes[offset + at] = value;
        repair_frame(&mut bytes, offset);
        overwrite(&newer, &path_of(1), 0, &bytes);
        assert_incompatible(&newer, reason);
    }
}

#[test]
fn a_start_frame_with_reserved_bytes_is_refused() {
    let disk = killed(large(), &["a"], &[]);
    let mut bytes = bytes_of(&disk, &path_of(1));
    bytes[64 + HEADER_BYTES + 63] = 1;
    repair_start(&mut bytes);
    overwrite(&disk, &path_of(1), 0, &bytes);
    assert_incompatible(&disk, "not a start frame as this version knows it");
}

#[test]
fn a_segment_of_another_version_or_with_unknown_features_is_refused() {
    let disk = four_segments();
    for number in 1..=4 {
        for (at, reason) in [(8, "format version"), (12, "incompatible feature bits")] {
            let newer = copy_of(&disk);
            let mut bytes = bytes_of(&newer, &path_of(number));
            bytes[at] = 0x40;
            repair_header(&mut bytes);
            overwrite(&newer, &path_of(number), 0, &bytes);
            assert_incompatible(&newer, reason);
        }
    }
}

#[test]
fn a_feature_that_only_writers_must_know_is_refused_by_writers_only() {
    let disk = four_segments();
    for number in 1..=4 {
        let newer = copy_of(&disk);
        let mut bytes = bytes_of(&newer, &path_of(number));
        bytes[20] = 2;
        repair_header(&mut bytes);
        overwrite(&newer, &path_of(number), 0, &bytes);
        assert_incompatible(&newer, "a writer would have to know");
        let (follower, _) = follow(&newer, small()).unwrap().unwrap();
        assert_eq!(texts(follower.log()), ["one", "two", "three", "four"]);
    }
}

#[test]
fn what_a_reader_may_ignore_is_ignored() {
    let disk = four_segments();
    let mut bytes = bytes_of(&disk, &path_of(4));
    (bytes[10], bytes[16]) = (9, 0xFF);
    repair_header(&mut bytes);
    overwrite(&disk, &path_of(4), 0, &bytes);
    assert_recovers(&disk, small(), &["one", "two", "three", "four"]);
}

// --- Steps 1 and 2: files ------------------------------------------------------------------------------------------------

#[test]
fn a_missing_segment_is_refused() {
    for number in 1..=4 {
        let disk = four_segments();
        disk.remove(&path_of(number)).unwrap();
        assert_corrupt(&disk, if number == 4 { "known to have been synced" } else { "missing" });
    }
}

#[test]
fn a_log_whose_segments_are_all_gone_is_refused_if_anything_says_that_there_was_one() {
    let disk = four_segments();
    (1..=4).for_each(|number| disk.remove(&path_of(number)).unwrap());
    assert_corrupt(&disk, "gone");
}

#[test]
fn segments_under_each_others_names_are_refused() {
    let disk = four_segments();
    disk.rename(&path_of(2), "swap").unwrap();
    disk.rename(&path_of(3), &path_of(2)).unwrap();
    disk.rename("swap", &path_of(3)).unwrap();
    assert_corrupt(&disk, "not that of its file name");
}

#[test]
fn a_segment_that_is_there_twice_is_refused() {
    let disk = four_segments();
    put_file(&disk, &path_of(5), &bytes_of(&disk, &path_of(3)));
    assert_corrupt(&disk, "not that of its file name");
}

#[test]
fn a_segment_renamed_with_care_passes_for_no_more_than_a_spare() {
    let disk = four_segments();
    let mut bytes = bytes_of(&disk, &path_of(4));
    put(&mut bytes, 40, &5_u64.to_le_bytes());
    repair_header(&mut bytes);
    put_file(&disk, &path_of(5), &bytes);
    assert_recovers(&disk, small(), &["one", "two", "three", "four"]);
}

#[test]
fn a_truncated_segment_is_refused() {
    for number in 1..=4 {
        for length in [0, 10, 64, 200, 3000, 4095] {
            let disk = four_segments();
            let bytes = bytes_of(&disk, &path_of(number));
            put_file(&disk, &path_of(number), &bytes[..length]);
            assert_corrupt(&disk, "shorter than");
        }
    }
}

#[test]
fn a_segment_of_another_history_is_refused() {
    let other = four_segments_of(["1", "2", "3", "4"]);
    for number in 1..=4 {
        let disk = four_segments();
        put_file(&disk, &path_of(number), &bytes_of(&other, &path_of(number)));
        assert_corrupt(&disk, "");
    }
}

#[test]
fn a_segment_of_another_store_is_refused() {
    let stranger = MemoryDisk::new();
    let stranger_disk: Arc<dyn Disk> = Arc::new(stranger.clone());
    let opened = open_with(&stranger_disk, small(), 99).unwrap();
    for name in ["one", "two", "three", "four"] {
        append(&opened.appender, SYNCED, &[filled(name, 3000)]).unwrap();
    }
    for number in 1..=4 {
        let disk = four_segments();
        put_file(&disk, &path_of(number), &bytes_of(&stranger, &path_of(number)));
        assert_corrupt(&disk, "another store");
    }
}

#[test]
fn damage_in_the_header_or_start_frame_of_any_segment_is_refused() {
    let disk = four_segments();
    for number in 1..=4 {
        for offset in (0..192).step_by(3) {
            flip(&disk, &path_of(number), offset);
            assert_corrupt(&disk, "");
            flip(&disk, &path_of(number), offset);
        }
    }
    assert_recovers(&disk, small(), &["one", "two", "three", "four"]);
}

#[test]
fn damage_at_the_end_of_a_sealed_segment_is_refused_and_never_cut() {
    let disk = four_segments();
    let [.., last, _] = frame_offsets(&disk, 2)[..] else { panic!("a log with frames") };
    flip(&disk, &path_of(2), last + 5);
    assert_corrupt(&disk, "");
}

#[test]
fn files_of_other_names_are_left_alone() {
    let disk = four_segments();
    for name in ["0000000005.positions", "5.segment", "00000000001.segment", "+000000001.segment", "notes.txt"] {
        put_file(&disk, &format!("{LOG_DIR}/{name}"), b"not a segment");
    }
    assert_recovers(&disk, small(), &["one", "two", "three", "four"]);
    assert_eq!(bytes_of(&disk, &format!("{LOG_DIR}/notes.txt")), b"not a segment");
}

// --- Step 5: spares, the tail that is written again, interruptions ---------------------------------------------------------

fn put_spare(disk: &MemoryDisk, number: u64, behind_header: &[u8]) {
    let store = looked_at(disk).store();
    let spare = segment::Spare::create(disk, store, number, number * 31, SEGMENT_BYTES, behind_header).unwrap();
    assert_eq!(spare.bytes, SEGMENT_BYTES);
}

#[test]
fn spares_are_removed_blank_torn_or_several() {
    for spares in
        [vec![b"".to_vec()], vec![b"torn start frame".to_vec()], vec![Vec::new(), vec![0xAB; 3000], Vec::new()]]
    {
        let disk = four_segments();
        for (number, rubbish) in (5..).zip(&spares) {
            put_spare(&disk, number, rubbish);
        }
        let opened = open(&disk, small());
        assert_eq!(texts(&opened.log), ["one", "two", "three", "four"]);
        assert_eq!(disk.list(LOG_DIR).unwrap().len(), 4);
        drop(opened);
        assert_recovers(&disk, small(), &["one", "two", "three", "four"]);
    }
}

#[test]
fn a_spare_before_a_segment_is_refused() {
    let disk = four_segments();
    let store = looked_at(&disk).store();
    disk.remove(&path_of(3)).unwrap();
    segment::Spare::create(&disk, store, 3, 5, SEGMENT_BYTES, &[]).unwrap();
    assert_corrupt(&disk, "in the middle of the log");
}

#[test]
fn a_segment_without_a_start_frame_but_with_a_confirmed_one_behind_is_no_spare() {
    let disk = four_segments();
    disk.remove(SYNCED_HEAD_PATH).unwrap();
    overwrite(&disk, &path_of(4), FIRST_FRAME, &[0; 128]);
    assert_corrupt(&disk, "known to have been synced");
}

/// A writer fills a segment from its start: recovery looks for a confirmed frame in the first mebibyte of one that begins
/// with zeros.
#[test]
fn a_segment_whose_first_commits_are_zeros_is_no_spare() {
    let options = LogOptions { segment_bytes_first: 2 << 20, segment_bytes_max: 2 << 20, ..large() };
    let disk = MemoryDisk::new();
    let opened = open(&disk, options);
    add(&opened, SYNCED, "one");
    opened.appender.turn().unwrap().roll(0, 1).unwrap();
    append(&opened.appender, SYNCED, &[filled("two", 1_000_000)]).unwrap();
    add(&opened, SYNCED, "three");
    drop(opened);
    disk.remove(SYNCED_HEAD_PATH).unwrap();
    let offsets = frame_offsets(&disk, 2);
    let last = offsets[offsets.len() - 2];
    overwrite(&disk, &path_of(2), FIRST_FRAME, &vec![0; (last - FIRST_FRAME) as usize]);
    assert_corrupt(&disk, "known to have been synced");
}

#[test]
fn temporary_files_are_removed() {
    let disk = four_segments();
    put_file(&disk, &format!("{}.tmp", path_of(5)), b"half a segment");
    open(&disk, small());
    assert_eq!(disk.list(LOG_DIR).unwrap().len(), 4);
}

/// All that recovery has to do at once: a torn tail, spares, a temporary file, no synced head.
fn battered() -> MemoryDisk {
    let disk = killed(small(), &["a", "b"], &[b"c".to_vec(), filled("torn", 1000)]);
    let [.., begin, _] = frame_offsets(&disk, 1)[..] else { panic!("a log with frames") };
    flip(&disk, &path_of(1), begin + 700);
    put_spare(&disk, 2, b"");
    put_spare(&disk, 3, b"torn");
    put_file(&disk, &format!("{}.tmp", path_of(4)), b"half a segment");
    disk.remove(SYNCED_HEAD_PATH).unwrap();
    disk
}

#[test]
fn an_interrupted_recovery_is_done_again_with_the_same_result() {
    let disk = battered();
    for after in 0.. {
        let faulty = FaultyDisk::new(copy_of(&disk));
        faulty.inject(Fault::all_after(after));
        let interrupted = try_open(&faulty, small()).is_err();
        faulty.heal();
        // After a kill, what was written is still there; after a loss of power, any part of it.
        for seed in 0..10 {
            let opened = try_open(&faulty.power_cut(seed), small());
            let opened = opened.unwrap_or_else(|error| panic!("after {after} calls, seed {seed}: {error}"));
            assert_eq!(texts(&opened.log), ["a", "b", "c"], "after {after} calls, seed {seed}");
        }
        let opened = open(&faulty, small());
        assert_eq!(texts(&opened.log), ["a", "b", "c"], "after {after} calls");
        add(&opened, SYNCED, "more");
        assert_eq!(texts(&open(&faulty.power_cut(0), small()).log), ["a", "b", "c", "more"], "after {after} calls");
        if !interrupted {
            assert!(after > 10);
            break;
        }
    }
}

#[test]
fn a_cut_is_reported_and_recorded() {
    let disk = battered();
    let opened = open(&disk, small());
    assert!(opened.recovered.cut_bytes > 1000);
    drop(opened);
    let inspection = looked_at(&disk);
    assert_eq!(inspection.segments.len(), 2);
    assert!(inspection.last().start.cut_bytes > 1000);
    assert_eq!(open(&disk, small()).recovered.cut_bytes, 0);
}

#[test]
fn the_unconfirmed_tail_is_written_and_synced_again_before_anything_is_served() {
    let disk = killed(large(), &["a"], &[b"b".to_vec(), filled("c", 9000)]);
    for call in [Call::Write, Call::Sync] {
        let faulty = FaultyDisk::new(copy_of(&disk));
        faulty.inject(Fault::next(call).of(".segment"));
        assert!(try_open(&faulty, large()).is_err(), "{call:?}");
        assert_eq!(faulty.calls(Call::Map), 0, "{call:?}");
    }
    let faulty = FaultyDisk::new(disk);
    let opened = open(&faulty, large());
    assert!(opened.recovered.confirmed_bytes > 9000);
}

#[test]
fn a_log_that_was_closed_is_not_written_again() {
    let faulty = FaultyDisk::new(four_segments());
    faulty.inject(Fault { forever: true, ..Fault::next(Call::Write).of(".segment") });
    faulty.inject(Fault { forever: true, ..Fault::next(Call::Sync).of(".segment") });
    assert_eq!(open(&faulty, small()).recovered, Recovered::default());
}

/// A kill between the write of a start frame and its sync left it in the page cache only. The next open found no commit
/// that was unconfirmed, wrote nothing again, and told in the synced head that the log reached into that segment. After a
/// loss of power the start frame was gone and the store was refused.
#[test]
fn a_start_frame_that_was_not_synced_before_a_kill_is_confirmed() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let opened = open(&disk, small());
    add(&opened, SYNCED, "a");
    let mut turn = opened.appender.turn().unwrap();
    turn.reserve(5000).unwrap();
    drop(turn);
    opened.appender.finish_staged();
    drop(opened);
    let again = open(&disk, small());
    assert_eq!(again.log.segments().last().unwrap().number, 2);
    drop(again);
    for seed in 0..20 {
        let opened = try_open(&disk.power_cut(seed), small()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(texts(&opened.log), ["a"], "seed {seed}");
    }
}

/// Found by the state machine. The synced head was made under its name, and a loss of power before its sync left a file
/// with that name whose bytes were any: those that another log's synced head had had on the disk, which got the log
/// refused as that of two stores.
#[test]
fn the_synced_head_has_its_name_only_when_its_bytes_are_synced() {
    for after in 0.. {
        let disk = FaultyDisk::new(MemoryDisk::new());
        disk.inject(Fault::all_after(after));
        let is_interrupted = try_open(&disk, small()).is_err();
        for seed in 0..20 {
            let left = disk.power_cut(seed);
            let head = left.open(SYNCED_HEAD_PATH, Access::Read).map(|file| file.len().unwrap());
            assert!(head.is_err() || head.unwrap() > 0, "after {after} calls, seed {seed}");
        }
        if !is_interrupted {
            assert!(after > 5);
            break;
        }
    }
}

/// Found by a crash history, in the state, whose segments are removed when it is compacted. The start frame that says so
/// was written and not synced before a kill. The next open believed it, removed the segments, and would have synced it
/// then: a loss of power in between left a log that had no longer what it said that it kept.
#[test]
fn segments_are_removed_once_the_frame_that_says_so_is_confirmed() {
    for after in 0.. {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let opened = open(&disk, small());
        for payload in ["a", "b", "c", "d"] {
            append(&opened.appender, SYNCED, &[filled(payload, 3000)]).unwrap();
        }
        opened.appender.turn().unwrap().roll(0, 3).unwrap();
        opened.appender.finish_staged();
        drop(opened);
        disk.inject(Fault::all_after(after));
        let is_interrupted = try_open(&disk, small()).is_err();
        for seed in 0..20 {
            let opened = try_open(&disk.power_cut(seed), small());
            let opened = opened.unwrap_or_else(|error| panic!("after {after} calls, seed {seed}: {error}"));
            assert_eq!(opened.log.visible(), 4, "after {after} calls, seed {seed}");
        }
        if !is_interrupted {
            disk.heal();
            assert_eq!(open(&disk, small()).log.segments().iter().next().unwrap().number, 3);
            break;
        }
    }
}

// --- Checkpoints ---------------------------------------------------------------------------------------------------------

pub(super) fn checkpoint_at(log: &Log, staged: &Staged, count: u64) -> Checkpoint {
    let segment = log.segment(staged.at.segment).unwrap();
    Checkpoint {
        store: log.store(),
        segment: segment.number,
        salt: segment.salt,
        position: staged.first_position + count - 1,
        offset: staged.at.offset,
        end: staged.end,
        checksum: staged.checksum,
    }
}

pub(super) fn open_at(disk: &MemoryDisk, checkpoint: Checkpoint) -> Result<Opened> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let randomness: Arc<dyn Randomness> = Arc::new(SeededRandomness::new(1));
    let signal = Arc::new(Signal::new());
    let checkpoints = [checkpoint];
    let opening =
        Opening { disk: &disk, options: large(), randomness: &randomness, signal: &signal, checkpoints: &checkpoints };
    Ok(opening.open(false)?.expect("there is a log"))
}

#[test]
fn recovery_begins_at_a_checkpoint_that_the_log_agrees_with() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, large());
    let staged: Vec<Staged> = ["a", "b", "c"]
        .iter()
        .map(|name| append(&opened.appender, SYNCED, &[name.as_bytes().to_vec()]).unwrap())
        .collect();
    let checkpoint = checkpoint_at(&opened.log, &staged[1], 1);
    drop(opened);
    let again = open_at(&copy_of(&disk), checkpoint).unwrap();
    assert_eq!(texts(&again.log), ["a", "b", "c"]);
    assert_eq!(add(&again, SYNCED, "d"), 4);

    // One that the log does not agree with is no place to begin, and what it says was synced still counts.
    let wrong = Checkpoint { checksum: 1, ..checkpoint };
    assert_eq!(texts(&open_at(&copy_of(&disk), wrong).unwrap().log), ["a", "b", "c"]);
    disk.remove(SYNCED_HEAD_PATH).unwrap();
    flip(&disk, &path_of(1), staged[2].at.offset + 50);
    assert_eq!(texts(&open_at(&copy_of(&disk), checkpoint).unwrap().log), ["a", "b"]);
    let last = Checkpoint { position: 3, offset: staged[2].at.offset, end: staged[2].end, ..checkpoint };
    assert!(matches!(open_at(&disk, last), Err(Error::Corrupt { .. })));
}
