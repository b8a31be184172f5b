//! The checksums of the format, and the places they are bound to.
//!
//! Pages, segment headers and the synced head carry CRC-32. Frames and records, most of which are short, carry a hash
//! that is several times as fast on short input (docs/adr/0002). Both are bound to a place: bytes that moved, or that
//! stayed in a file from another life, do not pass.

use crc32fast::Hasher;
use xxhash_rust::xxh3::xxh3_64;

/// Spreads what counts, such as segments and ordinals, over all bits. The golden ratio.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
/// The same for offsets, so that a segment and an offset never cancel each other.
const OFFSET_STEP: u64 = 0xC2B2_AE3D_27D4_EB4F;

/// The CRC-32 of `data`, continued from `start`.
#[inline]
pub(crate) fn crc(start: u32, data: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(start);
    hasher.update(data);
    hasher.finalize()
}

/// What the CRC-32 of page `number` in a file of pages with this seed continues from.
#[inline]
pub(crate) fn page_start(seed: u32, number: u64) -> u32 {
    seed.wrapping_add((number as u32).wrapping_mul(0x9E37_79B1))
}

/// Where a frame, its body or one of its records stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place(u64);

impl Place {
    #[inline]
    pub(crate) fn of_frame(salt: u64, segment: u64, offset: u64) -> Self {
        Self(salt ^ segment.wrapping_mul(STEP) ^ offset.wrapping_mul(OFFSET_STEP))
    }

    /// Of the body of the frame at this place.
    #[inline]
    pub(crate) fn of_body(self) -> Self {
        Self(!self.0)
    }

    /// Of the record with this ordinal in the frame at this place.
    #[inline]
    pub(crate) fn of_record(self, ordinal: u32) -> Self {
        Self(self.0.wrapping_add((u64::from(ordinal) + 1).wrapping_mul(STEP)))
    }

    /// The checksum of `data` at this place.
    #[inline]
    pub(crate) fn checksum(self, data: &[u8]) -> u32 {
        ((xxh3_64(data) ^ self.0).wrapping_mul(STEP) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksums_are_what_the_format_says() {
        assert_eq!(crc(0, b"123456789"), 0xCBF4_3926, "the check value of CRC-32");
        assert_eq!(xxh3_64(b""), 0x2D06_8005_38D3_94C2, "the check value of XXH3");
        let place = Place::of_frame(5, 2, 64);
        let mixed = 5 ^ 2u64.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 64u64.wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
        let hash = (0x2D06_8005_38D3_94C2 ^ mixed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        assert_eq!(u64::from(place.checksum(b"")), hash >> 32);
    }

    #[test]
    fn a_checksum_holds_at_one_place_only() {
        let place = Place::of_frame(5, 2, 64);
        let places = [place, place.of_body(), place.of_record(0), place.of_record(1), Place::of_frame(5, 2, 72)];
        let mut sums: Vec<u32> = places.iter().map(|place| place.checksum(b"data")).collect();
        sums.sort_unstable();
        sums.dedup();
        assert_eq!(sums.len(), places.len());
    }
}
