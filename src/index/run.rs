//! Runs: the immutable files from keys to positions (FORMAT, section 8).
//!
//! A lookup touches a filter block, two numbers of the directory, an entry or two, and the postings themselves. What it
//! finds belongs to a hash, not to a name: it is a candidate.

use std::cmp::Reverse;
use std::sync::Arc;

use smallvec::SmallVec;

use super::fault::{IndexError, IndexFault, IndexFile, Result};
use super::filter;
use super::paged::{Draft, Files, PagedFile, SectionWriter, Unusable};
use super::postings::Postings;
use super::window::Window;
use crate::format::run::{
    BLOCK_BYTES, ENTRY_BYTES, RunEntry, RunHeader, RunLayout, directory_bits_for, filter_blocks_for,
};

/// A run, open.
#[derive(Debug)]
pub(super) struct Run {
    pages: PagedFile,
    header: RunHeader,
    layout: RunLayout,
}

/// The postings of one key in a run: a range of them, as far as it was checked, and the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) start: u64,
    pub(super) count: u32,
    pub(super) last: u32,
}

impl Run {
    /// Opens the run of these positions, if it is one of this store.
    pub(super) fn open(files: &Files, first: u64, last: u64) -> Result<Self, Unusable> {
        let decode = |page: &[u8]| {
            let header = RunHeader::decode(page).ok()?;
            let layout = header.layout()?;
            Some(((header, layout), layout.pages))
        };
        let (pages, (header, layout)) = files.open(IndexFile::Run { first, last }, decode)?;
        match header.store == files.store && header.first == first && header.last == last {
            true => Ok(Self { pages, header, layout }),
            false => Err(Unusable::Bad),
        }
    }

    pub(super) fn header(&self) -> &RunHeader {
        &self.header
    }

    /// Where it stands among the runs: in order, and before those that are part of it.
    pub(super) fn order(&self) -> (u64, Reverse<u64>) {
        (self.first(), Reverse(self.last()))
    }

    pub(super) fn first(&self) -> u64 {
        self.header.first
    }

    pub(super) fn last(&self) -> u64 {
        self.header.last
    }

    pub(super) fn id(&self) -> IndexFile {
        self.pages.id()
    }

    pub(super) fn seed(&self) -> u32 {
        self.pages.seed()
    }

    /// Bytes of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.pages.bytes()
    }

    pub(super) fn verify(&self) -> Vec<IndexFault> {
        self.pages.verify()
    }

    /// The postings of a key; `None` if the run has none.
    pub(super) fn lookup(&self, key: u64) -> Result<Option<Found>> {
        if !self.may_hold(key)? {
            return Ok(None);
        }
        let bucket = self.header.bucket_of(key);
        let mut low = u64::from(self.pages.number(&self.layout.directory, bucket)?);
        let mut high = u64::from(self.pages.number(&self.layout.directory, bucket + 1)?);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = self.entry(middle)?;
            match entry.key.cmp(&key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return self.found(&entry).map(Some),
            }
        }
        Ok(None)
    }

    /// Asks the processor for what a lookup reads first.
    #[inline]
    pub(super) fn prefetch(&self, key: u64) {
        self.pages.prefetch(&self.layout.filter, filter::block_of(key, u64::from(self.header.filter_blocks)));
        self.pages.prefetch(&self.layout.directory, self.header.bucket_of(key));
    }

    fn may_hold(&self, key: u64) -> Result<bool> {
        let blocks = u64::from(self.header.filter_blocks);
        if blocks == 0 {
            return Ok(false);
        }
        let block = self.pages.element(&self.layout.filter, filter::block_of(key, blocks))?;
        Ok(filter::may_hold(&block, key))
    }

    #[inline]
    pub(super) fn entry(&self, index: u64) -> Result<RunEntry> {
        self.pages.element(&self.layout.entries, index).map(|bytes| RunEntry::decode(&bytes))
    }

    /// The postings of an entry, which lie inside the file: a checksum that holds is no promise of that.
    pub(super) fn found(&self, entry: &RunEntry) -> Result<Found> {
        let end = entry.start.checked_add(u64::from(entry.count));
        let fits = end.is_some_and(|end| end <= self.header.postings)
            && entry.count > 0
            && u64::from(entry.last) <= self.header.last - self.header.first;
        match fits {
            true => Ok(Found { start: entry.start, count: entry.count, last: entry.last }),
            false => Err(self.pages.fault(0, "an entry of a run reaches beyond its postings")),
        }
    }

    /// What is wrong if the postings of a key do not ascend.
    #[cold]
    pub(super) fn disorder(&self) -> IndexError {
        self.pages.fault(0, "the postings of a key are not in order")
    }

    #[inline]
    pub(super) fn posting(&self, index: u64) -> Result<u32> {
        self.pages.number(&self.layout.postings, index)
    }

    /// The position that one of the postings stands for.
    #[inline]
    pub(super) fn position(&self, found: &Found, index: u32) -> Result<u64> {
        // The last one is known, which spares a stream of one event, and a head, a miss of the cache.
        let posting = match index + 1 == found.count {
            true => found.last,
            false => self.posting(found.start + u64::from(index))?,
        };
        Ok(self.header.first + u64::from(posting))
    }

    /// How many of the postings are less than a position.
    pub(super) fn count_below(&self, found: &Found, position: u64) -> Result<u32> {
        let Some(target) = position.checked_sub(self.header.first) else { return Ok(0) };
        if target > u64::from(found.last) {
            return Ok(found.count);
        }
        let (mut low, mut high) = (0, found.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match u64::from(self.posting(found.start + u64::from(middle))?) < target {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        Ok(low)
    }
}

/// The postings of one key as a list that owns its run.
#[derive(Debug)]
pub(super) struct RunPostings {
    pub(super) run: Arc<Run>,
    pub(super) found: Found,
}

impl Postings for RunPostings {
    fn len(&self) -> usize {
        self.found.count as usize
    }

    #[inline]
    fn at(&self, index: usize) -> Result<u32> {
        self.run.posting(self.found.start + index as u64)
    }
}

/// How much a run will hold, counted before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct RunSize {
    pub(super) entries: u64,
    pub(super) postings: u64,
}

