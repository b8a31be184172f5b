//! A run of the index (FORMAT, section 8): from keys to the positions of the events that carry them.

use super::bytes::{array_at, is_zero, put, u16_at, u32_at, u64_at};
use super::page::{CONTENT_BYTES, PAGE_BYTES, Section};
use crate::types::StoreId;

/// Bytes of an entry.
pub(crate) const ENTRY_BYTES: usize = 24;
/// Bytes of a filter block.
pub(crate) const BLOCK_BYTES: usize = 32;
/// Most entries of a run, since the directory counts them in 4 bytes.
pub(crate) const ENTRIES_MAX: u64 = u32::MAX as u64;
/// Most positions that a run covers, since postings are relative numbers of 4 bytes.
pub(crate) const POSITIONS_MAX: u64 = u32::MAX as u64;

const MAGIC: [u8; 8] = *b"\x89ANLRUN\n";
const MAJOR: u16 = 1;
const MINOR: u16 = 0;
/// Bytes of page 0 in use.
const HEAD_BYTES: usize = 76;
/// Entries that share a place in the directory, at most, on average: one or two cache lines.
const ENTRIES_PER_BUCKET: u64 = 4;
/// Most bits of the directory: 1 GiB of it.
const DIRECTORY_BITS_MAX: u32 = 28;
/// Filter bits for each key: about one false positive in 250.
const FILTER_BITS_PER_KEY: u64 = 12;

/// What a run says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunHeader {
    /// The page seed of the file.
    pub(crate) seed: u32,
    pub(crate) store: StoreId,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) entries: u64,
    pub(crate) postings: u64,
    pub(crate) directory_bits: u32,
    pub(crate) filter_blocks: u32,
    /// Header checksum of the frame that holds the last position.
    pub(crate) checksum: u32,
}

/// Where the arrays of a run lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunLayout {
    pub(crate) entries: Section<ENTRY_BYTES>,
    pub(crate) directory: Section<4>,
    pub(crate) filter: Section<BLOCK_BYTES>,
    pub(crate) postings: Section<4>,
    /// Pages of the whole file.
    pub(crate) pages: u64,
}

impl RunHeader {
    pub(crate) fn encode(&self) -> [u8; CONTENT_BYTES] {
        let mut bytes = [0; CONTENT_BYTES];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 8, &MAJOR.to_le_bytes());
        put(&mut bytes, 10, &MINOR.to_le_bytes());
        put(&mut bytes, 12, &self.seed.to_le_bytes());
        put(&mut bytes, 16, &self.store.to_bytes());
        put(&mut bytes, 32, &self.first.to_le_bytes());
        put(&mut bytes, 40, &self.last.to_le_bytes());
        put(&mut bytes, 48, &self.entries.to_le_bytes());
        put(&mut bytes, 56, &self.postings.to_le_bytes());
        put(&mut bytes, 64, &self.directory_bits.to_le_bytes());
        put(&mut bytes, 68, &self.filter_blocks.to_le_bytes());
        put(&mut bytes, 72, &self.checksum.to_le_bytes());
        bytes
    }

    /// The header in the content of page 0, whose checksum the caller has verified.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.len() < CONTENT_BYTES || array_at::<8>(bytes, 0) != MAGIC {
            return Err("not a run of the index");
        }
        if u16_at(bytes, 8) != MAJOR {
            return Err("a run of another version");
        }
        if u16_at(bytes, 10) == MINOR && !is_zero(&bytes[HEAD_BYTES..CONTENT_BYTES]) {
            return Err("reserved bytes of a run are in use");
        }
        let header = Self {
            seed: u32_at(bytes, 12),
            store: StoreId::from_bytes(array_at(bytes, 16)),
            first: u64_at(bytes, 32),
            last: u64_at(bytes, 40),
            entries: u64_at(bytes, 48),
            postings: u64_at(bytes, 56),
            directory_bits: u32_at(bytes, 64),
            filter_blocks: u32_at(bytes, 68),
            checksum: u32_at(bytes, 72),
        };
        header.check().map(|()| header)
    }

    fn check(&self) -> Result<(), &'static str> {
        let is_range = self.first > 0 && self.last >= self.first && self.last < u64::MAX;
        if !is_range || self.last - self.first >= POSITIONS_MAX {
            return Err("the positions of a run contradict each other");
        }
        if self.entries > ENTRIES_MAX
            || self.entries > self.postings
            || self.directory_bits > DIRECTORY_BITS_MAX
            || (self.filter_blocks == 0 && self.entries > 0)
        {
            return Err("the sizes of a run contradict each other");
        }
        Ok(())
    }

    /// `None` if no file can be as large as this header says.
    pub(crate) fn layout(&self) -> Option<RunLayout> {
        let entries = Section::new(1, self.entries);
        let directory = Section::new(entries.end_page()?, (1u64 << self.directory_bits) + 1);
        let filter = Section::new(directory.end_page()?, u64::from(self.filter_blocks));
        let postings = Section::new(filter.end_page()?, self.postings);
        let pages = postings.end_page()?;
        pages.checked_mul(PAGE_BYTES as u64)?;
        Some(RunLayout { entries, directory, filter, postings, pages })
    }

    /// The place of a key in the directory.
    #[inline]
    pub(crate) fn bucket_of(&self, key: u64) -> u64 {
        // A shift by 64 is none in Rust: without bits there is one bucket.
        key.checked_shr(64 - self.directory_bits).unwrap_or(0)
    }
}

