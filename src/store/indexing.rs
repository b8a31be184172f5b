//! Keeping the index up to the log: what follows its last spill is indexed again at open, and a reader takes in what its
//! writer appends.

use std::sync::Arc;

use super::Inner;
use super::event::Event;
use crate::error::{Error, Result};
use crate::format::frame::Frame;
use crate::index::{self, FrameAt as IndexedFrame, Index, IndexError, IndexOptions, KeySeed, SegmentSpan};
use crate::log::{FIRST_FRAME, Log};
use crate::storage::Disk;

/// An index of so few bytes of the log is not worth a file when the store is closed.
const SETTLED_BYTES_MIN: u64 = 256 * 1024;
/// How often what needs the index has damaged files of it rebuilt before it gives up: more often than files can be damaged
/// by chance.
const REPAIRS_MAX: usize = 64;
/// A reader that holds so many full windows in memory looks whether the writer has put them on disk.
pub(super) const FULL_WINDOWS_MAX: usize = 2;

/// Brings an index up to a log.
#[derive(Clone, Copy)]
pub(super) struct Indexer<'a> {
    pub(super) log: &'a Log,
    pub(super) index: &'a Index,
    pub(super) seed: KeySeed,
}

impl Indexer<'_> {
    /// Does something with the index; after the repair of a damaged file it is done again.
    pub(super) fn with_repair<T>(&self, mut act: impl FnMut() -> Result<T, IndexError>) -> Result<T> {
        for _ in 0..REPAIRS_MAX {
            match act() {
                Ok(done) => return Ok(done),
                Err(error) => match error.fault() {
                    Some(fault) => self.index.repair(fault, self.log)?,
                    None => return Err(error.into()),
                },
            }
        }
        act().map_err(Error::from)
    }

    /// Writes the windows to disk that are full and synced. What was written before is read for it.
    fn spill(&self) -> Result<()> {
        while self.with_repair(|| self.index.spill(self.log.synced()))? {}
        Ok(())
    }

    /// Indexes what is not indexed yet up to a position; how many events that were.
    pub(super) fn index_tail(&self, head: u64) -> Result<u64> {
        let begun = self.index.covered();
        while self.index.covered() < head {
            self.index_segment_from(self.index.covered() + 1, head)?;
        }
        Ok(head - begun.min(head))
    }

    fn index_segment_from(&self, next: u64, head: u64) -> Result<()> {
        let segments = self.log.segments();
        let segment = segments.holding(next).ok_or_else(|| {
            let log = self.log.disk().locate(crate::log::LOG_DIR);
            Error::corrupt(log, 0, format!("no segment holds position {next}"))
        })?;
        if self.index.active_segment() != segment.number {
            self.index.roll(segment.number, segment.salt, segment.first_position);
        }
        // Behind the frame of the last position that is indexed, if it is in this segment.
        let before = match next > segment.first_position {
            true => self.with_repair(|| self.index.view().locate(next - 1))?,
            false => None,
        };
        let offset = before.map_or(FIRST_FRAME, |place| place.offset);
        self.log.scan(segment.number, offset, head, &mut |offset, frame| match frame.header.link.first_position {
            first if first < next => Ok(()),
            _ => self.index_frame(segment.number, offset, frame),
        })?;
        match self.index.covered() < next {
            true => Err(segment.corrupt(offset, &format!("position {next} is missing"))),
            false => Ok(()),
        }
    }

    fn index_frame(&self, segment: u64, offset: u64, frame: &Frame<'_>) -> Result<()> {
        let mut events = Vec::with_capacity(frame.header.count as usize);
        for ordinal in 0..frame.header.count {
            let position = frame.header.link.first_position + u64::from(ordinal);
            let event = frame.record(ordinal).and_then(|bytes| Event::decode(&frame.header, position, bytes));
            events.push(event.map_err(|reason| Error::corrupt(self.log.path(segment), offset, reason))?);
        }
        let keys = events
            .iter()
            .map(|event| self.seed.event(event.stream, event.event_type, event.tags(), event.time, event.version));
        let at = IndexedFrame {
            segment,
            offset,
            end: offset + frame.header.frame_len() as u64,
            checksum: frame.header.checksum,
            first_position: frame.header.link.first_position,
        };
        self.index.insert(at, keys);
        if self.index.is_over_budget() {
            self.index.freeze();
            self.spill()?;
        }
        Ok(())
    }
}

