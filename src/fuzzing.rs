//! Doors for the fuzz targets: decoding any bytes, stores whose files can be changed, checksums that fit again.
//!
//! Compiled only under `cfg(fuzzing)`, which `cargo fuzz` sets. No user sees it, nothing of the crate uses it, and it may
//! change at any time.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::format::checksum::{Place, crc};
use crate::format::frame::{self, ENTRY_BYTES, Frame, FrameHeader, FrameKind};
use crate::format::page::{PAGE_BYTES, seal};
use crate::format::positions::PositionsHeader;
use crate::format::record::{Record, RecordFields};
use crate::format::run::RunHeader;
use crate::format::segment::{self, SegmentHeader, StartBody};
use crate::format::synced_head::{SYNCED_HEAD_BYTES, SyncedHead};
use crate::storage::{Access, Disk, MemoryDisk, read_exact_at};
use crate::{Options, Result, Store};

/// The files of a store: their paths in its directory, and their bytes.
pub type Files = BTreeMap<String, Vec<u8>>;

/// The directories of a store, in the order in which they are created.
const DIRECTORIES: &[&str] = &["", "log", "index", "state", "state/log", "state/index"];
/// Where a lone frame stands.
const SALT: u64 = 0x5EED;

/// Takes bytes apart as everything that a store's files consist of, as they are and with their checksums repaired.
/// What is accepted must be what an encoder would have written.
pub fn decode(bytes: &[u8]) {
    decode_frame(bytes);
    let mut repaired = bytes.to_vec();
    repair_frame(&mut repaired, Place::of_frame(SALT, 1, 0), None);
    decode_frame(&repaired);
    decode_record(bytes);
    decode_headers(bytes);
}

fn decode_frame(bytes: &[u8]) {
    let place = Place::of_frame(SALT, 1, 0);
    let Ok(frame) = Frame::decode(bytes, place) else { return };
    assert!(frame.header.frame_len() <= bytes.len() && frame.header.next_position() > 0);
    for ordinal in 0..frame.header.count {
        frame.record(ordinal).into_iter().for_each(decode_record);
    }
    assert!(frame.record(frame.header.count).is_err(), "a record behind the last");
    if frame.header.kind != FrameKind::Commit {
        let mut encoded = Vec::new();
        frame::encode_control(&mut encoded, place, frame.header.link, frame.header.kind, frame.body);
        assert_eq!(encoded, bytes[..encoded.len()], "a frame that no encoder writes was accepted");
    }
}

fn decode_record(bytes: &[u8]) {
    let Ok(record) = Record::decode(bytes) else { return };
    let tags: Vec<String> = record.tags().map(str::to_owned).collect();
    let fields = RecordFields {
        id: record.id(),
        time: record.time(),
        version: record.version(),
        schema_version: record.schema_version(),
        codec: record.codec(),
        stream: record.stream,
        event_type: record.event_type,
        tags: &tags,
        metadata: record.metadata,
        payload: record.payload,
    };
    let mut encoded = Vec::new();
    fields.encode(&mut encoded);
    assert_eq!(encoded, bytes, "a record that no encoder writes was accepted");
    assert_eq!(encoded.len(), fields.encoded_len());
}

fn decode_headers(bytes: &[u8]) {
    if let Some(head) = bytes.first_chunk::<{ segment::HEADER_BYTES }>() {
        let mut head = *head;
        let _ = SegmentHeader::decode(&head);
        repair_crc(&mut head);
        let _ = SegmentHeader::decode(&head);
    }
    if let Some(head) = bytes.first_chunk::<SYNCED_HEAD_BYTES>() {
        let mut head = *head;
        repair_crc(&mut head);
        if let Ok(Some(decoded)) = SyncedHead::decode(&head) {
            assert_eq!(decoded.encode(), head, "a synced head that no encoder writes was accepted");
        }
    }
    let _ = StartBody::decode(bytes);
    let mut page = bytes.to_vec();
    page.resize(PAGE_BYTES, 0);
    let _ = RunHeader::decode(&page).map(|header| header.layout());
    let _ = PositionsHeader::decode(&page).map(|header| header.layout());
}

/// Makes a store in memory, lets `fill` write to it, closes it, and returns its files.
///
/// # Errors
/// Those of opening and closing a store.
pub fn closed_store(options: Options, fill: impl FnOnce(&Store) -> Result<()>) -> Result<Files> {
    let disk = MemoryDisk::new();
    let store = Store::open_on(Arc::new(disk.clone()), options, true)?;
    fill(&store)?;
    store.close()?;
    Ok(files_of(&disk))
}

/// Opens the store that these files are, for writing; lets `look` use it; closes it; and returns the files as they are
/// then.
///
/// # Errors
/// Those of opening a store, and of `look`.
pub fn with_store(files: &Files, options: Options, look: impl FnOnce(&Store) -> Result<()>) -> Result<Files> {
    let disk = disk_of(files);
    let store = Store::open_on(Arc::new(disk.clone()), options, false)?;
    look(&store)?;
    store.close()?;
    Ok(files_of(&disk))
}

