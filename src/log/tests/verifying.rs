//! Verification of a log: every byte is read, each fault is named once, at its place, and what changes beside it is none.

use super::recovery::{four_segments, frame_offsets, killed};
use super::*;
use crate::format::synced_head::SyncedHead;
use crate::log::recovery::read_synced_head;
use crate::log::verify::{Auditor, LogAudit, SegmentStart, audit, store_of};
use crate::types::StoreId;

/// What an auditor was shown.
#[derive(Debug, Default)]
struct Seen {
    bytes: u64,
    segments: Vec<u64>,
    first_ever: Vec<u64>,
    /// Segment and offset.
    commits: Vec<(u64, u64)>,
    lost: u32,
}

/// Notes what it is shown, and does something when a segment begins.
struct Notes<'a> {
    seen: Seen,
    at_segment: &'a mut dyn FnMut(u64),
}

impl Auditor for Notes<'_> {
    fn read(&mut self, bytes: u64) {
        self.seen.bytes += bytes;
    }

    fn begin_segment(&mut self, segment: &SegmentStart) {
        self.seen.segments.push(segment.number);
        self.seen.first_ever.extend(segment.is_first_ever.then_some(segment.number));
        (self.at_segment)(segment.number);
    }

    fn commit(&mut self, segment: u64, offset: u64, _: &Frame<'_>) -> Vec<String> {
        self.seen.commits.push((segment, offset));
        Vec::new()
    }

    fn lose(&mut self) {
        self.seen.lost += 1;
    }
}

fn try_verify_while(disk: &dyn Disk, at_segment: &mut dyn FnMut(u64)) -> Result<Option<(LogAudit, Seen)>> {
    let mut notes = Notes { seen: Seen::default(), at_segment };
    let audit = audit(disk, &|| Ok(Vec::new()), &mut notes)?;
    Ok(audit.map(|audit| (audit, notes.seen)))
}

#[track_caller]
fn verify_while(disk: &dyn Disk, at_segment: &mut dyn FnMut(u64)) -> (LogAudit, Seen) {
    try_verify_while(disk, at_segment).unwrap().expect("there is a log")
}

#[track_caller]
fn verify(disk: &dyn Disk) -> (LogAudit, Seen) {
    verify_while(disk, &mut |_| {})
}

/// Exactly this is wrong: the end of the file's name, the offset, and a part of the reason.
#[track_caller]
fn assert_faults(audit: &LogAudit, expected: &[(&str, u64, &str)]) {
    let is_same = audit.faults.len() == expected.len()
        && audit.faults.iter().zip(expected).all(|(fault, (file, offset, reason))| {
            fault.file.to_string_lossy().ends_with(file) && fault.offset == *offset && fault.reason.contains(reason)
        });
    assert!(is_same, "{:#?}", audit.faults);
}

fn bytes_on(disk: &dyn Disk) -> u64 {
    files(disk).values().map(|bytes| bytes.len() as u64).sum()
}

/// A closed log of segments with three commits each.
fn threes() -> MemoryDisk {
    let disk = MemoryDisk::new();
    let opened = open(&disk, small());
    for index in 0..9 {
        append(&opened.appender, SYNCED, &[filled(&format!("{index}"), 1000)]).unwrap();
    }
    opened.appender.close().unwrap();
    assert_eq!(opened.log.segments().iter().len(), 3);
    disk
}

const SEGMENT_2: &str = "0000000002.segment";
const SEGMENT_3: &str = "0000000003.segment";

#[test]
fn every_byte_of_a_sound_log_is_read_once() {
    for disk in [four_segments(), threes(), killed(large(), &["a"], &[b"b".to_vec()])] {
        let (audit, seen) = verify(&disk);
        assert_faults(&audit, &[]);
        assert_eq!(seen.bytes, bytes_on(&disk));
        assert_eq!((audit.segments, audit.torn_bytes, audit.is_decided), (seen.segments.len() as u64, 0, true));
        assert_eq!(
            (seen.commits.len(), seen.lost, seen.first_ever),
            (texts(&open(&disk, small()).log).len(), 0, vec![1])
        );
    }
    assert!(try_verify_while(&disk_of(&BTreeMap::new()), &mut |_| {}).unwrap().is_none());
}

#[test]
fn a_damaged_commit_is_named_and_what_is_behind_it_is_read() {
    let disk = threes();
    let offsets = frame_offsets(&disk, 2);
    flip(&disk, &path_of(2), offsets[2] + 60);
    let (audit, seen) = verify(&disk);
    assert_faults(&audit, &[(SEGMENT_2, offsets[2], "checksum")]);
    assert_eq!((seen.commits.len(), seen.lost, seen.bytes), (8, 1, bytes_on(&disk)));
    assert!(seen.commits.contains(&(2, offsets[3])) && !seen.commits.contains(&(2, offsets[2])));
}