impl Inner {
    pub(super) fn indexer(&self) -> Indexer<'_> {
        Indexer { log: &self.log, index: &self.index, seed: self.seed }
    }

    pub(super) fn index_tail(&self, head: u64) -> Result<u64> {
        self.indexer().index_tail(head)
    }

    /// Writes the index of the newest events to disk if it is worth it, so that the next open has little to do.
    pub(super) fn settle_index(&self) -> Result<()> {
        if self.index.active_log_bytes() >= SETTLED_BYTES_MIN {
            self.index.freeze();
        }
        self.spill_index()
    }

    pub(super) fn spill_index(&self) -> Result<()> {
        self.indexer().spill()
    }

    /// Merges runs, once; `false` if they are fine.
    pub(super) fn merge_index(&self) -> Result<bool> {
        self.with_repair(|| self.index.merge())
    }

    /// Lets go of windows that the writer has put on disk by now, if a reader holds so many: its memory stays bounded,
    /// however long it follows. Returns how many it may hold before it is tried again: more, after a failure. That is no
    /// reason not to read.
    pub(super) fn let_go_of_windows(&self, windows_max: usize) -> usize {
        let frozen = self.index.view().frozen_windows();
        if frozen < windows_max {
            return windows_max;
        }
        match self.take_over_windows() {
            Ok(()) => FULL_WINDOWS_MAX,
            Err(_) => frozen * 2,
        }
    }

    /// Goes on with the index that is on disk, where it covers more than it did.
    fn take_over_windows(&self) -> Result<()> {
        let view = self.index.view();
        let visible = self.log.visible();
        let written = index::checkpoints(&self.disk)?.into_iter().map(|known| known.position);
        if written.filter(|position| *position <= visible).max().unwrap_or(0) <= view.run_end() {
            return Ok(());
        }
        let index = self.index.open_again(&spans_of(&self.log), &*self.log)?;
        Indexer { index: &index, ..self.indexer() }.index_tail(visible)?;
        self.index.adopt(&index);
        Ok(())
    }
}

/// Opens the index of a log.
pub(super) fn open_index(
    disk: &Arc<dyn Disk>,
    log: &Log,
    options: IndexOptions,
    progress: &mut dyn FnMut(index::RebuildProgress),
) -> Result<Index> {
    Ok(Index::open(Arc::clone(disk), log.store(), options, &spans_of(log), log, progress)?)
}

