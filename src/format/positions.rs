//! The positions file of a segment (FORMAT, section 8): where the frame of each position lies, and when its events were.

use super::bytes::{array_at, i64_at, is_zero, put, u16_at, u32_at, u64_at};
use super::page::{CONTENT_BYTES, PAGE_BYTES, Section};
use crate::types::StoreId;

/// Positions that share a zone.
pub(crate) const ZONE_POSITIONS: u64 = 512;
/// Bytes of a zone.
pub(crate) const ZONE_BYTES: usize = 16;

const MAGIC: [u8; 8] = *b"\x89ANLPOS\n";
const MAJOR: u16 = 1;
const MINOR: u16 = 0;
/// Bytes of page 0 in use.
const HEAD_BYTES: usize = 88;

/// Where the last frame that a file covers lies, and its header checksum: what ties the file to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Checkpoint {
    pub(crate) offset: u64,
    pub(crate) end: u64,
    pub(crate) checksum: u32,
}

/// What a positions file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PositionsHeader {
    /// The page seed of the file.
    pub(crate) seed: u32,
    pub(crate) store: StoreId,
    pub(crate) segment: u64,
    pub(crate) salt: u64,
    /// The first position of the segment.
    pub(crate) first: u64,
    /// Number of positions covered, at least 1.
    pub(crate) count: u64,
    pub(crate) checkpoint: Checkpoint,
}

/// Where the arrays of a positions file lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PositionsLayout {
    /// Frame offsets divided by 8.
    pub(crate) offsets: Section<4>,
    pub(crate) zones: Section<ZONE_BYTES>,
    /// Pages of the whole file.
    pub(crate) pages: u64,
}

impl PositionsHeader {
    pub(crate) fn encode(&self) -> [u8; CONTENT_BYTES] {
        let mut bytes = [0; CONTENT_BYTES];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 8, &MAJOR.to_le_bytes());
        put(&mut bytes, 10, &MINOR.to_le_bytes());
        put(&mut bytes, 12, &self.seed.to_le_bytes());
        put(&mut bytes, 16, &self.store.to_bytes());
        put(&mut bytes, 32, &self.segment.to_le_bytes());
        put(&mut bytes, 40, &self.salt.to_le_bytes());
        put(&mut bytes, 48, &self.first.to_le_bytes());
        put(&mut bytes, 56, &self.count.to_le_bytes());
        put(&mut bytes, 64, &self.checkpoint.offset.to_le_bytes());
        put(&mut bytes, 72, &self.checkpoint.end.to_le_bytes());
        put(&mut bytes, 80, &self.checkpoint.checksum.to_le_bytes());
        put(&mut bytes, 84, &(ZONE_POSITIONS as u32).to_le_bytes());
        bytes
    }

    /// The header in the content of page 0, whose checksum the caller has verified.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.len() < CONTENT_BYTES || array_at::<8>(bytes, 0) != MAGIC {
            return Err("not a positions file");
        }
        if u16_at(bytes, 8) != MAJOR || u32_at(bytes, 84) != ZONE_POSITIONS as u32 {
            return Err("a positions file of another version");
        }
        if u16_at(bytes, 10) == MINOR && !is_zero(&bytes[HEAD_BYTES..CONTENT_BYTES]) {
            return Err("reserved bytes of a positions file are in use");
        }
        let header = Self {
            seed: u32_at(bytes, 12),
            store: StoreId::from_bytes(array_at(bytes, 16)),
            segment: u64_at(bytes, 32),
            salt: u64_at(bytes, 40),
            first: u64_at(bytes, 48),
            count: u64_at(bytes, 56),
            checkpoint: Checkpoint { offset: u64_at(bytes, 64), end: u64_at(bytes, 72), checksum: u32_at(bytes, 80) },
        };
        if header.first == 0 || header.count == 0 || header.first.checked_add(header.count).is_none() {
            return Err("the positions of a positions file contradict each other");
        }
        Ok(header)
    }

    /// The last position covered.
    pub(crate) fn last(&self) -> u64 {
        self.first + self.count - 1
    }

    /// `None` if no file can be as large as this header says.
    pub(crate) fn layout(&self) -> Option<PositionsLayout> {
        let offsets = Section::new(1, self.count);
        let zones = Section::new(offsets.end_page()?, self.count.div_ceil(ZONE_POSITIONS));
        let pages = zones.end_page()?;
        pages.checked_mul(PAGE_BYTES as u64)?;
        Some(PositionsLayout { offsets, zones, pages })
    }
}

