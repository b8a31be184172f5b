//! The events of a log, read by docs/FORMAT.md alone: what a store shows is held against it.
//!
//! Shares no code with the engine, and looks at the log and the synced head only. Made for small logs: everything is
//! read.

use annals::fuzzing::Files;
use annals::{Codec, EventId, Position, RecordedEvent, StreamVersion, Timestamp};
use xxhash_rust::xxh3::xxh3_64;

/// What the format says of the files of a log.
#[derive(Debug, Default)]
pub struct Reading {
    /// The events up to the first place without a valid frame; `None` if something before that breaks a rule.
    pub events: Option<Vec<RecordedEvent>>,
    /// Of the header of the frame that each event is in.
    pub checksums: Vec<u32>,
    /// Synced data are gone, or a newer program told how far they go: such a log must not be opened.
    pub must_be_refused: bool,
}

/// A segment with a valid header.
struct Segment<'a> {
    bytes: &'a [u8],
    store: [u8; 16],
    number: u64,
    salt: u64,
}

/// A frame whose header is as it was written.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    pub offset: u64,
    /// The offset behind it.
    pub end: u64,
    /// Of its header.
    pub checksum: u32,
    body_len: usize,
    body_checksum: u32,
    previous: u32,
    pub first_position: u64,
    commit_time: i64,
    durable: u64,
    pub count: u32,
    kind: u8,
}

/// What the start frame of a segment says.
struct Start {
    frame: Frame,
    predecessor: u64,
    predecessor_length: u64,
    first_kept: u64,
    bytes_before: u64,
    predecessor_salt: u64,
    predecessor_last: u64,
}

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
const OFFSET_STEP: u64 = 0xC2B2_AE3D_27D4_EB4F;
const FIRST_FRAME: u64 = 64;
const HEADER_BYTES: usize = 48;
const FRAME_BYTES_MAX: usize = 16 << 20;
const START: u8 = 1;
const COMMIT: u8 = 2;
const MARK: u8 = 3;

/// Reads the log of a store.
pub fn read(files: &Files) -> Reading {
    read_log(files).unwrap_or_default()
}

/// The frames of a segment up to the first place without one, whatever they say.
pub fn frames(segment: &[u8]) -> Vec<Frame> {
    let Some(segment) = Segment::parse(segment) else { return Vec::new() };
    let mut frames: Vec<Frame> = Vec::new();
    while let Some(frame) = segment.frame(frames.last().map_or(FIRST_FRAME, |frame| frame.end)) {
        frames.push(frame);
    }
    frames
}

/// The bytes of a synced head that says that the log of this segment is synced up to the end of a frame.
pub fn synced_head(segment: &[u8], frame: &Frame, is_closed: bool) -> Vec<u8> {
    let mut head = vec![0; 64];
    head[..8].copy_from_slice(b"\x89ANLSYN\n");
    head[8..24].copy_from_slice(&segment[24..40]);
    head[24..32].copy_from_slice(&frame.next_position().wrapping_sub(1).to_le_bytes());
    head[32..40].copy_from_slice(&segment[40..48]);
    head[40..48].copy_from_slice(&frame.end.to_le_bytes());
    head[48..52].copy_from_slice(&frame.checksum.to_le_bytes());
    head[52] = is_closed.into();
    let checksum = crc(&head[..60]);
    head[60..].copy_from_slice(&checksum.to_le_bytes());
    head
}