fn spans_of(log: &Log) -> Vec<SegmentSpan> {
    let segments = log.segments();
    let mut ends = segments.iter().skip(1).map(|segment| segment.first_position);
    segments
        .iter()
        .map(|segment| SegmentSpan {
            number: segment.number,
            salt: segment.salt,
            first_position: segment.first_position,
            end_position: ends.next(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{NewEvent, Options, Query, Store};
    use crate::error::ExpectedVersion;
    use crate::randomness::SeededRandomness;
    use crate::storage::{Access, Call, Disk, Fault, FaultyDisk, MemoryDisk};
    use crate::types::Durability;

    /// Where the zones begin in a positions file of few positions, which nobody reads but whoever writes the next one.
    const ZONES_AT: u64 = 8192;

    fn open(disk: impl Disk + 'static) -> Store {
        let options = Options::new().index_tail_bytes_max(3000).randomness(SeededRandomness::new(5));
        Store::open_on(Arc::new(disk), options.durability(Durability::Os).without_background_work(), true).unwrap()
    }

    fn append(store: &Store) {
        (0..20).for_each(|_| append_one(store));
    }

    fn append_one(store: &Store) {
        let event = NewEvent::raw("Deposited", vec![b'1'; 500]);
        store.append("account-alice", ExpectedVersion::Any, [event]).unwrap();
    }

    fn damage(disk: &MemoryDisk) {
        let file = disk.open("index/0000000001.positions", Access::ReadWrite).unwrap();
        file.write_at(b"rot", ZONES_AT).unwrap();
    }

    /// A positions file of which a page had rotted kept the next one from being written: the newest windows stayed in
    /// memory, more and more of them.
    #[test]
    fn a_damaged_index_file_keeps_no_window_in_memory() {
        let disk = MemoryDisk::new();
        let store = open(disk.clone());
        append(&store);
        store.maintain().unwrap();
        store.close().unwrap();
        damage(&disk);
        let store = open(disk);
        append(&store);
        store.maintain().unwrap();
        assert_eq!(store.handle.inner.index.view().frozen_windows(), 0);
        assert_eq!(store.read(Query::stream("account-alice")).count().unwrap(), 40);
    }

    /// The append that had filled a window handed it to the next one: where none came, its memory stayed.
    #[test]
    fn a_window_that_is_on_disk_is_held_by_nobody() {
        let store = open(MemoryDisk::new());
        let window = Arc::downgrade(&store.handle.inner.index.active());
        while window.upgrade().is_some_and(|window| !window.is_frozen()) {
            append_one(&store);
        }
        assert!(window.upgrade().is_some());
        store.maintain().unwrap();
        assert!(window.upgrade().is_none());
    }

    /// The append before hands its window on.
    #[test]
    fn an_append_goes_to_the_window_that_is_active_and_not_to_a_frozen_one() {
        let store = open(MemoryDisk::new());
        let inner = &store.handle.inner;
        append_one(&store);
        inner.index.freeze();
        store.sync().unwrap();
        inner.spill_index().unwrap();
        append_one(&store);
        assert_eq!(store.read(Query::stream("account-alice")).count().unwrap(), 2);
    }

    /// A store whose index has runs to merge, and its disks.
    fn with_runs() -> (MemoryDisk, FaultyDisk) {
        let disk = MemoryDisk::new();
        let store = open(disk.clone());
        while !store.handle.inner.index.wants_merge() {
            append(&store);
            store.sync().unwrap();
            store.handle.inner.spill_index().unwrap();
        }
        store.close().unwrap();
        (disk.clone(), FaultyDisk::on_memory(disk))
    }

    /// Fills a window and writes it to disk while the index is merged.
    fn spill_while_merging(store: &Store, disk: &FaultyDisk) {
        let inner = &store.handle.inner;
        let window = Arc::downgrade(&inner.index.active());
        // Only a merge makes another run that begins with the first event.
        disk.hold(Call::Create, "/00000000000000000001-");
        std::thread::scope(|scope| {
            let merging = scope.spawn(|| inner.merge_index().unwrap());
            disk.wait_held();
            while window.upgrade().is_some_and(|window| !window.is_frozen()) {
                append_one(store);
            }
            store.sync().unwrap();
            inner.spill_index().unwrap();
            let left = (inner.index.view().frozen_windows(), window.upgrade().is_some());
            disk.release();
            assert!(merging.join().unwrap());
            assert_eq!(left, (0, false), "windows to be written, and whether the one that was is in memory as well");
        });
    }

    /// Found by review. A merge held the windows that there were when it began, for as long as it took.
    #[test]
    fn a_window_that_is_on_disk_is_held_by_no_merge() {
        let (_, disk) = with_runs();
        spill_while_merging(&open(disk.clone()), &disk);
    }

    /// Found by review. To repair the file that a window needs to be written, its thread waited for the end of the merge, and
    /// synced nothing meanwhile. This would wait for ever.
    #[test]
    fn a_damaged_positions_file_is_repaired_while_the_index_is_merged() {
        let (memory, disk) = with_runs();
        damage(&memory);
        let store = open(disk.clone());
        spill_while_merging(&store, &disk);
        let events = store.head().unwrap().unwrap().number();
        assert_eq!(store.read(Query::stream("account-alice")).count().unwrap(), events);
    }

    /// The same kept a store from being opened that had not been closed.
    #[test]
    fn a_damaged_index_file_keeps_no_store_from_being_opened() {
        let disk = MemoryDisk::new();
        let faulty = FaultyDisk::new(disk.clone());
        let store = open(faulty.clone());
        append(&store);
        store.maintain().unwrap();
        append(&store);
        faulty.inject(Fault::all_after(0));
        drop(store);
        damage(&disk);
        let store = open(disk);
        assert_eq!(store.open_report().indexed_events, 20);
        assert_eq!(store.read(Query::stream("account-alice")).count().unwrap(), 40);
    }
}
