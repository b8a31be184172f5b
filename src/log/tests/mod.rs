//! The log layer alone, on disks in memory that fail on purpose.
//!
//! Payloads name the seed and attempt that wrote them, so that stale bytes tell.

#![allow(clippy::disallowed_methods, reason = "tests may wait for other threads")]

mod appending;
mod background;
mod confirmed;
mod exhaustive;
mod failures;
mod following;
mod interleavings;
mod links;
mod marks;
mod power;
mod reading;
mod recovery;
mod rolling;
mod verifying;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::recovery::Inspection;
use super::*;
use crate::clock::Signal;
use crate::error::Error;
use crate::format::bytes::put;
use crate::format::checksum::{Place, crc};
use crate::format::frame::{HEADER_BYTES, commit_frame_len};
use crate::format::record::{Record, RecordFields};
use crate::format::segment::{START_BODY_BYTES, SegmentHeader};
use crate::randomness::{Randomness, SeededRandomness};
#[cfg(not(miri))]
use crate::storage::RealDisk;
use crate::storage::{Access, Call, Fault, FaultyDisk, MemoryDisk, read_exact_at};
use crate::types::{Codec, Durability};

const OS: Durability = Durability::Os;
const SYNCED: Durability = Durability::Synced;
const SEGMENT_BYTES: u64 = 4096;

/// Segments as small as they can be, all of one size.
fn small() -> LogOptions {
    LogOptions {
        segment_bytes_first: SEGMENT_BYTES,
        segment_bytes_max: SEGMENT_BYTES,
        growth: Growth::Doubling,
        read_mode: ReadMode::Map,
    }
}

/// Segments that no test fills.
fn large() -> LogOptions {
    LogOptions {
        segment_bytes_first: 64 * 1024,
        segment_bytes_max: 64 * 1024,
        growth: Growth::Doubling,
        read_mode: ReadMode::Map,
    }
}

fn open_with(disk: &Arc<dyn Disk>, options: LogOptions, seed: u64) -> Result<Opened> {
    let randomness: Arc<dyn Randomness> = Arc::new(SeededRandomness::new(seed));
    let signal = Arc::new(Signal::new());
    let opening = Opening { disk, options, randomness: &randomness, signal: &signal, checkpoints: &[] };
    opening.open(true).map(|opened| opened.expect("an open that may create a log has one"))
}

fn try_open(disk: &(impl Disk + Clone + 'static), options: LogOptions) -> Result<Opened> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    open_with(&disk, options, 1)
}

#[track_caller]
fn open(disk: &(impl Disk + Clone + 'static), options: LogOptions) -> Opened {
    try_open(disk, options).unwrap()
}

fn follow(disk: &(impl Disk + Clone + 'static), options: LogOptions) -> Result<Option<(Follower, u64)>> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Follower::open(&disk, options, &|| Ok(Vec::new()))
}

fn fields(payload: &[u8]) -> RecordFields<'_> {
    RecordFields {
        id: [7; 16],
        time: 5,
        version: 1,
        schema_version: 1,
        codec: Codec::Raw,
        stream: "s",
        event_type: "t",
        tags: &[],
        metadata: None,
        payload,
    }
}

fn frame_len(payloads: &[Vec<u8>]) -> usize {
    commit_frame_len(payloads.iter().map(|payload| fields(payload).encoded_len()))
}

/// Stages a commit, gives up the turn, and says where it stands.
fn stage(appender: &Appender, durability: Durability, now: i64, payloads: &[Vec<u8>]) -> Result<Staged> {
    let mut turn = appender.turn()?;
    turn.reserve(frame_len(payloads))?;
    Ok(turn.stage(durability, now, payloads.iter().map(|payload| fields(payload))))
}

fn append_at(appender: &Appender, durability: Durability, now: i64, payloads: &[Vec<u8>]) -> Result<Staged> {
    let mut turn = appender.turn()?;
    turn.reserve(frame_len(payloads))?;
    let staged = turn.stage(durability, now, payloads.iter().map(|payload| fields(payload)));
    turn.see_through()?;
    Ok(staged)
}

fn append(appender: &Appender, durability: Durability, payloads: &[Vec<u8>]) -> Result<Staged> {
    append_at(appender, durability, 0, payloads)
}

/// Appends a commit of one event.
#[track_caller]
fn add(opened: &Opened, durability: Durability, payload: &str) -> u64 {
    append(&opened.appender, durability, &[payload.into()]).unwrap().first_position
}

/// A payload of this length that begins with a text.
fn filled(text: &str, length: usize) -> Vec<u8> {
    let mut payload = text.as_bytes().to_vec();
    payload.resize(length.max(payload.len()), b'.');
    payload
}

/// The commits from the start of the log to `upto`, as their payloads. Checks that positions have no gaps and that
/// commit times do not go back.
fn read_upto(log: &Arc<Log>, upto: u64) -> Result<Vec<Vec<Vec<u8>>>> {
    let mut cursor = Cursor::at_start(Arc::clone(log));
    let (mut commits, mut next, mut time) = (Vec::new(), 1, i64::MIN);
    while let Some(header) = cursor.advance(upto)? {
        assert_eq!(header.link.first_position, next, "positions have no gaps");
        assert!(header.link.commit_time >= time, "commit times do not go back");
        (next, time) = (header.next_position(), header.link.commit_time);
        let frame = cursor.frame(header)?;
        let at = cursor.current();
        let mut payloads = Vec::new();
        for ordinal in 0..header.count {
            let corrupt = |reason| Error::corrupt(log.path(at.segment), at.offset, reason);
            let record = frame.record(ordinal).map_err(corrupt)?;
            payloads.push(Record::decode(record).map_err(corrupt)?.payload.to_vec());
        }
        commits.push(payloads);
    }
    assert_eq!(next, upto + 1, "every position up to the head was read");
    Ok(commits)
}

#[track_caller]
fn read_all(log: &Arc<Log>) -> Vec<Vec<Vec<u8>>> {
    read_upto(log, log.visible()).unwrap()
}

/// The first event of each commit, as text without its filling.
#[track_caller]
fn texts(log: &Arc<Log>) -> Vec<String> {
    read_all(log).iter().map(|commit| text_of(&commit[0])).collect()
}

fn text_of(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).trim_end_matches('.').to_owned()
}

fn heads(opened: &Opened) -> (u64, u64) {
    (opened.log.visible(), opened.log.synced())
}

/// Every file of a disk.
fn files(disk: &dyn Disk) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for dir in ["", LOG_DIR] {
        for name in disk.list(dir).unwrap() {
            let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            files.insert(path.clone(), bytes_of(disk, &path));
        }
    }
    files
}

