//! The value of a snapshot in the state store (FORMAT, section 9).
//!
//! It says of which history it is before anything else, so that one that is not of this log is known for it whatever
//! follows.

use super::bytes::{array_at, put, u16_at, u32_at, u64_at};
use super::record::{codec_number, codec_of};
use crate::limits::STREAM_NAME_BYTES_MAX;
use crate::types::{Codec, StoreId};

/// Bytes before the stream name.
pub(crate) const SNAPSHOT_HEAD_BYTES: usize = 56;
const LAYOUT: u16 = 1;

/// How the state of a snapshot is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Zstd,
}

/// What a snapshot says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SnapshotHeader<'a> {
    /// The store that the events are in.
    pub(crate) store: StoreId,
    /// The position of the last event that is in the snapshot.
    pub(crate) position: u64,
    /// The header checksum of the frame that holds it.
    pub(crate) checksum: u32,
    pub(crate) codec: Codec,
    pub(crate) packing: Packing,
    /// The version of that event.
    pub(crate) version: u64,
    pub(crate) schema: u64,
    /// Bytes of the state when it is unpacked.
    pub(crate) state_bytes: u32,
    pub(crate) stream: &'a str,
}

/// Why a value is no snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SnapshotFault {
    Damaged(&'static str),
    /// A newer version wrote it.
    Unknown(&'static str),
}

impl<'a> SnapshotHeader<'a> {
    /// The value: the header, and the state as it is packed. The caller has checked the limits.
    pub(crate) fn encode(&self, packed: &[u8]) -> Vec<u8> {
        let mut head = [0; SNAPSHOT_HEAD_BYTES];
        put(&mut head, 0, &self.store.to_bytes());
        put(&mut head, 16, &self.position.to_le_bytes());
        put(&mut head, 24, &self.checksum.to_le_bytes());
        put(&mut head, 28, &LAYOUT.to_le_bytes());
        head[30] = codec_number(self.codec);
        head[31] = match self.packing {
            Packing::Plain => 0,
            Packing::Zstd => 1,
        };
        put(&mut head, 32, &self.version.to_le_bytes());
        put(&mut head, 40, &self.schema.to_le_bytes());
        put(&mut head, 48, &self.state_bytes.to_le_bytes());
        put(&mut head, 52, &(self.stream.len() as u16).to_le_bytes());
        [&head, self.stream.as_bytes(), packed].concat()
    }

    /// The header, and the state as it is packed.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), SnapshotFault> {
        let damaged = SnapshotFault::Damaged;
        if bytes.len() < SNAPSHOT_HEAD_BYTES {
            return Err(damaged("it is shorter than its header"));
        }
        if u16_at(bytes, 28) != LAYOUT {
            return Err(SnapshotFault::Unknown("its layout is not known"));
        }
        let codec = codec_of(bytes[30]).ok_or(SnapshotFault::Unknown("its codec is not known"))?;
        let packing = match bytes[31] {
            0 => Packing::Plain,
            1 => Packing::Zstd,
            _ => return Err(SnapshotFault::Unknown("its packing is not known")),
        };
        if u16_at(bytes, 54) != 0 {
            return Err(SnapshotFault::Unknown("a reserved field is not zero"));
        }
        let name_len = usize::from(u16_at(bytes, 52));
        let rest = &bytes[SNAPSHOT_HEAD_BYTES..];
        if name_len == 0 || name_len > STREAM_NAME_BYTES_MAX || name_len > rest.len() {
            return Err(damaged("the length of its stream name is wrong"));
        }
        let (name, packed) = rest.split_at(name_len);
        let header = Self {
            store: StoreId::from_bytes(array_at(bytes, 0)),
            position: u64_at(bytes, 16),
            checksum: u32_at(bytes, 24),
            codec,
            packing,
            version: u64_at(bytes, 32),
            schema: u64_at(bytes, 40),
            state_bytes: u32_at(bytes, 48),
            stream: std::str::from_utf8(name).map_err(|_| damaged("its stream name is not UTF-8"))?,
        };
        if header.position == 0 || header.version == 0 {
            return Err(damaged("its position or version is 0"));
        }
        if packing == Packing::Plain && packed.len() != header.state_bytes as usize {
            return Err(damaged("its state has another length than it says"));
        }
        Ok((header, packed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SnapshotHeader<'static> {
        SnapshotHeader {
            store: StoreId::from_bytes([7; 16]),
            position: 0x0102_0304_0506_0708,
            checksum: 0x0a0b_0c0d,
            codec: Codec::Json,
            packing: Packing::Plain,
            version: 3,
            schema: 9,
            state_bytes: 2,
            stream: "s-1",
        }
    }

    /// The layout is frozen: these bytes are read for ever.
    #[test]
    fn the_layout_is_that_of_the_format() {
        let mut expected = vec![7; 16];
        expected.extend([8, 7, 6, 5, 4, 3, 2, 1, 0x0d, 0x0c, 0x0b, 0x0a, 1, 0, 1, 0]);
        expected.extend([3, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);
        expected.extend(b"s-1{}");
        assert_eq!(header().encode(b"{}"), expected);
        assert_eq!(SnapshotHeader::decode(&expected), Ok((header(), &b"{}"[..])));
    }

    #[test]
    fn what_is_not_known_is_told_from_what_is_damaged() {
        let encoded = header().encode(b"{}");
        let with = |offset: usize, byte: u8| {
            let mut bytes = encoded.clone();
            bytes[offset] = byte;
            SnapshotHeader::decode(&bytes).map(drop)
        };
        for (offset, byte) in [(28, 2), (29, 1), (30, 4), (31, 2), (54, 1)] {
            assert!(matches!(with(offset, byte), Err(SnapshotFault::Unknown(_))), "{offset}");
        }
        for (offset, byte) in [(48, 3), (52, 0), (52, 4), (52, 200), (53, 255), (56, 0xff), (32, 0)] {
            assert!(matches!(with(offset, byte), Err(SnapshotFault::Damaged(_))), "{offset}");
        }
        for length in 0..encoded.len() {
            assert!(matches!(SnapshotHeader::decode(&encoded[..length]), Err(SnapshotFault::Damaged(_))), "{length}");
        }
    }

    #[test]
    fn each_limit_of_a_header_holds_exactly() {
        let stream = "s".repeat(STREAM_NAME_BYTES_MAX + 1);
        let longest = SnapshotHeader { stream: &stream[1..], state_bytes: 0, ..header() };
        let encoded = longest.encode(b"");
        assert_eq!(SnapshotHeader::decode(&encoded), Ok((longest, &b""[..])), "a name that ends the value");
        let too_long = SnapshotHeader { stream: &stream, ..longest }.encode(b"");
        assert!(matches!(SnapshotHeader::decode(&too_long), Err(SnapshotFault::Damaged(_))));
        for broken in [SnapshotHeader { version: 0, ..longest }, SnapshotHeader { position: 0, ..longest }] {
            let encoded = broken.encode(b"");
            assert!(matches!(SnapshotHeader::decode(&encoded), Err(SnapshotFault::Damaged(_))), "{broken:?}");
        }
        let packed = SnapshotHeader { packing: Packing::Zstd, ..header() };
        let encoded = packed.encode(b"any length");
        assert_eq!(SnapshotHeader::decode(&encoded), Ok((packed, &b"any length"[..])));
    }
}
