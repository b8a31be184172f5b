//! A frame: the unit that is written, checked and recovered as a whole (FORMAT, sections 3 and 4).
//!
//! Verification goes from the outside in: the header's checksum makes its lengths usable, the body checksum makes the
//! directory usable, each record has a checksum of its own. All of them are bound to the frame's place.

use std::ops::Range;

use super::bytes::{align8, i64_at, is_zero, put, u16_at, u32_at, u64_at};
use super::checksum::Place;
use super::record::RecordFields;
use super::segment::START_BODY_BYTES;
use crate::limits::{COMMIT_BYTES_MAX, EVENTS_PER_COMMIT_MAX};
use crate::sabotage::{Sabotage, sabotaged};

/// Bytes of a frame header.
pub(crate) const HEADER_BYTES: usize = 48;
/// Bytes of a directory entry.
pub(crate) const ENTRY_BYTES: usize = 8;
/// Largest frame of any kind.
pub(crate) const FRAME_BYTES_MAX: usize = COMMIT_BYTES_MAX;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// Links a segment to the one before; the first frame of each.
    Start,
    /// Events.
    Commit,
    /// Says how far the log is synced.
    Mark,
}

/// How a frame continues the log: what its header says besides its own body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    /// Header checksum of the frame before.
    pub(crate) previous: u32,
    pub(crate) first_position: u64,
    pub(crate) commit_time: i64,
    /// The log address up to which everything was known to be synced.
    pub(crate) durable: u64,
}

/// A frame header whose checksum holds and whose every field is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) checksum: u32,
    pub(crate) body_len: u32,
    pub(crate) body_checksum: u32,
    pub(crate) link: Link,
    pub(crate) count: u32,
    pub(crate) kind: FrameKind,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FrameFault {
    /// The bytes end before the frame does.
    Short,
    /// The header is all zeros: nothing was written here.
    Blank,
    /// A checksum or a rule does not hold.
    Damaged(&'static str),
    /// The checksums hold, and something is in use that this version does not know.
    Unknown(&'static str),
}

impl FrameFault {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            FrameFault::Short => "the file ends inside a frame",
            FrameFault::Blank => "zeros where a frame is expected",
            FrameFault::Damaged(reason) | FrameFault::Unknown(reason) => reason,
        }
    }
}

impl FrameHeader {
    #[inline]
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES], place: Place) -> Result<Self, FrameFault> {
        // Asked before the checksum, which zeros would pass at one place in four thousand million.
        if bytes[44] == 0 && is_zero(bytes) {
            return Err(FrameFault::Blank);
        }
        let checksum = u32_at(bytes, 0);
        if checksum != place.checksum(covered(bytes)) && !sabotaged(Sabotage::TrustHeader) {
            return Err(FrameFault::Damaged("the checksum of a frame header does not match"));
        }
        if bytes[45] != 0 || u16_at(bytes, 46) != 0 {
            return Err(FrameFault::Unknown("unknown flags in a frame header"));
        }
        let kind = match bytes[44] {
            1 => FrameKind::Start,
            2 => FrameKind::Commit,
            3 => FrameKind::Mark,
            _ => return Err(FrameFault::Unknown("unknown kind of frame")),
        };
        let header = Self {
            checksum,
            body_len: u32_at(bytes, 4),
            body_checksum: u32_at(bytes, 8),
            link: Link {
                previous: u32_at(bytes, 12),
                first_position: u64_at(bytes, 16),
                commit_time: i64_at(bytes, 24),
                durable: u64_at(bytes, 32),
            },
            count: u32_at(bytes, 40),
            kind,
        };
        // The checksum held: somebody wrote this, by rules that this version does not know.
        header.check().map_err(FrameFault::Unknown)?;
        Ok(header)
    }

    fn check(&self) -> Result<(), &'static str> {
        let (count, body_len) = (self.count as usize, self.body_len as usize);
        let fits = match self.kind {
            FrameKind::Start => count == 0 && body_len == START_BODY_BYTES,
            FrameKind::Mark => count == 0 && body_len == 0,
            FrameKind::Commit => {
                (1..=EVENTS_PER_COMMIT_MAX).contains(&count)
                    && body_len >= count * ENTRY_BYTES
                    && body_len <= FRAME_BYTES_MAX - HEADER_BYTES
            }
        };
        if !fits {
            return Err("the lengths of a frame do not fit its kind");
        }
        if self.link.first_position == 0 || self.link.first_position.checked_add(u64::from(self.count)).is_none() {
            return Err("the positions of a frame contradict each other");
        }
        Ok(())
    }

    /// Bytes of the whole frame, padding included.
    pub(crate) fn frame_len(&self) -> usize {
        HEADER_BYTES + align8(self.body_len as usize)
    }

    /// The position that follows the frame.
    pub(crate) fn next_position(&self) -> u64 {
        self.link.first_position + u64::from(self.count)
    }
}