/// Writes a run in one pass over its keys, which come in ascending order, with a page or a few of each array in memory.
pub(super) struct RunWriter {
    draft: Draft,
    header: RunHeader,
    entries: SectionWriter<ENTRY_BYTES>,
    directory: SectionWriter<4>,
    filter: SectionWriter<BLOCK_BYTES>,
    postings: SectionWriter<4>,
    /// The filter block that is being filled.
    block: [u8; BLOCK_BYTES],
}

impl RunWriter {
    /// Begins the run of these positions. `checksum` is that of the frame that holds the last one.
    pub(super) fn create(files: &Files, first: u64, last: u64, checksum: u32, size: RunSize) -> Result<Self> {
        let mut header = RunHeader {
            seed: 0,
            store: files.store,
            first,
            last,
            entries: size.entries,
            postings: size.postings,
            directory_bits: directory_bits_for(size.entries),
            filter_blocks: filter_blocks_for(size.entries),
            checksum,
        };
        let layout = header.layout().expect("the sizes of a run are limited");
        let draft = files.draft(IndexFile::Run { first, last }, layout.pages)?;
        header.seed = draft.seed();
        Ok(Self {
            header,
            entries: draft.section(layout.entries),
            directory: draft.section(layout.directory),
            filter: draft.section(layout.filter),
            postings: draft.section(layout.postings),
            block: [0; BLOCK_BYTES],
            draft,
        })
    }

    /// Adds a key that has `count` postings, of which `last` is the last. They follow by `posting`.
    pub(super) fn key(&mut self, key: u64, count: u32, last: u32) -> Result<()> {
        let index = self.entries.pushed();
        self.fill_directory(self.header.bucket_of(key), index)?;
        let block = filter::block_of(key, u64::from(self.header.filter_blocks));
        self.fill_filter(block)?;
        filter::insert(&mut self.block, key);
        let start = self.postings.pushed();
        self.entries.push(&RunEntry { key, start, count, last }.encode())
    }

    pub(super) fn posting(&mut self, posting: u32) -> Result<()> {
        self.postings.push(&posting.to_le_bytes())
    }

    /// Says that the buckets up to this one begin at entry `index` or before.
    fn fill_directory(&mut self, bucket: u64, index: u64) -> Result<()> {
        while self.directory.pushed() <= bucket {
            self.directory.push(&(index as u32).to_le_bytes())?;
        }
        Ok(())
    }

    /// Writes the filter blocks before this one.
    fn fill_filter(&mut self, block: u64) -> Result<()> {
        while self.filter.pushed() < block {
            self.filter.push(&self.block)?;
            self.block = [0; BLOCK_BYTES];
        }
        Ok(())
    }