fn bytes_of(disk: &dyn Disk, path: &str) -> Vec<u8> {
    let file = disk.open(path, Access::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    read_exact_at(&*file, &mut bytes, 0).unwrap();
    bytes
}

/// A new disk with these files.
fn disk_of(files: &BTreeMap<String, Vec<u8>>) -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk.create_dir(LOG_DIR).unwrap();
    for (path, bytes) in files {
        put_file(&disk, path, bytes);
    }
    disk
}

fn put_file(disk: &dyn Disk, path: &str, bytes: &[u8]) {
    disk.create(path).unwrap().write_at(bytes, 0).unwrap();
}

fn copy_of(disk: &dyn Disk) -> MemoryDisk {
    disk_of(&files(disk))
}

fn overwrite(disk: &dyn Disk, path: &str, offset: u64, bytes: &[u8]) {
    disk.open(path, Access::ReadWrite).unwrap().write_at(bytes, offset).unwrap();
}

fn flip(disk: &dyn Disk, path: &str, offset: u64) {
    let byte = bytes_of(disk, path)[offset as usize];
    overwrite(disk, path, offset, &[byte ^ 0x10]);
}

fn looked_at(disk: &dyn Disk) -> Inspection {
    inspect(disk, &[]).unwrap().unwrap()
}

/// The log is refused as corrupt, for this reason, and nothing on disk has changed.
#[track_caller]
fn assert_corrupt(disk: &MemoryDisk, reason: &str) {
    assert_refused(disk, |error| matches!(error, Error::Corrupt { reason: own, .. } if own.contains(reason)));
}

#[track_caller]
fn assert_incompatible(disk: &MemoryDisk, reason: &str) {
    assert_refused(disk, |error| matches!(error, Error::Incompatible { reason: own, .. } if own.contains(reason)));
}

#[track_caller]
fn assert_refused(disk: &MemoryDisk, expected: impl Fn(&Error) -> bool) {
    let before = files(disk);
    let error = try_open(disk, small()).map(drop).expect_err("the log is refused");
    assert!(expected(&error), "{error}");
    let error = try_open(disk, small()).map(drop).expect_err("the log is refused again");
    assert!(expected(&error), "{error}");
    assert!(files(disk) == before, "a log that is refused stays as it was");
}

/// Gives the frame at `offset` of the segment file in `bytes` its header checksum again.
fn repair_frame(bytes: &mut [u8], offset: usize) {
    let header = SegmentHeader::decode(bytes[..64].try_into().unwrap()).unwrap();
    let checksum =
        Place::of_frame(header.salt, header.number, offset as u64).checksum(&bytes[offset + 4..offset + HEADER_BYTES]);
    put(bytes, offset, &checksum.to_le_bytes());
}

/// Gives the start frame of the segment file in `bytes` its checksums again, that of its body first.
fn repair_start(bytes: &mut [u8]) {
    let header = SegmentHeader::decode(bytes[..64].try_into().unwrap()).unwrap();
    let place = Place::of_frame(header.salt, header.number, FIRST_FRAME);
    let (start, body) = (FIRST_FRAME as usize, FIRST_FRAME as usize + HEADER_BYTES);
    let checksum = place.of_body().checksum(&bytes[body..body + START_BODY_BYTES]);
    put(bytes, start + 8, &checksum.to_le_bytes());
    repair_frame(bytes, start);
}

fn repair_header(bytes: &mut [u8]) {
    let checksum = crc(0, &bytes[..60]);
    put(bytes, 60, &checksum.to_le_bytes());
}