#[test]
fn a_damaged_header_hides_the_rest_of_its_segment() {
    let disk = threes();
    let offsets = frame_offsets(&disk, 2);
    flip(&disk, &path_of(2), offsets[2] + 8);
    let (audit, seen) = verify(&disk);
    assert_faults(&audit, &[(SEGMENT_2, offsets[2], "checksum")]);
    // Once where the chain breaks, and once where the next segment begins without it.
    assert_eq!((seen.commits.len(), seen.lost, seen.bytes), (7, 2, bytes_on(&disk)));
    assert_eq!(seen.segments, [1, 2, 3]);
}

/// A header that is whole and does not continue the chain leads nowhere.
#[test]
fn a_frame_of_another_chain_is_not_followed() {
    let sound = threes();
    let at = frame_offsets(&sound, 2)[2];
    // The checksum of the frame before, and the position.
    for field in [12, 16, 20] {
        let mut bytes = bytes_of(&sound, &path_of(2));
        bytes[at as usize + field] ^= 1;
        repair_frame(&mut bytes, at as usize);
        let disk = copy_of(&sound);
        put_file(&disk, &path_of(2), &bytes);
        let (audit, seen) = verify(&disk);
        assert_faults(&audit, &[(SEGMENT_2, at, "")]);
        assert_eq!((seen.commits.len(), seen.lost, seen.bytes), (7, 2, bytes_on(&disk)), "field at {field}");
    }
}

#[test]
fn a_byte_behind_a_sealed_segment_is_a_fault_unless_it_was_cut() {
    let disk = four_segments();
    let end = *frame_offsets(&disk, 2).last().unwrap();
    for at in [end, end + 100, SEGMENT_BYTES - 1] {
        let disk = copy_of(&disk);
        overwrite(&disk, &path_of(2), at, &[1]);
        assert_faults(&verify(&disk).0, &[(SEGMENT_2, at, "behind the end of the segment is not zero")]);
    }
    // A torn tail of 100 bytes that a writer has cut.
    let torn = killed(small(), &["a"], &[]);
    let end = *frame_offsets(&torn, 1).last().unwrap();
    overwrite(&torn, &path_of(1), end, &[7; 100]);
    assert_eq!(verify(&torn).0.torn_bytes, 100);
    assert_eq!(open(&torn, small()).recovered.cut_bytes, 100);
    assert_faults(&verify(&torn).0, &[]);
    overwrite(&torn, &path_of(1), end + 100, &[7]);
    assert_faults(&verify(&torn).0, &[("0000000001.segment", end + 100, "behind the end of the segment is not zero")]);
}

#[test]
fn a_byte_behind_the_end_of_a_closed_log_is_no_torn_tail() {
    let disk = threes();
    let end = *frame_offsets(&disk, 3).last().unwrap();
    overwrite(&disk, &path_of(3), end + 5, &[1]);
    let (audit, _) = verify(&disk);
    assert_faults(&audit, &[("0000000003.segment", end + 5, "although it was closed there")]);
    assert_eq!(audit.torn_bytes, 0);
    disk.remove(SYNCED_HEAD_PATH).unwrap();
    let (audit, _) = verify(&disk);
    assert_faults(&audit, &[]);
    assert_eq!(audit.torn_bytes, 6);
}

/// Recovery looks so far for a torn tail, and a writer is never farther ahead of what is synced.
#[test]
fn a_byte_farther_behind_the_end_than_a_crash_reaches_is_a_fault() {
    use crate::log::recovery::SPAN_BYTES;
    assert_eq!(SPAN_BYTES, 80 * 1024 * 1024, "FORMAT, section 7");
    let bytes = SPAN_BYTES.next_multiple_of(4096) + 8192;
    let disk = killed(LogOptions { segment_bytes_first: bytes, segment_bytes_max: bytes, ..large() }, &["a"], &[]);
    let end = *frame_offsets(&disk, 1).last().unwrap();
    overwrite(&disk, &path_of(1), end + SPAN_BYTES - 1, &[1]);
    let (audit, _) = verify(&disk);
    assert_faults(&audit, &[]);
    assert_eq!(audit.torn_bytes, SPAN_BYTES);
    overwrite(&disk, &path_of(1), end + SPAN_BYTES, &[1]);
    let (audit, _) = verify(&disk);
    assert_faults(&audit, &[("0000000001.segment", end + SPAN_BYTES, "farther than a crash reaches")]);
}