fn read_log(files: &Files) -> Option<Reading> {
    let (segments, spares) = segments(files)?;
    let (last, start) = segments.last()?;
    let first = segments.iter().position(|(segment, _)| segment.number == start.first_kept)?;
    let segments = &segments[first..];
    let mut reading = Reading::default();
    let mut events = Vec::new();
    for (index, (segment, start)) in segments.iter().enumerate() {
        let end = segments.get(index + 1).map(|(_, next)| next.predecessor_length);
        let tail = segment.walk(start, &mut events, &mut reading.checksums)?;
        match segments.get(index + 1) {
            Some((next, successor)) if !continues(segment, start, &tail, next, successor) => return None,
            Some(_) if Some(tail.end) != end => return None,
            Some(_) => {}
            None => {
                let address = start.bytes_before.checked_add(tail.end)?;
                let head = head_of(files, last.store);
                let is_closed = head.is_some_and(|head| head.is_closed_at(last.number, &tail));
                let known = head.map_or(0, |head| head.address(segments));
                let behind = if is_closed { 0 } else { last.durable_from(tail.end) };
                let spare = spares.iter().map(|spare| spare.durable_from(FIRST_FRAME)).max().unwrap_or(0);
                reading.must_be_refused = known.max(behind).max(spare) > address || has_newer_head(files);
                return Some(Reading { events: Some(events), ..reading });
            }
        }
    }
    None
}