/// A frame whose header, directory or body, and padding were verified; its records are verified one by one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) header: FrameHeader,
    pub(crate) place: Place,
    pub(crate) body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame at the start of `bytes`, which may go on behind it.
    #[inline]
    pub(crate) fn decode(bytes: &'a [u8], place: Place) -> Result<Self, FrameFault> {
        let head = bytes.first_chunk::<HEADER_BYTES>().ok_or(FrameFault::Short)?;
        let header = FrameHeader::decode(head, place)?;
        let body_len = header.body_len as usize;
        let rest = bytes.get(HEADER_BYTES..header.frame_len()).ok_or(FrameFault::Short)?;
        let (body, padding) = rest.split_at(body_len);
        let covered = match header.kind {
            FrameKind::Commit => &body[..header.count as usize * ENTRY_BYTES],
            FrameKind::Start | FrameKind::Mark => body,
        };
        if place.of_body().checksum(covered) != header.body_checksum {
            return Err(FrameFault::Damaged("the checksum of a frame body does not match"));
        }
        if padding.iter().any(|byte| *byte != 0) {
            return Err(FrameFault::Damaged("the padding of a frame is not zero"));
        }
        let frame = Self { header, place, body };
        if header.kind == FrameKind::Commit && frame.end_of(header.count - 1) != body_len {
            return Err(FrameFault::Damaged("the records of a frame do not fill it"));
        }
        Ok(frame)
    }

    fn end_of(&self, ordinal: u32) -> usize {
        u32_at(self.body, ordinal as usize * ENTRY_BYTES) as usize
    }

    /// The bytes of a record, verified.
    #[inline]
    pub(crate) fn record(&self, ordinal: u32) -> Result<&'a [u8], &'static str> {
        record_in(self.body, self.header.count, self.place, ordinal).map(|range| &self.body[range])
    }

    /// Where a record, verified, lies in the body.
    #[inline]
    pub(crate) fn record_range(&self, ordinal: u32) -> Result<Range<usize>, &'static str> {
        record_in(self.body, self.header.count, self.place, ordinal)
    }

    /// Verifies every record, so that each byte of the frame was verified once.
    pub(crate) fn verify_records(&self) -> Result<(), &'static str> {
        (0..self.header.count).try_for_each(|ordinal| self.record(ordinal).map(|_| ()))
    }
}

/// Where record `ordinal` lies in the body of a commit with `count` events, and its checksum. What the directory says
/// is not yet verified: the record's checksum decides.
#[inline]
pub(crate) fn record_range(body: &[u8], count: u32, ordinal: u32) -> Result<(Range<usize>, u32), &'static str> {
    let entry = ordinal as usize * ENTRY_BYTES;
    let first = count as usize * ENTRY_BYTES;
    if ordinal >= count || body.len() < first {
        return Err("a frame has no such record");
    }
    let start = if ordinal == 0 { first } else { u32_at(body, entry - ENTRY_BYTES) as usize };
    let end = u32_at(body, entry) as usize;
    if start < first || start > end {
        return Err("the records of a frame are not in order");
    }
    Ok((start..end, u32_at(body, entry + 4)))
}

/// Where one record, verified, lies in the body of a commit.
#[inline]
pub(crate) fn record_in(body: &[u8], count: u32, place: Place, ordinal: u32) -> Result<Range<usize>, &'static str> {
    let (range, checksum) = record_range(body, count, ordinal)?;
    let record = body.get(range.clone()).ok_or("a record reaches beyond its frame")?;
    if place.of_record(ordinal).checksum(record) != checksum && !sabotaged(Sabotage::TrustRecord) {
        return Err("the checksum of a record does not match");
    }
    Ok(range)
}

/// The part of a frame header that its checksum covers: all but the checksum.
fn covered(header: &[u8]) -> &[u8] {
    if sabotaged(Sabotage::ChecksumWithoutLength) { &header[8..] } else { &header[4..] }
}

/// Bytes of the frame of a commit whose records have these lengths.
pub(crate) fn commit_frame_len(record_lens: impl ExactSizeIterator<Item = usize>) -> usize {
    let directory = record_lens.len() * ENTRY_BYTES;
    HEADER_BYTES + align8(directory + record_lens.sum::<usize>())
}