/// Recovery refuses the log; the frames before the damage are read all the same.
#[test]
fn damage_of_what_was_synced_is_told_by_recovery_and_by_the_place() {
    let disk = killed(large(), &["a", "b", "c"], &[]);
    let offsets = frame_offsets(&disk, 1);
    flip(&disk, &path_of(1), offsets[2] + 60);
    let (audit, seen) = verify(&disk);
    assert!(!audit.is_decided);
    assert!(audit.faults.iter().any(|fault| fault.offset == offsets[2]), "{:?}", audit.faults);
    assert_eq!((seen.commits, audit.segments), (vec![(1, offsets[1])], 1));
    disk.remove(SYNCED_HEAD_PATH).unwrap();
    let (audit, _) = verify(&disk);
    assert!(!audit.is_decided, "the frame behind it says that this one was synced");
}

fn head_of(disk: &dyn Disk) -> SyncedHead {
    read_synced_head(disk).unwrap().unwrap()
}

#[test]
fn a_synced_head_is_held_against_the_frame_that_it_remembers() {
    let sound = killed(large(), &["a", "b"], &[]);
    let head = head_of(&sound);
    let verify_with = |head: SyncedHead| {
        let disk = copy_of(&sound);
        put_file(&disk, SYNCED_HEAD_PATH, &head.encode());
        verify(&disk).0.faults
    };
    assert_eq!(verify_with(head), []);
    let other = "the synced head remembers another frame than the log has";
    let nowhere = "the synced head names a place where no frame ends";
    for (head, expected) in [
        (SyncedHead { checksum: head.checksum ^ 1, ..head }, other),
        (SyncedHead { position: head.position + 1, ..head }, other),
    ] {
        let faults = verify_with(head);
        assert!(faults.iter().any(|fault| fault.reason == expected && fault.offset == 0), "{head:?}: {faults:?}");
    }
    let disk = threes();
    let inside = SyncedHead { segment: 2, end: frame_offsets(&disk, 2)[3] - 8, ..head_of(&disk) };
    put_file(&disk, SYNCED_HEAD_PATH, &inside.encode());
    let faults = verify(&disk).0.faults;
    assert!(faults.iter().any(|fault| fault.reason == nowhere), "{faults:?}");
    // That of another store is refused by recovery, and says nothing of this log.
    let faults = verify_with(SyncedHead { store: StoreId::from_bytes([9; 16]), checksum: 0, ..head });
    assert!(faults.iter().all(|fault| fault.reason != other && fault.reason != nowhere), "{faults:?}");
    assert!(faults.iter().any(|fault| fault.reason.contains("two different stores")), "{faults:?}");
}

#[test]
fn a_synced_head_that_is_blank_is_none_and_one_that_is_damaged_is_a_fault() {
    let disk = killed(large(), &["a"], &[]);
    let mut bytes = bytes_of(&disk, SYNCED_HEAD_PATH);
    put_file(&disk, SYNCED_HEAD_PATH, &vec![0; bytes.len()]);
    assert_faults(&verify(&disk).0, &[]);
    bytes[3] ^= 1;
    put_file(&disk, SYNCED_HEAD_PATH, &bytes);
    assert_faults(&verify(&disk).0, &[(SYNCED_HEAD_PATH, 0, "the synced head is damaged")]);
}

/// A place in a segment that cannot be read to its end is not held against it.
#[test]
fn a_synced_head_that_lies_behind_damage_is_no_fault_of_its_own() {
    let disk = threes();
    let offsets = frame_offsets(&disk, 2);
    let head = SyncedHead { segment: 2, end: offsets[3], position: 5, checksum: 0, closed: false, ..head_of(&disk) };
    flip(&disk, &path_of(2), offsets[2] + 8);
    put_file(&disk, SYNCED_HEAD_PATH, &head.encode());
    let faults = verify(&disk).0.faults;
    assert!(faults.iter().all(|fault| !fault.reason.contains("no frame ends")), "{faults:?}");
}

#[test]
fn a_damaged_start_is_named_where_the_log_is_refused() {
    let disk = four_segments();
    flip(&disk, &path_of(2), FIRST_FRAME + 8);
    let (audit, seen) = verify(&disk);
    assert!(audit.faults.iter().any(|fault| fault.offset == FIRST_FRAME), "{:?}", audit.faults);
    assert_eq!((seen.segments, seen.lost > 0, audit.is_decided), (vec![1, 3, 4], true, false));
    flip(&disk, &path_of(3), FIRST_FRAME + 8);
    let (audit, _) = verify(&disk);
    for segment in [SEGMENT_2, SEGMENT_3] {
        let is_of = |fault: &crate::log::verify::Fault| fault.file.ends_with(segment) && fault.offset == FIRST_FRAME;
        assert!(audit.faults.iter().any(is_of), "recovery stops at the first: {:?}", audit.faults);
    }
    let header = four_segments();
    flip(&header, &path_of(2), 9);
    let (audit, seen) = verify(&header);
    assert_faults(&audit, &[(SEGMENT_2, 0, "")]);
    assert_eq!(seen.segments, [1, 3, 4]);
}