    /// Gives the run its name, which is durable once the directory is synced, and opens it.
    pub(super) fn finish(mut self, files: &Files) -> Result<Run> {
        self.fill_directory(1 << self.header.directory_bits, self.header.entries)?;
        self.fill_filter(u64::from(self.header.filter_blocks))?;
        self.entries.finish()?;
        self.directory.finish()?;
        self.filter.finish()?;
        self.postings.finish()?;
        self.draft.publish(&self.header.encode())?;
        let RunHeader { first, last, .. } = self.header;
        let path = || files.disk.locate(&IndexFile::Run { first, last }.path());
        Run::open(files, first, last).map_err(|unusable| unusable.of_new_file(&path()))
    }
}

/// Writes a frozen window as a run.
pub(super) fn write(files: &Files, window: &Window) -> Result<Run> {
    let reader = window.read();
    let lists = reader.lists();
    let mut size = RunSize::default();
    for (_, same) in groups(&lists) {
        size.entries += 1;
        size.postings += merged(same).len() as u64;
    }
    let (first, last) = (window.first, window.next_position() - 1);
    let mut writer = RunWriter::create(files, first, last, window_checksum(&reader), size)?;
    for (key, same) in groups(&lists) {
        let postings = merged(same);
        writer.key(key, postings.len() as u32, postings[postings.len() - 1])?;
        for posting in &*postings {
            writer.posting(*posting)?;
        }
    }
    writer.finish(files)
}

fn window_checksum(reader: &super::window::WindowReader<'_>) -> u32 {
    reader.positions().checkpoint().checksum
}