/// The segments with a start frame, and the spares behind them.
fn segments(files: &Files) -> Option<(Vec<(Segment<'_>, Start)>, Vec<Segment<'_>>)> {
    let (mut segments, mut spares) = (Vec::new(), Vec::new());
    for (path, bytes) in files {
        let Some(name) = path.strip_prefix("log/").and_then(|name| name.strip_suffix(".segment")) else { continue };
        let segment = Segment::parse(bytes)?;
        if name.len() != 10 || name.parse() != Ok(segment.number) {
            return None;
        }
        match segment.start() {
            Some(_) if !spares.is_empty() => return None,
            Some(start) => segments.push((segment, start)),
            None => spares.push(segment),
        }
    }
    Some((segments, spares))
}

/// Whether a segment is the one that its successor says it continues.
fn continues(segment: &Segment<'_>, start: &Start, tail: &Frame, next: &Segment<'_>, successor: &Start) -> bool {
    next.store == segment.store
        && segment.number.checked_add(1) == Some(next.number)
        && (successor.predecessor, successor.predecessor_salt) == (segment.number, segment.salt)
        && (successor.predecessor_length, successor.predecessor_last) == (tail.end, tail.offset)
        && start.bytes_before.checked_add(tail.end) == Some(successor.bytes_before)
        && successor.frame.previous == tail.checksum
        && successor.frame.first_position == tail.next_position()
        && successor.frame.commit_time >= tail.commit_time
}

/// The store that the header of a segment names.
pub fn store_of(segment: &[u8]) -> Option<[u8; 16]> {
    segment.get(24..40)?.try_into().ok()
}

impl<'a> Segment<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let head = bytes.get(..64)?;
        let is_known = u16_at(head, 8)? == 1 && u32_at(head, 12)? == 0;
        let is_whole = head.starts_with(b"\x89ANLSEG\n") && u32_at(head, 60)? == crc(&head[..60]);
        let is_as_long = bytes.len() as u64 >= u64::from(u32_at(head, 56)?) * 4096;
        let (number, salt) = (u64_at(head, 40)?, u64_at(head, 48)?);
        let store = store_of(head)?;
        (is_known && is_whole && is_as_long).then_some(Self { bytes, store, number, salt })
    }

    fn place(&self, offset: u64) -> u64 {
        self.salt ^ self.number.wrapping_mul(STEP) ^ offset.wrapping_mul(OFFSET_STEP)
    }

    /// A header whose checksum holds and that keeps the rules that a header can keep alone.
    fn header(&self, offset: u64) -> Option<Frame> {
        let at = usize::try_from(offset).ok()?;
        let head = self.bytes.get(at..at.checked_add(HEADER_BYTES)?)?;
        if head.iter().all(|byte| *byte == 0) || u32_at(head, 0)? != sum(self.place(offset), &head[4..]) {
            return None;
        }
        let body_len = u32_at(head, 4)? as usize;
        let frame = Frame {
            offset,
            end: offset.checked_add((HEADER_BYTES + body_len.next_multiple_of(8)) as u64)?,
            checksum: u32_at(head, 0)?,
            body_len,
            body_checksum: u32_at(head, 8)?,
            previous: u32_at(head, 12)?,
            first_position: u64_at(head, 16)?,
            commit_time: u64_at(head, 24)? as i64,
            durable: u64_at(head, 32)?,
            count: u32_at(head, 40)?,
            kind: head[44],
        };
        let count = frame.count as usize;
        let fits = match frame.kind {
            START => count == 0 && body_len == 64,
            COMMIT => (1..=65_536).contains(&count) && (8 * count..=FRAME_BYTES_MAX - HEADER_BYTES).contains(&body_len),
            MARK => count == 0 && body_len == 0,
            _ => false,
        };
        let counts = frame.first_position > 0 && frame.first_position.checked_add(count as u64).is_some();
        (fits && counts && head[45..] == [0; 3]).then_some(frame)
    }

    /// A frame all of whose checksums hold.
    fn frame(&self, offset: u64) -> Option<Frame> {
        let frame = self.header(offset)?;
        let body = self.body(&frame)?;
        let padding = self.bytes.get(frame.offset as usize + HEADER_BYTES + frame.body_len..frame.end as usize)?;
        let covered = if frame.kind == COMMIT { &body[..8 * frame.count as usize] } else { body };
        let holds = sum(!self.place(offset), covered) == frame.body_checksum && padding.iter().all(|byte| *byte == 0);
        (holds && (frame.kind != COMMIT || self.records(&frame).is_some())).then_some(frame)
    }

    fn body(&self, frame: &Frame) -> Option<&'a [u8]> {
        let at = frame.offset as usize + HEADER_BYTES;
        self.bytes.get(at..at + frame.body_len)
    }

    /// The bytes of the records of a commit, if all checksums hold.
    fn records(&self, frame: &Frame) -> Option<Vec<&'a [u8]>> {
        let body = self.body(frame)?;
        let mut records = Vec::new();
        let mut begin = 8 * frame.count as usize;
        for ordinal in 0..frame.count as usize {
            let end = u32_at(body, 8 * ordinal)? as usize;
            let record = body.get(begin..end)?;
            let place = self.place(frame.offset).wrapping_add((ordinal as u64 + 1).wrapping_mul(STEP));
            if u32_at(body, 8 * ordinal + 4)? != sum(place, record) {
                return None;
            }
            records.push(record);
            begin = end;
        }
        (begin == body.len()).then_some(records)
    }

    fn start(&self) -> Option<Start> {
        let frame = self.frame(FIRST_FRAME).filter(|frame| frame.kind == START)?;
        let body = self.body(&frame)?;
        let start = Start {
            frame,
            predecessor: u64_at(body, 0)?,
            predecessor_length: u64_at(body, 8)?,
            first_kept: u64_at(body, 16)?,
            bytes_before: u64_at(body, 32)?,
            predecessor_salt: u64_at(body, 40)?,
            predecessor_last: u64_at(body, 48)?,
        };
        (u64_at(body, 56)? == 0 && start.frame.durable == start.bytes_before).then_some(start)
    }

    /// Goes from the start frame to the last valid one, which is returned, and collects the events on the way.
    fn walk(&self, start: &Start, events: &mut Vec<RecordedEvent>, checksums: &mut Vec<u32>) -> Option<Frame> {
        let mut tail = start.frame;
        while let Some(frame) = self.frame(tail.end) {
            let follows = frame.previous == tail.checksum
                && frame.kind != START
                && frame.first_position == tail.next_position()
                && frame.commit_time >= tail.commit_time
                && frame.durable <= start.bytes_before.checked_add(frame.offset)?;
            if !follows {
                break;
            }
            tail = frame;
            if frame.kind == COMMIT {
                for (position, record) in (frame.first_position..).zip(self.records(&frame)?) {
                    events.push(event_of(record, position, &frame)?);
                    checksums.push(frame.checksum);
                }
            }
        }
        Some(tail)
    }

    /// The greatest durable address that an intact header tells from an offset on.
    fn durable_from(&self, offset: u64) -> u64 {
        let offsets = (offset..self.bytes.len() as u64).step_by(8);
        offsets.filter_map(|offset| self.header(offset)).map(|frame| frame.durable).max().unwrap_or(0)
    }
}

impl Frame {
    fn next_position(&self) -> u64 {
        self.first_position + u64::from(self.count)
    }
}