/// Where recovery has refused the log for another reason, what lies behind the last frame that can be read is judged by
/// itself: the frames behind it say up to where the log was synced when they were written.
#[test]
fn the_end_of_a_log_that_is_refused_is_torn_or_damaged_by_what_its_frames_say() {
    for (durability, reason) in [(SYNCED, Some("known to have been synced")), (OS, None)] {
        let disk = MemoryDisk::new();
        let opened = open(&disk, small());
        for _ in 0..4 {
            append(&opened.appender, SYNCED, &[filled("x", 1000)]).unwrap();
        }
        let damaged = append(&opened.appender, durability, &[b"damaged".to_vec()]).unwrap();
        append(&opened.appender, OS, &[b"behind".to_vec()]).unwrap();
        drop(opened);
        assert_eq!(damaged.at.segment, 2);
        flip(&disk, &path_of(1), 9);
        flip(&disk, &path_of(2), damaged.at.offset + 50);
        let (audit, _) = verify(&disk);
        assert!(!audit.is_decided);
        let told: Vec<_> = audit.faults.iter().filter(|fault| fault.file.ends_with(SEGMENT_2)).collect();
        match reason {
            Some(reason) => {
                assert!(told.len() == 1 && told[0].offset == damaged.at.offset && told[0].reason.contains(reason));
                assert_eq!(audit.torn_bytes, 0);
            }
            None => assert!(told.is_empty() && audit.torn_bytes > 0, "{audit:?}"),
        }
    }
}

/// The start frame of the next segment says where the one before it ends, and when its last commit was.
#[test]
fn a_start_frame_that_contradicts_the_segment_before_it_is_a_fault() {
    let edited = |offset: u64, edit: &dyn Fn(u64) -> u64| {
        let disk = threes();
        let mut bytes = bytes_of(&disk, &path_of(2));
        let at = (FIRST_FRAME + offset) as usize;
        let value = edit(u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()));
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        repair_start(&mut bytes);
        put_file(&disk, &path_of(2), &bytes);
        verify(&disk).0.faults
    };
    let has =
        |faults: &[crate::log::verify::Fault], reason: &str| faults.iter().any(|fault| fault.reason.contains(reason));
    let sooner = "begins before the last commit";
    let faults = edited(24, &|time| time.wrapping_sub(1));
    assert!(has(&faults, sooner), "{faults:?}");
    let faults = edited(24, &|time| time + 1);
    assert!(!has(&faults, sooner), "{faults:?}");
    let faults = edited(HEADER_BYTES as u64 + 8, &|length| length - 8);
    assert!(has(&faults, "a frame reaches beyond the end of its segment"), "{faults:?}");
}

#[test]
fn a_spare_is_read_and_is_torn_if_its_start_was_begun() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let opened = open(&disk, small());
    append(&opened.appender, SYNCED, &[filled("a", 3000)]).unwrap();
    opened.appender.make_spare().unwrap();
    let disk = copy_of(&disk);
    let (audit, seen) = verify(&disk);
    assert_faults(&audit, &[]);
    assert_eq!((audit.torn_bytes, seen.bytes, seen.segments), (0, bytes_on(&disk), vec![1]));
    overwrite(&disk, &path_of(2), FIRST_FRAME + 10, &[1, 0, 1]);
    let (audit, _) = verify(&disk);
    assert_faults(&audit, &[]);
    assert_eq!(audit.torn_bytes, 13);
}

#[test]
fn what_was_made_in_advance_is_no_fault_of_a_log_that_is_refused() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, small());
    append(&opened.appender, SYNCED, &[filled("a", 3000)]).unwrap();
    opened.appender.make_spare().unwrap();
    drop(opened);
    put_file(&disk, "log/0000000009.segment.tmp", b"begun");
    assert_faults(&verify(&disk).0, &[]);
    flip(&disk, &path_of(1), 9);
    let (audit, _) = verify(&disk);
    assert!(!audit.is_decided);
    assert!(audit.faults.iter().all(|fault| fault.file.ends_with("0000000001.segment")), "{:?}", audit.faults);
}