/// The lists of each hash.
fn groups<'a>(lists: &'a [(u64, &'a [u32])]) -> impl Iterator<Item = (u64, &'a [(u64, &'a [u32])])> {
    lists.chunk_by(|one, other| one.0 == other.0).map(|same| (same[0].0, same))
}

/// What the lists of one hash have together: a list of its own only where names collide.
fn merged<'a>(same: &'a [(u64, &'a [u32])]) -> std::borrow::Cow<'a, [u32]> {
    if let [(_, postings)] = same {
        return (*postings).into();
    }
    let mut all: SmallVec<[u32; 16]> = same.iter().flat_map(|(_, postings)| postings.iter().copied()).collect();
    all.sort_unstable();
    all.dedup();
    all.into_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::key::{KeyKind, KeySeed};
    use crate::index::paged::tests::{contents, faulty_files, files, replace};
    use crate::index::window::{FrameAt, SegmentId};
    use crate::storage::{Call, Disk, ReadMode};
    use crate::types::StoreId;

    /// One event a commit; the stream of position p is `s-(p % streams)`.
    fn window(seed: KeySeed, streams: u64, count: u64) -> Window {
        let window = Window::new(SegmentId { number: 3, salt: 9, first: 100 }, 150);
        for position in 150..150 + count {
            let stream = format!("s-{}", position % streams);
            let event = seed.event(&stream, "type", [], 0, 1);
            let offset = position * 8;
            window.insert(
                FrameAt { segment: 3, offset, end: offset + 8, checksum: 7, first_position: position },
                &[event],
            );
        }
        window
    }

    fn positions(run: &Run, key: u64) -> Vec<u64> {
        let Some(found) = run.lookup(key).unwrap() else { return vec![] };
        let postings: Vec<u32> =
            (0..u64::from(found.count)).map(|index| run.posting(found.start + index).unwrap()).collect();
        assert_eq!(postings.last(), Some(&found.last));
        postings.iter().map(|posting| run.first() + u64::from(*posting)).collect()
    }

    #[test]
    fn a_run_has_what_the_window_had() {
        for mode in [ReadMode::Map, ReadMode::Pread] {
            for streams in [1, 7, 5_000] {
                let (_, files) = files(mode);
                let seed = KeySeed::of(files.store);
                let run = write(&files, &window(seed, streams, 6_000)).unwrap();
                assert_eq!((run.first(), run.last(), run.header().checksum), (150, 6_149, 7));
                for stream in 0..streams {
                    let name = format!("s-{stream}");
                    let key = seed.key(KeyKind::Stream, &name).hash;
                    let expected: Vec<u64> = (150..6_150).filter(|position| position % streams == stream).collect();
                    assert_eq!(positions(&run, key), expected, "{name} of {streams}");
                    assert_eq!(positions(&run, key ^ 1), [0; 0]);
                }
                assert_eq!(run.verify(), []);
            }
        }
    }

    #[test]
    fn the_postings_below_a_position_are_counted() {
        let (_, files) = files(ReadMode::Map);
        let seed = KeySeed::of(files.store);
        let run = write(&files, &window(seed, 7, 100)).unwrap();
        let found = run.lookup(seed.key(KeyKind::Stream, "s-3").hash).unwrap().unwrap();
        for position in 0..300u64 {
            let expected = (150..position.min(250)).filter(|position| position % 7 == 3).count();
            assert_eq!(run.count_below(&found, position).unwrap() as usize, expected, "{position}");
        }
    }

    #[test]
    fn names_with_one_hash_share_an_entry() {
        let (_, files) = files(ReadMode::Map);
        let seed = KeySeed::of(files.store).colliding(0);
        let run = write(&files, &window(seed, 7, 100)).unwrap();
        assert_eq!(run.header().entries, 1);
        assert_eq!(positions(&run, 0), (150..250).collect::<Vec<u64>>());
    }

    /// Under another name it would answer for positions that it does not have.
    #[test]
    fn a_run_under_another_name_or_of_another_store_is_refused() {
        let (disk, files) = files(ReadMode::Map);
        let path = write(&files, &window(KeySeed::of(files.store), 7, 100)).unwrap().id().path();
        let bytes = contents(&disk, &path);
        for (first, last) in [(150, 250), (150, 248), (149, 249), (151, 249)] {
            disk.create(&IndexFile::Run { first, last }.path()).unwrap().write_at(&bytes, 0).unwrap();
            assert!(matches!(Run::open(&files, first, last), Err(Unusable::Bad)), "{first} to {last}");
        }
        let other = Files { store: StoreId::from_bytes([6; 16]), ..files.clone() };
        assert!(matches!(Run::open(&other, 150, 249), Err(Unusable::Bad)));
        assert!(Run::open(&files, 150, 249).is_ok());
    }

    #[test]
    fn an_entry_that_reaches_beyond_its_run_is_a_fault() {
        let (_, files) = files(ReadMode::Map);
        let run = write(&files, &window(KeySeed::of(files.store), 7, 100)).unwrap();
        let start = run.header().postings - 2;
        let entry = RunEntry { key: 1, start, count: 2, last: 99 };
        assert_eq!(run.found(&entry).unwrap(), Found { start, count: 2, last: 99 });
        let wrong = [
            RunEntry { count: 3, ..entry },
            RunEntry { count: 0, ..entry },
            RunEntry { last: 100, ..entry },
            RunEntry { start: u64::MAX, ..entry },
        ];
        for entry in wrong {
            assert!(matches!(run.found(&entry), Err(IndexError::Damaged(_))), "{entry:?}");
        }
    }

    /// What the filter is for, and the last posting in an entry.
    #[test]
    fn a_lookup_reads_no_page_that_it_can_do_without() {
        let (disk, files) = faulty_files(ReadMode::Pread);
        let seed = KeySeed::of(files.store);
        write(&files, &window(seed, 7, 100)).unwrap();
        let run = Run::open(&files, 150, 249).unwrap();
        let reads = |ask: &mut dyn FnMut()| {
            let before = disk.calls(Call::Read);
            ask();
            disk.calls(Call::Read) - before
        };
        let hash = |name| seed.key(KeyKind::Stream, name).hash;
        assert_eq!(reads(&mut || assert_eq!(run.lookup(hash("s-7")).unwrap(), None)), 1, "the filter says no");
        let mut found = None;
        assert_eq!(reads(&mut || found = run.lookup(hash("s-3")).unwrap()), 2, "the directory and the entry");
        let found = found.unwrap();
        let last = found.count - 1;
        assert_eq!(reads(&mut || assert_eq!(run.position(&found, last).unwrap(), 248)), 0, "the entry has the last");
        assert_eq!(reads(&mut || assert_eq!(run.position(&found, 0).unwrap(), 150)), 1, "the others are read");
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (disk, files) = files(ReadMode::Map);
        let seed = KeySeed::of(files.store);
        let path = write(&files, &window(seed, 3, 20)).unwrap().id().path();
        let bytes = contents(&disk, &path);
        let key = seed.key(KeyKind::Stream, "s-1").hash;
        for bit in (0..bytes.len() * 8).step_by(41).chain(0..800) {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            replace(&disk, &path, &flipped);
            let Ok(run) = Run::open(&files, 150, 169) else { continue };
            assert_eq!(run.verify().len(), 1, "bit {bit}");
            let read = run.lookup(key).and_then(|found| run.posting(found.map_or(0, |found| found.start)));
            assert!(matches!(read, Err(IndexError::Damaged(_))), "bit {bit}");
        }
    }
}
