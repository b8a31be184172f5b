//! From positions to frames: a table in memory, or a positions file on disk (FORMAT, section 8).
//!
//! Both also know the zones: the least and greatest event time of each 512 positions of a segment.

use std::sync::Arc;

use super::fault::{IndexFault, IndexFile, Result};
use super::paged::{Files, PagedFile, Unusable};
use super::window::{FrameAt, SegmentId};
use crate::format::positions::{Checkpoint, PositionsHeader, PositionsLayout, ZONE_POSITIONS, Zone};

/// Frames begin at multiples of this, and offsets are kept divided by it.
const OFFSET_UNIT: u64 = 8;

/// The frames of a range of positions of one segment, in memory.
#[derive(Debug, Clone, Default)]
pub(super) struct PositionTable {
    segment_first: u64,
    first: u64,
    offsets: Vec<u32>,
    /// The zones of the segment from the one of `first` on.
    zones: Vec<Zone>,
    checkpoint: Checkpoint,
}

impl PositionTable {
    pub(super) fn new(segment_first: u64, first: u64) -> Self {
        Self { segment_first, first, offsets: Vec::new(), zones: Vec::new(), checkpoint: Checkpoint::default() }
    }

    /// Begins anew, in the same memory.
    pub(super) fn reset(&mut self, segment_first: u64, first: u64) {
        (self.segment_first, self.first) = (segment_first, first);
        self.offsets.clear();
        self.zones.clear();
        self.checkpoint = Checkpoint::default();
    }

    /// Adds an event, by its time and the offset of the frame that holds it.
    #[inline]
    pub(super) fn push(&mut self, offset: u64, time: i64) {
        let unit = u32::try_from(offset / OFFSET_UNIT).expect("a segment is limited");
        let zone = zone_index(self.segment_first, self.next()) - self.first_zone();
        if zone == self.zones.len() as u64 {
            self.zones.push(Zone::EMPTY);
        }
        self.zones[zone as usize].add_time(time);
        self.offsets.push(unit);
    }

    /// Says that a commit is complete.
    pub(super) fn end_commit(&mut self, frame: FrameAt) {
        self.checkpoint = Checkpoint { offset: frame.offset, end: frame.end, checksum: frame.checksum };
    }

    /// The position behind the last.
    pub(super) fn next(&self) -> u64 {
        self.first + self.offsets.len() as u64
    }

    pub(super) fn offset_of(&self, position: u64) -> Option<u64> {
        let index = usize::try_from(position.checked_sub(self.first)?).ok()?;
        self.offsets.get(index).map(|unit| u64::from(*unit) * OFFSET_UNIT)
    }

    /// The offset of the frame of the event with this index, which must exist.
    pub(super) fn offset_at(&self, index: usize) -> u64 {
        u64::from(self.offsets[index]) * OFFSET_UNIT
    }

    pub(super) fn zone_of(&self, position: u64) -> Option<Zone> {
        self.offset_of(position)?;
        self.zone(zone_index(self.segment_first, position))
    }

    pub(super) fn checkpoint(&self) -> Checkpoint {
        self.checkpoint
    }

    /// About how many bytes of memory the table takes.
    pub(super) fn bytes(&self) -> usize {
        self.offsets.len() * size_of::<u32>() + self.zones.len() * size_of::<Zone>()
    }

    fn first_zone(&self) -> u64 {
        zone_index(self.segment_first, self.first)
    }

    /// A zone of the segment, as far as this table has it.
    fn zone(&self, index: u64) -> Option<Zone> {
        self.zones.get(usize::try_from(index.checked_sub(self.first_zone())?).ok()?).copied()
    }
}

fn zone_index(segment_first: u64, position: u64) -> u64 {
    (position - segment_first) / ZONE_POSITIONS
}

/// The last position that shares a zone with this one.
pub(super) fn zone_last(segment_first: u64, position: u64) -> u64 {
    segment_first + (zone_index(segment_first, position) + 1) * ZONE_POSITIONS - 1
}

/// The first position that shares a zone with this one.
pub(super) fn zone_first(segment_first: u64, position: u64) -> u64 {
    segment_first + zone_index(segment_first, position) * ZONE_POSITIONS
}

/// A positions file, open.
#[derive(Debug)]
pub(super) struct PositionsFile {
    pages: PagedFile,
    header: PositionsHeader,
    layout: PositionsLayout,
}

impl PositionsFile {
    /// Opens the positions file of a segment, if it is one of this store.
    pub(super) fn open(files: &Files, segment: u64) -> Result<Self, Unusable> {
        let decode = |page: &[u8]| {
            let header = PositionsHeader::decode(page).ok()?;
            let layout = header.layout()?;
            Some(((header, layout), layout.pages))
        };
        let (pages, (header, layout)) = files.open(IndexFile::Positions { segment }, decode)?;
        match header.store == files.store && header.segment == segment {
            true => Ok(Self { pages, header, layout }),
            false => Err(Unusable::Bad),
        }
    }

