//! The header of a segment file (FORMAT, section 2) and the body of its start frame (section 5).

use super::bytes::{array_at, is_zero, put, u16_at, u32_at, u64_at};
use super::checksum::crc;
use crate::types::StoreId;

/// Bytes of the header; the first frame stands behind it.
pub(crate) const HEADER_BYTES: usize = 64;
/// Bytes of the body of a start frame.
pub(crate) const START_BODY_BYTES: usize = 64;

pub(crate) const MAJOR: u16 = 1;
pub(crate) const MINOR: u16 = 0;
/// The feature bits that this version understands: none yet.
const FEATURES_KNOWN: u32 = 0;
/// The unit in which a header tells the size of its file.
pub(crate) const ALLOCATION_UNIT: u64 = 4096;

const MAGIC: [u8; 8] = *b"\x89ANLSEG\n";

/// What a segment file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) store: StoreId,
    pub(crate) number: u64,
    pub(crate) salt: u64,
    /// Size of the file when it was made, in bytes; a multiple of [`ALLOCATION_UNIT`]. A shorter file was truncated.
    pub(crate) allocated: u64,
}

/// Why bytes are no segment header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    /// Not a segment header, or damaged.
    Damaged(&'static str),
    /// Written by a version or with a feature that this one does not know.
    Unknown(String),
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 8, &MAJOR.to_le_bytes());
        put(&mut bytes, 10, &MINOR.to_le_bytes());
        put(&mut bytes, 24, &self.store.to_bytes());
        put(&mut bytes, 40, &self.number.to_le_bytes());
        put(&mut bytes, 48, &self.salt.to_le_bytes());
        put(&mut bytes, 56, &((self.allocated / ALLOCATION_UNIT) as u32).to_le_bytes());
        let checksum = crc(0, &bytes[..60]);
        put(&mut bytes, 60, &checksum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, HeaderFault> {
        if array_at::<8>(bytes, 0) != MAGIC {
            return Err(HeaderFault::Damaged("not the header of a segment"));
        }
        if u32_at(bytes, 60) != crc(0, &bytes[..60]) {
            return Err(HeaderFault::Damaged("the checksum of the segment header does not match"));
        }
        // From here on the bytes are what somebody wrote: what is unknown is newer, not damaged.
        let major = u16_at(bytes, 8);
        if major != MAJOR {
            return Err(HeaderFault::Unknown(format!("format version {major}, known is {MAJOR}")));
        }
        let unknown = u32_at(bytes, 12) & !FEATURES_KNOWN;
        if unknown != 0 {
            return Err(HeaderFault::Unknown(format!("incompatible feature bits {unknown:#010x}")));
        }
        let number = u64_at(bytes, 40);
        if number == 0 {
            return Err(HeaderFault::Damaged("segment number 0"));
        }
        Ok(Self {
            store: StoreId::from_bytes(array_at(bytes, 24)),
            number,
            salt: u64_at(bytes, 48),
            allocated: u64::from(u32_at(bytes, 56)) * ALLOCATION_UNIT,
        })
    }

    /// The feature bits that a writer would have to know to go on with this segment, and that this one does not.
    pub(crate) fn unknown_to_writers(bytes: &[u8; HEADER_BYTES]) -> u32 {
        u32_at(bytes, 20) & !FEATURES_KNOWN
    }
}

/// The body of a start frame: how a segment follows from the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct StartBody {
    /// Number of the segment before; 0 in the first of the log.
    pub(crate) predecessor: u64,
    /// Offset behind the last frame of the segment before.
    pub(crate) predecessor_length: u64,
    /// The first segment that is kept.
    pub(crate) first_kept: u64,
    /// Bytes cut from the segment before as a torn tail.
    pub(crate) cut_bytes: u64,
    /// Bytes of headers and frames in all segments before this one: the log address of this segment.
    pub(crate) bytes_before: u64,
    /// Salt of the segment before.
    pub(crate) predecessor_salt: u64,
    /// Offset of the last frame of the segment before.
    pub(crate) predecessor_last: u64,
}

