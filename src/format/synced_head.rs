//! The synced head (FORMAT, section 6): 64 bytes that say how far the log is synced.

use super::bytes::{array_at, is_zero, put, u32_at, u64_at};
use super::checksum::crc;
use crate::types::StoreId;

pub(crate) const SYNCED_HEAD_BYTES: usize = 64;

const MAGIC: [u8; 8] = *b"\x89ANLSYN\n";

/// A point of the log up to which everything is synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SyncedHead {
    pub(crate) store: StoreId,
    /// The last synced position; 0 for none.
    pub(crate) position: u64,
    pub(crate) segment: u64,
    /// Offset in the segment behind the last synced frame.
    pub(crate) end: u64,
    /// Header checksum of that frame.
    pub(crate) checksum: u32,
    /// The log was closed here: nothing was ever written behind this point.
    pub(crate) closed: bool,
}

/// The bytes are whole, and what is reserved in them is used: a newer program wrote them. To read over that would be to
/// lose what it knew of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Newer;

impl Newer {
    pub(crate) const REASON: &str = "what is reserved in the synced head is used: it needs a newer program";
}

impl SyncedHead {
    pub(crate) fn encode(&self) -> [u8; SYNCED_HEAD_BYTES] {
        let mut bytes = [0; SYNCED_HEAD_BYTES];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 8, &self.store.to_bytes());
        put(&mut bytes, 24, &self.position.to_le_bytes());
        put(&mut bytes, 32, &self.segment.to_le_bytes());
        put(&mut bytes, 40, &self.end.to_le_bytes());
        put(&mut bytes, 48, &self.checksum.to_le_bytes());
        bytes[52] = u8::from(self.closed);
        let checksum = crc(0, &bytes[..60]);
        put(&mut bytes, 60, &checksum.to_le_bytes());
        bytes
    }

    /// `None` if the bytes are damaged, torn by a concurrent write, or of another kind: then they say nothing.
    ///
    /// # Errors
    /// [`Newer`] if they are whole and say what this version does not know.
    pub(crate) fn decode(bytes: &[u8; SYNCED_HEAD_BYTES]) -> Result<Option<Self>, Newer> {
        if array_at::<8>(bytes, 0) != MAGIC || u32_at(bytes, 60) != crc(0, &bytes[..60]) {
            return Ok(None);
        }
        if bytes[52] > 1 || !is_zero(&bytes[53..60]) {
            return Err(Newer);
        }
        Ok(Some(Self {
            store: StoreId::from_bytes(array_at(bytes, 8)),
            position: u64_at(bytes, 24),
            segment: u64_at(bytes, 32),
            end: u64_at(bytes, 40),
            checksum: u32_at(bytes, 48),
            closed: bytes[52] == 1,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_survives_the_round_trip_and_every_flipped_bit_silences_it() {
        let head = SyncedHead {
            store: StoreId::from_bytes([9; 16]),
            position: 42,
            segment: 3,
            end: 4096,
            checksum: 7,
            closed: true,
        };
        let bytes = head.encode();
        assert_eq!(SyncedHead::decode(&bytes), Ok(Some(head)));
        for bit in 0..SYNCED_HEAD_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SyncedHead::decode(&flipped), Ok(None), "bit {bit}");
        }
    }

    #[test]
    fn what_is_of_another_kind_says_nothing_and_what_uses_the_reserved_bytes_is_newer() {
        let head = SyncedHead {
            store: StoreId::from_bytes([9; 16]),
            position: 0,
            segment: 1,
            end: 64,
            checksum: 7,
            closed: false,
        };
        assert_eq!(SyncedHead::decode(&head.encode()), Ok(Some(head)));
        let newer = Err(Newer);
        for (offset, value, expected) in [(0, 0, Ok(None)), (52, 2, newer), (53, 1, newer), (59, 1, newer)] {
            let mut bytes = head.encode();
            bytes[offset] = value;
            let checksum = crc(0, &bytes[..60]);
            put(&mut bytes, 60, &checksum.to_le_bytes());
            assert_eq!(SyncedHead::decode(&bytes), expected, "offset {offset}");
        }
    }
}