/// Opens the store that these files are, for reading only, and lets `look` use it.
///
/// # Errors
/// Those of opening a store, and of `look`.
pub fn with_reader(files: &Files, options: Options, look: impl FnOnce(&Store) -> Result<()>) -> Result<()> {
    look(&Store::open_read_only_on(Arc::new(disk_of(files)), options)?)
}

fn disk_of(files: &Files) -> MemoryDisk {
    let disk = MemoryDisk::new();
    for dir in DIRECTORIES {
        let is_used = dir.is_empty() || files.keys().any(|path| path.starts_with(&format!("{dir}/")));
        if is_used {
            disk.create_dir(dir).expect("a disk in memory has room");
        }
    }
    for (path, bytes) in files {
        let file = disk.create(path).expect("a disk in memory has room");
        file.write_at(bytes, 0).expect("a disk in memory has room");
    }
    disk
}

fn files_of(disk: &MemoryDisk) -> Files {
    let mut files = Files::new();
    for dir in DIRECTORIES {
        for name in disk.list(dir).expect("a disk in memory can be listed") {
            let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            let file = disk.open(&path, Access::Read).expect("a file that was listed is there");
            let mut bytes = vec![0; file.len().expect("a file has a length") as usize];
            read_exact_at(&*file, &mut bytes, 0).expect("a file has its length");
            files.insert(path, bytes);
        }
    }
    files
}

/// Makes all checksums of a file fit to its bytes, as far as its kind can be told from its path.
pub fn repair(path: &str, bytes: &mut [u8]) {
    if path.ends_with(".segment") {
        repair_segment(bytes);
    } else if path.ends_with(".run") || path.ends_with(".positions") {
        let seed = bytes.get(12..16).map_or(0, |seed| crate::format::bytes::u32_at(seed, 0));
        for (number, page) in bytes.chunks_exact_mut(PAGE_BYTES).enumerate() {
            seal(page, seed, number as u64);
        }
    } else if let Some(head) = bytes.first_chunk_mut::<SYNCED_HEAD_BYTES>() {
        repair_crc(head);
    }
}

fn repair_crc(head: &mut [u8; 64]) {
    let checksum = crc(0, &head[..60]);
    head[60..].copy_from_slice(&checksum.to_le_bytes());
}

/// Repairs the header, and frame after frame as long as there is one that could be read.
fn repair_segment(bytes: &mut [u8]) {
    let Some(head) = bytes.first_chunk_mut::<{ segment::HEADER_BYTES }>() else { return };
    repair_crc(head);
    let Ok(header) = SegmentHeader::decode(head) else { return };
    let mut offset = segment::HEADER_BYTES;
    let mut previous = None;
    while let Some(rest) = bytes.get_mut(offset..) {
        let place = Place::of_frame(header.salt, header.number, offset as u64);
        let Some((checksum, frame_len)) = repair_frame(rest, place, previous) else { return };
        previous = Some(checksum);
        offset += frame_len;
    }
}

/// Repairs the frame at the start of `bytes`: chain, records, directory or body, header. Returns its checksum and length
/// if it is one.
fn repair_frame(bytes: &mut [u8], place: Place, previous: Option<u32>) -> Option<(u32, usize)> {
    if bytes.len() < frame::HEADER_BYTES || bytes[..frame::HEADER_BYTES].iter().all(|byte| *byte == 0) {
        return None;
    }
    if let Some(previous) = previous {
        bytes[12..16].copy_from_slice(&previous.to_le_bytes());
    }
    repair_header(bytes, place);
    let header = FrameHeader::decode(bytes.first_chunk()?, place).ok()?;
    let body = bytes.get_mut(frame::HEADER_BYTES..frame::HEADER_BYTES + header.body_len as usize)?;
    let mut covered = body.len();
    if header.kind == FrameKind::Commit {
        covered = header.count as usize * ENTRY_BYTES;
        repair_records(body, header.count, place);
    }
    let checksum = place.of_body().checksum(&body[..covered]);
    bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    Some((repair_header(bytes, place), header.frame_len()))
}

fn repair_records(body: &mut [u8], count: u32, place: Place) {
    for ordinal in 0..count {
        let Ok((range, _)) = frame::record_range(body, count, ordinal) else { return };
        let Some(record) = body.get(range) else { return };
        let checksum = place.of_record(ordinal).checksum(record);
        let entry = ordinal as usize * ENTRY_BYTES;
        body[entry + 4..entry + 8].copy_from_slice(&checksum.to_le_bytes());
    }
}

fn repair_header(bytes: &mut [u8], place: Place) -> u32 {
    let checksum = place.checksum(&bytes[4..frame::HEADER_BYTES]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    checksum
}