/// Bits of the directory for so many entries.
pub(crate) fn directory_bits_for(entries: u64) -> u32 {
    let buckets = entries.div_ceil(ENTRIES_PER_BUCKET).max(1);
    buckets.next_power_of_two().trailing_zeros().min(DIRECTORY_BITS_MAX)
}

/// Blocks of the filter for so many keys.
pub(crate) fn filter_blocks_for(keys: u64) -> u32 {
    let bits = keys.min(ENTRIES_MAX) * FILTER_BITS_PER_KEY;
    bits.div_ceil(BLOCK_BYTES as u64 * 8) as u32
}

/// The postings of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunEntry {
    pub(crate) key: u64,
    /// Index of the first posting.
    pub(crate) start: u64,
    /// Number of postings, at least 1.
    pub(crate) count: u32,
    /// The last posting: nine of ten questions about a stream are for its head.
    pub(crate) last: u32,
}

impl RunEntry {
    pub(crate) fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        put(&mut bytes, 0, &self.key.to_le_bytes());
        put(&mut bytes, 8, &self.start.to_le_bytes());
        put(&mut bytes, 16, &self.count.to_le_bytes());
        put(&mut bytes, 20, &self.last.to_le_bytes());
        bytes
    }

    #[inline]
    pub(crate) fn decode(bytes: &[u8; ENTRY_BYTES]) -> Self {
        Self { key: u64_at(bytes, 0), start: u64_at(bytes, 8), count: u32_at(bytes, 16), last: u32_at(bytes, 20) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> RunHeader {
        RunHeader {
            seed: 5,
            store: StoreId::from_bytes([3; 16]),
            first: 100,
            last: 300,
            entries: 171,
            postings: 1024,
            directory_bits: directory_bits_for(171),
            filter_blocks: filter_blocks_for(171),
            checksum: 9,
        }
    }

    #[test]
    fn a_header_and_an_entry_survive_the_round_trip() {
        assert_eq!(RunHeader::decode(&header().encode()), Ok(header()));
        let entry = RunEntry { key: 1, start: 2, count: 3, last: 4 };
        assert_eq!(RunEntry::decode(&entry.encode()), entry);
    }

    #[test]
    fn a_header_that_makes_no_sense_is_refused() {
        for (offset, value) in [(0, 0), (8, 2), (76, 1), (4000, 1)] {
            let mut bytes = header().encode();
            bytes[offset] = value;
            assert!(RunHeader::decode(&bytes).is_err(), "offset {offset}");
        }
        for broken in [
            RunHeader { first: 0, ..header() },
            RunHeader { last: 99, ..header() },
            RunHeader { last: u64::MAX, ..header() },
            RunHeader { first: u64::MAX, last: u64::MAX, ..header() },
            RunHeader { entries: ENTRIES_MAX + 1, postings: u64::MAX, ..header() },
            RunHeader { postings: 170, ..header() },
            RunHeader { directory_bits: 64, ..header() },
            RunHeader { filter_blocks: 0, ..header() },
        ] {
            assert!(RunHeader::decode(&broken.encode()).is_err(), "{broken:?}");
        }
        let endless = RunHeader { postings: u64::MAX, ..header() };
        assert_eq!(endless.layout(), None);
    }

    #[test]
    fn the_arrays_follow_each_other_on_pages_of_their_own() {
        let layout = header().layout().unwrap();
        assert_eq!((layout.entries, layout.directory), (Section::new(1, 171), Section::new(3, 65)));
        assert_eq!((layout.filter, layout.postings), (Section::new(4, 9), Section::new(5, 1024)));
        assert_eq!(layout.pages, 7);
    }

    #[test]
    fn a_key_has_its_bucket() {
        assert_eq!(RunHeader { directory_bits: 0, ..header() }.bucket_of(u64::MAX), 0);
        assert_eq!(RunHeader { directory_bits: 6, ..header() }.bucket_of(u64::MAX), 63);
        assert_eq!([directory_bits_for(0), directory_bits_for(4), directory_bits_for(5)], [0, 0, 1]);
        assert_eq!(directory_bits_for(ENTRIES_MAX), DIRECTORY_BITS_MAX);
    }

    #[test]
    fn each_limit_of_a_header_holds_exactly() {
        for whole in [
            RunHeader { first: 1, last: 1, ..header() },
            RunHeader { first: 1, last: POSITIONS_MAX, ..header() },
            RunHeader { first: u64::MAX - 1, last: u64::MAX - 1, ..header() },
            RunHeader { entries: ENTRIES_MAX, postings: ENTRIES_MAX, ..header() },
            RunHeader { directory_bits: DIRECTORY_BITS_MAX, ..header() },
            RunHeader { entries: 0, postings: 0, directory_bits: 0, filter_blocks: 0, ..header() },
        ] {
            assert_eq!(RunHeader::decode(&whole.encode()), Ok(whole));
        }
        for broken in [
            RunHeader { first: 1, last: POSITIONS_MAX + 1, ..header() },
            RunHeader { entries: ENTRIES_MAX + 1, postings: ENTRIES_MAX + 1, ..header() },
            RunHeader { directory_bits: DIRECTORY_BITS_MAX + 1, ..header() },
        ] {
            assert!(RunHeader::decode(&broken.encode()).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn a_newer_minor_version_may_use_reserved_bytes() {
        let mut bytes = header().encode();
        (bytes[10], bytes[HEAD_BYTES]) = (1, 1);
        assert_eq!(RunHeader::decode(&bytes), Ok(header()));
        assert!(RunHeader::decode(&bytes[..CONTENT_BYTES - 1]).is_err(), "a page that is cut");
    }
}