#[test]
fn a_segment_that_is_shorter_than_it_was_made_is_a_fault_where_it_ends() {
    let disk = threes();
    let end = frame_offsets(&disk, 2)[2] + 20;
    let bytes = bytes_of(&disk, &path_of(2));
    put_file(&disk, &path_of(2), &bytes[..end as usize]);
    let (audit, seen) = verify(&disk);
    assert_faults(&audit, &[(SEGMENT_2, end, "shorter")]);
    assert_eq!((seen.segments, seen.lost, audit.is_decided), (vec![1, 3], 1, false));
}

/// What was verified up to here was right, and the next segment was taken for one that does not continue it.
#[test]
fn a_log_that_is_shortened_while_it_is_verified_has_no_fault() {
    let disk = four_segments();
    let (audit, seen) = verify_while(&disk, &mut |segment| {
        if segment == 1 {
            for number in [1, 2] {
                disk.remove(&path_of(number)).unwrap();
            }
        }
    });
    assert_faults(&audit, &[]);
    assert_eq!((seen.segments, seen.lost), (vec![1, 3, 4], 1));
}

#[test]
fn a_segment_that_vanishes_from_the_middle_is_an_error() {
    let disk = four_segments();
    let verified = try_verify_while(&disk, &mut |segment| {
        if segment == 1 {
            disk.remove(&path_of(2)).unwrap();
        }
    });
    assert!(matches!(verified, Err(Error::Io { path, .. }) if path.ends_with(SEGMENT_2)));
}

#[test]
fn what_a_writer_appends_meanwhile_is_left_out() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, large());
    add(&opened, SYNCED, "a");
    for (before, durability) in [(1, SYNCED), (2, OS)] {
        let (audit, seen) = verify_while(&disk, &mut |_| {
            add(&opened, durability, "meanwhile");
        });
        assert_faults(&audit, &[]);
        assert_eq!((audit.torn_bytes, seen.lost), (0, 0));
        assert_eq!(seen.commits.len(), before);
    }
    assert_eq!(verify(&disk).1.commits.len(), 3);
}

/// Each open, listing and read in turn, once and for ever. What fails once beside a writer is looked at again; nothing
/// that fails is ever a verdict on the log.
#[test]
fn an_error_of_any_call_is_no_fault_of_the_log() {
    let sound = threes();
    let (other, gone) = (std::io::ErrorKind::Other, std::io::ErrorKind::NotFound);
    for (call, kind) in [(Call::Open, other), (Call::Open, gone), (Call::List, other), (Call::Read, other)] {
        for (forever, after) in [false, true].into_iter().flat_map(|forever| (0..60).map(move |after| (forever, after)))
        {
            let disk = FaultyDisk::new(copy_of(&sound));
            disk.inject(Fault { after, forever, ..Fault::next(call).kind(kind) });
            let verified = try_verify_while(&disk, &mut |_| {});
            let has_failed = disk.failed_calls() > 0;
            match verified {
                Err(Error::Io { .. }) => assert!(has_failed),
                Ok(Some((audit, _))) => {
                    assert!(!has_failed || !forever, "{call:?} {after}: the error was passed over");
                    assert!(audit.faults.is_empty(), "{call:?} {after}: {:?}", audit.faults);
                }
                verdict => panic!("{call:?} {after}: {verdict:?}"),
            }
        }
    }
}

#[test]
fn a_synced_head_that_cannot_be_opened_is_not_taken_for_none() {
    let disk = FaultyDisk::new(threes());
    disk.inject(Fault::next(Call::Open).of(SYNCED_HEAD_PATH));
    let verified = try_verify_while(&disk, &mut |_| {});
    assert!(matches!(&verified, Err(Error::Io { path, .. }) if path.ends_with(SYNCED_HEAD_PATH)), "{verified:?}");
}

#[test]
fn the_store_of_a_log_is_that_of_the_first_header_that_can_be_read() {
    let disk = four_segments();
    let store = looked_at(&disk).store();
    assert_eq!(store_of(&disk).unwrap(), Some(store));
    flip(&disk, &path_of(1), 9);
    put_file(&disk, &path_of(2), &[1; 10]);
    assert_eq!(store_of(&disk).unwrap(), Some(store));
    let gone = FaultyDisk::new(disk);
    gone.inject(Fault { after: 2, ..Fault::next(Call::Open).kind(std::io::ErrorKind::NotFound) });
    assert_eq!(store_of(&gone).unwrap(), Some(store));
    gone.inject(Fault::next(Call::Read));
    assert!(store_of(&gone).is_err());
    assert_eq!(store_of(&disk_of(&BTreeMap::new())).unwrap(), None);
}