/// Appends the frame of a commit to `out` and returns its header checksum. The caller has checked every limit.
pub(crate) fn encode_commit<'a>(
    out: &mut Vec<u8>,
    place: Place,
    link: Link,
    records: impl ExactSizeIterator<Item = RecordFields<'a>>,
) -> u32 {
    let count = records.len();
    let frame_at = out.len();
    let body_at = frame_at + HEADER_BYTES;
    out.resize(body_at + count * ENTRY_BYTES, 0);
    for (ordinal, record) in records.enumerate() {
        let record_at = out.len();
        record.encode(out);
        let checksum = place.of_record(ordinal as u32).checksum(&out[record_at..]);
        let end = (out.len() - body_at) as u32;
        let entry = body_at + ordinal * ENTRY_BYTES;
        put(out, entry, &end.to_le_bytes());
        put(out, entry + 4, &checksum.to_le_bytes());
    }
    let body_checksum = place.of_body().checksum(&out[body_at..body_at + count * ENTRY_BYTES]);
    finish(out, frame_at, place, link, FrameKind::Commit, count as u32, body_checksum)
}

/// Appends a start or mark frame to `out` and returns its header checksum.
pub(crate) fn encode_control(out: &mut Vec<u8>, place: Place, link: Link, kind: FrameKind, body: &[u8]) -> u32 {
    debug_assert!(kind != FrameKind::Commit);
    let frame_at = out.len();
    out.resize(frame_at + HEADER_BYTES, 0);
    out.extend_from_slice(body);
    finish(out, frame_at, place, link, kind, 0, place.of_body().checksum(body))
}