impl StartBody {
    pub(crate) fn encode(&self) -> [u8; START_BODY_BYTES] {
        let mut bytes = [0; START_BODY_BYTES];
        put(&mut bytes, 0, &self.predecessor.to_le_bytes());
        put(&mut bytes, 8, &self.predecessor_length.to_le_bytes());
        put(&mut bytes, 16, &self.first_kept.to_le_bytes());
        put(&mut bytes, 24, &self.cut_bytes.to_le_bytes());
        put(&mut bytes, 32, &self.bytes_before.to_le_bytes());
        put(&mut bytes, 40, &self.predecessor_salt.to_le_bytes());
        put(&mut bytes, 48, &self.predecessor_last.to_le_bytes());
        bytes
    }

    /// `None` if the body has another size or uses reserved bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != START_BODY_BYTES || !is_zero(&bytes[56..]) {
            return None;
        }
        Some(Self {
            predecessor: u64_at(bytes, 0),
            predecessor_length: u64_at(bytes, 8),
            first_kept: u64_at(bytes, 16),
            cut_bytes: u64_at(bytes, 24),
            bytes_before: u64_at(bytes, 32),
            predecessor_salt: u64_at(bytes, 40),
            predecessor_last: u64_at(bytes, 48),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader { store: StoreId::from_bytes([7; 16]), number: 3, salt: 0x0123_4567_89AB_CDEF, allocated: 8192 }
    }

    fn sealed(mut bytes: [u8; HEADER_BYTES]) -> [u8; HEADER_BYTES] {
        let checksum = crc(0, &bytes[..60]);
        put(&mut bytes, 60, &checksum.to_le_bytes());
        bytes
    }

    #[test]
    fn a_header_survives_the_round_trip() {
        assert_eq!(SegmentHeader::decode(&header().encode()), Ok(header()));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let bytes = header().encode();
        for bit in 0..HEADER_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn what_is_newer_is_unknown_and_not_damaged() {
        for (offset, value) in [(8, 2), (12, 1)] {
            let mut bytes = header().encode();
            bytes[offset] = value;
            assert!(matches!(SegmentHeader::decode(&sealed(bytes)), Err(HeaderFault::Unknown(_))), "offset {offset}");
        }
    }

    #[test]
    fn a_greater_minor_version_and_compatible_features_are_accepted() {
        for offset in [10, 16] {
            let mut bytes = header().encode();
            bytes[offset] = 1;
            assert_eq!(SegmentHeader::decode(&sealed(bytes)), Ok(header()), "offset {offset}");
        }
    }

    #[test]
    fn features_that_only_a_writer_must_know_are_told_apart() {
        let mut bytes = header().encode();
        assert_eq!(SegmentHeader::unknown_to_writers(&bytes), 0);
        bytes[20] = 2;
        let bytes = sealed(bytes);
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header()));
        assert_eq!(SegmentHeader::unknown_to_writers(&bytes), 2);
    }

    #[test]
    fn a_start_body_survives_the_round_trip_and_refuses_reserved_bytes() {
        let body = StartBody {
            predecessor: 1,
            predecessor_length: 2,
            first_kept: 3,
            cut_bytes: 4,
            bytes_before: 5,
            predecessor_salt: 6,
            predecessor_last: 7,
        };
        let mut bytes = body.encode();
        assert_eq!(StartBody::decode(&bytes), Some(body));
        bytes[63] = 1;
        assert_eq!(StartBody::decode(&bytes), None);
        assert_eq!(StartBody::decode(&bytes[..40]), None);
    }

    #[test]
    fn a_segment_with_number_0_or_another_magic_is_damaged() {
        for (offset, value) in [(0, 0), (40, 0)] {
            let mut bytes = header().encode();
            bytes[offset] = value;
            assert!(matches!(SegmentHeader::decode(&sealed(bytes)), Err(HeaderFault::Damaged(_))), "offset {offset}");
        }
    }
}
