//! Frames whose checksums hold and that lie: of the segment before them, or of their place in the chain.
//!
//! No crash leaves such a frame. A program with other rules does, and so does a file of another history.

use super::recovery::{assert_recovers, four_segments, killed};
use super::*;
use crate::format::frame::{FrameKind, Link, encode_commit, encode_control};
use crate::format::segment::{SegmentHeader, StartBody};

fn header_of(disk: &MemoryDisk, number: u64) -> SegmentHeader {
    let bytes = bytes_of(disk, &path_of(number));
    SegmentHeader::decode(bytes[..64].try_into().unwrap()).unwrap()
}

/// A log of four segments, of which the third says something else of the second.
fn with_start(change: impl Fn(&mut StartBody, &mut Link)) -> MemoryDisk {
    let disk = four_segments();
    let place = Place::of_frame(header_of(&disk, 3).salt, 3, FIRST_FRAME);
    let bytes = bytes_of(&disk, &path_of(3));
    let frame = Frame::decode(&bytes[FIRST_FRAME as usize..], place).unwrap();
    let (mut start, mut link) = (StartBody::decode(frame.body).unwrap(), frame.header.link);
    change(&mut start, &mut link);
    let mut changed = Vec::new();
    encode_control(&mut changed, place, link, FrameKind::Start, &start.encode());
    overwrite(&disk, &path_of(3), FIRST_FRAME, &changed);
    disk
}

/// Moves the segment's address with the length that it gives the segment before it, so that the two still agree.
fn lengthen(start: &mut StartBody, link: &mut Link, bytes: u64) {
    start.predecessor_length += bytes;
    start.bytes_before += bytes;
    link.durable += bytes;
}

#[test]
fn a_start_frame_that_says_nothing_wrong_is_believed() {
    assert_recovers(&with_start(|_, _| {}), small(), &["one", "two", "three", "four"]);
}

#[test]
fn a_start_frame_that_names_another_segment_is_refused() {
    let reason = "the segment before this one is not the one that it continues";
    assert_corrupt(&with_start(|start, _| start.predecessor = 1), reason);
    assert_corrupt(&with_start(|start, _| start.predecessor_salt ^= 1), reason);
}

#[test]
fn a_start_frame_at_another_address_is_refused() {
    let moved = |start: &mut StartBody, link: &mut Link| {
        start.bytes_before += 8;
        link.durable += 8;
    };
    assert_corrupt(&with_start(moved), "the log address of the segment does not follow");
    let unsynced = |_: &mut StartBody, link: &mut Link| link.durable -= 8;
    assert_incompatible(&with_start(unsynced), "not a start frame as this version knows it");
}

#[test]
fn a_start_frame_with_other_positions_is_refused() {
    assert_corrupt(&with_start(|_, link| link.first_position = 1), "the positions of the segment begin before");
    let reason = "the last frame is not the one that the next segment continues";
    assert_corrupt(&with_start(|_, link| link.first_position += 1), reason);
}

#[test]
fn a_start_frame_that_remembers_another_last_frame_is_refused() {
    let reason = "the last frame is not the one that the next segment continues";
    assert_corrupt(&with_start(|_, link| link.previous ^= 1), reason);
    assert_corrupt(&with_start(|start, _| start.predecessor_last = FIRST_FRAME), reason);
    assert_corrupt(&with_start(|start, link| lengthen(start, link, 8)), reason);
}

#[test]
fn a_start_frame_that_remembers_a_longer_segment_is_refused() {
    let reason = "the file is shorter than its frames";
    assert_corrupt(&with_start(|start, link| lengthen(start, link, SEGMENT_BYTES)), reason);
    assert_corrupt(&with_start(|start, _| start.predecessor_last = SEGMENT_BYTES), reason);
    assert_corrupt(&with_start(|start, _| start.predecessor_last = SEGMENT_BYTES - 8), reason);
}

/// A killed log with one more commit behind its end, made by hand.
fn with_commit(change: impl Fn(&mut Link)) -> MemoryDisk {
    let disk = killed(large(), &["a"], &[]);
    let tip = looked_at(&disk).tail.end;
    let mut link = Link {
        previous: tip.previous,
        first_position: tip.next_position,
        commit_time: tip.commit_time,
        durable: tip.address(),
    };
    change(&mut link);
    let place = Place::of_frame(header_of(&disk, 1).salt, 1, tip.offset);
    let mut frame = Vec::new();
    encode_commit(&mut frame, place, link, [fields(b"b")].into_iter());
    overwrite(&disk, &path_of(1), tip.offset, &frame);
    disk
}

#[test]
fn a_commit_that_continues_the_log_is_part_of_it() {
    assert_recovers(&with_commit(|_| {}), large(), &["a", "b"]);
    assert_recovers(&with_commit(|link| link.commit_time += 1), large(), &["a", "b"]);
    assert_recovers(&with_commit(|link| link.durable = 0), large(), &["a", "b"]);
}

#[test]
fn a_commit_of_another_life_of_the_file_is_cut() {
    let recovered = assert_recovers(&with_commit(|link| link.previous ^= 1), large(), &["a"]);
    assert!(recovered.cut_bytes > 0);
}

#[test]
fn a_commit_that_continues_the_chain_and_breaks_another_rule_is_of_a_newer_program() {
    assert_incompatible(&with_commit(|link| link.first_position += 1), "does not continue the positions");
    assert_incompatible(&with_commit(|link| link.first_position -= 1), "does not continue the positions");
    assert_incompatible(&with_commit(|link| link.commit_time -= 1), "committed before the one before it");
    assert_incompatible(&with_commit(|link| link.durable += 1), "says that what follows it was synced");
}

#[test]
fn a_start_frame_in_the_middle_of_a_segment_is_of_a_newer_program() {
    let disk = killed(large(), &["a"], &[]);
    let tip = looked_at(&disk).tail.end;
    let link = Link {
        previous: tip.previous,
        first_position: tip.next_position,
        commit_time: tip.commit_time,
        durable: tip.address(),
    };
    let place = Place::of_frame(header_of(&disk, 1).salt, 1, tip.offset);
    let mut frame = Vec::new();
    encode_control(&mut frame, place, link, FrameKind::Start, &StartBody::default().encode());
    overwrite(&disk, &path_of(1), tip.offset, &frame);
    assert_incompatible(&disk, "a start frame where none belongs");
}

#[test]
fn a_segment_without_commits_may_be_followed_by_another() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, small());
    add(&opened, SYNCED, "a");
    for bytes in [5000, 9000] {
        opened.appender.turn().unwrap().reserve(bytes).unwrap();
    }
    append(&opened.appender, SYNCED, &[filled("b", 8900)]).unwrap();
    opened.appender.close().unwrap();
    drop(opened);
    assert_eq!(disk.list(LOG_DIR).unwrap().len(), 3);
    assert_recovers(&disk, small(), &["a", "b"]);
}