    pub(super) fn header(&self) -> &PositionsHeader {
        &self.header
    }

    pub(super) fn seed(&self) -> u32 {
        self.pages.seed()
    }

    pub(super) fn verify(&self) -> Vec<IndexFault> {
        self.pages.verify()
    }

    #[inline]
    fn offset_of(&self, position: u64) -> Result<Option<u64>> {
        let Some(index) = position.checked_sub(self.header.first).filter(|index| *index < self.header.count) else {
            return Ok(None);
        };
        self.pages.number(&self.layout.offsets, index).map(|unit| Some(u64::from(unit) * OFFSET_UNIT))
    }

    /// The offsets of several positions, all of which the file covers, in a loop so tight that the processor waits for
    /// all of them at once.
    fn offsets_of(&self, positions: &[u64], offsets: &mut [u64]) -> Result<()> {
        for (position, offset) in positions.iter().zip(offsets) {
            let index = position.wrapping_sub(self.header.first);
            *offset = u64::from(self.pages.number(&self.layout.offsets, index)?) * OFFSET_UNIT;
        }
        Ok(())
    }

    fn zone(&self, index: u64) -> Result<Option<Zone>> {
        match index < self.layout.zones.count {
            true => self.pages.element(&self.layout.zones, index).map(|bytes| Some(Zone::decode(&bytes))),
            false => Ok(None),
        }
    }
}

/// What is known of the positions of a segment outside of windows: those from its first on.
#[derive(Debug, Clone)]
pub(super) enum Positions {
    None,
    /// On disk.
    File(Arc<PositionsFile>),
    /// Rebuilt in memory, because nothing may be written.
    Memory(Arc<PositionTable>),
}

impl Positions {
    /// How many positions it covers.
    pub(super) fn count(&self) -> u64 {
        match self {
            Positions::None => 0,
            Positions::File(file) => file.header.count,
            Positions::Memory(table) => table.offsets.len() as u64,
        }
    }

    #[inline]
    pub(super) fn offset_of(&self, position: u64) -> Result<Option<u64>> {
        match self {
            Positions::File(file) => file.offset_of(position),
            Positions::Memory(table) => Ok(table.offset_of(position)),
            Positions::None => Ok(None),
        }
    }

    /// The offsets of several positions, all of which are covered.
    pub(super) fn offsets_of(&self, positions: &[u64], offsets: &mut [u64]) -> Result<()> {
        match self {
            Positions::File(file) => file.offsets_of(positions, offsets),
            Positions::Memory(_) | Positions::None => {
                for (position, offset) in positions.iter().zip(offsets) {
                    *offset = self.offset_of(*position)?.unwrap_or_default();
                }
                Ok(())
            }
        }
    }

    /// Asks the processor for the offset of a position that will be looked up soon.
    #[inline]
    pub(super) fn prefetch(&self, position: u64) {
        if let Positions::File(file) = self {
            file.pages.prefetch(&file.layout.offsets, position.wrapping_sub(file.header.first));
        }
    }

    pub(super) fn zone_of(&self, segment_first: u64, position: u64) -> Result<Option<Zone>> {
        self.zone(zone_index(segment_first, position))
    }

    fn zone(&self, index: u64) -> Result<Option<Zone>> {
        match self {
            Positions::File(file) => file.zone(index),
            Positions::Memory(table) => Ok(table.zone(index)),
            Positions::None => Ok(None),
        }
    }

    /// Makes the positions file of a segment from the positions of `self` that lie before the table, and the table's.
    pub(super) fn write(&self, files: &Files, segment: SegmentId, table: &PositionTable) -> Result<PositionsFile> {
        let kept = table.first - segment.first;
        assert!(kept <= self.count(), "the positions of a segment have no gaps");
        let count = kept + table.offsets.len() as u64;
        let mut header = PositionsHeader {
            seed: 0,
            store: files.store,
            segment: segment.number,
            salt: segment.salt,
            first: segment.first,
            count,
            checkpoint: table.checkpoint,
        };
        let layout = header.layout().expect("what fits into memory fits into a file");
        let draft = files.draft(IndexFile::Positions { segment: segment.number }, layout.pages)?;
        header.seed = draft.seed();
        let mut offsets = draft.section(layout.offsets);
        for position in segment.first..segment.first + count {
            let known = match position < table.first {
                true => self.offset_of(position)?,
                false => table.offset_of(position),
            };
            let unit = known.unwrap_or_default() / OFFSET_UNIT;
            offsets.push(&(unit as u32).to_le_bytes())?;
        }
        offsets.finish()?;
        let mut zones = draft.section(layout.zones);
        for index in 0..layout.zones.count {
            let mut zone = table.zone(index).unwrap_or(Zone::EMPTY);
            zone.add(self.zone(index)?.unwrap_or(Zone::EMPTY));
            zones.push(&zone.encode())?;
        }
        zones.finish()?;
        draft.publish(&header.encode())?;
        reopen(files, segment.number)
    }
}