/// The least and the greatest event time of a range of positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Zone {
    pub(crate) least: i64,
    pub(crate) greatest: i64,
}

impl Zone {
    /// The zone of no event: adding any other gives that one.
    pub(crate) const EMPTY: Zone = Zone { least: i64::MAX, greatest: i64::MIN };

    pub(crate) fn add(&mut self, other: Zone) {
        self.least = self.least.min(other.least);
        self.greatest = self.greatest.max(other.greatest);
    }

    pub(crate) fn add_time(&mut self, time: i64) {
        self.add(Zone { least: time, greatest: time });
    }

    pub(crate) fn encode(self) -> [u8; ZONE_BYTES] {
        let mut bytes = [0; ZONE_BYTES];
        put(&mut bytes, 0, &self.least.to_le_bytes());
        put(&mut bytes, 8, &self.greatest.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; ZONE_BYTES]) -> Self {
        Self { least: i64_at(bytes, 0), greatest: i64_at(bytes, 8) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> PositionsHeader {
        let checkpoint = Checkpoint { offset: 64, end: 128, checksum: 9 };
        let store = StoreId::from_bytes([3; 16]);
        PositionsHeader { seed: 5, store, segment: 2, salt: 77, first: 100, count: 1024, checkpoint }
    }

    #[test]
    fn a_header_survives_the_round_trip() {
        assert_eq!(PositionsHeader::decode(&header().encode()), Ok(header()));
        assert_eq!(header().last(), 1123);
    }

    #[test]
    fn a_header_that_makes_no_sense_is_refused() {
        for (offset, value) in [(0, 0), (8, 2), (84, 1), (88, 1), (4000, 1)] {
            let mut bytes = header().encode();
            bytes[offset] = value;
            assert!(PositionsHeader::decode(&bytes).is_err(), "offset {offset}");
        }
        for broken in [
            PositionsHeader { first: 0, ..header() },
            PositionsHeader { count: 0, ..header() },
            PositionsHeader { count: u64::MAX, ..header() },
        ] {
            assert!(PositionsHeader::decode(&broken.encode()).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn the_arrays_follow_each_other_on_pages_of_their_own() {
        let layout = header().layout().unwrap();
        assert_eq!((layout.offsets, layout.zones), (Section::new(1, 1024), Section::new(3, 2)));
        assert_eq!(layout.pages, 4);
        assert_eq!(PositionsHeader { count: u64::MAX - 100, ..header() }.layout(), None);
    }

    #[test]
    fn a_zone_grows_and_survives_the_round_trip() {
        let mut zone = Zone::EMPTY;
        zone.add_time(5);
        zone.add_time(-3);
        assert_eq!(zone, Zone { least: -3, greatest: 5 });
        assert_eq!(Zone::decode(&zone.encode()), zone);
    }

    #[test]
    fn a_newer_minor_version_may_use_reserved_bytes() {
        let mut bytes = header().encode();
        (bytes[10], bytes[HEAD_BYTES]) = (1, 1);
        assert_eq!(PositionsHeader::decode(&bytes), Ok(header()));
        assert!(PositionsHeader::decode(&bytes[..CONTENT_BYTES - 1]).is_err(), "a page that is cut");
    }

    #[test]
    fn a_header_may_cover_the_greatest_position_and_none_behind_it() {
        let most = PositionsHeader { first: u64::MAX - 1, count: 1, ..header() };
        assert_eq!(PositionsHeader::decode(&most.encode()), Ok(most));
        let more = PositionsHeader { first: u64::MAX, ..most };
        assert!(PositionsHeader::decode(&more.encode()).is_err());
    }
}