/// What a synced head says.
#[derive(Clone, Copy)]
struct SyncedHead {
    segment: u64,
    end: u64,
    checksum: u32,
    is_closed: bool,
}

/// The synced head, if its checksum holds.
fn whole_head(files: &Files) -> Option<&[u8]> {
    let head = files.get("synced-head")?.get(..64)?;
    (head.starts_with(b"\x89ANLSYN\n") && u32_at(head, 60)? == crc(&head[..60])).then_some(head)
}

fn is_known(head: &[u8]) -> bool {
    head[52] <= 1 && head[53..60].iter().all(|byte| *byte == 0)
}

fn has_newer_head(files: &Files) -> bool {
    whole_head(files).is_some_and(|head| !is_known(head))
}

fn head_of(files: &Files, store: [u8; 16]) -> Option<SyncedHead> {
    let head = whole_head(files).filter(|head| is_known(head))?;
    (head[8..24] == store).then_some(SyncedHead {
        segment: u64_at(head, 32)?,
        end: u64_at(head, 40)?,
        checksum: u32_at(head, 48)?,
        is_closed: head[52] == 1,
    })
}

impl SyncedHead {
    fn is_closed_at(&self, segment: u64, tail: &Frame) -> bool {
        self.is_closed && (self.segment, self.end, self.checksum) == (segment, tail.end, tail.checksum)
    }

    /// The log address up to which it says that the log is synced.
    fn address(&self, segments: &[(Segment<'_>, Start)]) -> u64 {
        let start = segments.iter().find(|(segment, _)| segment.number == self.segment).map(|(_, start)| start);
        start.map_or(0, |start| start.bytes_before.saturating_add(self.end))
    }
}

fn event_of(record: &[u8], position: u64, frame: &Frame) -> Option<RecordedEvent> {
    let (stream_len, type_len) = (usize::from(u16_at(record, 40)?), usize::from(u16_at(record, 42)?));
    let tag_count = usize::from(u16_at(record, 44)?);
    let codec = match record.get(46)? {
        0 => Codec::Raw,
        1 => Codec::Json,
        2 => Codec::Postcard,
        3 => Codec::Bincode,
        _ => return None,
    };
    let limits = (1..=512).contains(&stream_len) && (1..=256).contains(&type_len) && tag_count <= 64;
    if !limits || *record.get(47)? != 0 {
        return None;
    }
    let mut rest = record.get(48 + 2 * tag_count..)?;
    let stream = text(&mut rest, stream_len)?;
    let event_type = text(&mut rest, type_len)?;
    let mut tags: Vec<String> = Vec::new();
    for index in 0..tag_count {
        let len = usize::from(u16_at(record, 48 + 2 * index)?);
        let tag = text(&mut rest, len).filter(|tag| (1..=256).contains(&tag.len()))?;
        if tags.last().is_some_and(|last| *last >= tag) {
            return None;
        }
        tags.push(tag);
    }
    let metadata = match u32_at(record, 32)? {
        u32::MAX => None,
        len => Some(rest.split_off(..len as usize)?.to_vec()),
    };
    Some(RecordedEvent {
        position: Position::new(position)?,
        commit: Position::new(frame.first_position)?,
        commit_time: Timestamp::from_nanos(frame.commit_time),
        stream,
        version: StreamVersion::new(u64_at(record, 24)?)?,
        id: EventId::from_bytes(record[..16].try_into().ok()?),
        event_type,
        schema_version: u32_at(record, 36)?,
        time: Timestamp::from_nanos(u64_at(record, 16)? as i64),
        tags,
        metadata,
        codec,
        payload: rest.to_vec(),
    })
}

/// Takes a text off the front.
fn text(rest: &mut &[u8], len: usize) -> Option<String> {
    String::from_utf8(rest.split_off(..len)?.to_vec()).ok()
}

fn sum(place: u64, data: &[u8]) -> u32 {
    ((xxh3_64(data) ^ place).wrapping_mul(STEP) >> 32) as u32
}

/// CRC-32, bit by bit.
fn crc(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|chunk| u16::from_le_bytes(*chunk))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}