fn reopen(files: &Files, segment: u64) -> Result<PositionsFile> {
    let path = || files.disk.locate(&IndexFile::Positions { segment }.path());
    PositionsFile::open(files, segment).map_err(|unusable| unusable.of_new_file(&path()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::fault::IndexError;
    use crate::index::paged::tests::{contents, files, replace};
    use crate::storage::ReadMode;

    const SEGMENT: SegmentId = SegmentId { number: 4, salt: 99, first: 1_000 };

    /// Frames of two events; the time of position p is p.
    fn table(first: u64, count: u64) -> PositionTable {
        let mut table = PositionTable::new(SEGMENT.first, first);
        for position in (first..first + count).step_by(2) {
            let offset = position * 8;
            let frame =
                FrameAt { segment: 4, offset, end: offset + 16, checksum: position as u32, first_position: position };
            table.push(frame.offset, position as i64);
            table.push(frame.offset, position as i64 + 1);
            table.end_commit(frame);
        }
        table
    }

    fn check(positions: &Positions, count: u64) {
        for position in 1_000..1_000 + count {
            assert_eq!(positions.offset_of(position).unwrap(), Some((position & !1) * 8), "{position}");
            let zone = positions.zone_of(1_000, position).unwrap().unwrap();
            let last = zone_last(1_000, position).min(999 + count);
            let expected = Zone { least: zone_first(1_000, position) as i64, greatest: last as i64 };
            assert_eq!(zone, expected, "{position}");
        }
        assert_eq!(positions.offset_of(1_000 + count).unwrap(), None);
        assert_eq!(positions.offset_of(999).unwrap(), None);
    }

    #[test]
    fn a_file_grows_window_by_window() {
        for mode in [ReadMode::Map, ReadMode::Pread] {
            let (_, files) = files(mode);
            let mut positions = Positions::None;
            for (first, count) in [(1_000, 700), (1_700, 2), (1_702, 3_000)] {
                let table = table(first, count);
                positions = Positions::File(positions.write(&files, SEGMENT, &table).unwrap().into());
                check(&positions, first + count - 1_000);
            }
            let reopened = PositionsFile::open(&files, 4).unwrap();
            assert_eq!(reopened.header().checkpoint, table(1_702, 3_000).checkpoint());
            assert_eq!((reopened.header().last(), reopened.header().salt), (4_701, 99));
            check(&Positions::File(reopened.into()), 3_702);
        }
    }

    #[test]
    fn what_reaches_beyond_the_window_is_replaced_by_it() {
        let (_, files) = files(ReadMode::Map);
        let longer = Positions::Memory(table(1_000, 1_000).into());
        check(&longer, 1_000);
        let positions = longer.write(&files, SEGMENT, &table(1_100, 300)).unwrap();
        assert_eq!(positions.header().count, 400);
        assert_eq!(Positions::File(positions.into()).offset_of(1_399).unwrap(), Some(1_398 * 8));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (disk, files) = files(ReadMode::Map);
        Positions::None.write(&files, SEGMENT, &table(1_000, 20)).unwrap();
        let path = IndexFile::Positions { segment: 4 }.path();
        let bytes = contents(&disk, &path);
        for bit in (0..bytes.len() * 8).step_by(41).chain(0..800) {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            replace(&disk, &path, &flipped);
            let Ok(file) = PositionsFile::open(&files, 4) else { continue };
            assert_eq!(file.verify().len(), 1, "bit {bit}");
            let read = file.offset_of(1_005).and_then(|_| file.zone(0));
            assert!(matches!(read, Err(IndexError::Damaged(_))), "bit {bit}");
        }
    }

    #[test]
    fn the_file_of_another_segment_or_store_is_refused() {
        let (disk, files) = files(ReadMode::Map);
        Positions::None.write(&files, SEGMENT, &table(1_000, 20)).unwrap();
        let bytes = contents(&disk, &IndexFile::Positions { segment: 4 }.path());
        disk_with(&disk, 5, &bytes);
        assert!(matches!(PositionsFile::open(&files, 5), Err(Unusable::Bad)));
        let other = Files { store: crate::StoreId::from_bytes([6; 16]), ..files };
        assert!(matches!(PositionsFile::open(&other, 4), Err(Unusable::Bad)));
    }

    fn disk_with(disk: &crate::storage::MemoryDisk, segment: u64, bytes: &[u8]) {
        use crate::storage::Disk;
        disk.create(&IndexFile::Positions { segment }.path()).unwrap().write_at(bytes, 0).unwrap();
    }
}