/// Pads the frame that begins at `frame_at`, whose body is in place, and fills in its header.
fn finish(
    out: &mut Vec<u8>,
    frame_at: usize,
    place: Place,
    link: Link,
    kind: FrameKind,
    count: u32,
    body_checksum: u32,
) -> u32 {
    let body_len = out.len() - frame_at - HEADER_BYTES;
    out.resize(frame_at + HEADER_BYTES + align8(body_len), 0);
    let header = &mut out[frame_at..frame_at + HEADER_BYTES];
    put(header, 4, &(body_len as u32).to_le_bytes());
    put(header, 8, &body_checksum.to_le_bytes());
    put(header, 12, &link.previous.to_le_bytes());
    put(header, 16, &link.first_position.to_le_bytes());
    put(header, 24, &link.commit_time.to_le_bytes());
    put(header, 32, &link.durable.to_le_bytes());
    put(header, 40, &count.to_le_bytes());
    header[44] = match kind {
        FrameKind::Start => 1,
        FrameKind::Commit => 2,
        FrameKind::Mark => 3,
    };
    let checksum = place.checksum(covered(header));
    put(header, 0, &checksum.to_le_bytes());
    checksum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::record::Record;
    use crate::types::Codec;

    const LINK: Link = Link { previous: 7, first_position: 10, commit_time: 3, durable: 9 };

    fn place() -> Place {
        Place::of_frame(0xDEAD_BEEF_0BAD_CAFE, 3, 64)
    }

    fn fields(version: u64, payload: &[u8]) -> RecordFields<'_> {
        RecordFields {
            id: [version as u8; 16],
            time: 1,
            version,
            schema_version: 1,
            codec: Codec::Raw,
            stream: "account-1",
            event_type: "Opened",
            tags: &[],
            metadata: None,
            payload,
        }
    }

    fn commit(payloads: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let records = payloads.iter().enumerate().map(|(index, payload)| fields(index as u64 + 1, payload));
        encode_commit(&mut bytes, place(), LINK, records);
        bytes
    }

    fn is_valid(bytes: &[u8], place: Place) -> bool {
        Frame::decode(bytes, place).is_ok_and(|frame| frame.verify_records().is_ok())
    }

    #[test]
    fn a_commit_survives_the_round_trip() {
        let payloads: [&[u8]; 3] = [b"one", b"", b"three and more"];
        let bytes = commit(&payloads);
        assert_eq!(bytes.len() % 8, 0);
        let lens = payloads.iter().enumerate().map(|(index, payload)| fields(index as u64, payload).encoded_len());
        assert_eq!(bytes.len(), commit_frame_len(lens));
        let frame = Frame::decode(&bytes, place()).unwrap();
        assert_eq!((frame.header.link, frame.header.count, frame.header.kind), (LINK, 3, FrameKind::Commit));
        assert_eq!((frame.header.frame_len(), frame.header.next_position()), (bytes.len(), 13));
        for (ordinal, payload) in payloads.iter().enumerate() {
            let record = Record::decode(frame.record(ordinal as u32).unwrap()).unwrap();
            assert_eq!((record.version(), record.payload), (ordinal as u64 + 1, *payload));
        }
        assert!(frame.record(3).is_err());
    }

    #[test]
    fn control_frames_survive_the_round_trip() {
        for (kind, body) in [(FrameKind::Mark, &[][..]), (FrameKind::Start, &[5; START_BODY_BYTES][..])] {
            let mut bytes = Vec::new();
            let checksum = encode_control(&mut bytes, place(), LINK, kind, body);
            let frame = Frame::decode(&bytes, place()).unwrap();
            assert_eq!((frame.header.kind, frame.header.checksum, frame.body), (kind, checksum, body));
        }
    }

    #[test]
    fn every_flipped_bit_of_a_commit_is_noticed() {
        let bytes = commit(&[b"one", b"two!"]);
        assert!(is_valid(&bytes, place()));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_valid(&flipped, place()), "bit {bit}");
        }
    }

    /// Readers go from frame to frame by the lengths of headers alone.
    #[test]
    fn every_flipped_bit_of_a_header_is_noticed_before_its_length_is_used() {
        let bytes = commit(&[b"one", b"two!"]);
        let header: [u8; HEADER_BYTES] = *bytes.first_chunk().unwrap();
        assert!(FrameHeader::decode(&header, place()).is_ok());
        for bit in 0..HEADER_BYTES * 8 {
            let mut flipped = header;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHeader::decode(&flipped, place()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_noticed_by_a_point_read() {
        let bytes = commit(&[b"one", b"two!"]);
        let (head, body) = bytes.split_first_chunk::<HEADER_BYTES>().unwrap();
        let header = FrameHeader::decode(head, place()).unwrap();
        let body = &body[..header.body_len as usize];
        let (range, _) = record_range(body, 2, 1).unwrap();
        for bit in range.start * 8..range.end * 8 {
            let mut flipped = body.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(record_in(&flipped, 2, place(), 1).is_err(), "bit {bit}");
            assert!(record_in(&flipped, 2, place(), 0).is_ok(), "bit {bit}");
        }
    }

    #[test]
    fn a_frame_holds_only_at_its_place() {
        let bytes = commit(&[b"one"]);
        for elsewhere in [
            Place::of_frame(0xDEAD_BEEF_0BAD_CAFE, 3, 72),
            Place::of_frame(0xDEAD_BEEF_0BAD_CAFE, 4, 64),
            Place::of_frame(0xDEAD_BEEF_0BAD_CAFF, 3, 64),
        ] {
            assert!(!is_valid(&bytes, elsewhere));
        }
    }

    #[test]
    fn every_shorter_frame_is_refused() {
        let bytes = commit(&[b"one", b"two"]);
        for length in 0..bytes.len() {
            assert!(!is_valid(&bytes[..length], place()), "length {length}");
        }
    }

    #[test]
    fn zeros_are_blank_and_unknown_things_are_not_damage() {
        assert_eq!(Frame::decode(&[0; 64], place()).unwrap_err(), FrameFault::Blank);
        for (offset, value) in [(44, 0), (44, 9), (45, 1), (46, 1)] {
            let mut bytes = commit(&[b"one"]);
            bytes[offset] = value;
            let checksum = place().checksum(&bytes[4..HEADER_BYTES]);
            put(&mut bytes, 0, &checksum.to_le_bytes());
            assert!(matches!(Frame::decode(&bytes, place()), Err(FrameFault::Unknown(_))), "offset {offset}");
        }
    }

    #[test]
    fn rubbish_without_a_kind_is_damage_and_not_blank() {
        let mut bytes = commit(&[b"one"]);
        bytes[44] = 0;
        assert!(matches!(Frame::decode(&bytes, place()), Err(FrameFault::Damaged(_))));
    }

    #[test]
    fn a_header_that_contradicts_itself_is_from_another_writer() {
        let contradictions: [(usize, &[u8]); 4] = [
            (4, &u32::MAX.to_le_bytes()),  // a body beyond the limit
            (16, &0u64.to_le_bytes()),     // position 0
            (40, &0u32.to_le_bytes()),     // no event
            (40, &1_000u32.to_le_bytes()), // a directory larger than the body
        ];
        for (offset, value) in contradictions {
            let mut bytes = commit(&[b"one"]);
            put(&mut bytes, offset, value);
            let checksum = place().checksum(&bytes[4..HEADER_BYTES]);
            put(&mut bytes, 0, &checksum.to_le_bytes());
            assert!(matches!(Frame::decode(&bytes, place()), Err(FrameFault::Unknown(_))), "offset {offset}");
        }
    }

    /// The header of a frame of this kind, if it has these numbers.
    fn header_of(kind: u8, body_len: usize, first_position: u64, count: usize) -> Result<FrameHeader, FrameFault> {
        let mut bytes = commit(&[b"one"]);
        put(&mut bytes, 4, &(body_len as u32).to_le_bytes());
        put(&mut bytes, 16, &first_position.to_le_bytes());
        put(&mut bytes, 40, &(count as u32).to_le_bytes());
        bytes[44] = kind;
        let checksum = place().checksum(&bytes[4..HEADER_BYTES]);
        put(&mut bytes, 0, &checksum.to_le_bytes());
        FrameHeader::decode(bytes.first_chunk().unwrap(), place())
    }

    #[test]
    fn each_limit_of_a_header_holds_exactly() {
        const EVENTS: usize = EVENTS_PER_COMMIT_MAX;
        const BODY: usize = FRAME_BYTES_MAX - HEADER_BYTES;
        for (kind, body_len, first_position, count) in [
            (1, START_BODY_BYTES, 1, 0),
            (2, ENTRY_BYTES, 1, 1),
            (2, EVENTS * ENTRY_BYTES, 1, EVENTS),
            (2, BODY, 1, 1),
            (2, 100, u64::MAX - 1, 1),
            (3, 0, 1, 0),
            (3, 0, u64::MAX, 0),
        ] {
            let header = header_of(kind, body_len, first_position, count);
            assert!(header.is_ok(), "{kind} {body_len} {first_position} {count}: {header:?}");
        }
        for (kind, body_len, first_position, count) in [
            (1, START_BODY_BYTES - 8, 1, 0),
            (1, START_BODY_BYTES, 1, 1),
            (2, ENTRY_BYTES - 1, 1, 1),
            (2, 100, 1, 0),
            (2, (EVENTS + 1) * ENTRY_BYTES, 1, EVENTS + 1),
            (2, BODY + 1, 1, 1),
            (2, 100, u64::MAX, 1),
            (3, 8, 1, 0),
            (3, 0, 1, 1),
            (3, 0, 0, 0),
        ] {
            let header = header_of(kind, body_len, first_position, count);
            assert!(matches!(header, Err(FrameFault::Unknown(_))), "{kind} {body_len} {first_position} {count}");
        }
    }

    #[test]
    fn a_directory_leads_to_every_record_that_lies_in_order() {
        let directory =
            |ends: &[u32]| -> Vec<u8> { ends.iter().flat_map(|end| [end.to_le_bytes(), [9; 4]].concat()).collect() };
        let sum = u32::from_le_bytes([9; 4]);
        assert_eq!(record_range(&directory(&[8]), 1, 0), Ok((8..8, sum)), "an empty record behind the directory");
        assert_eq!(record_range(&directory(&[16, 20]), 2, 0), Ok((16..16, sum)));
        assert_eq!(record_range(&directory(&[16, 20]), 2, 1), Ok((16..20, sum)));
        assert!(record_range(&directory(&[16, 20]), 2, 2).is_err(), "no such record");
        assert!(record_range(&directory(&[16, 20])[..15], 2, 0).is_err(), "the directory is cut");
        assert!(record_range(&directory(&[15, 20]), 2, 0).is_err(), "a record in the directory");
        assert!(record_range(&directory(&[15, 20]), 2, 1).is_err(), "a record that begins in the directory");
        assert!(record_range(&directory(&[21, 20]), 2, 1).is_err(), "a record that ends before it begins");
    }

    #[test]
    fn records_that_do_not_fill_their_frame_are_damage() {
        let mut bytes = commit(&[b"12345678", b"one"]);
        let body_len = u32_at(&bytes, 4);
        put(&mut bytes, 4, &(body_len - 8).to_le_bytes());
        let checksum = place().checksum(&bytes[4..HEADER_BYTES]);
        put(&mut bytes, 0, &checksum.to_le_bytes());
        // What was the end of the last record is padding now, and has to be blank for this to be the only fault.
        let body_end = HEADER_BYTES + body_len as usize - 8;
        bytes[body_end..].fill(0);
        assert_eq!(
            Frame::decode(&bytes, place()).unwrap_err(),
            FrameFault::Damaged("the records of a frame do not fill it")
        );
    }

    #[test]
    fn each_fault_says_what_is_wrong() {
        let reasons = [FrameFault::Short, FrameFault::Blank, FrameFault::Damaged("d"), FrameFault::Unknown("u")];
        let reasons = reasons.map(|fault| fault.reason());
        assert_eq!(reasons, ["the file ends inside a frame", "zeros where a frame is expected", "d", "u"]);
    }
}
